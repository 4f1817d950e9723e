"""Events of all runs and backends in the order in which readers go through them, as CloudEvents.

A page looks at a bounded number of rows and says how far it looked. Its cost does not depend on how rare the wanted
events are, or on how many events there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from ccat_workflow_manager.db.feed_epoch import BELOW
from ccat_workflow_manager.db.queries import utc
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.lifecycle.event_types import TYPES

MOST_LOOKED_AT = 5000
_MOST_STEP_RUNS = 2000
"""The events of a run with more step runs are looked for among all events since it was created."""
_BIGGEST_ID = 2**63 - 1


class Place(NamedTuple):
    """Between two events: behind the one with these numbers."""

    position: int
    event_id: int


BEGIN = Place(0, 0)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events are wanted. None: all."""

    events: frozenset[str] | None = None
    projects: frozenset[str] | None = None
    """With projects, no events of backends."""
    pipeline: str | None = None
    run_id: UUID | None = None

    def includes(self, event: FeedEvent) -> bool:
        return (
            (self.events is None or event.event in self.events)
            and (self.projects is None or event.project in self.projects)
            and (self.pipeline is None or event.pipeline == self.pipeline)
            and (self.run_id is None or event.run_id == self.run_id)
        )


EVERYTHING = Selection()


class FeedEvent(NamedTuple):
    """One event: its place, what selections look at, and the JSON of the CloudEvent behind its id."""

    place: Place
    event: str
    project: str | None
    pipeline: str | None
    run_id: UUID | None
    json: str


@dataclass(frozen=True, slots=True)
class FeedPage:
    """The wanted events behind a place. `place` is how far the page looked; `more`: it stopped before the end."""

    events: Sequence[FeedEvent]
    place: Place
    more: bool


_TYPE = "CASE e.event " + " ".join(f"WHEN '{event}' THEN '{name}'" for event, name in TYPES.items()) + " END"
_CLOUD_EVENT = f"""
SELECT concat('"specversion":"1.0","source":', to_json(CAST(:source AS text)), ',"type":"', {_TYPE}, '","subject":',
  to_json(CASE WHEN e.step_run_id IS NOT NULL THEN concat('runs/', e.run_id, '/step-runs/', e.step_run_id)
    WHEN e.run_id IS NOT NULL THEN concat('runs/', e.run_id) ELSE concat('backends/', e.backend) END),
  ',"time":"', {utc("e.at")}, '","datacontenttype":"application/json","data":', row_to_json(d), '}}')
FROM (SELECT e.run_id, e.step_run_id, e.of_project AS project, e.pipeline, e.step, e.key,
  COALESCE(e.backend, e.step_backend) AS backend, e.attempt, e.from_status, e.to_status AS status, e.actor, e.reason,
  e.text) d"""

_BEHIND = f"(e.position, e.id) > (:position, :event_id) AND e.position < {BELOW}"
_ALL = f"SELECT e.* FROM events e WHERE {_BEHIND}"
_OF_RUN = f"""
SELECT e.* FROM step_runs s JOIN events e ON e.step_run_id = s.id WHERE s.run_id = :run_id AND {_BEHIND}
UNION ALL
SELECT e.* FROM events e WHERE e.run_id = :run_id AND e.step_run_id IS NULL AND {_BEHIND}
"""

_PAGE = f"""
WITH looked_at AS MATERIALIZED (
  SELECT * FROM (%looked_at%) e ORDER BY position, id LIMIT :looked_at
), wanted AS (
  SELECT e.*, CASE WHEN e.run_id IS NOT NULL THEN e.project END AS of_project, r.pipeline, s.step, s.key,
    s.backend AS step_backend
  FROM looked_at e LEFT JOIN step_runs s ON s.id = e.step_run_id LEFT JOIN runs r ON r.id = e.run_id
  WHERE (CAST(:events AS text[]) IS NULL OR e.event = ANY(:events))
    AND (CAST(:run_id AS uuid) IS NULL OR e.run_id = :run_id)
    AND (CAST(:projects AS text[]) IS NULL OR e.run_id IS NOT NULL AND e.project = ANY(:projects))
    AND (CAST(:pipeline AS text) IS NULL OR r.pipeline = :pipeline)
  ORDER BY e.position, e.id LIMIT :limit
)
SELECT e.position, e.id, e.event, e.of_project, e.pipeline, e.run_id, ({_CLOUD_EVENT}), NULL::bigint FROM wanted e
UNION ALL
(SELECT position, id, NULL, NULL, NULL, NULL, NULL, (SELECT count(*) FROM looked_at)
 FROM looked_at ORDER BY position DESC, id DESC LIMIT 1)
ORDER BY 1, 2
"""
_PAGE_OF_ALL = _PAGE.replace("%looked_at%", _ALL)
_PAGE_OF_RUN = _PAGE.replace("%looked_at%", _OF_RUN)

_HEAD = f"SELECT {BELOW}"
_RUN_IS_SMALL = f"""
SELECT count(*) <= {_MOST_STEP_RUNS}
FROM (SELECT 1 FROM step_runs WHERE run_id = :run_id LIMIT {_MOST_STEP_RUNS + 1}) s
"""
_BEGIN_OF_RUN = """
SELECT min(position) FROM events
WHERE step_run_id = (SELECT id FROM step_runs WHERE run_id = :run_id LIMIT 1)
"""


def is_small_run(unit: UnitOfWork, run_id: UUID) -> bool:
    """Whether the events of a run are best found by its step runs."""
    return bool(unit.execute(_RUN_IS_SMALL, {"run_id": run_id}).scalar_one())


def head(unit: UnitOfWork) -> Place:
    """The place behind everything that can be read now."""
    below: int = unit.execute(_HEAD).scalar_one()
    return Place(below - 1, _BIGGEST_ID)


def feed_page(unit: UnitOfWork, source: str, after: Place, wanted: Selection, limit: int) -> FeedPage:
    """Up to `limit` wanted events behind a place, the oldest first."""
    statement = _PAGE_OF_ALL
    if wanted.run_id is not None:
        if is_small_run(unit, wanted.run_id):
            statement = _PAGE_OF_RUN
        else:
            begin = unit.execute(_BEGIN_OF_RUN, {"run_id": wanted.run_id}).scalar()
            after = after if begin is None else max(after, Place(begin - 1, _BIGGEST_ID))
    looked_at = limit + 1 if wanted == EVERYTHING else max(MOST_LOOKED_AT, limit)
    parameters = {
        "source": source,
        "position": after.position,
        "event_id": after.event_id,
        "events": None if wanted.events is None else sorted(wanted.events),
        "projects": None if wanted.projects is None else sorted(wanted.projects),
        "pipeline": wanted.pipeline,
        "run_id": wanted.run_id,
        "looked_at": looked_at,
        "limit": limit + 1,
    }
    events, last, count = [], after, 0
    for position, event_id, event, project, pipeline, run_id, json, counted in unit.execute(statement, parameters):
        place = Place(position, event_id)
        if counted is None:
            events.append(FeedEvent(place, event, project, pipeline, run_id, json))
        else:
            last, count = place, counted
    if len(events) > limit:
        return FeedPage(events[:limit], events[limit - 1].place, more=True)
    return FeedPage(events, last, more=count == looked_at)
