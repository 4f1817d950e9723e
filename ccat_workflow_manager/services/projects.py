"""Sets the weights and limits of projects, and rings for what a higher limit lets start."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ccat_workflow_manager.db import audit
from ccat_workflow_manager.db.queries.projects import project_detail
from ccat_workflow_manager.db.quotas import set_project
from ccat_workflow_manager.db.session import Database, UnitOfWork
from ccat_workflow_manager.doorbell import Doorbell
from ccat_workflow_manager.services.holds import ring_launchable

_SET = ("weight", "max_live", "max_cpus", "max_queued")


class ProjectSettings:
    """The weights and limits of the projects of one deployment."""

    def __init__(self, database: Database, doorbell: Doorbell) -> None:
        self._database = database
        self._doorbell = doorbell

    def set(self, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Set the weight and all limits of a project. Returns the project with what it uses."""
        with self._database.begin("commit.project") as unit:
            before = _project(unit, name)
            set_project(unit, name, values)
            after = _project(unit, name) or {}
            audit.describe(
                project=name,
                before={each: before[each] for each in _SET} if before else {},
                after={each: after[each] for each in _SET},
            )
        ring_launchable(self._database, self._doorbell)
        return after


def _project(unit: UnitOfWork, name: str) -> dict[str, Any] | None:
    text = project_detail(unit, name)
    return None if text is None else json.loads(text)
