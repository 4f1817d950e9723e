"""What has changed lately: runs with new events, breakers, backends."""

from __future__ import annotations

from dataclasses import dataclass

from ccat_workflow_manager.db.session import UnitOfWork

MOST_EVENTS = 5000

_HEAD = "SELECT COALESCE(max(id), 0) FROM events"

_EVENTS = f"""
SELECT e.id, e.run_id::text FROM events e WHERE e.id > :after ORDER BY e.id LIMIT {MOST_EVENTS}
"""

_OTHERS = """
SELECT COALESCE((SELECT max(updated_at)::text || count(*) FROM breakers), '') AS breakers,
  COALESCE((SELECT md5(string_agg(concat_ws('|', name, problem, retry_at, stray_jobs), ',' ORDER BY name))
    FROM backends), '') || (SELECT count(*) FROM workers) AS backends,
  COALESCE((SELECT max(updated_at)::text || count(*) FROM pipelines), '') AS pipelines
"""


@dataclass(frozen=True, slots=True)
class Others:
    """Marks that differ once something has changed."""

    breakers: str
    backends: str
    pipelines: str


def newest_event(unit: UnitOfWork) -> int:
    found: int = unit.execute(_HEAD).scalar_one()
    return found


def events_after(unit: UnitOfWork, after: int) -> list[tuple[int, str]]:
    """Ids of events behind this one, each with the id of its run."""
    return [(row[0], row[1]) for row in unit.execute(_EVENTS, {"after": after})]


def others(unit: UnitOfWork) -> Others:
    found = unit.row(Others, _OTHERS)
    assert found is not None
    return found
