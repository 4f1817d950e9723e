"""Tables of runs and step runs."""

from __future__ import annotations

from typing import Any

import typer

from ccat_workflow_manager.commands.output import console, cpu_hours, duration, memory, moment, pairs_text, table, when
from ccat_workflow_manager.commands.watch import label

_SHOWN = 50
_COLUMNS = ((130, 7), (105, 6), (0, 4))
"""How many columns a list of runs has in a terminal of so many characters."""
_ALL = ("step run", "status", "attempt", "wall time", "CPU hours", "peak memory", "reason")
_STEP_RUN_COLUMNS: tuple[tuple[int, tuple[str, ...]], ...] = (
    (130, _ALL),
    (100, ("step run", "status", "attempt", "wall time", "reason")),
    (0, ("step run", "status", "reason")),
)
"""The columns of a table of step runs in a terminal of so many characters."""


def print_runs(found: list[dict[str, Any]], *, wide: bool) -> None:
    """Print a table of runs."""
    out = console(wide=wide)
    columns = ("run", "pipeline", "status", "step runs", "created (UTC)", "took", "labels")
    shown = next(number for width, number in _COLUMNS if out.width >= width)
    rows = [
        (one["id"], one["pipeline"], status(one), done(one), when(one["created_at"]), took(one),
         pairs_text(one["labels"], ":"))[:shown]
        for one in found
    ]  # fmt: skip
    out.print(table(columns[:shown], rows, right=("step runs", "took"), whole=("run", "status", "created (UTC)")))


def print_step_runs(found: dict[str, Any]) -> None:
    """Print a table of the step runs that matter most: first those that failed, of many not those that completed."""
    listed = found["step_runs"]
    if len(listed) > _SHOWN:
        listed = [each for each in listed if each["status"] != "COMPLETED"]
    listed = sorted(listed, key=lambda each: each["status"] != "FAILED")[:_SHOWN]
    out = console()
    columns = next(columns for width, columns in _STEP_RUN_COLUMNS if out.width >= width)
    rows = [[cells[column] for column in columns] for cells in map(_cells, listed)]
    if rows:
        numbers = ("attempt", "wall time", "CPU hours", "peak memory")
        out.print(table(columns, rows, right=numbers, whole=("status", *numbers)))
    shown = {id(each) for each in listed}
    left = [each["status"] for each in found["step_runs"] if id(each) not in shown]
    if left:
        completed = left.count("COMPLETED")
        parts = [f"{completed} completed" if completed else "", f"{len(left) - completed} other"]
        words = " and ".join(part for part in parts if part and part != "0 other")
        typer.echo(f"{words} step runs are not shown; --json lists all of them", err=True)


def _cells(each: dict[str, Any]) -> dict[str, str]:
    return {
        "step run": label(each),
        "status": each["status"],
        "attempt": f"{each['attempt']}/{each['max_attempts']}",
        "wall time": duration(each["wall_time_seconds"]),
        "CPU hours": cpu_hours(each["cpu_hours"]),
        "peak memory": memory(each["peak_memory_gb"]),
        "reason": why(each),
    }


def why(step_run: dict[str, Any]) -> str:
    """What it waits for, why it did not complete, or what its results lack."""
    caveats = "; ".join(f"{each['kind']}: {each['text']}" for each in step_run.get("caveats", []))
    return step_run["waiting_for"] or step_run["reason_text"] or caveats


def status(run: dict[str, Any]) -> str:
    """The status of a run, and how many caveats its results have."""
    number = run.get("caveat_count", 0)
    return str(run["status"]) + (f", {number} caveat{'s' if number > 1 else ''}" if number else "")


def done(found: dict[str, Any]) -> str:
    counts = found["counts"]
    return f"{counts.get('COMPLETED', 0)}/{sum(counts.values())}"


def took(found: dict[str, Any]) -> str:

    begun, ended = moment(found["created_at"]), moment(found["finished_at"])
    return duration((ended - begun).total_seconds()) if begun and ended else ""
