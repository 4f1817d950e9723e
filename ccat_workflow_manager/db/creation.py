"""New runs: the runs, their steps, step runs and first events, written by one statement."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields
from typing import Any
from uuid import UUID

from ccat_workflow_manager.db.audit import Change, current
from ccat_workflow_manager.db.queries.runs import RUN, with_step_runs
from ccat_workflow_manager.db.queries.step_runs import step_run_columns
from ccat_workflow_manager.db.quotas import lock_queues
from ccat_workflow_manager.db.session import UnitOfWork, json_list, new_ids
from ccat_workflow_manager.definition.compiled import Edge
from ccat_workflow_manager.definition.planning import Plan, PlannedStep
from ccat_workflow_manager.json_values import JSON
from ccat_workflow_manager.lifecycle.models import Resources
from ccat_workflow_manager.lifecycle.states import INITIAL, Event
from ccat_workflow_manager.lifecycle.waiting import WaitFacts, explain
from ccat_workflow_manager.limits import limits

_RESOURCES = tuple(each.name for each in fields(Resources))

_LANES = """, w AS (
  SELECT DISTINCT project, pipeline, pipeline_version IS NOT NULL AS registered FROM r
), known AS (
  SELECT l.* FROM w JOIN lanes l USING (project, pipeline, registered)
), l AS (
  INSERT INTO lanes (project, pipeline, registered)
  SELECT * FROM w WHERE NOT EXISTS (SELECT 1 FROM known k WHERE (k.project, k.pipeline, k.registered) = (
    w.project, w.pipeline, w.registered))
  ORDER BY 1, 2, 3
  ON CONFLICT (project, pipeline, registered) DO UPDATE SET project = excluded.project
  RETURNING *
), o AS (
  SELECT r.id AS run_id, n.plan, a.id AS lane FROM r JOIN n ON n.id = r.id
  JOIN (SELECT * FROM known UNION ALL SELECT * FROM l) a
    ON a.project = r.project AND a.pipeline = r.pipeline AND a.registered = (r.pipeline_version IS NOT NULL)
)"""
"""The plan and the lane of each run in `r`. A lane that another transaction makes at the same time is waited for."""

# `r`, `t`, `s` and `e` insert the runs, their steps, step runs and events. `n` holds the records of the runs, `y` those
# of the steps of their plans, `x` those of the step runs.
_WRITE = f"""
WITH y AS MATERIALIZED (
  SELECT * FROM json_to_recordset(CAST(:steps AS json)) AS y(plan integer, position smallint, name text, total integer,
    downstream_key smallint[], downstream_all smallint[], upstream smallint[], image text, soft smallint[],
    soft_allowed integer[], fail_fast smallint[], backend text, priority integer, max_attempts smallint,
    awaits smallint[], has_dependents boolean, resources jsonb, breaker_key uuid)
), n AS MATERIALIZED (
  SELECT * FROM json_to_recordset(CAST(:runs AS json)) AS n(id uuid, spec_id uuid, pipeline text,
    pipeline_version integer, project text, parameters jsonb, labels jsonb, priority integer, backend text,
    created_by text, n_pending integer, idempotency_key text, request_hash text, replay_of uuid, reuse uuid, trace text,
    plan integer)
), r AS (
  INSERT INTO runs (id, spec_id, pipeline, pipeline_version, project, parameters, labels, priority, backend, created_by,
    n_pending, idempotency_key, request_hash, replay_of, reuse, trace)
  SELECT id, spec_id, pipeline, pipeline_version, project, parameters, labels, priority, backend, created_by, n_pending,
    idempotency_key, request_hash, replay_of, reuse, trace
  FROM n
  WHERE :counted OR NOT EXISTS (SELECT 1 FROM projects q WHERE q.name = n.project AND q.max_queued IS NOT NULL)
  ON CONFLICT DO NOTHING
  RETURNING *
){_LANES}, t AS (
  INSERT INTO run_steps (run_id, position, name, total, remaining, downstream_key, downstream_all, upstream, image,
    soft, soft_allowed, fail_fast)
  SELECT o.run_id, y.position, y.name, y.total, y.total, y.downstream_key, y.downstream_all, y.upstream, y.image,
    y.soft, y.soft_allowed, y.fail_fast
  FROM o JOIN y ON y.plan = o.plan
), s AS (
  INSERT INTO step_runs (id, run_id, position, step, key, item, backend, lane, priority, status, max_attempts, unmet,
    awaits, has_dependents, resources, breaker_key, replay_of, reuse)
  SELECT x.id, x.run_id, x.position, y.name, x.key, x.item, y.backend, o.lane, y.priority, '{INITIAL}',
    y.max_attempts, x.unmet, y.awaits, y.has_dependents, y.resources, COALESCE(x.breaker_key, y.breaker_key),
    x.replay_of, COALESCE(x.reuse, false)
  FROM json_to_recordset(CAST(:step_runs AS json)) AS x(id uuid, run_id uuid, position smallint, key text, item jsonb,
    unmet smallint, breaker_key uuid, replay_of uuid, reuse boolean)
  JOIN o ON o.run_id = x.run_id
  JOIN y ON y.plan = o.plan AND y.position = x.position
  RETURNING *
), e AS (
  INSERT INTO events (step_run_id, run_id, project, event, to_status, attempt, actor)
  SELECT s.id, s.run_id, r.project, '{Event.CREATED}', '{INITIAL}', 0, r.created_by FROM s JOIN r ON r.id = s.run_id
)
"""
_AUDIT = """, a AS (
  INSERT INTO audit (actor, identity, address, action, object, project, after, request_id)
  SELECT r.created_by, x.identity, x.address, x.action, 'runs/' || r.id, r.project,
    json_build_object('pipeline', r.pipeline, 'version', r.pipeline_version, 'priority', r.priority), x.request_id
  FROM json_to_recordset(CAST(:changes AS json)) AS x(run_id uuid, identity text, address text, action text,
    request_id text)
  JOIN r ON r.id = x.run_id
)"""
_CREATE = f"{_WRITE}{_AUDIT} SELECT id FROM r"
"""Nothing is inserted for a run whose id or idempotency key exists: the other parts join `r`."""
_CREATE_SHOWN = f"""
{_WRITE}{_AUDIT}, g AS (
  SELECT y.run_id, string_agg(row_to_json(y)::text, ',' ORDER BY y.id) AS step_runs
  FROM (SELECT {step_run_columns("CAST(:waits AS jsonb) ->> concat(s.run_id, '/', s.position)")} FROM s) y
  GROUP BY y.run_id
)
SELECT x.id, row_to_json(x)::text, g.step_runs FROM (SELECT {RUN} FROM r) x LEFT JOIN g ON g.run_id = x.id
"""
"""The same with the JSON of the new runs as `queries.runs.run_detail` would select it, without another round trip."""

_BY_IDEMPOTENCY_KEY = """
SELECT r.created_by, r.idempotency_key, r.id, r.request_hash
FROM unnest(CAST(:creators AS text[]), CAST(:keys AS text[])) AS k(creator, key)
JOIN runs r ON r.created_by = k.creator AND r.idempotency_key = k.key
"""


KeyOfCreator = tuple[str, str]
"""Who created a run, and the idempotency key: each client has its own keys."""


@dataclass(frozen=True, slots=True)
class Ancestry:
    """The earlier run that a new one repeats, or whose products it takes over."""

    replay_of: UUID | None = None
    reuse: UUID | None = None
    step_runs: Mapping[tuple[str, str], tuple[UUID, bool]] = field(default_factory=dict)
    """By step and key: the step run of the earlier run, and whether its products may be taken over."""


@dataclass(frozen=True, slots=True)
class NewRun:
    """One run to be created. The caller chooses its id, so that a repeated call does not create a second run."""

    run_id: UUID
    spec_id: UUID
    pipeline: str
    pipeline_version: int | None
    project: str
    parameters: Mapping[str, JSON]
    plan: Plan
    created_by: str
    default_backend: str
    labels: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0
    backend: str | None = None
    idempotency_key: str | None = None
    request_hash: str | None = None
    change: Change | None = None
    """The request that creates it, for the audit."""
    ancestry: Ancestry | None = None
    trace: str | None = None
    """The trace of the request, as the header `traceparent`."""


@dataclass(slots=True)
class Created:
    """The result of `create_runs`."""

    run_ids: list[UUID | None]
    """In the order of the requests. None: a run with this id or idempotency key exists."""
    ready: Counter[str]
    """By backend, how many step runs can be claimed at once."""
    shown: dict[UUID, str] = field(default_factory=dict)
    """The runs as JSON, if requested and if one answer may list all their step runs."""
    refused: dict[UUID, str] = field(default_factory=dict)
    """Runs that are over a limit of their projects, and which."""


def create_runs(unit: UnitOfWork, new: Sequence[NewRun], *, shown: bool = False) -> Created:
    """Create runs. A run whose id or idempotency key exists is left out. With `shown`, also returns them as JSON."""
    if (present := current()) is not None:
        present.written_elsewhere = True
    created = _create(unit, new, shown=shown, counted=False)
    left = [run for run, run_id in zip(new, created.run_ids, strict=True) if run_id is None]
    if not left:
        return created
    unit.together()
    queues = lock_queues(unit, {run.project for run in left})
    if not queues:
        return created
    refused = _refused(left, queues)
    admitted = _create(unit, [run for run in left if run.run_id not in refused], shown=shown, counted=True)
    written = {run_id for run_id in (*created.run_ids, *admitted.run_ids) if run_id is not None}
    ids = [run.run_id if run.run_id in written else None for run in new]
    return Created(ids, created.ready + admitted.ready, {**created.shown, **admitted.shown}, refused)


def _create(unit: UnitOfWork, new: Sequence[NewRun], *, shown: bool, counted: bool) -> Created:
    """Create runs; unless `counted`, only those of projects without a limit of what is queued."""
    records = _Records()
    for run in new:
        records.add(run)
    parameters = {**records.parameters(), "counted": counted}
    texts: dict[UUID, str] = {}
    shown = shown and len(records.step_runs) <= limits().listed_step_runs
    if shown:
        waits = json.dumps(_first_waits(new))
        for run_id, text, step_runs in unit.execute(_CREATE_SHOWN, {**parameters, "waits": waits}):
            texts[run_id] = with_step_runs(text, step_runs)
    written: Set[UUID] = texts.keys() if shown else {row[0] for row in unit.execute(_CREATE, parameters)}
    ids = [run.run_id if run.run_id in written else None for run in new]
    return Created(ids, records.ready_of(written), texts)


def _refused(runs: Sequence[NewRun], queues: Mapping[str, tuple[int, int]]) -> dict[UUID, str]:
    """Those of these runs for which their projects have no room, in their order, and why."""
    queued = {project: count for project, (_, count) in queues.items()}
    refused: dict[UUID, str] = {}
    for run in runs:
        if run.project not in queues:
            continue
        most, count = queues[run.project][0], queued[run.project]
        if count + run.plan.total > most:
            refused[run.run_id] = _over_limit(run, most, count)
        else:
            queued[run.project] = count + run.plan.total
    return refused


def _over_limit(run: NewRun, most: int, count: int) -> str:
    """Why there is no room for this run, and what helps: to wait helps only if it fits into an empty queue."""
    total, alone = run.plan.total, run.plan.total > most
    return (
        f"the project {run.project} has {count} of {most} queued step runs (max_queued), and this run has {total}; "
        f"{'make the run smaller' if alone else 'wait until some are launched'}, or raise the limit with "
        f"`ccat-wm project set {shlex.quote(run.project)} --max-queued {total if alone else count + total}`"
    )


def runs_by_idempotency_key(unit: UnitOfWork, wanted: Sequence[KeyOfCreator]) -> dict[KeyOfCreator, tuple[UUID, str]]:
    """The ids of the runs with these keys, and the digests of the requests that created them."""
    creators, keys = [creator for creator, _ in wanted], [key for _, key in wanted]
    found = unit.execute(_BY_IDEMPOTENCY_KEY, {"creators": creators, "keys": keys})
    return {(creator, key): (run_id, digest) for creator, key, run_id, digest in found}


def _first_waits(new: Sequence[NewRun]) -> dict[str, str]:
    """By `run/position`: why the step runs of each new step wait."""
    return {f"{run.run_id}/{step.position}": _first_wait(run, step) for run in new for step in run.plan.steps}


def _first_wait(new: NewRun, step: PlannedStep) -> str:
    unmet = step.step_runs[0].unmet if step.step_runs else 0
    found = [new.plan.steps[edge.upstream] for edge in step.dependencies]
    names = [upstream.name for upstream in found if upstream.step_runs]
    return explain(WaitFacts(_backend_of(new, step), unmet=unmet, upstream=names if len(names) == unmet else ()))


@dataclass(slots=True)
class _Records:
    """The rows to insert, ready for `json_to_recordset`."""

    runs: list[dict[str, Any]] = field(default_factory=list)
    plans: dict[Hashable, int] = field(default_factory=dict)
    """The number of each plan. Runs with the same one have the same steps, which are sent once."""
    steps: list[dict[str, Any]] = field(default_factory=list)
    step_runs: list[dict[str, Any]] = field(default_factory=list)
    changes: list[dict[str, Any]] = field(default_factory=list)
    ready: list[tuple[UUID, str]] = field(default_factory=list)
    """The run and the backend of each step run that is ready at once."""

    def parameters(self) -> dict[str, str]:
        return {
            "runs": json_list(self.runs),
            "steps": json_list(self.steps),
            "step_runs": json_list(self.step_runs),
            "changes": json_list(self.changes),
        }

    def ready_of(self, written: Set[UUID]) -> Counter[str]:
        """By backend, how many step runs of the runs that were written are ready."""
        return Counter(backend for run_id, backend in self.ready if run_id in written)

    def add(self, run: NewRun) -> None:
        run_id = str(run.run_id)
        self.runs.append(
            {
                "id": run_id,
                "spec_id": str(run.spec_id),
                "pipeline": run.pipeline,
                "pipeline_version": run.pipeline_version,
                "project": run.project,
                "parameters": run.parameters,
                "labels": run.labels,
                "priority": run.priority,
                "backend": run.backend,
                "created_by": run.created_by,
                "n_pending": run.plan.total,
                "idempotency_key": run.idempotency_key,
                "request_hash": run.request_hash,
                "trace": run.trace,
                "plan": self._plan(run),
                **({} if run.ancestry is None else _ancestors(run.ancestry)),
            }
        )
        if run.change is not None:
            self._add_change(run_id, run.change)
        step_run_ids = iter(new_ids(run.plan.total))
        for step in run.plan.steps:
            self._add_step_runs(run, run_id, step, step_run_ids)

    def _add_change(self, run_id: str, change: Change) -> None:
        self.changes.append(
            {
                "run_id": run_id,
                "identity": change.by.key,
                "address": change.address,
                "action": change.action,
                "request_id": change.request_id,
            }
        )

    def _plan(self, run: NewRun) -> int:
        """The number of the plan of a run. Adds the steps of a plan that is new.

        Of the same definition, steps differ in their step runs, and in the image, which the key of the breaker tells.
        """
        differing = tuple([(len(step.step_runs), step.breaker_key) for step in run.plan.steps])
        key = (run.spec_id, run.backend, run.default_backend, run.priority, differing)
        number = self.plans.get(key)
        if number is None:
            number = self.plans[key] = len(self.plans)
            downstream = _downstream(run.plan)
            for step in run.plan.steps:
                self._add_step(number, run, step, downstream[step.position])
        return number

    def _add_step(self, plan: int, run: NewRun, step: PlannedStep, downstream: Sequence[tuple[int, Edge]]) -> None:
        total = len(step.step_runs)
        soft = [(position, edge) for position, edge in downstream if edge.soft]
        awaits = [edge.upstream for edge in step.dependencies if edge.soft and run.plan.steps[edge.upstream].step_runs]
        self.steps.append(
            {
                "plan": plan,
                "position": step.position,
                "name": step.name,
                "total": total,
                "downstream_key": [position for position, edge in downstream if edge.match == "key"],
                "downstream_all": [position for position, edge in downstream if edge.match == "all"],
                "upstream": [edge.upstream for edge in step.dependencies],
                "soft": [position for position, _ in soft],
                "soft_allowed": [edge.allowed(total) for _, edge in soft],
                "fail_fast": [position for position, edge in soft if edge.fail_fast],
                "awaits": awaits or None,
                "backend": _backend_of(run, step),
                "priority": run.priority,
                "max_attempts": step.retry.max_attempts,
                "has_dependents": bool(downstream),
                "resources": {name: getattr(step.resources, name) for name in _RESOURCES},
                "image": step.image,
                "breaker_key": str(step.breaker_key),
            }
        )

    def _add_step_runs(self, run: NewRun, run_id: str, step: PlannedStep, ids: Iterator[UUID]) -> None:
        backend = _backend_of(run, step)
        for planned in step.step_runs:
            step_run_id = next(ids)
            if planned.unmet == 0:
                self.ready.append((run.run_id, backend))
            record = {
                "id": str(step_run_id),
                "run_id": run_id,
                "position": step.position,
                "key": planned.key,
                "item": planned.item,
                "unmet": planned.unmet,
            }
            if planned.breaker_key is not None:
                record["breaker_key"] = str(planned.breaker_key)
            if run.ancestry is not None and (step.name, planned.key) in run.ancestry.step_runs:
                ancestor, reuse = run.ancestry.step_runs[step.name, planned.key]
                record |= {"replay_of": str(ancestor), "reuse": reuse}
            self.step_runs.append(record)


def _ancestors(ancestry: Ancestry) -> dict[str, str | None]:
    runs = {"replay_of": ancestry.replay_of, "reuse": ancestry.reuse}
    return {name: None if run_id is None else str(run_id) for name, run_id in runs.items()}


def _backend_of(run: NewRun, step: PlannedStep) -> str:
    return step.backend or run.backend or run.default_backend


def _downstream(plan: Plan) -> list[list[tuple[int, Edge]]]:
    """By position: the positions of the steps that depend on each step, with the edges."""
    found: list[list[tuple[int, Edge]]] = [[] for _ in plan.steps]
    for step in plan.steps:
        for edge in step.dependencies:
            found[edge.upstream].append((step.position, edge))
    return found
