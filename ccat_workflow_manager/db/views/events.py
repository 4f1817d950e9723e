"""Events as people look through them: the newest first, in both directions, by what they are about.

A page looks at a bounded number of rows and says how far it looked, so its cost does not depend on how rare the wanted
events are.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from ccat_workflow_manager.db.queries import project_list, visible
from ccat_workflow_manager.db.queries.feed import MOST_LOOKED_AT, Place, is_small_run
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.identity import Projects

END = Place(2**63 - 1, 2**63 - 1)

_VISIBLE = f"(CAST(:projects AS text[]) IS NULL OR e.run_id IS NOT NULL AND {visible('e.project')})"
_ALL = f"SELECT e.* FROM events e WHERE %bound% AND {_VISIBLE}"
_OF_RUN = f"""
SELECT e.* FROM step_runs s JOIN events e ON e.step_run_id = s.id WHERE s.run_id = :run_id AND %bound% AND {_VISIBLE}
UNION ALL
SELECT e.* FROM events e WHERE e.run_id = :run_id AND e.step_run_id IS NULL AND %bound% AND {_VISIBLE}
"""

_PAGE = """
WITH looked_at AS MATERIALIZED (
  SELECT * FROM (%source%) e ORDER BY position %order%, id %order% LIMIT :looked_at
), wanted AS (
  SELECT e.position, e.id, e.at, e.event, e.to_status, e.attempt, e.actor, e.reason, e.text, e.backend,
    e.run_id::text AS run_id, e.step_run_id::text AS step_run_id, s.step, s.key, r.pipeline
  FROM looked_at e LEFT JOIN step_runs s ON s.id = e.step_run_id LEFT JOIN runs r ON r.id = e.run_id
  WHERE (CAST(:events AS text[]) IS NULL OR e.event = ANY(:events))
    AND (CAST(:run_id AS uuid) IS NULL OR e.run_id = :run_id)
    AND (CAST(:actor AS text) IS NULL OR e.actor = :actor)
    AND (CAST(:since AS timestamptz) IS NULL OR e.at >= :since)
    AND (CAST(:pipeline AS text) IS NULL OR r.pipeline = :pipeline)
  ORDER BY e.position %order%, e.id %order% LIMIT :limit
)
SELECT w.*, l.last_position, l.last_id, l.last_at, l.looked
FROM (SELECT position AS last_position, id AS last_id, at AS last_at, (SELECT count(*) FROM looked_at) AS looked
  FROM looked_at ORDER BY position %back%, id %back% LIMIT 1) l LEFT JOIN wanted w ON true
ORDER BY w.position DESC, w.id DESC
"""

_FIRST_FROM = "SELECT position, at FROM events WHERE position >= :position ORDER BY position, id LIMIT 1"
_LAST = "SELECT position FROM events ORDER BY position DESC, id DESC LIMIT 1"


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events are wanted. None: all."""

    events: tuple[str, ...] | None = None
    pipeline: str | None = None
    run_id: UUID | None = None
    actor: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def selects(self) -> bool:
        return any((self.events, self.pipeline, self.run_id, self.actor, self.since))


@dataclass(frozen=True, slots=True)
class EventsPage:
    """Events, the newest first, and where the pages of newer and older ones begin."""

    items: list[dict[str, Any]]
    newer: Place | None
    older: Place | None
    looked_to: datetime | None
    """The page stopped looking here, because it had looked at as many events as one page may."""


def events_page(
    unit: UnitOfWork, wanted: EventFilter, limit: int, projects: Projects, *, before: Place | None, after: Place | None
) -> EventsPage:
    """A page of events before or behind a place, by default the newest."""
    if before is None and after is None and wanted.until is not None:
        before = Place(place_at(unit, wanted.until), 0)
    forward = after is not None
    edge = after if after is not None else before or END
    most = MOST_LOOKED_AT if wanted.selects else limit + 1
    found = unit.records(
        _statement(unit, wanted, forward),
        {
            "position": edge.position, "event_id": edge.event_id, "projects": project_list(projects),
            "events": None if wanted.events is None else list(wanted.events), "run_id": wanted.run_id,
            "actor": wanted.actor, "since": wanted.since, "pipeline": wanted.pipeline,
            "looked_at": most, "limit": limit + 1,
        },
    )  # fmt: skip
    items = [each for each in found if each["id"] is not None]
    extra = len(items) > limit
    if extra:
        items = items[1:] if forward else items[:limit]
    cut = not extra and bool(found) and wanted.selects and found[0]["looked"] == most
    return _page(items, found, edge, forward=forward, extra=extra, cut=cut, wanted=wanted)


def _page(
    items: list[dict[str, Any]], found: list[dict[str, Any]], edge: Place,
    *, forward: bool, extra: bool, cut: bool, wanted: EventFilter,
) -> EventsPage:  # fmt: skip
    newest = Place(items[0]["position"], items[0]["id"]) if items else edge
    oldest = Place(items[-1]["position"], items[-1]["id"]) if items else edge
    looked = Place(found[0]["last_position"], found[0]["last_id"]) if found else edge
    looked_to = found[0]["last_at"] if cut else None
    if forward:
        return EventsPage(items, newest if extra else looked if cut else None, oldest, looked_to)
    if cut and wanted.since is not None and looked_to is not None and looked_to < wanted.since:
        cut, looked_to = False, None
    newer = None if edge == END else newest
    return EventsPage(items, newer, oldest if extra else looked if cut else None, looked_to)


def _statement(unit: UnitOfWork, wanted: EventFilter, forward: bool) -> str:
    of_run = wanted.run_id is not None and is_small_run(unit, wanted.run_id)
    source = (_OF_RUN if of_run else _ALL).replace(
        "%bound%", f"(e.position, e.id) {'>' if forward else '<'} (:position, :event_id)"
    )
    order, back = ("ASC", "DESC") if forward else ("DESC", "ASC")
    return _PAGE.replace("%source%", source).replace("%order%", order).replace("%back%", back)


def place_at(unit: UnitOfWork, moment: datetime) -> int:
    """The position behind the events that happened up to a moment. Events follow each other in time, nearly."""
    low, high = 0, int(unit.execute(_LAST).scalar() or 0) + 1
    while low < high:
        middle = (low + high) // 2
        row = unit.execute(_FIRST_FROM, {"position": middle}).first()
        if row is None or row.at > moment:
            high = middle
        else:
            low = int(row.position) + 1
    return low
