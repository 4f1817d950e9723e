"""The products that completed step runs have published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from uuid import UUID

from ccat_workflow_manager.db.session import Database, UnitOfWork, json_list
from ccat_workflow_manager.errors import StagingError
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.models import WorkItem

_PAGE = 20_000


@dataclass(frozen=True, slots=True)
class StoredProduct:
    """A product, and where its directory is."""

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
class _UpstreamProduct(StoredProduct):
    """A product of an upstream step run of `item_id`, or null columns if that step run published none."""

    item_id: UUID
    published: bool
    status: str
    reason: str | None
    reason_text: str | None


@dataclass(frozen=True, slots=True)
class Upstream:
    """A step run that another depends on: completed, with what it published, or a loss that the edge tolerates."""

    step: str
    key: str
    attempt: int
    products: tuple[StoredProduct, ...]
    status: str
    reason: str | None
    reason_text: str | None


_UPSTREAM = """
WITH i AS (
  SELECT * FROM json_to_recordset(CAST(:items AS json)) AS i(n integer, id uuid, run_id uuid, position smallint,
    key text, pipeline text)
), u AS (
  SELECT i.n, i.id AS item_id, i.pipeline, i.position = ANY(t.soft) AS soft, s.*
  FROM i JOIN run_steps t ON t.run_id = i.run_id AND i.position = ANY(t.downstream_key)
  JOIN step_runs s ON s.run_id = t.run_id AND s.position = t.position AND s.key = i.key
  UNION ALL
  SELECT i.n, i.id, i.pipeline, i.position = ANY(t.soft), s.*
  FROM i JOIN run_steps t ON t.run_id = i.run_id AND i.position = ANY(t.downstream_all)
  JOIN step_runs s ON s.run_id = t.run_id AND s.position = t.position
)
SELECT u.item_id, u.id AS step_run_id, u.run_id, u.pipeline, u.backend, u.step, u.key, u.attempt,
  p.id, p.name, p.type, p.path, p.size, p.sha256, p.is_directory, p.file_count, p.id IS NOT NULL AS published,
  u.status, u.reason, u.reason_text
FROM u LEFT JOIN products p ON p.step_run_id = u.id
WHERE u.status = 'COMPLETED' OR u.soft AND u.finished_at IS NOT NULL
ORDER BY u.n, u.position, u.key, p.name
LIMIT :limit
"""

_PRODUCT = """
SELECT p.id, p.run_id, p.step_run_id, r.pipeline, s.backend, s.step, s.key, p.attempt, p.name, p.type, p.path, p.size,
  p.sha256, p.is_directory, p.file_count
FROM products p JOIN step_runs s ON s.id = p.step_run_id JOIN runs r ON r.id = p.run_id WHERE p.id = :id
"""


class UpstreamReader:
    """Reads what some step runs depend on, in pages: each may have thousands of products upstream."""

    def __init__(self, database: Database, items: Sequence[WorkItem], most: int, page: int = _PAGE) -> None:
        """`most` is the largest number of products upstream of one step run."""
        self._database = database
        self._items = [item for item in items if item.position > 0]
        self._indexes = {item.step_run_id: index for index, item in enumerate(self._items)}
        self._most = most
        self._page = page
        self._loaded: dict[UUID, list[Upstream]] = {}

    def of(self, item: WorkItem) -> list[Upstream]:
        """The step runs that `item` depends on. Raises StagingError if they have too many products."""
        index = self._indexes.get(item.step_run_id)
        if index is None:
            return []
        if item.step_run_id not in self._loaded:
            self._loaded = self._read(self._items[index:], self._page)
        if item.step_run_id not in self._loaded:
            self._loaded = self._read([item], self._most)
        if item.step_run_id not in self._loaded:
            message = f"the step runs before it have more than {self._most} products (UPSTREAM_MAX_PRODUCTS)"
            raise StagingError(FailureReason.STAGING_FAILED, message)
        return self._loaded[item.step_run_id]

    def _read(self, items: Sequence[WorkItem], most: int) -> dict[UUID, list[Upstream]]:
        """As many of these step runs as have `most` products upstream together, from the first one on."""
        records = [
            {
                "n": number,
                "id": str(item.step_run_id),
                "run_id": str(item.run.run_id),
                "position": item.position,
                "key": item.key,
                "pipeline": item.run.pipeline,
            }
            for number, item in enumerate(items)
        ]
        with self._database.read() as unit:
            rows = unit.rows(_UpstreamProduct, _UPSTREAM, {"items": json_list(records), "limit": most + 1})
        found = {
            item_id: [_upstream(list(products)) for _, products in groupby(of_item, key=lambda row: row.step_run_id)]
            for item_id, of_item in groupby(rows, key=lambda row: row.item_id)
        }
        if len(rows) > most:
            del found[rows[-1].item_id]  # there are more rows of it
            return found
        return {item.step_run_id: [] for item in items} | found


def _upstream(products: Sequence[_UpstreamProduct]) -> Upstream:
    first = products[0]
    published = tuple(each for each in products if each.published)
    return Upstream(first.step, first.key, first.attempt, published, first.status, first.reason, first.reason_text)


def find_product(unit: UnitOfWork, product_id: UUID) -> StoredProduct | None:
    return unit.row(StoredProduct, _PRODUCT, {"id": product_id})
