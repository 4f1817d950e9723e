"""Ends what was to last until a certain time: holds, pauses of runs, and overrides."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any
from uuid import UUID

from ccat_workflow_manager.db import audit
from ccat_workflow_manager.db.overrides import Due, OverrideStore
from ccat_workflow_manager.db.pipelines import PipelineStore
from ccat_workflow_manager.db.queries.overrides import one_override
from ccat_workflow_manager.db.quotas import project_settings, set_project
from ccat_workflow_manager.db.runs import RunStore
from ccat_workflow_manager.db.session import Database, UnitOfWork
from ccat_workflow_manager.doorbell import Doorbell
from ccat_workflow_manager.errors import NotFound
from ccat_workflow_manager.lifecycle.overrides import Changed, Override
from ccat_workflow_manager.services.holds import TIME_IS_OVER, Holds, ring_launchable
from ccat_workflow_manager.services.requests import Requests

log = logging.getLogger(__name__)

_AT_ONCE = 500
_COLLECTIONS = {
    Changed.PROJECT: "projects",
    Changed.PIPELINE: "pipelines",
    Changed.BREAKER: "breakers",
    Changed.RUN: "runs",
    Changed.STEP_RUN: "step-runs",
}
"""Their places in addresses and in the audit."""


class Overrides:
    """The changes of one deployment that end by themselves."""

    def __init__(self, database: Database, doorbell: Doorbell, holds: Holds, requests: Requests) -> None:
        self._database = database
        self._doorbell = doorbell
        self._holds = holds
        self._requests = requests

    def sweep(self) -> None:
        """End the holds, pauses of runs and overrides whose time is over."""
        self._holds.sweep()
        self._requests.end_pauses()
        with self._database.read() as unit:
            due = OverrideStore(unit).due(_AT_ONCE)
        for _, group in groupby(due, lambda each: (each.kind, each.project, each.name)):
            self._end_due(list(group))
        if due:
            ring_launchable(self._database, self._doorbell)

    def end(self, override_id: int) -> Override:
        """End an override before its time. Returns it as it was."""
        with self._database.read() as unit:
            found = one_override(unit, override_id)
        ended = found and self._database.transact("commit.override", lambda unit: _end(unit, [found], early=True))
        if not ended:
            raise NotFound(f"there is no override {override_id}")
        ring_launchable(self._database, self._doorbell)
        return ended[0]

    def _end_due(self, due: Sequence[Due]) -> None:
        target = f"{_COLLECTIONS[Changed(due[0].kind)]}/{due[0].name}"
        change = audit.Change(TIME_IS_OVER, "end_override", target, project=due[0].project)

        def work(unit: UnitOfWork) -> list[Override]:
            ended = _end(unit, due, early=False)
            change.written_elsewhere = not ended  # another manager was quicker
            return ended

        with audit.audited(change):
            for each in self._database.transact("commit.override", work):
                log.warning("the override has ended: %s", each.text())


def _end(unit: UnitOfWork, overrides: Sequence[Due | Override], *, early: bool) -> list[Override]:
    """End overrides of one thing."""
    kind = Changed(overrides[0].kind)
    ids = [each.id for each in overrides]
    ended = OverrideStore(unit).take(kind, {each.name for each in overrides}, ids, early=early)
    if ended:
        _GIVE_BACK[kind](unit, ended)
        audit.describe(
            project=ended[0].project,
            before={each.field: each.value for each in ended} | {"until": ended[0].until},
            after={each.field: each.before for each in ended},
        )
    return ended


def _to_project(unit: UnitOfWork, ended: Sequence[Override]) -> None:
    settings = project_settings(unit, ended[0].name)
    set_project(unit, ended[0].name, settings | _before(ended))


def _to_pipeline(unit: UnitOfWork, ended: Sequence[Override]) -> None:
    before = _before(ended)
    PipelineStore(unit).change(ended[0].name, enabled=before.get("enabled"), priority=before.get("priority"))


def _to_run(unit: UnitOfWork, ended: Sequence[Override]) -> None:
    for each in ended:
        RunStore(unit).set_priority([UUID(each.name)], each.before)


def _to_step_run(unit: UnitOfWork, ended: Sequence[Override]) -> None:
    OverrideStore(unit).give_back(ended)


def _to_breaker(unit: UnitOfWork, ended: Sequence[Override]) -> None:
    """Failures count again from now on."""


def _before(ended: Sequence[Override]) -> dict[str, Any]:
    return {each.field: each.before for each in ended}


_GIVE_BACK: dict[Changed, Callable[[UnitOfWork, Sequence[Override]], None]] = {
    Changed.PROJECT: _to_project,
    Changed.PIPELINE: _to_pipeline,
    Changed.BREAKER: _to_breaker,
    Changed.RUN: _to_run,
    Changed.STEP_RUN: _to_step_run,
}
