"""Tables of runs and step runs."""

from __future__ import annotations

from typing import Any

import typer

from ccat_workflow_manager.commands.output import console, cpu_hours, duration, memory, moment, pairs_text, table, when
from ccat_workflow_manager.commands.watch import label

_SHOWN = 50
_COLUMNS = ((130, 7), (105, 6), (0, 4))
"""How many columns a list of runs has in a terminal of so many characters."""


def print_runs(found: list[dict[str, Any]], *, wide: bool) -> None:
    """Print a table of runs."""
    out = console(wide=wide)
    columns = ("run", "pipeline", "status", "step runs", "created (UTC)", "took", "labels")
    shown = next(number for width, number in _COLUMNS if out.width >= width)
    rows = [
        (one["id"], one["pipeline"], one["status"], done(one), when(one["created_at"]), took(one),
         pairs_text(one["labels"], ":"))[:shown]
        for one in found
    ]  # fmt: skip
    out.print(table(columns[:shown], rows, right=("step runs", "took"), whole=("run", "status", "created (UTC)")))


def print_step_runs(found: dict[str, Any]) -> None:
    """Print a table of the step runs that matter most."""
    listed = found["step_runs"]
    if len(listed) > _SHOWN:
        listed = [each for each in listed if each["status"] != "COMPLETED"]
    listed = sorted(listed, key=lambda each: each["status"] != "FAILED")[:_SHOWN]
    rows = [
        (label(each), each["status"], f"{each['attempt']}/{each['max_attempts']}", duration(each["wall_time_seconds"]),
         cpu_hours(each["cpu_hours"]), memory(each["peak_memory_gb"]), why(each))
        for each in listed
    ]  # fmt: skip
    columns = ("step run", "status", "attempt", "wall time", "CPU hours", "peak memory", "reason")
    if rows:
        console().print(table(columns, rows, right=("attempt", "wall time", "CPU hours", "peak memory")))
    if left := len(found["step_runs"]) - len(rows):
        typer.echo(f"{left} more step runs; --json lists all of them", err=True)


def why(step_run: dict[str, Any]) -> str:
    """What it waits for, why it did not complete, or what its results lack."""
    caveats = "; ".join(f"{each['kind']}: {each['text']}" for each in step_run.get("caveats", []))
    return step_run["waiting_for"] or step_run["reason_text"] or caveats


def done(found: dict[str, Any]) -> str:
    counts = found["counts"]
    return f"{counts.get('COMPLETED', 0)}/{sum(counts.values())}"


def took(found: dict[str, Any]) -> str:

    begun, ended = moment(found["created_at"]), moment(found["finished_at"])
    return duration((ended - begun).total_seconds()) if begun and ended else ""
