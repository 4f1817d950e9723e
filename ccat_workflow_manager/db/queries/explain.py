"""Why step runs and runs do not go on, from the rows alone: the chain from the symptom to the root."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from ccat_workflow_manager.db.conditions import MET, READY, counter, quoted
from ccat_workflow_manager.db.holds import HOLD_OF, active_holds
from ccat_workflow_manager.db.queries import project_list, utc, visible
from ccat_workflow_manager.db.queries.causes import CAUSE, SINCE, subject
from ccat_workflow_manager.db.queries.waits import pause_of
from ccat_workflow_manager.db.quotas import limit_uses
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.identity import Projects
from ccat_workflow_manager.lifecycle.causes import Cause
from ccat_workflow_manager.lifecycle.states import LEASED, LIVE, Event, RunStatus, Status

MOST_NODES = 100_000
_WORDED_HERE = (Cause.ON_HOLD, Cause.QUOTA)
_MOST_COUNTED = 10_000

_NODES = f"""
SELECT s.id, s.position, s.step, s.key, s.status, {CAUSE} AS cause FROM step_runs s
WHERE s.run_id = :run_id AND (NOT {MET} OR s.id = :id) ORDER BY s.position, s.id LIMIT {MOST_NODES}
"""
_EDGES = "SELECT position, downstream_key, downstream_all, soft FROM run_steps WHERE run_id = :run_id ORDER BY position"

_FACTS = f"""
SELECT x.*, {subject("x")} AS subject, {utc("x.since")} AS since_text,
  p.problem, {utc("p.problem_since")} AS problem_since, {utc("p.retry_at")} AS retry_at,
  b.reason_text AS breaker_text, b.failure_signature,
  r.paused_by, r.paused_why, r.paused_until,
  {utc("b.probe_at")} AS probe_at, f.text AS full_text, {utc("f.since")} AS full_since
FROM (
  SELECT s.id, s.run_id, s.step, s.key, s.status, s.backend, s.lane, s.resources, s.breaker_key, s.reason,
    s.reason_text, s.waiting_for, s.attempt, s.max_attempts, s.job_id, {utc("s.not_before")} AS not_before,
    s.lease_owner, s.cancel_requested_by, {HOLD_OF} AS on_hold, {CAUSE} AS cause, {SINCE} AS since
  FROM step_runs s WHERE s.id = ANY(:ids)
) x LEFT JOIN backends p ON p.name = x.backend LEFT JOIN breakers b ON b.breaker_key = x.breaker_key
LEFT JOIN full_places f ON f.backend = x.backend AND f.resources = x.resources
LEFT JOIN runs r ON r.id = x.run_id
"""

_WAITING = f"""
SELECT s.id, s.run_id, s.backend, s.lane, s.breaker_key, s.status, s.waiting_for, s.created_at, {HOLD_OF} AS on_hold,
  {CAUSE} AS cause
FROM step_runs s
"""
# The parts of the partial indexes: ready, at a backend, in the hands of a worker. What is paused or waits for other
# step runs is counted by the counters of the runs.
_DIRECT = f"""
{_WAITING} WHERE {READY}
UNION ALL {_WAITING} WHERE s.status IN ({quoted(LIVE)})
UNION ALL {_WAITING} WHERE s.status IN ({quoted(LEASED)})
"""
_UNFINISHED = f"r.status IN ('{RunStatus.PENDING}', '{RunStatus.RUNNING}')"
_GROUPS = f"""
WITH direct AS MATERIALIZED ({_DIRECT}), mine AS (
  SELECT d.* FROM direct d WHERE {visible("(SELECT r.project FROM runs r WHERE r.id = d.run_id)")}
), open_runs AS (
  SELECT r.id, r.paused, r.{counter(Status.PENDING)} AS pending, r.created_at FROM runs r
  WHERE {_UNFINISHED} AND {visible("r.project")}
), behind AS (
  SELECT sum(pending) FILTER (WHERE paused) AS paused, min(created_at) FILTER (WHERE paused) AS paused_since,
    sum(pending) FILTER (WHERE NOT paused)
      - (SELECT count(*) FROM mine m WHERE m.status = '{Status.PENDING}') AS waiting,
    min(created_at) AS since
  FROM open_runs
)
SELECT m.cause, {subject("m")} AS subject, count(*) AS count, min(m.created_at) AS oldest,
  CAST(min(m.id::text) AS uuid) AS example,
  CASE WHEN m.cause IN ('{Cause.SCHEDULER}', '{Cause.ACTION_REQUIRED}') THEN m.waiting_for END AS scheduler
