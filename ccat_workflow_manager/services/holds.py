"""Holds: pauses and drains pipelines, projects, backends or the whole service, and ends that by itself in time."""

from __future__ import annotations

import logging
from dataclasses import asdict
from datetime import datetime
from typing import Any

from ccat_workflow_manager.db import audit
from ccat_workflow_manager.db.backends import BackendStore
from ccat_workflow_manager.db.holds import HoldStore
from ccat_workflow_manager.db.pipelines import PipelineStore
from ccat_workflow_manager.db.session import Database, UnitOfWork
from ccat_workflow_manager.db.work_items import launchable
from ccat_workflow_manager.doorbell import MOST_ROWS, Bell, Doorbell
from ccat_workflow_manager.errors import Fault, Invalid, NotFound
from ccat_workflow_manager.identity import Identity, Role
from ccat_workflow_manager.lifecycle.holds import Hold, Kind, Mode
from ccat_workflow_manager.lifecycle.overrides import Term

log = logging.getLogger(__name__)

TIME_IS_OVER = Identity("until", "until", Role.ADMIN)
"""Who ends what was to last until a certain time, in the audit."""


class Holds:
    """The holds of one deployment."""

    def __init__(self, database: Database, doorbell: Doorbell, known_backends: frozenset[str]) -> None:
        self._database = database
        self._doorbell = doorbell
        self.known_backends = known_backends

    def hold(self, kind: Kind, name: str, mode: Mode, why: str, until: datetime | None, *, actor: str) -> Hold:
        """Start nothing of it from now on. When this returns, no claim that is going on or comes later misses it."""
        with self._database.begin("commit.hold") as unit:
            self.require(unit, kind, name)
            require_future(unit, until)
            store = HoldStore(unit)
            before = store.get(kind, name)
            store.set(kind, name, mode, why, actor, until)
            after = store.get(kind, name)
            assert after is not None
            audit.describe(target=_place(kind, name), before=_shown(before), after=_shown(after))
        log.warning("%s", after.text())
        return after

    def lift(self, kind: Kind, name: str) -> Hold:
        """End a hold, and ring for what it kept back. Returns it as it was."""
        with self._database.begin("commit.hold") as unit:
            store = HoldStore(unit)
            before = store.get(kind, name)
            if before is None:
                self.require(unit, kind, name)
                raise NotFound(f"the {kind} {name}".rstrip() + " is not paused")
            store.lift(kind, name)
            audit.describe(target=_place(kind, name), before=_shown(before), after={})
        ring_launchable(self._database, self._doorbell)
        return before

    def sweep(self) -> None:
        """Remove the holds whose time is over, and ring for what they kept back."""
        with self._database.read() as unit:
            if not HoldStore(unit).any_ended():
                return
        with self._database.begin("commit.hold") as unit:
            ended = HoldStore(unit).lift_ended()
            for each in ended:
                place, project = _place(each.kind, each.name), _project(unit, each)
                change = audit.Change(TIME_IS_OVER, "resume", place, project=project, before=_shown(each), after={})
                with audit.audited(change):
                    audit.write(unit.execute)
        for each in ended:
            log.warning("the %s goes on: its hold was to last until %s", each.subject, each.until)
        ring_launchable(self._database, self._doorbell)

    def require(self, unit: UnitOfWork, kind: Kind, name: str) -> None:
        """Raises NotFound. Any name can be that of a project."""
        if kind is Kind.PIPELINE and PipelineStore(unit).project(name) is None:
            raise NotFound(f"there is no pipeline {name}")
        if kind is Kind.BACKEND and name not in self.known_backends:
            raise NotFound(f"there is no backend {name}; known: {', '.join(sorted(self.known_backends))}")


def require_future(unit: UnitOfWork, until: datetime | None) -> None:
    """Raises Invalid if this time is over by the clock of the database."""
    if until is not None and until <= (now := unit.clock()):
        raise Invalid(faults=[Fault("until", f"must be in the future; it is {now:%Y-%m-%dT%H:%M:%SZ} now")])


def reason(term: Term) -> dict[str, Any]:
    """Why and until when, for the audit."""
    return {name: value for name, value in (("why", term.why), ("until", term.until)) if value is not None}


def _place(kind: Kind, name: str) -> str:
    """Its place in addresses and in the audit."""
    return str(kind) if kind is Kind.SERVICE else f"{kind}s/{name}"


def _project(unit: UnitOfWork, hold: Hold) -> str | None:
    """The project whose people see this hold in the audit; None: it is of the whole service or of a backend."""
    if hold.kind is Kind.PIPELINE:
        return PipelineStore(unit).project(hold.name)
    return hold.name if hold.kind is Kind.PROJECT else None


def _shown(hold: Hold | None) -> dict[str, Any]:
    return {} if hold is None else {name: value for name, value in asdict(hold).items() if value is not None}


def ring_launchable(database: Database, doorbell: Doorbell) -> None:
    """Ring for all that could start now, after something that kept step runs of many lanes back is gone."""
    with database.read() as unit:
        ready = {
            each.backend: launchable(unit, each.backend, MOST_ROWS)
            for each in BackendStore(unit).workloads()
            if each.ready and not each.retry_in
        }
    doorbell.ring_all(Bell.LAUNCH, ready)
