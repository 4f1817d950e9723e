"""Turns: from which lanes a claim takes step runs, and how much it took (stride scheduling, see the table `turns`).

A claim finds the lanes with ready step runs by an index, from one lane to the next. It never goes through the step runs
that wait. It serves the lane whose turn it is until the claim is full, and then the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from ccat_workflow_manager.db.breakers import HELD_BACK, IN_FULL_PLACE, PROBE_DUE
from ccat_workflow_manager.db.conditions import CLAIMABLE, READY
from ccat_workflow_manager.db.holds import BACKEND_HELD, FENCE, HELD_LANES
from ccat_workflow_manager.db.locked_rows import CLAIMED, ClaimRow
from ccat_workflow_manager.db.quotas import NO_LIMIT, QuotaStore, Room
from ccat_workflow_manager.db.session import UnitOfWork, json_list
from ccat_workflow_manager.db.workers import DRAINED

_READY = f"SELECT s.lane FROM step_runs s WHERE s.backend = :backend AND {READY}"

_TURNS = """
SELECT l.id AS lane, l.project, COALESCE(q.weight, 1) AS weight,
  COALESCE(q.max_live, q.max_cpus) IS NOT NULL AS is_limited,
  GREATEST(p.pass, a.floor, 0) AS project_pass, GREATEST(t.pass, p.floor, 0) AS lane_pass
FROM ready r JOIN lanes l ON l.id = r.lane
LEFT JOIN projects q ON q.name = l.project
LEFT JOIN turns a ON a.backend = :backend AND a.project = '' AND a.lane = 0
LEFT JOIN turns p ON p.backend = :backend AND p.project = l.project AND p.lane = 0
LEFT JOIN turns t ON t.backend = :backend AND t.project = l.project AND t.lane = l.id
"""

LOOK = f"""
WITH RECURSIVE ready(lane) AS (
  ({_READY} ORDER BY s.lane LIMIT 1)
  UNION ALL
  SELECT ({_READY} AND s.lane > r.lane ORDER BY s.lane LIMIT 1) FROM ready r WHERE r.lane IS NOT NULL
)
SELECT c.*, t.* FROM (
  SELECT (SELECT {FENCE}) AS fence, {DRAINED} AS drained,
    (SELECT retry_at > now() FROM backends WHERE name = :backend AND problem IS NOT NULL) AS retry_later,
    EXISTS (SELECT 1 FROM breakers b WHERE {PROBE_DUE}) AS probe_due,
    (SELECT min(retry_at) <= now() FROM full_places WHERE backend = :backend) AS place_due
) c LEFT JOIN ({_TURNS}) t ON true ORDER BY t.project_pass, t.project, t.lane_pass, t.lane
"""
"""The first statement of a claim: whether it may go on, and whose turn it is. At least one row.

From here to the end of the claim no hold is set. What this statement has waited for, it does not see itself: a hold and
the drain of the worker count in LOCK_CLAIMABLE.
"""

LOCK_CLAIMABLE = f"""
SELECT {CLAIMED}, false AS has_breaker
FROM (
  SELECT o.lane FROM unnest(CAST(:lanes AS integer[])) WITH ORDINALITY AS o(lane, number)
  WHERE NOT {DRAINED} AND NOT {BACKEND_HELD} AND o.lane NOT IN ({HELD_LANES}) ORDER BY o.number
) o CROSS JOIN LATERAL (
  SELECT * FROM step_runs s
  WHERE s.backend = :backend AND s.lane = o.lane AND {CLAIMABLE} AND NOT {HELD_BACK} AND NOT {IN_FULL_PLACE}
    AND (CAST(:most_cpus AS double precision) IS NULL
      OR CAST(s.resources ->> 'cpu' AS double precision) <= :most_cpus)
  ORDER BY s.priority DESC, s.id LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED
) s LIMIT :limit
"""
"""What a worker claims: lane by lane, the most urgent first. Concurrent claims skip each other's rows."""

