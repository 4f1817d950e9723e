"""Shows the progress of a run, and the resources it used at the end."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ccat_workflow_manager.commands.output import cell, cpu_hours, duration, memory, moment, table
from ccat_workflow_manager.commands.terminal_text import plain
from ccat_workflow_manager.definition.keys import SINGLE
from ccat_workflow_manager.errors import ServiceUnavailable
from ccat_workflow_manager.lifecycle.states import ACTIVE, RunStatus, Status

Run = dict[str, Any]
StepRun = Mapping[str, Any]

FINISHED = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED})

_INTERVAL = (0.1, 1.0)
_PATIENCE_SECONDS = 60.0
_PAUSE_PER_CALL = 5
"""Shortest pause, in durations of the last call: runs of many thousand step runs are read less often."""
_BAR_WIDTH = 28
_NAMED = 5
_WAITING = frozenset({Status.PENDING, Status.SUBMITTED})
_WORDS = (
    ("staging", {Status.STAGING_DATA}),
    ("submitted", {Status.SUBMITTED}),
    ("running", {Status.RUNNING}),
    ("collecting", {Status.COLLECTING_RESULTS}),
    ("failed", {Status.FAILED}),
    ("cancelled", {Status.CANCELLED}),
    ("skipped", {Status.SKIPPED}),
    ("waiting", {Status.PENDING}),
)


class RunSource(Protocol):
    """Reads the present state of a run."""

    def run(self, run_id: str) -> Run: ...


@dataclass(frozen=True, slots=True)
class StepView:
    """The step runs of one step, counted by status."""

    name: str
    step_runs: Sequence[StepRun]
    counts: Mapping[str, int]

    @property
    def total(self) -> int:
        return len(self.step_runs)

    @property
    def done(self) -> int:
        return self.counts.get(Status.COMPLETED, 0)

    @property
    def over(self) -> int:
        """Number of finished step runs."""
        return self.total - self.counts.get(Status.PENDING, 0) - sum(self.counts.get(status, 0) for status in ACTIVE)

    @property
    def words(self) -> str:
        """`2 running, 9 submitted, 1 waiting`. The bar shows the completed ones."""
        numbers = ((sum(self.counts.get(status, 0) for status in statuses), word) for word, statuses in _WORDS)
        return ", ".join(f"{number} {word}" for number, word in numbers if number)

    @property
    def wait(self) -> str:
        """The most frequent reason for waiting."""
        reasons = Counter(
            each["waiting_for"] for each in self.step_runs if each["status"] in _WAITING and each["waiting_for"]
        )
        return plain(reasons.most_common(1)[0][0]) if reasons else ""


def steps_of(run: Run) -> list[StepView]:
    """The steps of a run in the order of its definition."""
    grouped: dict[str, list[StepRun]] = {}
    for step_run in run["step_runs"]:
        grouped.setdefault(step_run["step"], []).append(step_run)
    return [StepView(name, each, Counter(one["status"] for one in each)) for name, each in grouped.items()]


def watch_run(
    client: RunSource, run_id: str, console: Console, *, pause: Callable[[float], object] = time.sleep
) -> Run:
    """Show the progress of a run until it is finished. Returns the finished run."""
    run = client.run(run_id)
    display = _Live(console) if console.is_terminal else _Lines(console)
    started = answered = time.monotonic()
    with display.open(run):
        while run["status"] not in FINISHED:
            asked = time.monotonic()
            pause(_interval(asked - started, asked - answered))
            asked = time.monotonic()
            try:
                run = client.run(run["id"])
            except ServiceUnavailable as error:
                # The manager may be restarting.
                if asked - answered > _PATIENCE_SECONDS:
                    raise
                display.message(f"{error.message}; trying again")
                continue
            answered = time.monotonic()
            display.show(run)
    return run


def _interval(age: float, cost: float) -> float:
    shortest, longest = _INTERVAL
    return max(min(shortest + age / 20, longest), min(cost, longest) * _PAUSE_PER_CALL)


# --- the two displays ------------------------------------------------------------------------------------------------


class _Live:
    """For a terminal: redraws in place."""

    def __init__(self, console: Console) -> None:
        # No refresh thread: the demo forks processes while the display is open.
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def open(self, run: Run) -> AbstractContextManager[object]:
        self._live.update(progress(run))
        return self._live

    def show(self, run: Run) -> None:
        self._live.update(progress(run), refresh=True)

    def message(self, text: str) -> None:
        self._live.update(Text(text, style="yellow"), refresh=True)


class _Lines:
    """For a file or a pipe: prints a line for each change of a step."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._printed: dict[str, str] = {}
        self._started = time.monotonic()

    def open(self, run: Run) -> AbstractContextManager[object]:
        self.show(run)
        return nullcontext()

    def show(self, run: Run) -> None:
        self._print("", f"{run['pipeline']} {run['id']}: {run['status']}{_condition(run)}")
        for step in steps_of(run):
            wait = f" ({step.wait})" if step.wait else ""
            words = f", {step.words}" if step.words else ""
            self._print(step.name, f"{step.name}: {step.done}/{step.total} completed{words}{wait}")

    def message(self, text: str) -> None:
        self._print("message", text)

    def _print(self, about: str, text: str) -> None:
        if self._printed.get(about) != text:
            self._printed[about] = text
            self._console.print(f"{time.monotonic() - self._started:7.1f} s  {plain(text)}", soft_wrap=True)


