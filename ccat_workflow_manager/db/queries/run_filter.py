"""The filter of a list of runs, as SQL conditions with parameters."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from ccat_workflow_manager.db.metadata import OTHER_PROJECT
from ccat_workflow_manager.definition.project import DEFAULT_PROJECT
from ccat_workflow_manager.identity import Projects
from ccat_workflow_manager.lifecycle.states import RunStatus

SEARCHED_RUNS = 50_000
"""`q` searches so many of the newest runs: no index serves it."""
_NEWEST = """
r.id >= COALESCE((SELECT w.id FROM runs w ORDER BY w.id DESC OFFSET CAST(:window AS integer) LIMIT 1),
  '00000000-0000-0000-0000-000000000000')"""
_ID_PREFIX = re.compile(r"[0-9a-fA-F-]{1,36}")


@dataclass(frozen=True, slots=True)
class RunFilter:
    """A run must fulfil all conditions. One that is left out selects every run."""

    status: tuple[RunStatus, ...] = ()
    project: str | None = None
    pipeline: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    created_after: datetime | None = None
    caveats: bool | None = None
    q: str | None = None
    """A part of the pipeline name, of a label or of the status reason, or the beginning of an id."""

    visible: Projects = None
    """The projects that the caller may see."""

    @property
    def empty(self) -> bool:
        return replace(self, visible=None) == RunFilter()

    def conditions(self) -> tuple[list[str], dict[str, Any]]:
        """SQL conditions on `runs r` and their parameters."""
        where: list[str] = []
        values: dict[str, Any] = {}
        if len(self.status) == 1:
            where.append("r.status = :status")
            values["status"] = self.status[0]
        elif self.status:
            where.append("r.status = ANY(:status)")
            values["status"] = list(self.status)
        if self.pipeline is not None:
            where.append("r.pipeline = :pipeline")
            values["pipeline"] = self.pipeline
        if (project := self._project()) is not None:
            where.append("r.project = :project")
            values["project"] = project
            if project != DEFAULT_PROJECT:  # as the index of projects has it
                where.append(f"r.{OTHER_PROJECT}")
        if self.visible is not None:
            where.append("r.project = ANY(:visible)")
            values["visible"] = sorted(self.visible)
        if self.labels:
            where.append("r.labels @> CAST(:labels AS jsonb)")
            values["labels"] = json.dumps(dict(self.labels))
        if self.created_after is not None:
            # The time in an id is that of the clock of some manager.
            where.append("r.created_at > :created_after")
            values["created_after"] = self.created_after
        if self.caveats is not None:
            where.append("r.n_caveats > 0" if self.caveats else "r.n_caveats = 0")
        if self.q:
            where.append(_NEWEST)
            values["window"] = SEARCHED_RUNS
            where.append(f"({' OR '.join(_search(self.q, values))})")
        return where, values

    def _project(self) -> str | None:
        if self.project is None and self.visible is not None and len(self.visible) == 1:
            return next(iter(self.visible))
        return self.project


def _search(words: str, values: dict[str, Any]) -> list[str]:
    values["like"] = "%" + re.sub(r"([\\%_])", r"\\\1", words) + "%"
    found = [
        "r.pipeline ILIKE :like",
        "r.status_reason ILIKE :like",
        "r.labels <> '{}' AND EXISTS"
        " (SELECT 1 FROM jsonb_each_text(r.labels) l WHERE l.key || CAST(:colon AS text) || l.value ILIKE :like)",
    ]
    values["colon"] = ":"
    if _ID_PREFIX.fullmatch(words):
        found.append("r.id::text LIKE :prefix")
        values["prefix"] = words.lower() + "%"
    return found
