"""The list of runs: a page in either direction, counts of statuses, runs per time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from ccat_workflow_manager.db.queries import project_list, visible
from ccat_workflow_manager.db.queries.run_filter import RunFilter
from ccat_workflow_manager.db.queries.runs import RUN
from ccat_workflow_manager.db.queries.waits import WAITING_FOR, waits_of_step_runs
from ccat_workflow_manager.db.session import UnitOfWork, first_id
from ccat_workflow_manager.identity import Projects
from ccat_workflow_manager.lifecycle.states import ACTIVE, RunStatus, Status

MOST_COUNTED = 10_000
LIVE = (RunStatus.PENDING, RunStatus.RUNNING)
_MOST_IN_HISTORY = 20_000
_FEW = 1000
"""A run that has begun, but of which nothing goes on, is looked into if it has no more step runs."""
BUCKETS = 96


@dataclass(frozen=True, slots=True)
class RunsPage:
    """Runs, the newest first, and whether there are newer and older ones."""

    items: list[dict[str, Any]]
    newer: bool
    older: bool


def runs_page(
    unit: UnitOfWork, wanted: RunFilter, limit: int, *, older_than: UUID | None, newer_than: UUID | None
) -> RunsPage:
    """A page of runs before or after a run, by default the newest."""
    where, values = wanted.conditions()
    bound = "<" if newer_than is None else ">"
    edge = older_than if newer_than is None else newer_than
    if edge is not None:
        where.append(f"r.id {bound} :edge")
        values["edge"] = edge
    condition = f"WHERE {' AND '.join(where)}" if where else ""
    order = "DESC" if newer_than is None else "ASC"
    statement = f"""
      SELECT row_to_json(x)::text FROM (SELECT {RUN} FROM runs r {condition} ORDER BY r.id {order} LIMIT :limit) x
    """
    found = [json.loads(row[0]) for row in unit.execute(statement, values | {"limit": limit + 1})]
    more, items = len(found) > limit, found[:limit]
    _add_reasons(unit, [item for item in items if _only_waits(item["counts"])])
    if newer_than is None:
        return RunsPage(items, edge is not None, more)
    return RunsPage(items[::-1], more, True)


_FIRST_TO_START = f"""
SELECT f.id FROM unnest(CAST(:runs AS uuid[])) AS r(id) CROSS JOIN LATERAL (
  SELECT s.id FROM step_runs s WHERE s.run_id = r.id AND s.status = '{Status.PENDING}' AND s.unmet = 0 LIMIT 1
) f
"""
_REASONS = f"SELECT s.run_id, {WAITING_FOR} FROM step_runs s WHERE s.id = ANY(:ids)"


def _only_waits(counts: Mapping[str, int]) -> bool:
    """Whether nothing of an unfinished run goes on. One that is large and has begun is left out: a look takes long."""
    pending, total = counts[Status.PENDING], sum(counts.values())
    return pending > 0 and not any(counts[status] for status in ACTIVE) and (pending == total or total <= _FEW)


def _add_reasons(unit: UnitOfWork, runs: Sequence[dict[str, Any]]) -> None:
    """Add to each of these runs, of which nothing goes on, what a step run of it waits for."""
    if not runs:
        return
    by_id = {UUID(run["id"]): run for run in runs}
    ids = [row[0] for row in unit.execute(_FIRST_TO_START, {"runs": list(by_id)})]
    for run_id, reason in unit.execute(_REASONS, {"ids": ids, "waits": waits_of_step_runs(unit, ids)}):
        by_id[run_id]["waiting_for"] = reason


_COUNTS = f"""
SELECT s.status, (SELECT count(*) FROM (
    SELECT 1 FROM runs r WHERE r.status = s.status AND r.id >= :after AND {visible("r.project")}
    LIMIT {MOST_COUNTED}) x)
FROM unnest(CAST(:statuses AS text[])) AS s(status)
"""


def counts_since(
    unit: UnitOfWork, moment: datetime | None, statuses: Iterable[RunStatus] = RunStatus, projects: Projects = None
) -> dict[str, int]:
    """Runs by status that were created since this moment, each counted up to MOST_COUNTED."""
    values = {
        "statuses": [str(each) for each in statuses],
        "after": first_id(0 if moment is None else moment.timestamp()),
        "projects": project_list(projects),
    }
    return {row[0]: row[1] for row in unit.execute(_COUNTS, values)}


_HISTORY = f"""
SELECT width_bucket(extract(epoch FROM x.created_at), :first, :last, {BUCKETS}) AS bucket, x.status, count(*),
  min(extract(epoch FROM x.created_at))
FROM (SELECT created_at, status, project FROM runs WHERE created_at > :after ORDER BY created_at DESC
  LIMIT {_MOST_IN_HISTORY}) x
WHERE {visible("x.project")}
GROUP BY 1, 2
"""


def history(
    unit: UnitOfWork, first: datetime, last: datetime, projects: Projects = None
) -> tuple[dict[str, list[int]], bool]:
    """Runs by status in BUCKETS equal parts of a span of time, and whether only the newest of them were counted."""
    values = {"first": first.timestamp(), "last": last.timestamp(), "after": first}
    found: dict[str, list[int]] = {str(status): [0] * BUCKETS for status in RunStatus}
    counted = 0
    for bucket, status, number, _ in unit.execute(_HISTORY, {**values, "projects": project_list(projects)}):
        found[status][min(max(bucket, 1), BUCKETS) - 1] += number
        counted += number
    return found, counted >= _MOST_IN_HISTORY


_LONGEST = f"""
SELECT row_to_json(x)::text FROM (SELECT {RUN} FROM runs r WHERE r.status = 'RUNNING' AND {visible("r.project")}
  ORDER BY r.id LIMIT :limit) x
"""


def longest_running(unit: UnitOfWork, limit: int, projects: Projects) -> list[dict[str, Any]]:
    """The running runs that were created first."""
    return [json.loads(row[0]) for row in unit.execute(_LONGEST, {"limit": limit, "projects": project_list(projects)})]


_FAILED = f"""
SELECT row_to_json(x)::text FROM (SELECT {RUN} FROM runs r WHERE r.status = 'FAILED' AND {visible("r.project")}
  ORDER BY r.id DESC LIMIT :limit) x
"""


def last_failed(unit: UnitOfWork, limit: int, projects: Projects) -> list[dict[str, Any]]:
    """The newest runs that have failed."""
    return [json.loads(row[0]) for row in unit.execute(_FAILED, {"limit": limit, "projects": project_list(projects)})]
