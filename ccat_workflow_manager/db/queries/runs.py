"""Runs as JSON, and which runs a filter selects."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from ccat_workflow_manager.db.conditions import counter
from ccat_workflow_manager.db.queries import Row, project_list, rows, times, visible
from ccat_workflow_manager.db.queries.run_filter import RunFilter
from ccat_workflow_manager.db.queries.step_runs import STEP_RUN, step_run_columns
from ccat_workflow_manager.db.queries.waits import STARTED, waits_of_run
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.identity import Projects
from ccat_workflow_manager.lifecycle.states import Status
from ccat_workflow_manager.limits import limits

_COUNTS = ", ".join(f"'{status}', r.{counter(status)}" for status in Status)
_TOTAL = " + ".join(f"r.{counter(status)}" for status in Status)

RUN = f"""
r.id, r.pipeline, r.pipeline_version, r.project, r.status, r.status_reason, {times("r", "cancel_requested_at")},
r.paused, r.parameters, r.labels, r.priority, r.backend, r.created_by, r.replay_of, r.reuse,
{times("r", "created_at", "started_at", "finished_at")},
json_build_object({_COUNTS}) AS counts, r.n_caveats AS caveat_count, COALESCE(r.caveats, '[]') AS caveats
"""
"""The columns of `runs r` that a list of runs shows."""

_VERSION = f"r.xmin::text AS version, finished_at IS NOT NULL AS finished, n_pending + {STARTED} > 0 AS waits"

_DETAIL = f"""
SELECT (SELECT row_to_json(x)::text FROM (SELECT {RUN}) x) AS run, y.step_runs,
  CASE WHEN {_TOTAL} > :most THEN COALESCE(y.last, '{UUID(int=0)}') END AS last, {_VERSION}
FROM runs r CROSS JOIN (
  SELECT string_agg(row_to_json(z)::text, ',' ORDER BY z.id) AS step_runs, max(z.id::text) AS last
  FROM (
    SELECT {STEP_RUN} FROM (
      SELECT * FROM step_runs WHERE run_id = :id
        AND (:worded OR (SELECT n_pending + {STARTED} FROM runs WHERE id = :id) = 0) OFFSET 0
    ) s ORDER BY s.id LIMIT :most
  ) z
) y WHERE r.id = :id
"""
"""Unless the reasons of waits are `:worded`, only a run in which nothing waits is shown with its step runs."""


_STEP_RUNS = f"""(SELECT string_agg(row_to_json(y)::text, ',' ORDER BY y.id)
   FROM (SELECT {step_run_columns("NULL::text")} FROM step_runs s WHERE s.run_id = x.id) y)"""

_VERSIONS = f"SELECT id, {_VERSION} FROM runs r WHERE id = ANY(:ids)"


class RunVersion(NamedTuple):
    """The state of the row of a run. Every change of a status in the run changes its counters, and so this row."""

    row: str
    finished: bool


class RunDetail(NamedTuple):
    """A run and its first step runs, as JSON."""

    run: str
    step_runs: str | None
    last: str | None
    """The id of the last step run that is listed, if the run has more."""
    version: str
    finished: bool
    waits: bool

    @property
    def state(self) -> RunVersion:
        return RunVersion(self.version, self.finished)

    def text(self, cursor_of: Callable[[str], str] = str) -> str:
        """The JSON of both. `step_runs_next` is the cursor behind the last one, if the run has more."""
        rest = None if self.last is None else cursor_of(self.last)
        return with_step_runs(self.run, self.step_runs, rest)


def run_versions(unit: UnitOfWork, run_ids: Sequence[UUID]) -> dict[UUID, RunVersion]:
    """The present versions of these runs, as far as they exist."""
    found = unit.execute(_VERSIONS, {"ids": list(run_ids)})
    return {row.id: RunVersion(row.version, row.finished) for row in found}


_EXISTING = f"SELECT id FROM runs WHERE id = ANY(:ids) AND {visible('project')}"


def run_detail(unit: UnitOfWork, run_id: UUID, most: int | None = None) -> RunDetail | None:
    """A run with its first step runs, in the order of the pipeline.

    Where something in the run waits, its reason is worded: then three statements in one snapshot follow the first.
    """
    most = limits().listed_step_runs if most is None else most
    values = {"id": run_id, "most": most}
    found = unit.row(RunDetail, _DETAIL, {**values, "waits": "{}", "worded": most == 0})
    if found is None or not found.waits or most == 0:
        return found
    unit.snapshot()
    return unit.row(RunDetail, _DETAIL, {**values, "waits": waits_of_run(unit, run_id), "worded": True})


def with_step_runs(run: str, step_runs: str | None, rest: str | None = None) -> str:
    """Insert the JSON of step runs, separated by commas, and the cursor of the rest into the JSON of their run."""
    return f'{run[:-1]},"step_runs":[{step_runs or ""}],"step_runs_next":{json.dumps(rest)}}}'


def runs_page(unit: UnitOfWork, wanted: RunFilter, after: UUID | None, limit: int) -> list[Row]:
    """Runs without their step runs, newest first."""
    chosen, values = _chosen(RUN, wanted, after, limit)
    return rows(unit, f"SELECT x.id, row_to_json(x)::text FROM ({chosen}) x", values)


def details_page(unit: UnitOfWork, wanted: RunFilter, after: UUID | None, limit: int) -> list[Row]:
    """Runs with their step runs, newest first, without what these wait for."""
    chosen, values = _chosen(RUN, wanted, after, limit)
    found = unit.execute(f"SELECT x.id, row_to_json(x)::text, {_STEP_RUNS} FROM ({chosen}) x", values)
    return [Row(key, with_step_runs(run, step_runs)) for key, run, step_runs in found]


def run_ids(unit: UnitOfWork, wanted: RunFilter, after: UUID | None, limit: int) -> list[UUID]:
    """The ids of the runs that the filter selects, newest first."""
    chosen, values = _chosen("r.id", wanted, after, limit)
    return [row[0] for row in unit.execute(chosen, values)]


def _chosen(columns: str, wanted: RunFilter, after: UUID | None, limit: int) -> tuple[str, dict[str, Any]]:
    where, values = wanted.conditions()
    if after is not None:
        where.append("r.id < :after")
        values["after"] = after
    condition = f"WHERE {' AND '.join(where)}" if where else ""
    return f"SELECT {columns} FROM runs r {condition} ORDER BY r.id DESC LIMIT :limit", values | {"limit": limit}


def existing_runs(unit: UnitOfWork, ids: Sequence[UUID], projects: Projects = None) -> set[UUID]:
    """Those of these ids that are the ids of runs, of these projects."""
    values = {"ids": list(ids), "projects": project_list(projects)}
    return {row[0] for row in unit.execute(_EXISTING, values)}


def run_status_of(unit: UnitOfWork, run_id: UUID) -> str | None:
    """The status of a run. None: it does not exist."""
    status: str | None = unit.execute("SELECT status FROM runs WHERE id = :id", {"id": run_id}).scalar()
    return status
