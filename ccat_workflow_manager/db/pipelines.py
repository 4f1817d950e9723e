"""Pipeline definitions: the versions of registered ones, and inline ones, which are stored once per content."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from ccat_workflow_manager.db.session import UnitOfWork, new_id
from ccat_workflow_manager.errors import NotFound


@dataclass(frozen=True, slots=True)
class StoredSpec:
    """One immutable definition."""

    id: UUID
    name: str
    version: int | None
    content: Mapping[str, Any]
    content_hash: str
    enabled: bool
    priority: int


@dataclass(frozen=True, slots=True)
class SpecHead:
    """A registered definition without its content, which never changes and is cached."""

    id: UUID
    version: int
    project: str
    enabled: bool
    priority: int


_SPEC = """
SELECT s.id, s.name, s.version, s.content, s.content_hash, COALESCE(p.enabled, true) AS enabled,
  COALESCE(p.priority, 0) AS priority
FROM specs s LEFT JOIN pipelines p ON p.id = s.pipeline_id
"""


class PipelineStore:
    """Reads and writes definitions inside the caller's transaction."""

    def __init__(self, unit: UnitOfWork) -> None:
        self.unit = unit

    def save(
        self, name: str, content: Mapping[str, Any], content_hash: str, *, project: str
    ) -> tuple[StoredSpec, bool]:
        """Make this content the newest version of `name`. Returns the version, and False if it is not new."""
        self.unit.execute(
            "INSERT INTO pipelines (id, name, project, current_version) VALUES (:id, :name, :project, 0)"
            " ON CONFLICT (name) DO NOTHING",
            {"id": new_id(), "name": name, "project": project},
        )
        pipeline_id, current = self.unit.execute(
            "SELECT id, current_version FROM pipelines WHERE name = :name FOR UPDATE", {"name": name}
        ).one()
        if current:
            newest = self.newest(name)
            if newest.content_hash == content_hash:
                return newest, False
        self.unit.execute(
            "INSERT INTO specs (id, pipeline_id, name, version, content, content_hash)"
            " VALUES (:id, :pipeline, :name, :version, CAST(:content AS json), :hash)",
            {
                "id": new_id(),
                "pipeline": pipeline_id,
                "name": name,
                "version": current + 1,
                "content": json.dumps(content),
                "hash": content_hash,
            },
        )
        self.unit.execute(
            "UPDATE pipelines SET current_version = :version, project = :project, updated_at = now() WHERE id = :id",
            {"version": current + 1, "project": project, "id": pipeline_id},
        )
        return self.newest(name), True

    def save_inline(self, name: str, content: Mapping[str, Any], content_hash: str) -> UUID:
        """Store an inline definition once per content. Returns its id."""
        parameters = {"id": new_id(), "name": name, "content": json.dumps(content), "hash": content_hash}
        row = self.unit.execute(
            "INSERT INTO specs (id, name, content, content_hash) VALUES (:id, :name, CAST(:content AS json), :hash)"
            " ON CONFLICT (content_hash) WHERE pipeline_id IS NULL DO NOTHING RETURNING id",
            parameters,
        ).first()
        if row is None:
            row = self.unit.execute(
                "SELECT id FROM specs WHERE content_hash = :hash AND pipeline_id IS NULL", parameters
            ).one()
        spec_id: UUID = row[0]
        return spec_id

    def save_files(self, contents: Mapping[str, bytes]) -> None:
        """Store the contents of files, by SHA-256. Those that are stored stay as they are."""
        # In the order of their keys, or two transactions with the same files could wait for each other.
        for digest in sorted(contents):
            self.unit.execute(
                "INSERT INTO files (sha256, content) VALUES (:sha256, :content) ON CONFLICT DO NOTHING",
                {"sha256": digest, "content": contents[digest]},
            )

    def stored_files(self, digests: Iterable[str]) -> set[str]:
        """Which of these files are stored."""
        found = self.unit.execute("SELECT sha256 FROM files WHERE sha256 = ANY(:digests)", {"digests": list(digests)})
        return {row.sha256 for row in found}

    def files(self, digests: Iterable[str]) -> dict[str, bytes]:
        """The contents of those of these files that are stored."""
        found = self.unit.execute(
            "SELECT sha256, content FROM files WHERE sha256 = ANY(:digests)", {"digests": list(digests)}
        )
        return {row.sha256: row.content for row in found}

    def project(self, name: str) -> str | None:
        """The project of a pipeline, None if there is no such pipeline."""
        found: str | None = self.unit.execute(
            "SELECT project FROM pipelines WHERE name = :name", {"name": name}
        ).scalar()
        return found

    def newest(self, name: str) -> StoredSpec:
        return self._one(f"{_SPEC} WHERE s.name = :name AND s.version = p.current_version", {"name": name}, name)

    def version(self, name: str, version: int) -> StoredSpec:
        return self._one(
            f"{_SPEC} WHERE s.name = :name AND s.version = :version",
            {"name": name, "version": version},
            f"{name} version {version}",
        )

    def head(self, name: str, version: int | None) -> SpecHead:
        """The newest or the given version of a pipeline, without its content."""
        found = self.unit.row(
            SpecHead,
            "SELECT s.id, s.version, p.project, p.enabled, p.priority"
            " FROM pipelines p JOIN specs s ON s.pipeline_id = p.id"
            " WHERE p.name = :name AND s.version = COALESCE(CAST(:version AS bigint), p.current_version)",
            {"name": name, "version": version},
        )
        if found is None:
            raise NotFound(f"there is no pipeline {name}" + (f" version {version}" if version is not None else ""))
        return found

    def by_id(self, spec_id: UUID) -> StoredSpec:
        return self._one(f"{_SPEC} WHERE s.id = :id", {"id": spec_id}, str(spec_id))

    def lock_switches(self, name: str) -> SpecHead:
        """Lock a pipeline. Returns whether it is enabled, its priority and its project."""
        self.unit.execute("SELECT 1 FROM pipelines WHERE name = :name FOR UPDATE", {"name": name})
        return self.head(name, None)

    def change(self, name: str, *, enabled: bool | None, priority: int | None) -> None:
        found = self.unit.execute(
            "UPDATE pipelines SET enabled = COALESCE(:enabled, enabled), priority = COALESCE(:priority, priority),"
            " updated_at = now() WHERE name = :name",
            {"enabled": enabled, "priority": priority, "name": name},
        )
        if found.rowcount == 0:
            raise NotFound(f"there is no pipeline {name}")

    def _one(self, statement: str, parameters: Mapping[str, Any], what: str) -> StoredSpec:
        found = self.unit.row(StoredSpec, statement, parameters)
        if found is None:
            raise NotFound(f"there is no pipeline {what}")
        return found
