"""Products as JSON, and their lineage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from ccat_workflow_manager.db.queries import Row, array, like, one, project_list, rows, times, visible
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.identity import Projects

_PRODUCT = f"""
p.id, p.run_id, p.step_run_id, r.project, r.pipeline, s.step, s.key, p.attempt, p.name, p.type, p.path, p.size,
p.sha256, p.is_directory, p.file_count, p.metadata, COALESCE(s.caveats, '[]') AS caveats, {times("p", "created_at")}
"""
_FROM = "FROM products p JOIN step_runs s ON s.id = p.step_run_id JOIN runs r ON r.id = p.run_id"

_DETAIL = f"SELECT row_to_json(x)::text FROM (SELECT {_PRODUCT} {_FROM} WHERE p.id = :id) x"

_PAGE = f"""
SELECT x.name, row_to_json(x)::text FROM (
  SELECT {_PRODUCT} {_FROM} WHERE p.step_run_id = :id AND (CAST(:after AS text) IS NULL OR p.name > :after)
  ORDER BY p.name LIMIT :limit
) x
"""

_OF_RUN = f"""
SELECT x.id, row_to_json(x)::text FROM (
  SELECT {_PRODUCT} {_FROM} WHERE p.run_id = :id AND (CAST(:after AS uuid) IS NULL OR p.id > :after)
    AND (CAST(:step AS text) IS NULL OR s.step = :step) AND (CAST(:type AS text) IS NULL OR p.type = :type)
    AND (CAST(:key AS text) IS NULL OR s.key LIKE :key)
  ORDER BY p.id LIMIT :limit
) x
"""

_MANY = f"""
SELECT x.id, row_to_json(x)::text FROM (
  SELECT {_PRODUCT} {_FROM} WHERE p.id = ANY(:ids) AND {visible("r.project")}
) x
"""

_EDGES = """
JOIN run_steps t ON t.run_id = s.run_id AND (s.position = ANY(t.downstream_all) OR s.position = ANY(t.downstream_key))
JOIN step_runs u ON u.run_id = t.run_id AND u.position = t.position
  AND (s.position = ANY(t.downstream_all) OR u.key = s.key)
"""
"""Joins a step run `s` with the step runs `u` that it depends on."""

_UNDECLARED = "p.type <> 'LOG' AND NOT EXISTS (SELECT 1 FROM product_parents x WHERE x.product_id = p.id)"

_PARENTS = f"""
SELECT d.product_id, d.parent_id, true FROM product_parents d WHERE d.product_id = ANY(:ids)
UNION ALL
(SELECT p.id, q.id, false FROM products p JOIN step_runs s ON s.id = p.step_run_id {_EDGES}
 JOIN products q ON q.step_run_id = u.id
 WHERE p.id = ANY(:ids) AND {_UNDECLARED} ORDER BY p.id, q.id)
LIMIT :limit
"""

_CHILDREN = f"""
SELECT d.product_id, d.parent_id, true FROM product_parents d WHERE d.parent_id = ANY(:ids)
UNION ALL
(SELECT p.id, q.id, false FROM products q JOIN step_runs u ON u.id = q.step_run_id
 JOIN run_steps t ON t.run_id = u.run_id AND t.position = u.position
 JOIN step_runs s ON s.run_id = u.run_id
   AND (s.position = ANY(t.downstream_all) OR s.position = ANY(t.downstream_key) AND s.key = u.key)
 JOIN products p ON p.step_run_id = s.id
 WHERE q.id = ANY(:ids) AND {_UNDECLARED} ORDER BY q.id, p.id)
