"""The log of a step run: printed once, or followed until the step run is finished."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import typer

from ccat_workflow_manager.commands.client import ApiRefused, Client
from ccat_workflow_manager.commands.endings import WrongUsage
from ccat_workflow_manager.core.states import FINISHED

_INTERVAL = (0.2, 1.0)
_TAIL_LINES = 10_000
_ANCHOR = 4096
_MOST_BYTES = 4 * 1024**2
_NAMED = 8


def find_step_run(run: dict[str, Any], step: str, key: str | None) -> dict[str, Any]:
    """The step run that `step`, or `step/key`, stands for."""
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
        raise WrongUsage(f"the step {step} has {len(found)} step runs; say which with --key: {keys}")
    raise WrongUsage(f"the step {step} has no step run with the key {key!r}; there are: {keys}")


def print_log(
    client: Client,
    step_run: dict[str, Any],
    *,
    attempt: int | None,
    stream: str,
    tail: int | None,
    follow: bool,
    pause: Callable[[float], object] = time.sleep,
) -> None:
    """Print the log to stdout; with `follow`, whatever comes until there is no more to come."""
    if follow:
        _follow(client, step_run["id"], attempt, stream, tail, pause)
        return
    text = _read(client, step_run["id"], attempt, stream, tail)
    _write(text)
    if tail is None and len(text.encode()) > _MOST_BYTES - 8:
        typer.echo("(this is the beginning of a longer log; --tail 1000 prints its end)", err=True)


def _follow(
    client: Client,
    step_run_id: str,
    wanted: int | None,
    stream: str,
    tail: int | None,
    pause: Callable[[float], object],
) -> None:
    shown, following = "", 0
    interval, longest = _INTERVAL
    while True:
        # The state is asked for before the log: a log read after the end is complete.
        state = client.get(f"/step-runs/{step_run_id}")
        attempt = wanted or state["attempt"]
        over = state["status"] in FINISHED or attempt < state["attempt"]
        if attempt != following:
            if following:
                typer.echo(f"(attempt {attempt})", err=True)
            shown, following = "", attempt
        text = _read_if_there(client, step_run_id, attempt, stream, _TAIL_LINES if shown else tail)
        fresh = _new_part(shown, text)
        if fresh:
            _write(fresh)
            shown, interval = text, _INTERVAL[0]
        if over:
            return
        pause(interval)
        interval = min(interval * 1.5, longest)


def _new_part(shown: str, text: str) -> str:
    """What of `text`, the end of a log, has come after `shown`, what was its end before."""
    if text.startswith(shown):
        return text[len(shown) :]
    anchor = shown[-_ANCHOR:]
    at = text.rfind(anchor)
    if at >= 0:
        return text[at + len(anchor) :]
    typer.echo("(the log grew so fast that a part of it is left out here)", err=True)
    return text


def _read(client: Client, step_run_id: str, attempt: int | None, stream: str, tail: int | None) -> str:
    return client.text(f"/step-runs/{step_run_id}/log", attempt=attempt, stream=stream, tail=tail).text


def _read_if_there(client: Client, step_run_id: str, attempt: int, stream: str, tail: int | None) -> str:
    """Empty as long as nothing has been started."""
    try:
        return _read(client, step_run_id, attempt, stream, tail) if attempt else ""
    except ApiRefused as refusal:
        if refusal.status != 404:
            raise
        return ""


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
