"""New runs: the run, its steps, its step runs and their first events, written by one statement."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, fields
from typing import Any
from uuid import UUID

from ccat_workflow_manager.db.ids import new_ids
from ccat_workflow_manager.db.session import UnitOfWork, json_list
from ccat_workflow_manager.db.views.runs import RUN, with_step_runs
from ccat_workflow_manager.db.views.step_runs import step_run_columns
from ccat_workflow_manager.definition.planning import Plan, PlannedStep
from ccat_workflow_manager.json_values import JSON
from ccat_workflow_manager.lifecycle.models import Resources
from ccat_workflow_manager.lifecycle.states import INITIAL, Event
from ccat_workflow_manager.lifecycle.waiting import WaitFacts, explain

_RESOURCES = tuple(each.name for each in fields(Resources))

_WRITE = f"""
WITH r AS (
  INSERT INTO runs (id, spec_id, pipeline, pipeline_version, parameters, labels, priority, backend, created_by,
    n_pending, idempotency_key, request_hash)
  SELECT id, spec_id, pipeline, pipeline_version, parameters, labels, priority, backend, created_by, n_pending,
    idempotency_key, request_hash
  FROM json_to_recordset(CAST(:runs AS json)) AS x(id uuid, spec_id uuid, pipeline text, pipeline_version integer,
    parameters jsonb, labels jsonb, priority integer, backend text, created_by text, n_pending integer,
    idempotency_key text, request_hash text)
  ON CONFLICT DO NOTHING
  RETURNING *
), t AS (
  INSERT INTO run_steps (run_id, position, name, total, remaining, downstream_key, downstream_all, upstream, image)
  SELECT x.run_id, position, name, total, total, downstream_key, downstream_all, upstream, image
  FROM json_to_recordset(CAST(:steps AS json)) AS x(run_id uuid, position smallint, name text, total integer,
    downstream_key smallint[], downstream_all smallint[], upstream smallint[], image text)
  JOIN r ON r.id = x.run_id
), s AS (
  INSERT INTO step_runs (id, run_id, position, step, key, item, backend, priority, status, max_attempts, unmet,
    has_dependents, resources, circuit)
  SELECT x.id, x.run_id, x.position, y.name, x.key, x.item, y.backend, y.priority, '{INITIAL}', y.max_attempts, x.unmet,
    y.has_dependents, y.resources, COALESCE(x.circuit, y.circuit)
  FROM json_to_recordset(CAST(:step_runs AS json)) AS x(id uuid, run_id uuid, position smallint, key text, item jsonb,
    unmet smallint, circuit uuid)
  JOIN r ON r.id = x.run_id
  JOIN json_to_recordset(CAST(:steps AS json)) AS y(run_id uuid, position smallint, name text, backend text,
    priority integer, max_attempts smallint, has_dependents boolean, resources jsonb, circuit uuid)
    ON y.run_id = x.run_id AND y.position = x.position
  RETURNING *
), e AS (
  INSERT INTO events (step_run_id, run_id, event, to_status, attempt, actor)
  SELECT s.id, s.run_id, '{Event.CREATED}', '{INITIAL}', 0, r.created_by FROM s JOIN r ON r.id = s.run_id
)
"""
_CREATE = f"{_WRITE} SELECT id FROM r"
_CREATE_SHOWN = f"""
{_WRITE}, g AS (
  SELECT y.run_id, string_agg(row_to_json(y)::text, ',' ORDER BY y.id) AS step_runs
  FROM (SELECT {step_run_columns("CAST(:waits AS jsonb) ->> concat(s.run_id, '/', s.position)")} FROM s) y
  GROUP BY y.run_id
)
SELECT x.id, row_to_json(x)::text, g.step_runs FROM (SELECT {RUN} FROM r) x LEFT JOIN g ON g.run_id = x.id
"""
"""The new runs as `views.run_detail` would show them, without another look at the database."""


@dataclass(frozen=True, slots=True)
class NewRun:
    """One run to be created. Its id is chosen by whoever asks, so that to ask once more does not make another run."""

    run_id: UUID
    spec_id: UUID
    pipeline: str
    pipeline_version: int | None
    parameters: Mapping[str, JSON]
    plan: Plan
    created_by: str
    default_backend: str
    labels: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0
    backend: str | None = None
    idempotency_key: str | None = None
    request_hash: str | None = None


@dataclass(slots=True)
class Created:
    """The ids in the order of the requests (None: the run or its idempotency key is there), and what can be claimed."""

    run_ids: list[UUID | None]
    ready: dict[str, list[UUID]]
    shown: dict[UUID, str] = field(default_factory=dict)
    """The runs as JSON, if that was asked for."""


def create_runs(unit: UnitOfWork, new: Sequence[NewRun], *, shown: bool = False) -> Created:
    """Write all of them, or none if anything fails; with `shown`, also put them into JSON."""
    records = _records(new)
    texts: dict[UUID, str] = {}
    if shown:
        waits = json.dumps(_first_waits(new, records.run_ids))
        for run_id, run, step_runs in unit.execute(_CREATE_SHOWN, {**records.parameters(), "waits": waits}):
            texts[run_id] = with_step_runs(run, step_runs)
    written: Set[UUID] = texts.keys() if shown else {row[0] for row in unit.execute(_CREATE, records.parameters())}
    ids = [run_id if run_id in written else None for run_id in records.run_ids]
    return Created(ids, records.ready_of(written), texts)


def _first_waits(new: Sequence[NewRun], run_ids: Sequence[UUID]) -> dict[str, str]:
    """Why the step runs of each step wait when nothing has happened yet."""
    return {
        f"{run_id}/{step.position}": _first_wait(run, step)
        for run, run_id in zip(new, run_ids, strict=True)
        for step in run.plan.steps
    }


def _first_wait(new: NewRun, step: PlannedStep) -> str:
    unmet = step.step_runs[0].unmet if step.step_runs else 0
    names = [new.plan.steps[upstream].name for upstream, _ in step.dependencies if new.plan.steps[upstream].step_runs]
    return explain(WaitFacts(_backend_of(new, step), unmet=unmet, upstream=names if len(names) == unmet else ()))


@dataclass(slots=True)
class _Records:
    """The rows to be written, ready for `json_to_recordset`."""

    run_ids: list[UUID] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    step_runs: list[dict[str, Any]] = field(default_factory=list)
    ready: list[tuple[UUID, str, UUID]] = field(default_factory=list)
    """Run, backend and id of what waits for nothing."""

    def ready_of(self, written: Set[UUID]) -> dict[str, list[UUID]]:
        """By backend, what can be claimed at once in the runs that were written."""
        found: dict[str, list[UUID]] = {}
        for run_id, backend, step_run_id in self.ready:
            if run_id in written:
                found.setdefault(backend, []).append(step_run_id)
        return found

    def parameters(self) -> dict[str, str]:
        return {
            "runs": json_list(self.runs),
            "steps": json_list(self.steps),
            "step_runs": json_list(self.step_runs),
        }


def _records(new: Sequence[NewRun]) -> _Records:
    records = _Records()
    for run in new:
        records.run_ids.append(run.run_id)
        records.runs.append(_run_record(run.run_id, run))
        _add_steps(run.run_id, run, records)
    return records


def _run_record(run_id: UUID, run: NewRun) -> dict[str, Any]:
    return {
        "id": str(run_id),
        "spec_id": str(run.spec_id),
        "pipeline": run.pipeline,
        "pipeline_version": run.pipeline_version,
        "parameters": run.parameters,
        "labels": run.labels,
        "priority": run.priority,
        "backend": run.backend,
        "created_by": run.created_by,
        "n_pending": run.plan.total,
        "idempotency_key": run.idempotency_key,
        "request_hash": run.request_hash,
    }


def _backend_of(run: NewRun, step: PlannedStep) -> str:
    return step.backend or run.backend or run.default_backend


def _add_steps(run_id: UUID, run: NewRun, records: _Records) -> None:
    by_key: dict[int, list[int]] = {}
    by_all: dict[int, list[int]] = {}
    for step in run.plan.steps:
        for upstream, match in step.dependencies:
            (by_key if match == "key" else by_all).setdefault(upstream, []).append(step.position)
    text = str(run_id)
    step_run_ids = iter(new_ids(run.plan.total))
    for step in run.plan.steps:
        backend = _backend_of(run, step)
        downstream_key, downstream_all = by_key.get(step.position, []), by_all.get(step.position, [])
        records.steps.append(
            {
                "run_id": text,
                "position": step.position,
                "name": step.name,
                "total": len(step.step_runs),
                "downstream_key": downstream_key,
                "downstream_all": downstream_all,
                "upstream": [upstream for upstream, _ in step.dependencies],
                "backend": backend,
                "priority": run.priority,
                "max_attempts": step.retry.max_attempts,
                "has_dependents": bool(downstream_key or downstream_all),
                "resources": {name: getattr(step.resources, name) for name in _RESOURCES},
                "image": step.image,
                "circuit": str(step.circuit),
            }
        )
        for planned in step.step_runs:
            step_run_id = next(step_run_ids)
            if planned.unmet == 0:
                records.ready.append((run_id, backend, step_run_id))
            record = {
                "id": str(step_run_id),
                "run_id": text,
                "position": step.position,
                "key": planned.key,
                "item": planned.item,
                "unmet": planned.unmet,
            }
            if planned.circuit is not None:
                record["circuit"] = str(planned.circuit)
            records.step_runs.append(record)
