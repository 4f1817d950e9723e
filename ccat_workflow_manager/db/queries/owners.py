"""The project that something belongs to; None if it does not exist."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from ccat_workflow_manager.db.session import UnitOfWork


def _project(unit: UnitOfWork, statement: str, key: UUID | str) -> str | None:
    found: str | None = unit.execute(statement, {"key": key}).scalar()
    return found


def project_of_run(unit: UnitOfWork, key: UUID | str) -> str | None:
    return _project(unit, "SELECT project FROM runs WHERE id = :key", key)


def project_of_step_run(unit: UnitOfWork, key: UUID | str) -> str | None:
    return _project(unit, "SELECT r.project FROM step_runs s JOIN runs r ON r.id = s.run_id WHERE s.id = :key", key)


def project_of_product(unit: UnitOfWork, key: UUID | str) -> str | None:
    return _project(unit, "SELECT r.project FROM products p JOIN runs r ON r.id = p.run_id WHERE p.id = :key", key)


def project_of_pipeline(unit: UnitOfWork, key: UUID | str) -> str | None:
    return _project(unit, "SELECT project FROM pipelines WHERE name = :key", key)


def project_of_override(unit: UnitOfWork, key: UUID | str) -> str | None:
    number = int(str(key)) if str(key).isdecimal() and len(str(key)) < 19 else 0
    return _project(unit, "SELECT project FROM overrides WHERE id = CAST(:key AS bigint)", str(number))


def project_of_breaker(unit: UnitOfWork, key: UUID | str) -> str | None:
    """Its history outlives a breaker."""
    return _project(
        unit,
        "SELECT project FROM breakers WHERE breaker_key = :key"
        " UNION ALL (SELECT project FROM breaker_events WHERE breaker_key = :key LIMIT 1) LIMIT 1",
        key,
    )


def visible_runs(unit: UnitOfWork, ids: Collection[UUID], projects: Collection[str]) -> set[UUID]:
    """Those of these runs that belong to one of these projects."""
    statement = "SELECT id FROM runs WHERE id = ANY(:ids) AND project = ANY(:projects)"
    return {row[0] for row in unit.execute(statement, {"ids": list(ids), "projects": sorted(projects)})}


def project_of_webhook(unit: UnitOfWork, key: UUID | str) -> str | None:
    """Empty for a webhook of all projects: no project has this name."""
    return _project(unit, "SELECT COALESCE(project, '') FROM webhooks WHERE id = :key", key)
