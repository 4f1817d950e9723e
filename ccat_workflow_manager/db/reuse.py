"""What an earlier run has done, for runs that repeat it or take over its products."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.work_items import load_items
from ccat_workflow_manager.lifecycle.models import WorkItem
from ccat_workflow_manager.lifecycle.states import Status

_ANCESTORS = """
SELECT s.id, s.step, s.key, s.status = 'COMPLETED' AS completed, s.wall_time_seconds, s.cpu_hours
FROM step_runs s WHERE s.run_id = :id
"""
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
    completed: bool
    wall_time_seconds: float | None
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
