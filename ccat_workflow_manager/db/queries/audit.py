"""The audit as JSON."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ccat_workflow_manager.db.queries import Row, rows, times
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.identity import Projects


def audit_page(
    unit: UnitOfWork,
    after: int | None,
    limit: int,
    *,
    projects: Projects,
    since: datetime | None,
    until: datetime | None,
    **equal: str | None,
) -> list[Row]:
    """Changes, the newest first. `equal` are columns with the value that they must have."""
    wanted = {name: value for name, value in equal.items() if value is not None}
    where = [f"a.{name} = :{name}" for name in wanted]
    values: dict[str, Any] = {**wanted, "limit": limit}
    for condition, name, value in (
        ("a.id < :after_id", "after_id", after),
        ("a.at >= :since", "since", since),
        ("a.at < :until", "until", until),
        ("a.project = ANY(:visible)", "visible", None if projects is None else sorted(projects)),
    ):
        if value is not None:
            where.append(condition)
            values[name] = value
    condition = f"WHERE {' AND '.join(where)}" if where else ""
    return rows(
        unit,
        f"""
        SELECT x.id, row_to_json(x)::text FROM (
          SELECT a.id, {times("a", "at")}, a.actor, a.identity, a.address, a.action, a.object, a.project, a.before,
            a.after, a.request_id
          FROM audit a {condition} ORDER BY a.id DESC LIMIT :limit
        ) x
        """,
        values,
    )
