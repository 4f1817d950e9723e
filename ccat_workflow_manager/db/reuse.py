"""What an earlier run has done, for runs that repeat it or take over its products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.work_items import load_items
from ccat_workflow_manager.json_values import JSON
from ccat_workflow_manager.lifecycle.models import WorkItem
from ccat_workflow_manager.lifecycle.states import Status

_ANCESTORS = """
SELECT s.id, s.step, s.key, s.item, s.status = 'COMPLETED' AS completed,
  COALESCE(a.provenance ? 'image' AND a.provenance ->> 'image' IS NULL, false) AS without_digest
FROM step_runs s LEFT JOIN attempts a ON a.step_run_id = s.id AND a.number = s.attempt WHERE s.run_id = :id
"""
_SOURCE = """
SELECT id, pipeline, pipeline_version, project, spec_id, parameters, labels, priority, backend, status,
  finished_at IS NOT NULL AS finished FROM runs WHERE id = ANY(:ids)
"""
_COUNT_PRODUCTS = "SELECT count(*) FROM products WHERE step_run_id = ANY(:ids)"

_RECENT_RUNS = 20
_LOOKED_AT = 500
"""Runs of the pipeline: those of other projects have its name as well."""
_SAMPLE = 200
_COSTS = f"""
SELECT x.step, percentile_cont(0.5) WITHIN GROUP (ORDER BY x.wall_time_seconds) AS seconds,
  percentile_cont(0.5) WITHIN GROUP (ORDER BY x.cpu_hours) AS cpu_hours
FROM (
  SELECT l.id FROM (SELECT id, project FROM runs WHERE pipeline = :pipeline ORDER BY id DESC LIMIT {_LOOKED_AT}) l
  WHERE l.project = :project ORDER BY l.id DESC LIMIT {_RECENT_RUNS}
) r
JOIN run_steps t ON t.run_id = r.id
CROSS JOIN LATERAL (
  SELECT s.step, s.wall_time_seconds, s.cpu_hours FROM step_runs s
  WHERE s.run_id = t.run_id AND s.position = t.position AND s.wall_time_seconds IS NOT NULL LIMIT {_SAMPLE}
) x GROUP BY x.step
"""
"""The medians of the recent runs of a pipeline in a project, by step."""

_PROVENANCE = "SELECT provenance FROM attempts WHERE step_run_id = :id AND number = :number"

_REUSED_RUN = "SELECT COALESCE(reuse, replay_of) FROM runs WHERE id = :id"

_PRODUCTS = """
SELECT id, name, type, path, size, sha256, is_directory, file_count, metadata FROM products WHERE step_run_id = :id
"""


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A step run of an earlier run."""

    id: UUID
    step: str
    key: str
    item: JSON
    completed: bool
    without_digest: bool
    """The digest of its image is not known, so that it cannot be reused."""


@dataclass(frozen=True, slots=True)
class Source:
    """A run that may be replayed."""

    id: UUID
    pipeline: str
    pipeline_version: int | None
    project: str
    spec_id: UUID
    parameters: Mapping[str, JSON]
    labels: Mapping[str, str]
    priority: int
    backend: str | None
    status: str
    finished: bool


@dataclass(frozen=True, slots=True)
class Cost:
    """What a step run of a step has cost, by the median of earlier ones."""

    step: str
    seconds: float
    cpu_hours: float | None


@dataclass(frozen=True, slots=True)
class OldProduct:
    """A product that may be taken over."""

    id: UUID
    name: str
    type: str
    path: str
    size: int
    sha256: str
    is_directory: bool
    file_count: int
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Done:
    """A step run as it is now, with what is known of its last attempt."""

    item: WorkItem
    provenance: Mapping[str, Any] | None

    @property
    def completed(self) -> bool:
        return self.item.status is Status.COMPLETED


def ancestors_of(unit: UnitOfWork, run_id: UUID) -> dict[tuple[str, str], Ancestor] | None:
    """The step runs of a run by step and key. None: there is no such run."""
    found = unit.rows(Ancestor, _ANCESTORS, {"id": run_id})
    return {(each.step, each.key): each for each in found} or None


def sources(unit: UnitOfWork, run_ids: Sequence[UUID]) -> dict[UUID, Source]:
    return {each.id: each for each in unit.rows(Source, _SOURCE, {"ids": list(run_ids)})}


def costs_of(unit: UnitOfWork, pipeline: str, project: str) -> dict[str, Cost]:
    """What the steps of a pipeline cost, by its recent runs in this project."""
    return {each.step: each for each in unit.rows(Cost, _COSTS, {"pipeline": pipeline, "project": project})}


def count_products(unit: UnitOfWork, step_run_ids: Sequence[UUID]) -> int:
    return int(unit.execute(_COUNT_PRODUCTS, {"ids": list(step_run_ids)}).scalar_one())


def find_done(unit: UnitOfWork, step_run_id: UUID) -> Done | None:
    """A step run with the provenance of its last attempt. None: it was deleted."""
    items = load_items(unit, [step_run_id])
    if not items:
        return None
    found = unit.execute(_PROVENANCE, {"id": step_run_id, "number": items[0].attempt}).first()
    return Done(items[0], None if found is None else found[0])


def reused_run_of(unit: UnitOfWork, run_id: UUID) -> UUID | None:
    """The run that this run was asked to reuse, or to replay."""
    found: UUID | None = unit.execute(_REUSED_RUN, {"id": run_id}).scalar()
    return found


def products_of(unit: UnitOfWork, step_run_id: UUID) -> list[OldProduct]:
    return unit.rows(OldProduct, _PRODUCTS, {"id": step_run_id})
