"""The methods of a client, by what they are about."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

from ccat_workflow_manager.client.answers import Record, Run, StepRun
from ccat_workflow_manager.client.both import Group, both, both_many
from ccat_workflow_manager.client.connection import ApiRefused
from ccat_workflow_manager.client.download import Fetched, fetch
from ccat_workflow_manager.client.follow import STREAMS, Log, events
from ccat_workflow_manager.client.transport import Request, Transport
from ccat_workflow_manager.client.waiting import LONGEST_WAIT_SECONDS, Deadline, finished, finished_runs, watched

_AT_ONCE = 1000
"""Runs of `submit_many` in one request; the service takes 5000."""

RunLike = str | UUID | Mapping[str, Any]
# Inside a class with a method `list`, that name is the method.
Ids = list[str]
ManyRuns = list[Run]
Downloads = list[Fetched]


def id_of(thing: RunLike) -> str:
    """The id of what was given as an id or as an answer of the service, for a path."""
    return quote(_plain_id(thing), safe="")


def _plain_id(thing: RunLike) -> str:
    """As the service writes it, if it is a UUID."""
    given = str(thing["id"] if isinstance(thing, Mapping) else thing)
    if given.partition(":")[0] == "latest":
        raise ValueError(f"{given!r} is for commands; the newest run is the first of client.runs.list(limit=1)")
    try:
        return str(UUID(given))
    except ValueError:
        return given


def run_request(pipeline: str | None, spec: Mapping[str, Any] | None, **fields: Any) -> dict[str, Any]:
    chosen = {"pipeline": pipeline, "spec": None if spec is None else dict(spec), **fields}
    return {name: value for name, value in chosen.items() if value is not None}


class Pipelines(Group):
    """`client.pipelines`."""

    @both
    async def apply(self, definition: Mapping[str, Any]) -> Record:
        """Register a definition under its name; changed content makes a new version."""
        name = definition.get("name")
        if name is None:  # the service says so
            return Record(await self._api.change("/pipelines", dict(definition)))
        path = f"/pipelines/{quote(str(name), safe='')}"
        return Record(await self._api.change(path, dict(definition), method="PUT"))

    @both
    async def get(self, name: str) -> Record:
        return Record(await self._api.json("GET", f"/pipelines/{quote(name, safe='')}"))

    @both_many
    async def list(self, /, limit: int | None = None, **query: Any) -> AsyncGenerator[Record, None]:
        async for item in self._api.items("/pipelines", limit, **query):
            yield Record(item)

    @both_many
    async def versions(self, name: str, limit: int | None = None) -> AsyncGenerator[Record, None]:
        async for item in self._api.items(f"/pipelines/{quote(name, safe='')}/versions", limit):
            yield Record(item)

    @both
    async def set(self, name: str, *, enabled: bool | None = None, priority: int | None = None) -> Record:
        """Enable or disable a pipeline, or change its priority."""
        body = {key: value for key, value in (("enabled", enabled), ("priority", priority)) if value is not None}
        return Record(await self._api.change(f"/pipelines/{quote(name, safe='')}", body, method="PATCH"))


class Runs(Group):
    """`client.runs`."""

    @both
    async def submit(
        self,
        pipeline: str | None = None,
        *,
        spec: Mapping[str, Any] | None = None,
        parameters: Mapping[str, Any] | None = None,
        version: int | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int | None = None,
        backend: str | None = None,
        project: str | None = None,
        reuse: RunLike | None = None,
        idempotency_key: str | None = None,
    ) -> Run:
        """Create a run of a pipeline, or of an inline definition `spec`. The same key gives the same run.

        `reuse` is a run whose products are taken over where nothing that decides them has changed.
        """
        body = run_request(pipeline, spec, parameters=parameters, version=version, labels=labels, priority=priority,
                           backend=backend, project=project, reuse=reuse and _plain_id(reuse))  # fmt: skip
        return Run(await self._api.change("/runs", body, key=idempotency_key))

    @both
    async def submit_many(
        self,
        requests: Iterable[Mapping[str, Any]],
        *,
        idempotency_key: str | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Ids:
        """Create any number of runs, as `submit` would with these arguments. Returns their ids in order.

        They travel in portions. With `idempotency_key` the same call creates nothing twice, also after it was
        interrupted. `progress` gets the number of runs created so far.
        """
        ids: Ids = []
        waiting = iter(requests)
        while portion := [run_request(each.get("pipeline"), each.get("spec"), **_others(each))
                          for each in islice(waiting, _AT_ONCE)]:  # fmt: skip
            key = None if idempotency_key is None else _portion_key(idempotency_key, len(ids), portion)
            answer = await self._api.change("/runs/bulk", {"runs": portion}, key=key)
            ids += answer["ids"]
            if progress is not None:
                progress(len(ids))
        return ids

    @both
    async def get(self, run: RunLike) -> Run:
        """A run with its first step runs: all of them, unless it has more than the service lists at once."""
        return Run(await self._api.json("GET", f"/runs/{id_of(run)}"))

    @both_many
    async def list(
        self,
        *,
        status: str | Sequence[str] | None = None,
        pipeline: str | None = None,
        label: str | Sequence[str] | None = None,
        created_after: str | None = None,
        created_before: str | None = None,
        project: str | None = None,
        caveats: bool | None = None,
        q: str | None = None,
        limit: int | None = None,
    ) -> AsyncGenerator[Run, None]:
        """Runs, newest first, page by page."""
        query: dict[str, Any] = {
            "status": status, "pipeline": pipeline, "label": label, "created_after": created_after,
            "created_before": created_before, "project": project, "caveats": caveats, "q": q,
        }  # fmt: skip
        async for item in self._api.items("/runs", limit, **query):
            yield Run(item)

    @both
    async def watch(self, run: RunLike, seconds: float = LONGEST_WAIT_SECONDS, until: str = "finished") -> Run:
        """The run once it is finished or has `changed`, or as it is after these seconds. One request."""
        return await watched(self._api, _plain_id(run), seconds, until)

    @both
    async def wait(self, run: RunLike, timeout: float | None = None) -> Run:  # noqa: ASYNC109
        """The run once it is finished. Raises TimeoutError."""
        return await finished(self._api, _plain_id(run), Deadline.after(timeout))

    @both
    async def wait_many(
        self,
        runs: Iterable[RunLike],
        timeout: float | None = None,  # noqa: ASYNC109
        progress: Callable[[Run], object] | None = None,
    ) -> ManyRuns:
        """All these runs once they are finished, in order. One stream of events tells of all; without it, long polls.

        `progress` gets each run when it has finished. Raises TimeoutError.
        """
        ids = [_plain_id(each) for each in runs]
        found: dict[str, Run] = {}
        async for run in finished_runs(self._api, ids, Deadline.after(timeout)):
            found[run.id] = run
            if progress is not None:
                progress(run)
        return [found[each] for each in ids]

    @both
    async def cancel(self, run: RunLike) -> Run:
        return Run(await self._api.change(f"/runs/{id_of(run)}/cancel"))

    @both
    async def retry(self, run: RunLike) -> Run:
        """Retry what did not complete."""
        return Run(await _repeated(self._api, f"/runs/{id_of(run)}"))

    @both
    async def pause(self, run: RunLike) -> Run:
        return Run(await self._api.change(f"/runs/{id_of(run)}/pause"))

    @both
    async def resume(self, run: RunLike) -> Run:
        return Run(await self._api.change(f"/runs/{id_of(run)}/resume"))

    @both_many
    async def step_runs(
        self,
        run: RunLike,
        *,
        step: str | None = None,
        key: str | None = None,
        status: str | Sequence[str] | None = None,
        limit: int | None = None,
    ) -> AsyncGenerator[StepRun, None]:
        """The step runs of a run, page by page, however many it has. `key` may hold `*` and `?`."""
        async for item in self._api.items(f"/runs/{id_of(run)}/step-runs", limit, step=step, key=key, status=status):
            yield StepRun(item)

    @both_many
    async def products(
        self,
        run: RunLike,
        *,
        step: str | None = None,
        type: str | None = None,  # noqa: A002
        key: str | None = None,
    ) -> AsyncGenerator[Record, None]:
        """The published products of a run."""
        async for item in self._api.items(f"/runs/{id_of(run)}/products", step=step, type=type, key=key):
            yield Record(item)

    @both
    async def download(
        self,
        run: RunLike,
        directory: str | os.PathLike[str],
        *,
        step: str | None = None,
        type: str | None = None,  # noqa: A002
        key: str | None = None,
        progress: Callable[[Fetched], object] | None = None,
    ) -> Downloads:
        """Download products to DIRECTORY/STEP/KEY/PATH. Goes on where it was interrupted; checks the checksums."""
        fetched = []
        async for product in self._api.items(f"/runs/{id_of(run)}/products", step=step, type=type, key=key):
            fetched.append(await fetch(self._api, product, Path(directory)))
            if progress is not None:
                progress(fetched[-1])
        return fetched


class StepRuns(Group):
    """`client.step_runs`."""

    @both
    async def get(self, step_run: RunLike) -> StepRun:
        return StepRun(await self._api.json("GET", f"/step-runs/{id_of(step_run)}"))

    @both_many
    async def logs(
        self, step_run: RunLike, *, follow: bool = False, stream: str = "stdout", attempt: int | None = None,
        tail: int | None = None,
    ) -> AsyncGenerator[str, None]:  # fmt: skip
        """The log of the newest attempt, or of `attempt`, in pieces. `stream` may be `both`.

        With `follow` it comes as it grows, and that of later attempts too, until the step run is finished.
        """
        log = Log(self._api, id_of(step_run), stream, attempt, tail)
        async for piece in log.follow() if follow else log.read():
            if piece.kind in STREAMS:
                yield piece.text

    @both_many
    async def attempts(self, step_run: RunLike) -> AsyncGenerator[Record, None]:
        async for item in self._api.items(f"/step-runs/{id_of(step_run)}/attempts"):
            yield Record(item)

    @both_many
    async def events(self, step_run: RunLike) -> AsyncGenerator[Record, None]:
        async for item in self._api.items(f"/step-runs/{id_of(step_run)}/events"):
            yield Record(item)

    @both_many
    async def products(self, step_run: RunLike) -> AsyncGenerator[Record, None]:
        async for item in self._api.items(f"/step-runs/{id_of(step_run)}/products"):
            yield Record(item)

    @both
    async def cancel(self, step_run: RunLike) -> StepRun:
        return StepRun(await self._api.change(f"/step-runs/{id_of(step_run)}/cancel"))

    @both
    async def retry(self, step_run: RunLike) -> StepRun:
        return StepRun(await _repeated(self._api, f"/step-runs/{id_of(step_run)}"))


class Products(Group):
    """`client.products`."""

    @both
    async def get(self, product: RunLike) -> Record:
        return Record(await self._api.json("GET", f"/products/{id_of(product)}"))

    @both
    async def lineage(self, product: RunLike) -> Record:
        return Record(await self._api.json("GET", f"/products/{id_of(product)}/lineage"))

    @both
    async def download(self, product: RunLike, directory: str | os.PathLike[str]) -> Fetched:
        """Download one product to DIRECTORY/STEP/KEY/PATH. Goes on where it was interrupted; checks the checksum."""
        found = product
        if not isinstance(found, Mapping) or "sha256" not in found:
            found = await self._api.json("GET", f"/products/{id_of(product)}")
        return await fetch(self._api, found, Path(directory))


class Backends(Group):
    """`client.backends`."""

    @both
    async def list(self) -> list[Record]:
        """The backends of the service, and whether each is available."""
        return [Record(item) async for item in self._api.items("/backends")]


class Explain(Group):
    """`client.explain`: why something is as it is."""

    @both
    async def run(self, run: RunLike) -> Record:
        return Record(await self._api.json("GET", f"/runs/{id_of(run)}/explain"))

    @both
    async def step_run(self, step_run: RunLike) -> Record:
        return Record(await self._api.json("GET", f"/step-runs/{id_of(step_run)}/explain"))

    @both
    async def causes(self, /, **query: Any) -> Record:
        """What is wrong in the whole service, grouped by cause."""
        return Record(await self._api.json("GET", "/explain", group="cause", **query))


class Events(Group):
    """`client.events`."""

    @both_many
    async def list(
        self, /, after: str | None = None, limit: int | None = None, **query: Any
    ) -> AsyncGenerator[Record, None]:
        """Events that are there, oldest first."""
        async for item in self._api.items("/events", limit, "after", after, **_of_run(query)):
            yield Record(item)

    @both_many
    async def follow(self, /, after: str | None = None, **query: Any) -> AsyncGenerator[Record, None]:
        """Events as they happen, without end. A connection that breaks is made again, and nothing is passed over."""
        async for event in events(self._api, after, _of_run(query)):
            yield Record(event)


# --- shared ----------------------------------------------------------------------------------------------------------


async def _repeated(api: Transport, path: str) -> Any:
    """Retry. If the first answer was lost, the service may refuse the second request: then all is done."""
    request = Request("POST", f"{path}/retry")
    try:
        return (await api.send(request)).json()
    except ApiRefused as error:
        if error.status != 409 or not request.answers_lost:
            raise
        return await api.json("GET", path)


def _of_run(query: Mapping[str, Any]) -> Mapping[str, Any]:
    """The conditions of a list, with a run given as an id or as an answer."""
    return query if query.get("run") is None else {**query, "run": _plain_id(query["run"])}


def _others(request: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in request.items() if name not in ("pipeline", "spec")}


def _portion_key(key: str, start: int, portion: Sequence[Mapping[str, Any]]) -> str:
    """The key of one portion: the same for the same content at the same place."""
    digest = hashlib.sha256(json.dumps(portion, sort_keys=True, default=str).encode()).hexdigest()
    return hashlib.sha256(f"{key}\0{start}\0{digest}".encode()).hexdigest()
