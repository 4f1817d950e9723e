"""Prints the logs of step runs once, or follows one until the step run is finished."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Any, TextIO

import httpx
import typer

from ccat_workflow_manager.commands.client import ApiRefused, Client
from ccat_workflow_manager.commands.exit_codes import WrongUsage
from ccat_workflow_manager.commands.terminal_text import plain
from ccat_workflow_manager.commands.watch import label
from ccat_workflow_manager.definition.keys import item_keys
from ccat_workflow_manager.json_values import similar
from ccat_workflow_manager.lifecycle.states import FINISHED, Status
from ccat_workflow_manager.services.log_growth import new_part

BOTH = "both"
STREAMS = ("stdout", "stderr")

_INTERVAL = (0.2, 1.0)
_TAIL_LINES = 10_000
_NAMED = 8


def failed_step_runs(step_runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that failed after an attempt had begun, and therefore may have a log."""
    return [each for each in step_runs if each["status"] == Status.FAILED and each["attempt"]]


def find_step_runs(run: dict[str, Any], step: str, key: str | None) -> list[dict[str, Any]]:
    """The step runs that `step`, `step/key` or `step/item` names; a pattern names any number, at least one."""
    if key is None and "/" in step:
        step, _, key = step.partition("/")
    names = list(dict.fromkeys(each["step"] for each in run["step_runs"]))
    of_step = [each for each in run["step_runs"] if fnmatchcase(each["step"], step)]
    if not of_step:
        close = similar(step, names)
        hint = f"; did you mean {close}?" if close else ""
        raise WrongUsage(f"the run {run['id']} has no step {step!r}; it has: {', '.join(names)}{hint}")
    if key is not None and (found := _with_key(of_step, key)):
        return found
    if key is None and (len(of_step) == 1 or _is_pattern(step)):
        return of_step
    keys = ", ".join(each["key"] for each in of_step[:_NAMED]) + (", ..." if len(of_step) > _NAMED else "")
    if key is None:
        all_ = shlex.quote(f"{step}/*")
        raise WrongUsage(f"the step {step} has {len(of_step)} step runs; name {all_}, or choose one with --key: {keys}")
    raise WrongUsage(f"the step {step} has no step run with the key {key!r}; it has: {keys}")


def _is_pattern(text: str) -> bool:
    return any(sign in text for sign in "*?[")


def _with_key(step_runs: list[dict[str, Any]], wanted: str) -> list[dict[str, Any]]:
    """Those with the key, or that of the item; else those that the pattern fits; else the one that it is a part of."""
    keys = {wanted, *item_keys([wanted])}
    for fits in (keys.__contains__, lambda key: fnmatchcase(key, wanted)):
        if found := [each for each in step_runs if fits(each["key"])]:
            return found
    inside = [each for each in step_runs if wanted and wanted in each["key"]]
    return inside if len(inside) == 1 else []


def print_log(
    client: Client,
    step_run: dict[str, Any],
    *,
    attempt: int | None,
    stream: str,
    tail: int | None,
    follow: bool,
    as_json: bool = False,
    head: bool = False,
    pause: Callable[[float], object] = time.sleep,
) -> dict[str, Any]:
    """Print a log; with `follow`, until the step run is finished. With `as_json` print nothing. Returns the texts.

    `head` prints which step run it is, and why it failed.
    """
    log = _Log(client, step_run["id"], stream, tail, keep=as_json)
    if head and not as_json:
        reason = f" failed: {plain(step_run['reason_text'])}" if step_run["status"] == Status.FAILED else ""
        typer.echo(f"==> {label(step_run)}{reason}", err=True)
    number = attempt or step_run["attempt"]
    if follow:
        number = _follow(client, log, step_run["id"], attempt, pause)
    else:
        log.open(number or None)
        log.show()
    if not log.printed and not as_json:
        where = "nothing" if stream == BOTH else f"nothing to {stream}"
        typer.echo(f"({label(step_run)} printed {where})", err=True)
    about = {"step_run_id": step_run["id"], "step": step_run["step"], "key": step_run["key"], "attempt": number}
    texts = {each: "".join(log.texts[each]) for each in log.streams}
    return about | {"stream": stream} | ({"text": texts[stream]} if stream != BOTH else texts)


def _follow(
    client: Client,
    log: _Log,
    step_run_id: str,
    wanted: int | None,
    pause: Callable[[float], object],
) -> int:
    """Write the log as it grows, over all attempts unless one is wanted. Returns the number of the last attempt."""
    following = 0
    interval, longest = _INTERVAL
    while True:
        # The state is read before the log: a log that is read after the end is complete.
        state = client.get(f"/step-runs/{step_run_id}")
        attempt: int = wanted or state["attempt"]
        over = state["status"] in FINISHED or attempt < state["attempt"]
        if attempt != following:
            if following:
                typer.echo(f"(attempt {attempt})", err=True)
            log.open(attempt)
            following = attempt
        if following and log.show(started=False):
            interval = _INTERVAL[0]
        if over:
            return following
        pause(interval)
        interval = min(interval * 1.5, longest)


class _Log:
    """The streams of one step run, each printed where it belongs, or kept."""

    def __init__(self, client: Client, step_run_id: str, stream: str, tail: int | None, *, keep: bool) -> None:
        self.streams = STREAMS if stream == BOTH else (stream,)
        self.texts: dict[str, list[str]] = {each: [] for each in self.streams}
        self.printed = False
        self._client = client
        self._step_run_id = step_run_id
        self._tail = tail
        self._keep = keep
        self._readers: dict[str, _Reader] = {}

    def open(self, attempt: int | None) -> None:
        """Begin with the log of an attempt."""
        for each in self.streams:
            self.texts[each].clear()
            self._readers[each] = _Reader(self._client, self._step_run_id, attempt, each, self._tail)

    def show(self, *, started: bool = True) -> bool:
        """Print what is new. Returns whether anything was. Unless `started`, the attempt may not have begun."""
        any_new = False
        for each, reader in self._readers.items():
            for text in reader.fresh() if started else _or_nothing(reader.fresh()):
                any_new = self.printed = True
                if self._keep:
                    self.texts[each].append(text)
                else:
                    _write(text, sys.stderr if each == "stderr" and len(self.streams) > 1 else sys.stdout)
        return any_new


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
            text, follows = new_part(self._shown, answer.text)
            if not follows:
                typer.echo("(the log grew too fast: a part of it is missing here)", err=True)
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


def _or_nothing(texts: Iterator[str]) -> Iterator[str]:
    """The texts, or nothing while no attempt has been started."""
    try:
        yield from texts
    except ApiRefused as refusal:
        if refusal.status != 404:
            raise


def _write(text: str, to: TextIO) -> None:
    # A program must not steer the terminal of the one who reads its log.
    to.write(plain(text.replace("\r\n", "\n")) if to.isatty() else text)
    to.flush()