LIMIT :limit
"""


_SET_BY_HAND = f"""
SELECT x.step_run_id, row_to_json(x)::text FROM (
  SELECT DISTINCT u.id AS step_run_id, u.run_id, u.step, u.key, u.status, u.reason_text, {times("u", "finished_at")}
  FROM products p JOIN step_runs s ON s.id = p.step_run_id {_EDGES}
  WHERE p.id = ANY(:ids) AND u.reason = '{FailureReason.SET_BY_HAND}' ORDER BY u.id
) x
"""

_INPUTS = """
SELECT row_to_json(x)::text FROM (
  SELECT i.step_run_id, e.name, e.source, e.size, e.sha256, e.is_directory, e.file_count
  FROM (SELECT DISTINCT p.step_run_id FROM products p WHERE p.id = ANY(:ids)) d
  JOIN step_run_inputs i ON i.step_run_id = d.step_run_id
  CROSS JOIN LATERAL jsonb_to_recordset(i.inputs) AS e(name text, source text, size bigint, sha256 text,
    is_directory boolean, file_count integer)
  ORDER BY i.step_run_id, e.name LIMIT :limit
) x
"""


def product_detail(unit: UnitOfWork, product_id: UUID) -> str | None:
    return one(unit, _DETAIL, {"id": product_id})


def products_page(unit: UnitOfWork, step_run_id: UUID, after: str | None, limit: int) -> list[Row]:
    """The products of a step run by name."""
    return rows(unit, _PAGE, {"id": step_run_id, "after": after, "limit": limit})


def run_products_page(
    unit: UnitOfWork,
    run_id: UUID,
    after: UUID | None,
    limit: int,
    *,
    step: str | None = None,
    type_: str | None = None,
    key: str | None = None,
) -> list[Row]:
    """The products of a run in the order in which they were published. `key` may hold `*` and `?`."""
    wanted = {"step": step, "type": type_, "key": None if key is None else like(key)}
    return rows(unit, _OF_RUN, {"id": run_id, "after": after, "limit": limit, **wanted})


# --- lineage --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Walk:
    """The products found in one direction of the lineage."""

    most: int
    found: set[UUID] = field(default_factory=set)
    edges: list[tuple[UUID, UUID, bool]] = field(default_factory=list)
    truncated: bool = False


def lineage(unit: UnitOfWork, product_id: UUID, most: int, projects: Projects = None) -> str | None:
    """The product with its ancestors and descendants, at most `most` in each direction. None: it does not exist.

    The parents of a product are those that its program declared. If it declared none, they are all products of the step
    runs that its step run depends on.
    """
    product = product_detail(unit, product_id)
    if product is None:
        return None
    up, down = _Walk(most), _Walk(most)
    _walk(unit, _PARENTS, product_id, up)
    _walk(unit, _CHILDREN, product_id, down)
    texts = dict(rows(unit, _MANY, {"ids": list(up.found | down.found), "projects": project_list(projects)}))
    shown_ids = texts.keys() | {product_id}
    made_by = [product_id, *(up.found & texts.keys())]
    by_hand = rows(unit, _SET_BY_HAND, {"ids": made_by})
    edges = sorted(
        (edge for edge in {*up.edges, *down.edges} if edge[0] in shown_ids and edge[1] in shown_ids),
        key=lambda edge: (edge[1], edge[0]),
    )
    shown = [
        f'{{"parent":"{parent}","child":"{child}","declared":{"true" if declared else "false"}}}'
        for child, parent, declared in edges
    ]
    inputs = [row[0] for row in unit.execute(_INPUTS, {"ids": made_by, "limit": most + 1})]
    truncated = "true" if up.truncated or down.truncated or len(inputs) > most else "false"
    return (
        f'{{"product":{product},"ancestors":{_listed(up.found, texts)},"descendants":{_listed(down.found, texts)},'
        f'"edges":{array(shown)},"inputs":{array(inputs[:most])},'
        f'"set_by_hand":{array(row.json for row in by_hand)},"truncated":{truncated}}}'
    )


def _listed(ids: set[UUID], texts: dict[UUID, str]) -> str:
    return array(texts[each] for each in sorted(ids) if each in texts)


def _walk(unit: UnitOfWork, statement: str, start: UUID, walk: _Walk) -> None:
    """Follow the edges level by level, until there are too many products."""
    up = statement is _PARENTS
    level: Sequence[UUID] = [start]
    while level and not walk.truncated:
        parameters = {"ids": list(level), "limit": 2 * walk.most + 1}
        edges = [(row[0], row[1], row[2]) for row in unit.execute(statement, parameters)]
        walk.truncated = len(edges) > 2 * walk.most
        beyond: list[UUID] = []
        for child, parent, declared in edges:
            other = parent if up else child
            if other != start and other not in walk.found:
                if len(walk.found) >= walk.most:
                    walk.truncated = True
                    continue
                walk.found.add(other)
                beyond.append(other)
            walk.edges.append((child, parent, declared))
        level = beyond