def progress(run: Run) -> Group:
    """The progress of a run as a picture."""
    lines = Table.grid(padding=(0, 2))
    for step in steps_of(run):
        going, done = ("red", "red") if step.counts.get(Status.FAILED) else ("cyan", "green")
        bar = ProgressBar(step.total, step.over, width=_BAR_WIDTH, complete_style=going, finished_style=done)
        words = Text(step.words)
        if step.wait and not step.counts.get(Status.RUNNING):
            words.append(f"  {step.wait}", style="dim")
        lines.add_row(cell(step.name, "bold"), bar, f"{step.done}/{step.total}", words)
    head = Text.assemble(
        (plain(run["pipeline"]), "bold"), f" {run['id']}  ", cell(run["status"]), _condition(run), f"  {_elapsed(run)}"
    )
    return Group(head, lines, *_failures(run))


def _condition(run: Run) -> str:
    if run.get("cancel_requested_at") and run["status"] not in FINISHED:
        return ", being cancelled"
    return ", paused" if run.get("paused") else ""


def _elapsed(run: Run) -> str:
    begun, ended = moment(run["created_at"]), moment(run["finished_at"])
    return duration(max(0.0, ((ended or datetime.now(UTC)) - begun).total_seconds())) if begun else ""


def _failures(run: Run) -> list[Text]:
    failed = [each for each in run["step_runs"] if each["status"] == Status.FAILED]
    lines = [Text(_failure(each), style="red") for each in failed[:_NAMED]]
    if len(failed) > _NAMED:
        lines.append(Text(f"and {len(failed) - _NAMED} more failed", style="red"))
    return lines


def label(step_run: StepRun) -> str:
    """`step/key`, or the step alone where it has no items."""
    return plain(step_run["step"] if step_run["key"] == SINGLE else f"{step_run['step']}/{step_run['key']}")


def _failure(step_run: StepRun) -> str:
    return f"{label(step_run)} failed: {plain(step_run['reason_text'] or step_run['reason'])}"


# --- resources used --------------------------------------------------------------------------------------------------


def steps_table(run: Run) -> Table:
    """The resources of each step: time from first start to last end, sum of CPU hours, largest memory."""
    rows: list[Sequence[object]] = [(step.name, _outcome(step), *_spent(step.step_runs)) for step in steps_of(run)]
    if len(rows) > 1:
        rows.append((Text("run", style="bold"), run["status"], *_spent(run["step_runs"])))
    columns = ("step", "outcome", "wall time", "CPU hours", "peak memory")
    return table(columns, rows, right=("wall time", "CPU hours", "peak memory"))


def _outcome(step: StepView) -> Text:
    if step.done == step.total:
        reused = sum(bool(each.get("reused")) for each in step.step_runs)
        taken = f", {reused} of them taken over" if 0 < reused < step.total else ", taken over" if reused else ""
        return Text((f"{step.total} completed" if step.total > 1 else "completed") + taken, style="green")
    done = f"{step.done} of {step.total} completed, " if step.total > 1 and step.done else ""
    return Text(done + step.words, style="red" if step.counts.get(Status.FAILED) else "yellow")


def _spent(step_runs: Sequence[StepRun]) -> tuple[str, str, str]:
    starts = [each["started_at"] for each in step_runs if each["started_at"]]
    ends = [each["finished_at"] for each in step_runs if each["started_at"] and each["finished_at"]]
    wall = None
    if len(step_runs) == 1:
        wall = step_runs[0]["wall_time_seconds"]
    elif starts and ends:
        wall = (max(map(_moment, ends)) - min(map(_moment, starts))).total_seconds()
    hours = [each["cpu_hours"] for each in step_runs if each["cpu_hours"] is not None]
    peaks = [each["peak_memory_gb"] for each in step_runs if each["peak_memory_gb"] is not None]
    return duration(wall), cpu_hours(sum(hours) if hours else None), memory(max(peaks, default=None))


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def summary(run: Run, console: Console) -> None:
    """Print the resources used by each step, and the failures."""
    console.print(steps_table(run))
    for line in _failures(run):
        console.print(line, soft_wrap=True)
    failed = [each for each in run["step_runs"] if each["status"] == Status.FAILED and each["started_at"]]
    if failed:
        more = len(failed) > 1
        which = "--failed" if more else shlex.quote(label(failed[0]))
        console.print(f"{'Their logs' if more else 'Its log'}: ccat-wm run logs {run['id']} {which}", soft_wrap=True)
