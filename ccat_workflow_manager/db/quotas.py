"""The limits of projects: how many step runs may have a job at once, how many CPUs these may use, how many may wait.

A project without a row in `projects`, or with a limit that is null, has no limit. What counts is counted anew by an
index each time, under a lock of that row, so no counter can be wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ccat_workflow_manager.db.conditions import IN_USE, counter
from ccat_workflow_manager.db.locked_rows import ClaimRow
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.lifecycle.holds import LimitUse
from ccat_workflow_manager.lifecycle.states import Status

_CPUS = "CAST(resources ->> 'cpu' AS double precision)"

USE = f"""
SELECT count(*) AS live, COALESCE(sum(s.cpus), 0) AS cpus
FROM lanes l CROSS JOIN LATERAL (
  SELECT {_CPUS} AS cpus FROM step_runs WHERE lane = l.id AND {IN_USE}
) s WHERE l.project = q.name
"""
"""How many step runs of project `q` have a job, and how many CPUs these use."""

QUEUED = f"""
SELECT COALESCE(sum(r.{counter(Status.PENDING)}), 0) FROM runs r WHERE r.project = q.name AND r.finished_at IS NULL
"""
"""How many step runs of project `q` are PENDING."""

_LOCK = """
SELECT 1 FROM projects WHERE name = ANY(:names) AND COALESCE(max_live, max_cpus) IS NOT NULL
ORDER BY name FOR NO KEY UPDATE
"""

_ROOM = f"""
SELECT q.name AS project, q.max_live - u.live AS live, q.max_cpus - u.cpus AS cpus, q.max_cpus AS most_cpus
FROM projects q CROSS JOIN LATERAL ({USE}) u WHERE q.name = ANY(:names)
"""

_LOCK_QUEUES = """
SELECT name FROM projects WHERE name = ANY(:names) AND max_queued IS NOT NULL ORDER BY name FOR NO KEY UPDATE
"""
_QUEUES = f"SELECT q.name, q.max_queued, ({QUEUED}) FROM projects q WHERE q.name = ANY(:names)"

_SET = """
INSERT INTO projects (name, weight, max_live, max_cpus, max_queued)
VALUES (:name, :weight, :max_live, :max_cpus, :max_queued)
ON CONFLICT (name) DO UPDATE SET weight = excluded.weight, max_live = excluded.max_live, max_cpus = excluded.max_cpus,
  max_queued = excluded.max_queued, updated_at = now()
"""

_SETTINGS = "SELECT weight, max_live, max_cpus, max_queued FROM projects WHERE name = :name FOR NO KEY UPDATE"
_DEFAULTS = {"weight": 1.0, "max_live": None, "max_cpus": None, "max_queued": None}

_LIMITED = "q.max_live IS NOT NULL OR q.max_cpus IS NOT NULL"

_USES = f"""
SELECT q.name AS project, q.max_live, u.live, q.max_cpus, u.cpus
FROM projects q CROSS JOIN LATERAL ({USE}) u WHERE q.name = ANY(:names)
"""

AT_LIMIT = f"""COALESCE({_CPUS} > CAST((
  SELECT jsonb_object_agg(l.id, CASE WHEN u.live >= q.max_live THEN -1 ELSE q.max_cpus - u.cpus END)
  FROM projects q CROSS JOIN LATERAL ({USE}) u JOIN lanes l ON l.project = q.name WHERE {_LIMITED}
) ->> CAST(lane AS text) AS double precision), false)"""
"""A limit of its project keeps the step run from being claimed. What the projects use is counted once a statement."""


@dataclass(slots=True)
class Room:
    """What a project may still start. None: any number."""

    live: int | None = None
    cpus: float | None = None
    most_cpus: float | None = None
    """A step run that needs more than that never starts, so it must not be in the way of others."""

    @property
    def is_empty(self) -> bool:
        return (self.live is not None and self.live <= 0) or (self.cpus is not None and self.cpus <= 0)


NO_LIMIT = Room()


@dataclass(frozen=True, slots=True)
class _ProjectRoom:
    project: str
    live: int | None
    cpus: float | None
    most_cpus: float | None


class QuotaStore:
    """Keeps one claim within the limits of projects."""

    def __init__(self, unit: UnitOfWork) -> None:
        self.unit = unit
        self._rooms: dict[str, Room] = {}

    def lock(self, projects: Collection[str]) -> None:
        """Lock the limits of these projects, then count. Claims of one limited project follow each other."""
        if not projects:
            return
        names = {"names": sorted(projects)}
        self.unit.execute(_LOCK, names)
        for each in self.unit.rows(_ProjectRoom, _ROOM, names):
            self._rooms[each.project] = Room(each.live, each.cpus, each.most_cpus)

    def room(self, project: str) -> Room:
        return self._rooms.get(project, NO_LIMIT)

    def admit(self, project: str, rows: Iterable[ClaimRow]) -> list[ClaimRow]:
        """The first of these step runs that may start, up to the first that does not fit: it is next."""
        room = self.room(project)
        admitted = []
        for row in rows:
            if (room.live is not None and room.live < 1) or (room.cpus is not None and room.cpus < row.cpus):
                break
            room.live = None if room.live is None else room.live - 1
            room.cpus = None if room.cpus is None else room.cpus - row.cpus
            admitted.append(row)
        return admitted


def limit_uses(unit: UnitOfWork, projects: Collection[str]) -> list[LimitUse]:
    """How much of their limits these projects use."""
    return unit.rows(LimitUse, _USES, {"names": sorted(projects)}) if projects else []


def lock_queues(unit: UnitOfWork, projects: Collection[str]) -> dict[str, tuple[int, int]]:
    """Lock the limits of these projects on what is queued. Returns the limit and the count of each that has one."""
    names = [row[0] for row in unit.execute(_LOCK_QUEUES, {"names": sorted(projects)})]
    found = unit.execute(_QUEUES, {"names": names}) if names else ()
    return {name: (most, queued) for name, most, queued in found}


def project_settings(unit: UnitOfWork, name: str) -> dict[str, Any]:
    """Lock the weight and the limits of a project, if it has any of its own. Returns them."""
    found = unit.records(_SETTINGS, {"name": name})
    return found[0] if found else dict(_DEFAULTS)


def set_project(unit: UnitOfWork, name: str, values: Mapping[str, Any]) -> None:
    """Set the weight and the limits of a project. Waits for the claims and submissions that count by them."""
    unit.execute(_SET, {"name": name, **values})
