"""Holds: what starts nothing now, because a person has paused or drained it.

A claim shares an advisory lock (`FENCE`) from its first statement to its end, and a change of holds takes it alone. So
a hold waits for the claims that are going on, and no claim after it misses it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.lifecycle.holds import Hold, Kind, Mode

_ADVISORY_LOCK = 5_720_192

FENCE = f"pg_advisory_xact_lock_shared({_ADVISORY_LOCK})"
"""Part of an early statement of a claim: only a later one, which selects step runs, sees what this one waited for."""

_ACTIVE = "(h.until IS NULL OR h.until > now())"

BACKEND_HELD = f"""EXISTS (SELECT 1 FROM holds h
  WHERE {_ACTIVE} AND (h.kind = 'service' OR h.kind = 'backend' AND h.name = :backend))"""
"""The backend `:backend`, or the whole service, starts nothing."""

HELD_LANES = f"""SELECT l.id FROM holds h JOIN lanes l
  ON h.kind = 'project' AND l.project = h.name OR h.kind = 'pipeline' AND l.registered AND l.pipeline = h.name
  WHERE {_ACTIVE}"""
"""The lanes of projects and registered pipelines that start nothing."""

ON_HOLD = f"""(lane IN ({HELD_LANES}) OR backend IN (SELECT h.name FROM holds h WHERE h.kind = 'backend' AND {_ACTIVE})
  OR EXISTS (SELECT 1 FROM holds h WHERE h.kind = 'service' AND {_ACTIVE}))"""
"""A hold keeps the step run from being claimed."""


def _held_by(mode: Mode) -> str:
    return f"""(lane IN ({HELD_LANES} AND h.mode = '{mode}')
  OR EXISTS (SELECT 1 FROM holds h WHERE {_ACTIVE} AND h.mode = '{mode}' AND (h.kind = 'service'
    OR h.kind = 'backend' AND h.name = backend)))"""


PAUSED = _held_by(Mode.PAUSE)
"""A pause, not only a drain, holds the step run."""

ANY_PAUSE = f"EXISTS (SELECT 1 FROM holds h WHERE {_ACTIVE} AND h.mode = '{Mode.PAUSE}')"


def widest(backend: str) -> str:
    """The conditions and the order of `holds h` that select the hold of lane `l` at this backend: the widest."""
    return f"""WHERE {_ACTIVE} AND (h.kind = 'service' OR h.kind = 'backend' AND h.name = {backend}
    OR h.kind = 'project' AND h.name = l.project OR h.kind = 'pipeline' AND l.registered AND h.name = l.pipeline)
  ORDER BY array_position('{{service,backend,project,pipeline}}', h.kind) LIMIT 1"""


SUBJECT = "concat_ws(' ', h.kind, NULLIF(h.name, ''))"
"""`Hold.subject` of a row of `holds h`."""

HOLD_OF = f"""CASE WHEN EXISTS (SELECT 1 FROM holds) THEN (
  SELECT {SUBJECT} FROM holds h LEFT JOIN lanes l ON l.id = s.lane
  {widest("s.backend")}) END"""
"""The hold that keeps `step_runs s` from being claimed, such as `pipeline nightly`: of several, the widest."""

MARK = f"""(SELECT md5(string_agg(h::text, ',' ORDER BY h.kind, h.name)) FROM holds h WHERE {_ACTIVE})"""
"""Differs once a hold has begun, has ended, or is another."""

_ACTIVE_HOLDS = f"""
SELECT h.kind, h.name, h.mode, h.why, h.actor, h.since, h.until FROM holds h WHERE {_ACTIVE}
ORDER BY array_position('{{service,backend,project,pipeline}}', h.kind), h.name
"""


def active_holds(unit: UnitOfWork) -> list[Hold]:
    """What starts nothing now, the widest first."""
    return [_hold(row) for row in unit.execute(_ACTIVE_HOLDS)]


def _hold(row: Any) -> Hold:
    return Hold(Kind(row.kind), row.name, Mode(row.mode), row.why, row.actor, row.since, row.until)


_LOCK = f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"

_SET = """
INSERT INTO holds (kind, name, mode, why, actor, until) VALUES (:kind, :name, :mode, :why, :actor, :until)
ON CONFLICT (kind, name) DO UPDATE SET mode = excluded.mode, why = excluded.why, actor = excluded.actor,
  until = excluded.until, since = CASE WHEN holds.until <= now() THEN now() ELSE holds.since END
"""

_LIFT = "DELETE FROM holds WHERE kind = :kind AND name = :name"
_LIFT_ENDED = "DELETE FROM holds WHERE until <= now() RETURNING kind, name, mode, why, actor, since, until"


class HoldStore:
    """Sets and lifts holds inside the caller's transaction."""

    def __init__(self, unit: UnitOfWork) -> None:
        self.unit = unit

    def get(self, kind: Kind, name: str) -> Hold | None:
        """The active hold of this thing."""
        return next((each for each in active_holds(self.unit) if (each.kind, each.name) == (kind, name)), None)

    def set(self, kind: Kind, name: str, mode: Mode, why: str, actor: str, until: datetime | None) -> None:
        """Hold it, in place of a hold that it has. Waits for the claims that are going on."""
        self.unit.execute(_LOCK)
        values = {"kind": kind, "name": name, "mode": mode, "why": why, "actor": actor, "until": until}
        self.unit.execute(_SET, values)

    def lift(self, kind: Kind, name: str) -> None:
        self.unit.execute(_LIFT, {"kind": kind, "name": name})

    def any_ended(self) -> bool:
        return bool(self.unit.execute("SELECT EXISTS (SELECT 1 FROM holds WHERE until <= now())").scalar_one())

    def lift_ended(self) -> list[Hold]:
        """Remove the holds whose time is over. Claims do not heed them any more."""
        return [_hold(row) for row in self.unit.execute(_LIFT_ENDED)]
