"""The filter of a list of runs, as SQL conditions with parameters."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from ccat_workflow_manager.db.conditions import LABELLED, OTHER_PROJECT
from ccat_workflow_manager.db.session import first_id
from ccat_workflow_manager.definition.project import DEFAULT_PROJECT
from ccat_workflow_manager.identity import Projects
from ccat_workflow_manager.lifecycle.states import RunStatus

SEARCHED_RUNS = 50_000
"""`q` searches so many of the newest runs: no index serves it."""
NEWEST = """
r.id >= COALESCE((SELECT w.id FROM runs w ORDER BY w.id DESC OFFSET CAST(:window AS integer) LIMIT 1),
  '00000000-0000-0000-0000-000000000000')"""
_ID_PART = re.compile(r"[0-9a-fA-F-]{1,36}")


_PLAIN = {
    "pipeline": "r.pipeline = :pipeline",
    "created_after": "r.created_at > :created_after AND r.id >= :from_id",
    "created_before": "r.created_at <= :created_before AND r.id < :until_id",
    "created_by": "r.created_by = :created_by",
}
"""Field -> its condition, where the parameter is the value of the field."""
_CLOCKS_DIFFER = 86_400
"""An id has the time of a manager's clock, which differs from that of PostgreSQL by no more seconds than that."""


@dataclass(frozen=True, slots=True)
class RunFilter:
    """A run must fulfil all conditions. One that is left out selects every run."""

    status: tuple[RunStatus, ...] = ()
    project: str | None = None
    pipeline: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    label_prefixes: Mapping[str, str] = field(default_factory=dict)
    """How the values of these labels begin; an empty text: any value."""
    created_after: datetime | None = None
    caveats: bool | None = None
    created_before: datetime | None = None
    created_by: str | None = None
    reason: str | None = None
    """A part of the status reason."""
    q: str | None = None
    """A part of the pipeline name, of a label or of the status reason, or the beginning or end of an id."""

    visible: Projects = None
    """The projects that the caller may see."""

    @property
    def empty(self) -> bool:
        return replace(self, visible=None) == RunFilter()

    def conditions(self) -> tuple[list[str], dict[str, Any]]:
        """SQL conditions on `runs r` and their parameters."""
        where: list[str] = []
        values: dict[str, Any] = {}
        if self.status:
            one = len(self.status) == 1
            where.append("r.status = :status" if one else "r.status = ANY(:status)")
            values["status"] = self.status[0] if one else list(self.status)
        if (project := self._project()) is not None:
            where.append("r.project = :project")
            values["project"] = project
            if project != DEFAULT_PROJECT:  # as the index of projects has it
                where.append(f"r.{OTHER_PROJECT}")
        if self.visible is not None:
            where.append("r.project = ANY(:visible)")
            values["visible"] = sorted(self.visible)
        if self.labels:
            where.append(f"r.labels @> CAST(:labels AS jsonb) AND r.{LABELLED}")
            values["labels"] = json.dumps(dict(self.labels))
        for number, (name, prefix) in enumerate(self.label_prefixes.items()):
            where.append(f"starts_with(r.labels ->> :label_{number}, :prefix_{number})")
            values |= {f"label_{number}": name, f"prefix_{number}": prefix}
        if self.caveats is not None:
            where.append("r.n_caveats > 0" if self.caveats else "r.n_caveats = 0")
        for name, condition in _PLAIN.items():
            if (value := getattr(self, name)) is not None:
                where.append(condition)
                values[name] = value
        if self.created_after is not None:
            values["from_id"] = first_id(self.created_after.timestamp() - _CLOCKS_DIFFER)
        if self.created_before is not None:
            values["until_id"] = first_id(self.created_before.timestamp() + _CLOCKS_DIFFER)
        self._texts(where, values)
        return where, values

    def _texts(self, where: list[str], values: dict[str, Any]) -> None:
        """Add the conditions that no index serves: they look at the newest runs only."""
        if self.q or self.reason or self.created_by is not None:
            where.append(NEWEST)
            values["window"] = SEARCHED_RUNS
        if self.reason:
            where.append("r.status_reason ILIKE :reason")
            values["reason"] = like(self.reason)
        if self.q:
            where.append(f"({' OR '.join(_search(self.q, values))})")

    def _project(self) -> str | None:
        if self.project is None and self.visible is not None and len(self.visible) == 1:
            return next(iter(self.visible))
        return self.project


def two_values(labels: Iterable[tuple[str, str]]) -> str | None:
    """What is wrong with labels of which one has two values: no run has both. None: nothing."""
    found: dict[str, str] = {}
    for name, value in labels:
        if found.setdefault(name, value) != value:
            return f"asks for {found[name]!r:.100} and {value!r:.100} as the value of {name[:100]}, and a run has one"
    return None


def like(words: str) -> str:
    """The pattern of SQL for texts that contain these words."""
    return "%" + re.sub(r"([\\%_])", r"\\\1", words) + "%"


def _search(words: str, values: dict[str, Any]) -> list[str]:
    values["like"] = like(words)
    found = [
        "r.pipeline ILIKE :like",
        "r.status_reason ILIKE :like",
        f"r.{LABELLED} AND EXISTS"
        " (SELECT 1 FROM jsonb_each_text(r.labels) l WHERE l.key || CAST(:colon AS text) || l.value ILIKE :like)",
    ]
    values["colon"] = ":"
    if _ID_PART.fullmatch(words):
        found += ["r.id::text LIKE :prefix", "r.id::text LIKE :ending"]
        values |= {"prefix": f"{words.lower()}%", "ending": f"%{words.lower()}"}
    return found
