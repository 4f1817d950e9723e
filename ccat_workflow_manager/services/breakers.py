"""Circuit breakers: requeue waiting jobs when one opens, release one, and remove those that are over."""

from __future__ import annotations

import json
from functools import partial
from uuid import UUID

from ccat_workflow_manager.db import audit
from ccat_workflow_manager.db.breakers import BreakerStore
from ccat_workflow_manager.db.overrides import OverrideStore
from ccat_workflow_manager.db.queries.breakers import breaker_detail
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.doorbell import Bell, Doorbell
from ccat_workflow_manager.errors import NotFound
from ccat_workflow_manager.lifecycle.breaker import OFF, BreakerPolicy
from ccat_workflow_manager.lifecycle.overrides import Changed, FieldChange, Term
from ccat_workflow_manager.lifecycle.waiting import utc_text
from ccat_workflow_manager.services.holds import reason, require_future

_REQUEUED_AT_ONCE = 1000


def requeue_waiting(database: Database, doorbell: Doorbell) -> int:
    """Cancel the jobs that are still queued at a backend and whose breaker is open, or that are paused.

    Returns how many. Their step runs return to PENDING when the jobs have ended. Running jobs go on: they may succeed.
    """
    with database.read() as unit:
        if not BreakerStore(unit, OFF).any_open():
            return 0
    with database.begin("commit.requeue-waiting") as unit:
        backends = BreakerStore(unit, OFF).requeue_waiting(_REQUEUED_AT_ONCE)
        for backend in sorted(set(backends)):
            unit.after_commit(partial(doorbell.ring, Bell.CANCEL, backend))
    return len(backends)


def _released(term: Term) -> str:
    ends = f" until {utc_text(term.until)}" if term.until else ""
    return f"released by {term.actor}{ends}" + (f": {term.why}" if term.why else "")


class Breakers:
    """The breakers of one deployment."""

    def __init__(self, database: Database, doorbell: Doorbell, policy: BreakerPolicy) -> None:
        self._database = database
        self._doorbell = doorbell
        self._policy = policy

    def release(self, breaker_id: UUID, term: Term) -> str:
        """Close a breaker and ring for the step runs it kept back. Returns the breaker as it was, as JSON.

        Until the end of the term it counts no failure, and so does not open again.
        """
        with self._database.begin("commit.breaker-release") as unit:
            require_future(unit, term.until)
            store = BreakerStore(unit, self._policy)
            store.lock(breaker_id)
            text = breaker_detail(unit, breaker_id)
            if text is None:
                raise NotFound(f"there is no breaker {breaker_id}")
            found = json.loads(text)
            title = f"{found['pipeline']}/{found['step']}"
            freed = FieldChange(
                Changed.BREAKER, str(breaker_id), "released", found["project"], title, before=False, value=True
            )
            OverrideStore(unit).record([freed], term)
            audit.describe(target=f"breakers/{breaker_id}", project=found["project"], after=reason(term))
            ready = store.close([breaker_id], "released", term.actor or "", _released(term))
            unit.after_commit(lambda: self._doorbell.ring_all(Bell.LAUNCH, ready))
        return text

    def sweep(self) -> None:
        """Remove breakers whose failures are out of date, or all of them if breakers are switched off.

        Requeue jobs that were launched while their breaker opened.
        """
        requeue_waiting(self._database, self._doorbell)
        with self._database.read() as unit:
            old = BreakerStore(unit, self._policy).stale()
        if not old:
            return
        with self._database.begin("commit.breakers-swept") as unit:
            store = BreakerStore(unit, self._policy)
            # Read again under the lock: a step run may have failed meanwhile.
            old = [breaker_id for breaker_id in old if store.lock(breaker_id)]
            ready = store.close(set(store.stale()) & set(old), "released", "sweep", "breakers are switched off")
            unit.after_commit(lambda: self._doorbell.ring_all(Bell.LAUNCH, ready))
