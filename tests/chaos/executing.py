"""A fake backend whose jobs have directories and exit records, and workers that share it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar
from uuid import UUID

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.errors import BackendError
from ccat_workflow_manager.hpc.base import Capabilities, JobRequest
from ccat_workflow_manager.managers.loops import LeaseSweep
from ccat_workflow_manager.testing.fake_backend import FakeBackend
from tests.support.step_runs import end_delays, expire_leases, start


class Executing(FakeBackend):
    """Claims that its jobs run programs."""

    capabilities: ClassVar[Capabilities] = Capabilities(find=True, bulk_status=True)
    meanwhile: Callable[[], None] = staticmethod(lambda: None)
    """What another worker does between the call of `submit_many` and the submission."""

    def submit_many(self, requests: Sequence[JobRequest]) -> list[str | BackendError]:
        self.meanwhile()
        return super().submit_many(requests)


def start_one(context: Context) -> UUID:
    [run_id] = start(context)
    return run_id


def sweep(context: Context) -> None:
    """Every lease is over, and a manager notices."""
    expire_leases(context)
    LeaseSweep(context.database, context.doorbell).tick()
    end_delays(context)
