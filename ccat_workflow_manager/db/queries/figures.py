"""The maintained figures: runs and step runs by time. What they cost does not depend on how many runs there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from ccat_workflow_manager.db.figures import ALL, DAY, MINUTE, QUARTER
from ccat_workflow_manager.db.queries import project_list, visible
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.identity import Projects
from ccat_workflow_manager.lifecycle.states import CANCELLABLE, Status

RUN_OUTCOMES = ("CREATED", "COMPLETED", "FAILED", "CANCELLED")
STEP_OUTCOMES = ("STARTED", "COMPLETED", "FAILED", "RETRIED", "CANCELLED", "SKIPPED")


@dataclass(frozen=True, slots=True)
class Span:
    """A time that ends now, in equal parts, each made of whole `seconds` of the figures."""

    seconds: int
    length: int
    parts: int


SPANS = {
    "1h": Span(MINUTE, MINUTE, 60),
    "24h": Span(QUARTER, QUARTER, 96),
    "7d": Span(QUARTER, 8 * QUARTER, 84),
    "30d": Span(DAY, DAY, 30),
    "90d": Span(DAY, DAY, 90),
}


@dataclass(frozen=True, slots=True)
class Window:
    """A span at a moment. The last part is the present one, which is not over."""

    span: Span
    first: datetime
    last: datetime

    @classmethod
    def until(cls, span: Span, now: datetime) -> Window:
        end = (now.timestamp() // span.length + 1) * span.length
        moments = (datetime.fromtimestamp(each, now.tzinfo) for each in (end - span.parts * span.length, end))
        return cls(span, *moments)


@dataclass(frozen=True, slots=True)
class Counted:
    """How often something happened in one part of a window. Runs have an empty `step`."""

    part: int
    step: str
    outcome: str
    reason: str
    bucket: int
    number: int


_PART = "floor(extract(epoch FROM f.begin - :first) / :length)::int"
_WINDOW = "f.seconds = :seconds AND f.begin >= :first AND f.begin < :last"
_SERIES = f"""
SELECT {_PART} AS part, f.step, f.outcome, f.reason, f.bucket, sum(f.number)::bigint AS number
FROM figures f WHERE f.pipeline = :pipeline AND {_WINDOW} AND {visible("f.project")} GROUP BY 1, 2, 3, 4, 5
"""
_LIVE = f"SELECT status, sum(number)::bigint FROM live_figures WHERE {visible('project')} GROUP BY status"
_RECENT = f"""
SELECT outcome, sum(number)::bigint FROM figures
WHERE pipeline = '{ALL}' AND seconds = {QUARTER} AND begin > now() - make_interval(hours => :hours) AND step = ''
  AND {visible("project")}
GROUP BY outcome
"""
_COMPLETE_UNTIL = """
SELECT COALESCE((SELECT e.at FROM events e WHERE e.position > COALESCE((SELECT position FROM figures_place), 0)
  ORDER BY e.position, e.id LIMIT 1), now())
"""


def series(unit: UnitOfWork, window: Window, projects: Projects) -> Sequence[Counted]:
    """Runs, and the step runs of all steps together as step `*`, by what became of them."""
    return of_pipeline(unit, ALL, window, projects)


def of_pipeline(unit: UnitOfWork, pipeline: str, window: Window, projects: Projects) -> Sequence[Counted]:
    """The runs of a pipeline and the step runs of each step."""
    values = {
        "pipeline": pipeline,
        "seconds": window.span.seconds,
        "length": window.span.length,
        "first": window.first,
        "last": window.last,
        "projects": project_list(projects),
    }
    return unit.rows(Counted, _SERIES, values)


def live(unit: UnitOfWork, projects: Projects = None) -> dict[str, int]:
    """How many step runs are in each status that is not an end."""
    found = unit.execute(_LIVE, {"projects": project_list(projects)}).tuples
    return {str(status): 0 for status in Status if status in CANCELLABLE} | dict(found)


def recent_runs(unit: UnitOfWork, hours: int, projects: Projects = None) -> dict[str, int]:
    """How many runs were created in the last hours, and how many ended with each status."""
    found = unit.execute(_RECENT, {"hours": hours, "projects": project_list(projects)}).tuples
    return dict.fromkeys(RUN_OUTCOMES, 0) | dict(found)


def complete_until(unit: UnitOfWork) -> datetime:
    """What happened before this moment is counted."""
    found: datetime = unit.execute(_COMPLETE_UNTIL).scalar_one()
    return found
