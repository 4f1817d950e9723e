"""The figures once more, from the events: what each day must count, and how many step runs there must be now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from ccat_workflow_manager.db.conditions import counter
from ccat_workflow_manager.db.figures import DAY, HAPPENED, HASHED, MINUTE, QUARTER, begins, counted, events
from ccat_workflow_manager.db.queries.verify import Finding
from ccat_workflow_manager.db.result import Result
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.lifecycle.states import CANCELLABLE, RunStatus, Status

_OPEN = [status for status in Status if status in CANCELLABLE]
_KEY = "step, pipeline, project, backend, outcome, reason, bucket"


class FigureKey(NamedTuple):
    """What a figure counts."""

    begin: datetime
    step: str
    pipeline: str
    project: str
    backend: str
    outcome: str
    reason: str
    bucket: int

    @property
    def lasting(self) -> tuple[datetime, bool, str, str, str]:
        """What its events still tell when its run was deleted."""
        return self.begin, self.step == "", self.project, self.outcome, self.reason


_PLACE = "SELECT COALESCE((SELECT position FROM figures_place), 0)"
_UP_TO = """
SELECT max(position), count(*), min(at) FROM (
  SELECT position, at FROM events WHERE position > :place AND position <= :last ORDER BY position, id LIMIT :most) e
"""
_RECOUNT = f"WITH {events(HAPPENED)} SELECT begin, {_KEY}, number FROM ({counted({DAY: 0})}) c"
_DAYS = f"SELECT begin, {_KEY}, number FROM figures WHERE seconds = {DAY} AND begin = ANY(:days)"
_SUMMED = f"""
SELECT {begins("begin", str(DAY))} AS begin, {_KEY}, sum(number)::bigint FROM figures
WHERE seconds = :seconds AND begin >= :first GROUP BY 1, {_KEY}
"""
_SINCE = f"SELECT begin, {_KEY}, number FROM figures WHERE seconds = {DAY} AND begin >= :first"
_STARTS = {
    MINUTE: f"SELECT {begins('now()', str(DAY))}",
    QUARTER: f"SELECT {begins('now()', str(DAY))} - interval '7 days'",
}
_LIVE = "SELECT project, status, number FROM live_figures WHERE number <> 0"
_SINCE_PLACE = """
SELECT m.project, m.status, sum(m.number)::bigint FROM (
  SELECT project, to_status AS status, 1 AS number FROM events WHERE position > :place AND step_run_id IS NOT NULL
  UNION ALL SELECT project, from_status, -1 FROM events WHERE position > :place AND step_run_id IS NOT NULL) m
WHERE m.status = ANY(:statuses) GROUP BY 1, 2
"""
_OPEN_RUNS = f"""
SELECT project, {", ".join(f"sum({counter(status)})::bigint" for status in _OPEN)} FROM runs
WHERE status IN ('{RunStatus.PENDING}', '{RunStatus.RUNNING}') GROUP BY project
"""


def place(unit: UnitOfWork) -> int:
    """Up to which position of the events the figures count."""
    found: int = unit.execute(_PLACE).scalar_one()
    return found


def next_portion(unit: UnitOfWork, after: int, last: int, most: int) -> tuple[int, datetime] | None:
    """The position up to which about `most` events lie behind a place, and the time of the first of them."""
    up_to, found, begin = unit.execute(_UP_TO, {"place": after, "last": last, "most": most}).one()
    return (up_to, begin) if found else None


def recount(unit: UnitOfWork, after: int, up_to: int) -> Counter[FigureKey]:
    """What the events between two places count for, by day."""
    unit.snapshot()
    unit.execute(HASHED)
    return _counted(unit.execute(_RECOUNT, {"place": after, "up_to": up_to}))


def days(unit: UnitOfWork, wanted: Iterable[datetime]) -> Counter[FigureKey]:
    """The stored figures of these days."""
    return _counted(unit.execute(_DAYS, {"days": list(wanted)}))


def finer(unit: UnitOfWork, seconds: int) -> tuple[Counter[FigureKey], Counter[FigureKey]]:
    """The figures of days, and the sums of those of shorter times over the same days, as far as all are there."""
    values = {"seconds": seconds, "first": unit.execute(_STARTS[seconds]).scalar_one()}
    return _counted(unit.execute(_SINCE, values)), _counted(unit.execute(_SUMMED, values))


def live_figures(unit: UnitOfWork) -> tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]]:
    """Unfinished step runs by project and status: as the figures and the latest events have it, and as runs have it."""
    values = {"place": place(unit), "statuses": [str(status) for status in _OPEN]}
    counted: Counter[tuple[str, str]] = Counter()
    for statement in (_LIVE, _SINCE_PLACE):
        for project, status, number in unit.execute(statement, values):
            counted[project, status] += number
    real: Counter[tuple[str, str]] = Counter()
    for project, *numbers in unit.execute(_OPEN_RUNS):
        for status, number in zip(_OPEN, numbers, strict=True):
            real[project, str(status)] = number
    return counted, real


def wrong_figure(key: FigureKey, text: str) -> Finding:
    what = f"{key.outcome} {key.reason}".strip()
    shown = f"{key.begin:%Y-%m-%d} {key.step or 'runs'} {what}, class {key.bucket}: {text}"
    repair = "DELETE FROM figures; DELETE FROM live_figures; DELETE FROM figures_place; -- events are counted anew"
    return Finding("figure", f"figures/{key.pipeline or '?'}", shown, repair)


def wrong_live_figure(project: str, status: str, counted: int, real: int) -> Finding:
    text = f"{counted} step runs of the project are counted as {status}, there are {real}"
    repair = (
        f"INSERT INTO live_figures VALUES ('{project}', '{status}', {real})"
        f" ON CONFLICT (project, status) DO UPDATE SET number = {real};"
    )
    return Finding("figure", f"live_figures/{project}", text, repair)


def _counted(result: Result) -> Counter[FigureKey]:
    return Counter({FigureKey._make(key): number for *key, number in result.tuples})
