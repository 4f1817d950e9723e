"""Products: what earlier steps have published, for the steps behind them and for whoever asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from ccat_workflow_manager.db.session import UnitOfWork, json_list
from ccat_workflow_manager.lifecycle.models import WorkItem


@dataclass(frozen=True, slots=True)
class StoredProduct:
    """A product with the place of its step run in the run."""

    id: UUID
    run_id: UUID
    step_run_id: UUID
    pipeline: str
    backend: str
    step: str
    key: str
    attempt: int
    name: str
    type: str
    path: str
    size: int
    sha256: str
    is_directory: bool
    file_count: int


@dataclass(frozen=True, slots=True)
class Upstream:
    """A completed step run that another depends on, with what it published."""

    step: str
    key: str
    attempt: int
    products: tuple[StoredProduct, ...]


_UPSTREAM = """
WITH i AS (
  SELECT * FROM json_to_recordset(CAST(:items AS json)) AS i(id uuid, run_id uuid, position smallint, key text)
), u AS (
  SELECT i.id AS item_id, s.*
  FROM i JOIN run_steps t ON t.run_id = i.run_id AND i.position = ANY(t.downstream_key)
  JOIN step_runs s ON s.run_id = t.run_id AND s.position = t.position AND s.key = i.key
  UNION ALL
  SELECT i.id, s.*
  FROM i JOIN run_steps t ON t.run_id = i.run_id AND i.position = ANY(t.downstream_all)
  JOIN step_runs s ON s.run_id = t.run_id AND s.position = t.position
)
SELECT u.item_id, u.id, u.run_id, u.backend, u.step, u.key, u.attempt,
  p.id, p.name, p.type, p.path, p.size, p.sha256, p.is_directory, p.file_count
FROM u LEFT JOIN products p ON p.step_run_id = u.id
WHERE u.status = 'COMPLETED'
ORDER BY u.item_id, u.position, u.key, p.name
"""

_PRODUCT = """
SELECT p.id, p.run_id, p.step_run_id, r.pipeline, s.backend, s.step, s.key, p.attempt, p.name, p.type, p.path, p.size,
  p.sha256, p.is_directory, p.file_count
FROM products p JOIN step_runs s ON s.id = p.step_run_id JOIN runs r ON r.id = p.run_id
"""


def upstream_of(unit: UnitOfWork, items: Sequence[WorkItem]) -> dict[UUID, list[Upstream]]:
    """For each step run, the completed step runs it depends on."""
    behind = [item for item in items if item.position > 0]
    if not behind:
        return {}
    pipelines = {item.step_run_id: item.run.pipeline for item in behind}
    records = [
        {"id": str(item.step_run_id), "run_id": str(item.run.run_id), "position": item.position, "key": item.key}
        for item in behind
    ]
    found: dict[UUID, dict[UUID, tuple[str, str, int, list[StoredProduct]]]] = {}
    for r in unit.execute(_UPSTREAM, {"items": json_list(records)}):
        step, key, attempt, products = found.setdefault(r[0], {}).setdefault(r[1], (r[4], r[5], r[6], []))
        if r[7] is not None:
            products.append(StoredProduct(r[7], r[2], r[1], pipelines[r[0]], r[3], step, key, attempt, *r[8:]))
    return {
        item_id: [Upstream(step, key, attempt, tuple(products)) for step, key, attempt, products in ups.values()]
        for item_id, ups in found.items()
    }


def product(unit: UnitOfWork, product_id: UUID) -> StoredProduct | None:
    row = unit.execute(f"{_PRODUCT} WHERE p.id = :id", {"id": product_id}).first()
    return StoredProduct(*row) if row else None


def products_of(unit: UnitOfWork, run_id: UUID) -> list[StoredProduct]:
    """Everything a run has published, in the order of its steps."""
    rows = unit.execute(f"{_PRODUCT} WHERE p.run_id = :id ORDER BY s.position, s.key, p.name", {"id": run_id})
    return [StoredProduct(*row) for row in rows]
