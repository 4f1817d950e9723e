"""Prints the log of a step run once, or follows it until the step run is finished."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import typer

from ccat_workflow_manager.commands.client import ApiRefused, Client
from ccat_workflow_manager.commands.exit_codes import WrongUsage
from ccat_workflow_manager.commands.output import plain, print_json
from ccat_workflow_manager.lifecycle.states import FINISHED

_INTERVAL = (0.2, 1.0)
_TAIL_LINES = 10_000
_ANCHOR = 4096
_NAMED = 8


def find_step_run(run: dict[str, Any], step: str, key: str | None) -> dict[str, Any]:
    """The step run with this step and key; `step` may be written `step/key`."""
    if key is None and "/" in step:
        step, _, key = step.partition("/")
    of_step = [each for each in run["step_runs"] if each["step"] == step]
    if not of_step:
        names = dict.fromkeys(each["step"] for each in run["step_runs"])
        raise WrongUsage(f"the run {run['id']} has no step {step!r}; it has: {', '.join(names)}")
    found = [each for each in of_step if key in (None, each["key"])]
    if len(found) == 1:
        return dict(found[0])
    keys = ", ".join(each["key"] for each in of_step[:_NAMED]) + (", ..." if len(of_step) > _NAMED else "")
    if found:
        raise WrongUsage(f"the step {step} has {len(found)} step runs; choose one with --key: {keys}")
    raise WrongUsage(f"the step {step} has no step run with the key {key!r}; it has: {keys}")


def print_log(
    client: Client,
    step_run: dict[str, Any],
    *,
    attempt: int | None,
    stream: str,
    tail: int | None,
    follow: bool,
    as_json: bool = False,
    pause: Callable[[float], object] = time.sleep,
) -> None:
    """Print the log to stdout; with `follow`, until the step run is finished. JSON is printed at the end."""
    texts: list[str] = []
    write = texts.append if as_json else _write
    number = attempt or step_run["attempt"]
    if follow:
        number = _follow(client, step_run["id"], attempt, stream, tail, pause, write, texts.clear)
    else:
        for text in _Reader(client, step_run["id"], number or None, stream, tail).fresh():
            write(text)
    if as_json:
        about = {"step_run_id": step_run["id"], "step": step_run["step"], "key": step_run["key"]}
        print_json({**about, "attempt": number, "stream": stream, "text": "".join(texts)})


def _follow(
    client: Client,
    step_run_id: str,
    wanted: int | None,
    stream: str,
    tail: int | None,
    pause: Callable[[float], object],
    write: Callable[[str], object],
    begin_again: Callable[[], object],
) -> int:
    """Write the log as it grows, over all attempts unless one is wanted. Returns the number of the last attempt."""
    reader, following = None, 0
    interval, longest = _INTERVAL
    while True:
        # The state is read before the log: a log that is read after the end is complete.
        state = client.get(f"/step-runs/{step_run_id}")
        attempt: int = wanted or state["attempt"]
        over = state["status"] in FINISHED or attempt < state["attempt"]
        if attempt != following:
            if following:
                typer.echo(f"(attempt {attempt})", err=True)
                begin_again()
            reader, following = _Reader(client, step_run_id, attempt, stream, tail), attempt
        for text in _or_nothing(reader.fresh()) if reader is not None else ():
            write(text)
            interval = _INTERVAL[0]
        if over:
            return following
        pause(interval)
        interval = min(interval * 1.5, longest)


class _Reader:
    """Reads the log of one attempt piece by piece. Each call of `fresh` yields what is new."""

    def __init__(self, client: Client, step_run_id: str, attempt: int | None, stream: str, tail: int | None) -> None:
        self._client = client
        self._address = f"/step-runs/{step_run_id}/log"
        self._which = {"attempt": attempt, "stream": stream}
        self._tail = tail
        self._offset: int | None = 0 if tail is None else None
        """Offset of the unread part; None if only a backend has the log, which gives just its end."""
        self._shown = ""
        self._warned = False

    def fresh(self) -> Iterator[str]:
        while True:
            answer = self._client.text(self._address, **self._which, **self._next())
            text = _new_part(self._shown, answer.text) if self._shown else answer.text
            if answer.headers.get("X-Log-Truncated") == "true" and not self._shown and not self._warned:
                self._warned = True
                typer.echo("(the log is too long: this is only its end)", err=True)
            before, self._offset = self._offset, _number(answer, "X-Log-Next-Offset")
            self._shown = answer.text if self._offset is None else ""
            if text:
                yield text
            size = _number(answer, "X-Log-Size")
            if self._offset is None or size is None or self._offset >= size or self._offset == before:
                return

    def _next(self) -> dict[str, int]:
        if self._offset is not None:
            return {"offset": self._offset}
        if self._shown:
            return {"tail": _TAIL_LINES}
        return {"offset": 0} if self._tail is None else {"tail": self._tail}


def _number(answer: httpx.Response, header: str) -> int | None:
    value = answer.headers.get(header, "")
    return int(value) if value.isdecimal() else None


def _new_part(shown: str, text: str) -> str:
    """The part of `text`, the end of a log, that follows `shown`, its end at the previous call."""
    if text.startswith(shown):
        return text[len(shown) :]
    anchor = shown[-_ANCHOR:]
    at = text.rfind(anchor)
    if at >= 0:
        return text[at + len(anchor) :]
    typer.echo("(the log grew too fast: a part of it is missing here)", err=True)
    return text


def _or_nothing(texts: Iterator[str]) -> Iterator[str]:
    """The texts, or nothing while no attempt has been started."""
    try:
        yield from texts
    except ApiRefused as refusal:
        if refusal.status != 404:
            raise


def _write(text: str) -> None:
    # A program must not steer the terminal of the one who reads its log.
    sys.stdout.write(plain(text.replace("\r\n", "\n")) if sys.stdout.isatty() else text)
    sys.stdout.flush()
