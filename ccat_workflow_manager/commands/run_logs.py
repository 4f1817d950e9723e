"""Prints the logs of step runs once, or follows one until the step run is finished."""

from __future__ import annotations

import shlex
import sys
from fnmatch import fnmatchcase
from typing import Any, TextIO

import typer

from ccat_workflow_manager.client.both import one_by_one
from ccat_workflow_manager.client.follow import ATTEMPT, BOTH, GAP, STREAMS, Log
from ccat_workflow_manager.commands.client import Client
from ccat_workflow_manager.commands.exit_codes import WrongUsage
from ccat_workflow_manager.commands.terminal_text import plain
from ccat_workflow_manager.commands.watch import label
from ccat_workflow_manager.definition.keys import item_keys
from ccat_workflow_manager.json_values import similar
from ccat_workflow_manager.lifecycle.states import Status

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
) -> dict[str, Any]:
    """Print a log; with `follow`, until the step run is finished. With `as_json` print nothing. Returns the texts.

    `head` prints which step run it is, and why it failed.
    """
    if head and not as_json:
        reason = f" failed: {plain(step_run['reason_text'])}" if step_run["status"] == Status.FAILED else ""
        typer.echo(f"==> {label(step_run)}{reason}", err=True)
    number = attempt or step_run["attempt"]
    log = Log(client.api, step_run["id"], stream, attempt if follow else number or None, tail)
    texts: dict[str, list[str]] = {each: [] for each in (STREAMS if stream == BOTH else (stream,))}
    printed = False
    for kind, text in one_by_one(log.follow() if follow else log.read()):
        if kind == GAP:
            typer.echo("(a part of the log is missing here)", err=True)
        elif kind == ATTEMPT:
            if number not in (0, int(text)):
                typer.echo(f"(attempt {text})", err=True)
                texts = {each: [] for each in texts}
            number = int(text)
        else:
            printed = True
            if as_json:
                texts[kind].append(text)
            else:
                _write(text, sys.stderr if kind == "stderr" and stream == BOTH else sys.stdout)
    if not printed and not as_json:
        where = "nothing" if stream == BOTH else f"nothing to {stream}"
        typer.echo(f"({label(step_run)} printed {where})", err=True)
    about = {"step_run_id": step_run["id"], "step": step_run["step"], "key": step_run["key"], "attempt": number}
    joined = {each: "".join(parts) for each, parts in texts.items()}
    return about | {"stream": stream} | ({"text": joined[stream]} if stream != BOTH else joined)


def _write(text: str, to: TextIO) -> None:
    # A program must not steer the terminal of the one who reads its log.
    to.write(plain(text.replace("\r\n", "\n")) if to.isatty() else text)
    to.flush()
