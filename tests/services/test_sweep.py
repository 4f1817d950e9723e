"""The sweep of expired leases, and the search for messages that were lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.leases import LeaseStore
from ccat_workflow_manager.db.runs import RunStore
from ccat_workflow_manager.managers.loops import LeaseSweep
from tests.support.armed import Plan
from tests.support.step_runs import expire_leases, row, start


class CallOnce(Plan):
    """Calls a function at one point, the first time that the process passes it."""

    def __init__(self, name: str, moment: str, action: Callable[[], object]) -> None:
        super().__init__("")
        self._point, self._actions = (name, moment), [action]

    def at(self, name: str, moment: str) -> None:
        if (name, moment) == self._point and self._actions:
            self._actions.pop()()


@pytest.mark.usefixtures("disarmed")
def test_a_lease_renewed_during_the_sweep_is_kept(context: Context) -> None:
    """The worker was slow, not dead: it renews its lease while the sweep is about to release the step run."""
    start(context)
    with context.database.begin() as unit:
        [item] = RunStore(unit).claim("noop", "slow", 1, -1)
    sweep = LeaseSweep(context.database, context.doorbell)

    def renew() -> bool:
        with context.database.begin() as unit:
            return item.step_run_id in LeaseStore(unit).renew({item.step_run_id: item.token}, "slow", 60).kept

    renewed: list[bool] = []
    failpoints.arm(CallOnce("commit.silent", failpoints.AFTER, lambda: renewed.append(renew())))
    sweep.tick()
    assert renewed == [True]
    found = row(context)
    assert (found.status, found.lease_owner, found.token) == ("STAGING_DATA", "slow", item.token)
    expire_leases(context)
    sweep.tick()
    assert row(context).status == "PENDING"
    assert not renew()