CHARGE = """
INSERT INTO turns (backend, project, lane, pass, cost, floor)
SELECT :backend, c.project, c.lane, c.start + c.cost, c.cost, c.floor
FROM json_to_recordset(CAST(:charges AS json)) AS c(project text, lane integer, start double precision,
  cost double precision, floor double precision)
ORDER BY c.project, c.lane
ON CONFLICT (backend, project, lane) DO UPDATE SET cost = excluded.cost,
  pass = GREATEST(turns.pass, excluded.pass - excluded.cost) + excluded.cost,
  floor = GREATEST(turns.floor, excluded.floor)
"""


@dataclass(frozen=True, slots=True)
class LaunchState:
    """What a worker takes into account before it claims step runs."""

    drained: bool
    """The worker takes no new work."""
    retry_later: bool | None
    """The backend is left alone until its retry. None: it has no problem."""
    probe_due: bool
    """A breaker is due for a probe."""
    place_due: bool | None
    """A full place is due for a probe. None: no place is full."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A lane with ready step runs at one backend."""

    lane: int
    project: str
    weight: float
    is_limited: bool
    """The project has a limit of live step runs or of CPUs."""
    project_pass: float
    lane_pass: float


class TurnStore:
    """Locks what one backend starts next, inside the transaction of the claim."""

    def __init__(self, unit: UnitOfWork, backend: str, worker: str) -> None:
        self.unit = unit
        self._claim = {"backend": backend, "worker": worker}
        self._turns: Sequence[Turn] = ()
        self._quotas = QuotaStore(unit)

    def look(self) -> LaunchState:
        """Look whose turn it is. The first statement of a claim."""
        found = self.unit.execute(LOOK, self._claim)
        turns = zip(found.shaped(Turn), found, strict=True)
        self._turns = [turn for turn, row in turns if row.lane is not None]
        return found.shaped(LaunchState)[0]

    def lock_next(self, limit: int) -> list[ClaimRow]:
        """Lock up to `limit` step runs of the lanes whose turn it is, within the limits of their projects."""
        self._quotas.lock({turn.project for turn in self._turns if turn.is_limited})
        rows: list[ClaimRow] = []
        for limited, group in groupby(self._turns, lambda turn: turn.project if turn.is_limited else None):
            lanes, room = [turn.lane for turn in group], NO_LIMIT if limited is None else self._quotas.room(limited)
            if room.is_empty:
                continue
            found = self._lock(lanes, limit - len(rows), room)
            rows += found if limited is None else self._quotas.admit(limited, found)
            if len(rows) >= limit:
                break
        return rows

    def _lock(self, lanes: Sequence[int], limit: int, room: Room) -> list[ClaimRow]:
        most = limit if room.live is None else min(limit, room.live)
        parameters = {**self._claim, "lanes": lanes, "limit": most, "most_cpus": room.most_cpus}
        return self.unit.rows(ClaimRow, LOCK_CLAIMABLE, parameters)

    def admit(self, probes: Iterable[ClaimRow]) -> list[ClaimRow]:
        """Those of these locked step runs that the limits of their projects still let start."""
        projects = {turn.lane: turn.project for turn in self._turns}
        known = [row for row in probes if row.lane in projects]
        return [row for row in known if self._quotas.admit(projects[row.lane], [row])]

    def charge(self, rows: Iterable[ClaimRow]) -> None:
        """Let the others go first the next time. The last statement of a claim: claims of one backend wait here."""
        if len(self._turns) < 2:
            return
        taken = Counter(row.lane for row in rows)
        charges: dict[tuple[str, int], dict[str, float]] = {}
        for turn in self._turns:
            if not (count := taken[turn.lane]):
                continue
            all_projects = charges.setdefault(("", 0), {"start": 0, "cost": 0, "floor": turn.project_pass})
            all_projects["floor"] = min(all_projects["floor"], turn.project_pass)
            project = charges.setdefault(
                (turn.project, 0), {"start": turn.project_pass, "cost": 0, "floor": turn.lane_pass}
            )
            project["cost"] += count / turn.weight
            project["floor"] = min(project["floor"], turn.lane_pass)
            charges[turn.project, turn.lane] = {"start": turn.lane_pass, "cost": count, "floor": 0}
        if charges:
            records = [{"project": project, "lane": lane, **each} for (project, lane), each in charges.items()]
            self.unit.execute(CHARGE, {"backend": self._claim["backend"], "charges": json_list(records)})
