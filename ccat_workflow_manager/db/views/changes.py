"""What has changed lately: runs with new events, runs that a person changed, breakers, backends, holds."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from ccat_workflow_manager.db.feed_epoch import BELOW
from ccat_workflow_manager.db.holds import MARK
from ccat_workflow_manager.db.queries.feed import Place
from ccat_workflow_manager.db.session import UnitOfWork

MOST_EVENTS = 5000

_EVENTS = f"""
SELECT e.position, e.id, e.run_id::text FROM events e
WHERE (e.position, e.id) > (:position, :event_id) AND e.position < {BELOW}
ORDER BY e.position, e.id LIMIT {MOST_EVENTS}
"""

_OTHERS = f"""
SELECT COALESCE((SELECT max(updated_at)::text || count(*) FROM breakers), '') AS breakers,
  COALESCE((SELECT md5(string_agg(concat_ws('|', name, problem, retry_at, stray_jobs), ',' ORDER BY name))
    FROM backends), '') || (SELECT concat(count(*), '/', count(drained)) FROM workers) AS backends,
  COALESCE((SELECT max(updated_at)::text || count(*) FROM pipelines), '') AS pipelines,
  COALESCE({MARK}, '') || COALESCE((SELECT max(updated_at)::text FROM projects), '') AS holds
"""


_LATE = 500
"""Numbers are handed out before commit: so many below the last one are looked at again."""
_AUDITED = f"""
SELECT a.id, a.object FROM audit a WHERE a.id > COALESCE(:after, (SELECT max(id) FROM audit)) - {_LATE}
ORDER BY a.id DESC LIMIT {MOST_EVENTS}
"""


@dataclass(frozen=True, slots=True)
class Others:
    """Marks that differ once something has changed."""

    breakers: str
    backends: str
    pipelines: str
    holds: str


def events_after(unit: UnitOfWork, after: Place) -> tuple[list[str | None], Place]:
    """The runs of the events behind this place, None for an event of a backend; and the place behind them."""
    found = unit.execute(_EVENTS, {"position": after.position, "event_id": after.event_id}).all()
    return [row[2] for row in found], Place(found[-1][0], found[-1][1]) if found else after


def audited_after(unit: UnitOfWork, seen: Set[int] | None) -> tuple[list[str], Set[int]]:
    """What was asked to change since then (`runs/ID`), and the rows of the audit that were looked at."""
    found = dict(unit.execute(_AUDITED, {"after": max(seen, default=0) if seen is not None else None}).tuples)
    return [name for number, name in found.items() if seen is not None and number not in seen], found.keys()


def others(unit: UnitOfWork) -> Others:
    found = unit.row(Others, _OTHERS)
    assert found is not None
    return found
