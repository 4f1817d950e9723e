"""The client of the REST API that the commands use."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import httpx
import typer

from ccat_workflow_manager.client.both import finished, one_by_one
from ccat_workflow_manager.client.connection import (
    DEFAULT_URL,
    SOCKET_SCHEME,
    TOKEN_VARIABLE,
    URL_VARIABLE,
    Address,
    ApiRefused,
    WrongAddress,
    default_url,
    json_of,
)
from ccat_workflow_manager.client.transport import BlockingTransport, Request
from ccat_workflow_manager.commands.exit_codes import WrongUsage
from ccat_workflow_manager.commands.output import print_json
from ccat_workflow_manager.errors import Fault, NotFound, RequestError
from ccat_workflow_manager.json_values import similar

__all__ = [
    "DEFAULT_URL",
    "SOCKET_SCHEME",
    "TOKEN_VARIABLE",
    "URL_VARIABLE",
    "ApiRefused",
    "Client",
    "connect",
    "each_run",
]

_COMPARED = 100
"""So many names of pipelines are compared with one that does not exist."""
_SEARCHED = 1000
"""Among so many newest runs the end of an id is looked for."""
_LISTED = 1000
"""So many step runs come with their run."""
_PART_OF_ID = re.compile("[0-9a-fA-F-]{4,35}")
_ID = re.compile("[0-9a-fA-F-]{36}")


class Client:
    """Calls one API: at a URL, or on a Unix socket (`unix:/path`). A service that does not answer is an error at once.

    Without a token it looks for the secret of a service of this user on this machine.
    """

    def __init__(self, url: str, token: str = "") -> None:
        try:
            address = Address.of(url, token)
        except WrongAddress as error:
            raise WrongUsage(error.message) from None
        self.url = address.url
        self.api = BlockingTransport(address, patience=0)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        finished(self.api.aclose())

    # --- calls -------------------------------------------------------------------------------------------------------

    def get(self, path: str, **query: Any) -> Any:
        """GET a JSON response. Query values that are None are left out."""
        return json_of(self._send("GET", path, query))

    def post(self, path: str, body: Any = None, *, idempotency_key: str | None = None) -> Any:
        try:
            return finished(self.api.change(path, body, key=idempotency_key))
        except WrongAddress:
            raise WrongUsage("--idempotency-key may hold printable ASCII characters only") from None

    def put(self, path: str, body: Any, **query: Any) -> tuple[Any, bool]:
        """PUT a body. Returns the response, and whether something was created."""
        response = self._send("PUT", path, query, body)
        return json_of(response), response.status_code == httpx.codes.CREATED

    def patch(self, path: str, body: Any) -> Any:
        return json_of(self._send("PATCH", path, body=body))

    def delete(self, path: str, **query: Any) -> Any:
        return json_of(self._send("DELETE", path, query))

    def items(self, path: str, limit: int | None, **query: Any) -> Iterator[dict[str, Any]]:
        """Up to `limit` items of a list, page by page."""
        return one_by_one(self.api.items(path, limit, **query))

    def _send(self, method: str, path: str, query: Mapping[str, Any] | None = None, body: Any = None) -> httpx.Response:
        return finished(self.api.send(Request(method, path, query or {}, body)))

    # --- runs --------------------------------------------------------------------------------------------------------

    def run(self, run_id: str) -> dict[str, Any]:
        """A run with all its step runs, which come in pages; `latest` is the newest one."""
        path = f"/runs/{quote(self.run_id(run_id), safe='')}"
        found: dict[str, Any] = self.get(path, step_runs=_LISTED)
        if (rest := found.pop("step_runs_next", None)) is not None:
            found["step_runs"] += one_by_one(self.api.items(f"{path}/step-runs", cursor=rest))
        return found

    def products(self, run_id: str, **filters: str | None) -> Iterator[dict[str, Any]]:
        """The products of a run that fit the filters."""
        return self.items(f"/runs/{quote(run_id, safe='')}/products", None, **filters)

    def run_id(self, given: str) -> str:
        """The id of a run: by itself, by its first or last characters, `latest`, or `latest:PIPELINE`."""
        word, _, pipeline = given.partition(":")
        if word == "latest":
            newest = next(self.items("/runs", 1, pipeline=pipeline or None), None)
            if newest is None:
                of = f" of {pipeline}" if pipeline else ""
                close = similar(pipeline, (each["name"] for each in self.items("/pipelines", _COMPARED)))
                if close is not None and close != pipeline:
                    raise NotFound(f"there is no run{of}; did you mean latest:{close}?")
                raise NotFound(
                    f"there is no run{of} yet; create one with `ccat-wm run submit {pipeline or 'PIPELINE'}`"
                )
            return str(newest["id"])
        if _PART_OF_ID.fullmatch(given):
            return self._complete(given.lower())
        if not _ID.fullmatch(given):
            known = "an id, its first or last characters (at least 4), latest or latest:PIPELINE"
            raise NotFound(f"there is no run {given!r}; give {known}")
        return given

    def _complete(self, part: str) -> str:
        """The id of which this is the beginning or the end."""
        ids = [str(each["id"]) for each in self.items("/runs", _SEARCHED)]
        found = [each for each in ids if each.startswith(part) or each.endswith(part)]
        found = found or [
            str(each["id"])
            for each in self.items("/runs", 2, q=part)
            if part in (each["id"][: len(part)], each["id"][-len(part) :])
        ]
        if not found:
            raise NotFound(f"no run has an id that begins or ends with {part!r}")
        if len(found) > 1:
            few = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
            raise WrongUsage(f"{part!r} is the beginning or end of the ids of {len(found)} runs: {few}")
        return found[0]


@contextmanager
def suggesting(client: Client, pipeline: str | None) -> Iterator[None]:
    """Add the name that was probably meant to a refusal because there is no such pipeline."""
    try:
        yield
    except ApiRefused as refusal:
        if refusal.status not in (404, 422) or not pipeline or f"no pipeline {pipeline}" not in refusal.message:
            raise
        close = similar(pipeline, (each["name"] for each in client.items("/pipelines", _COMPARED)))
        if close is None:
            raise
        raise ApiRefused(refusal.status, f"{refusal.message}; did you mean {close}?") from None


def connect() -> Client:
    """A client for the API in CCAT_WM_URL, else for the one with the settings of this environment."""
    return Client(default_url(), os.environ.get(TOKEN_VARIABLE, "").strip())


def each_run(ids: Sequence[str], act: Callable[[Client, str], tuple[Any, str]], as_json: bool) -> None:
    """Act on each run and print what came of it. A refusal of one does not stop the others."""
    answers: list[Any] = []
    refused: list[Fault] = []
    with connect() as client:
        for given in ids:
            try:
                answer, line = act(client, quote(client.run_id(given), safe=""))
            except RequestError as error:
                refused.append(Fault(given, error.message))
                continue
            answers.append(answer)
            if not as_json:
                typer.echo(line)
    if as_json:
        print_json(answers)
    if refused:
        raise WrongUsage(faults=refused)
