"""Tables of runs and step runs."""

from __future__ import annotations

from typing import Any

import typer

from ccat_workflow_manager.commands.output import console, cpu_hours, duration, memory, moment, pairs_text, table, when
from ccat_workflow_manager.commands.watch import label
from ccat_workflow_manager.json_values import counted

_SHOWN = 50
_COLUMNS = ((130, 7), (105, 6), (0, 4))
_SHORT_IDS = 72
"""In a narrower terminal an id is shown by its end, which commands take as well."""
_ALIKE = 3
"""So many step runs that wait or have ended for the same reason are one line."""
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
    first = 0 if out.width >= _SHORT_IDS else -12
    rows = [
        (one["id"][first:], one["pipeline"], status(one), done(one), when(one["created_at"]), took(one),
         pairs_text(one["labels"], ":"))[:shown]
        for one in found
    ]  # fmt: skip
    out.print(
        table(columns[:shown], rows, right=("step runs", "took"), whole=("run", "status", "step runs", "created (UTC)"))
    )


def print_step_runs(found: dict[str, Any]) -> None:
    """Print a table of the step runs that matter most: first those that failed, of many not those that completed."""
    listed = found["step_runs"]
    if len(listed) > _SHOWN:
        listed = [each for each in listed if each["status"] != "COMPLETED" or each.get("caveats")]
    groups = _alike(sorted(listed, key=lambda each: each["status"] != "FAILED"))[:_SHOWN]
    out = console()
    columns = next(columns for width, columns in _STEP_RUN_COLUMNS if out.width >= width)
    rows = [[cells[column] for column in columns] for cells in map(_cells, groups)]
    if rows:
        numbers = ("attempt", "wall time", "CPU hours", "peak memory")
        out.print(table(columns, rows, right=numbers, whole=("status", *numbers)))
    shown = {id(each) for group in groups for each in group}
    left = [each["status"] for each in found["step_runs"] if id(each) not in shown]
    if left:
        completed = left.count("COMPLETED")
        parts = [f"{completed} completed" if completed else "", f"{len(left) - completed} other"]
        words = " and ".join(part for part in parts if part and part != "0 other")
        typer.echo(f"{words} step runs are not shown; --json lists all of them", err=True)


def _alike(listed: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The step runs of each line: those of one step with the same status and reason together, if they are many."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for each in listed:
        reason = why(each)
        groups.setdefault((each["step"], each["status"], reason) if reason else (each["id"],), []).append(each)
    return [
        part for group in groups.values() for part in ([group] if len(group) >= _ALIKE else [[one] for one in group])
    ]


def _cells(group: list[dict[str, Any]]) -> dict[str, str]:
    each = group[0]
    if len(group) > 1:
        names = {"step run": f"{label(each)} and {len(group) - 1} more", "status": each["status"], "reason": why(each)}
        return dict.fromkeys(_ALL, "") | names
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
    return str(run["status"]) + (f", {counted(number, 'caveat')}" if number else "")


def done(found: dict[str, Any]) -> str:
    counts = found["counts"]
    return f"{counts.get('COMPLETED', 0)}/{sum(counts.values())}"


def took(found: dict[str, Any]) -> str:

    begun, ended = moment(found["created_at"]), moment(found["finished_at"])
    return duration((ended - begun).total_seconds()) if begun and ended else ""
