"""Sets the weights and limits of projects, and rings for what a higher limit lets start."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ccat_workflow_manager.db import audit
from ccat_workflow_manager.db.overrides import OverrideStore, changes
from ccat_workflow_manager.db.queries.projects import project_detail
from ccat_workflow_manager.db.quotas import project_settings, set_project
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.doorbell import Doorbell
from ccat_workflow_manager.lifecycle.overrides import NO_TERM, Changed, Term
from ccat_workflow_manager.services.holds import reason, require_future, ring_launchable


class ProjectSettings:
    """The weights and limits of the projects of one deployment."""

    def __init__(self, database: Database, doorbell: Doorbell) -> None:
        self._database = database
        self._doorbell = doorbell

    def set(self, name: str, values: Mapping[str, Any], term: Term = NO_TERM) -> dict[str, Any]:
        """Set these of the weight and the limits of a project. Returns the project with what it uses."""
        with self._database.begin("commit.project") as unit:
            require_future(unit, term.until)
            before = project_settings(unit, name)
            set_project(unit, name, {**before, **values})
            wanted = changes(Changed.PROJECT, name, name, f"the project {name}", before, values)
            OverrideStore(unit).record(wanted, term)
            audit.describe(project=name, before=before, after={**before, **values, **reason(term)})
            after: dict[str, Any] = json.loads(project_detail(unit, name) or "{}")
        ring_launchable(self._database, self._doorbell)
        return after