FROM mine m GROUP BY 1, 2, 6
UNION ALL SELECT '{Cause.PAUSED}', NULL, paused, paused_since, NULL, NULL FROM behind WHERE paused > 0
UNION ALL SELECT '{Cause.UPSTREAM}', NULL, waiting, since, NULL, NULL FROM behind WHERE waiting > 0
"""
_LOOK = f"""
SELECT x.*, {utc("x.oldest")} AS since_text, sum(x.count) OVER () AS total FROM ({_GROUPS}) x
ORDER BY x.count DESC, x.cause, x.subject LIMIT :limit
"""

_SAME = f"""
SELECT count(*) FROM (
  SELECT 1 FROM ({_DIRECT}) m WHERE m.cause = :cause AND {subject("m")} = :subject
    AND {visible("(SELECT r.project FROM runs r WHERE r.id = m.run_id)")}
  LIMIT {_MOST_COUNTED}
) x
"""

_OF_RUN = f"""
SELECT x.cause, {subject("x")} AS subject, x.reason, count(*) AS count,
  CAST(min(x.id::text) AS uuid) AS example, CASE x.cause WHEN '{Cause.FAILED}' THEN x.position END AS position
FROM (SELECT s.id, s.run_id, s.position, s.backend, s.lane, s.breaker_key, s.reason, {HOLD_OF} AS on_hold,
    {CAUSE} AS cause
  FROM step_runs s
  WHERE s.run_id = :id AND NOT {MET}) x
GROUP BY 1, 2, 3, 6 ORDER BY 4 DESC LIMIT 200
"""

_AGAIN = f"""
SELECT e.attempt, e.event, e.actor, e.reason, e.text, {utc("e.at")} AS at FROM events e
WHERE e.step_run_id = :id AND e.event IN ('{Event.RETRIED}', '{Event.RELEASED}', '{Event.FAILED}')
ORDER BY e.id DESC LIMIT 50
"""


@dataclass(frozen=True, slots=True)
class Node:
    """A step run that is not met: what depends on it does not go on."""

    id: UUID
    position: int
    step: str
    key: str
    status: str
    cause: str


@dataclass(frozen=True, slots=True)
class EdgesOf:
    """The steps behind one step."""

    position: int
    downstream_key: Sequence[int]
    downstream_all: Sequence[int]
    soft: Sequence[int]


def place_of(unit: UnitOfWork, step_run_id: UUID) -> tuple[UUID, int, str] | None:
    """The run, the position and the key of a step run."""
    row = unit.execute("SELECT run_id, position, key FROM step_runs WHERE id = :id", {"id": step_run_id}).first()
    return None if row is None else (row[0], row[1], row[2])


def graph(unit: UnitOfWork, run_id: UUID, step_run_id: UUID | None) -> tuple[list[Node], list[EdgesOf]]:
    """What is not met in a run (and this step run in any case), and the edges of its steps."""
    nodes = unit.rows(Node, _NODES, {"run_id": run_id, "id": step_run_id})
    return nodes, unit.rows(EdgesOf, _EDGES, {"run_id": run_id})


def facts(unit: UnitOfWork, ids: Sequence[UUID]) -> dict[UUID, dict[str, Any]]:
    """What is stored about the causes of these step runs."""
    found = unit.records(_FACTS, {"ids": list(ids)})
    subjects = {cause: {each["subject"] for each in found if each["cause"] == cause} for cause in _WORDED_HERE}
    holds = {each.subject: each for each in active_holds(unit)} if subjects[Cause.ON_HOLD] else {}
    limits = {each.project: each for each in limit_uses(unit, subjects[Cause.QUOTA])}
    for each in found:
        each["pause"] = pause_of(each)
        each["hold"] = holds.get(each["subject"]) if each["cause"] == Cause.ON_HOLD else None
        limit = limits.get(each["subject"]) if each["cause"] == Cause.QUOTA else None
        each["limit_text"] = None if limit is None else limit.text(float(each["resources"]["cpu"]))
    return {each["id"]: each for each in found}


def same_cause(unit: UnitOfWork, cause: str, about: str | None, projects: Projects) -> int:
    """How many step runs of these projects wait directly for the same, counted up to 10,000."""
    values = {"cause": cause, "subject": about, "projects": project_list(projects)}
    found: int = unit.execute(_SAME, values).scalar_one()
    return found


def waiting_groups(unit: UnitOfWork, projects: Projects, limit: int) -> list[dict[str, Any]]:
    """The unfinished step runs by the cause for which they do not go on, the largest groups first."""
    return unit.records(_LOOK, {"projects": project_list(projects), "limit": limit})


def run_groups(unit: UnitOfWork, run_id: UUID) -> list[dict[str, Any]]:
    """What is not met in a run, by cause; what failed by its step as well."""
    return unit.records(_OF_RUN, {"id": run_id})


def again(unit: UnitOfWork, step_run_id: UUID) -> list[dict[str, Any]]:
    """Why it ran again, the last first."""
    return unit.records(_AGAIN, {"id": step_run_id})
