"""A backend that is away for a moment costs time, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ccat_workflow_manager.errors import BackendUnavailable
from ccat_workflow_manager.flow import WorkflowEngine
from ccat_workflow_manager.flow.jobs import JobBackend
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from ccat_workflow_manager.testing.fake_backend import FakeBackend
from tests.programs.running import run
from tests.support.waiting import wait_until


class Asked(FakeBackend):
    """Counts how often it was asked to cancel."""

    asked = 0

    def cancel(self, job_id: str) -> None:
        self.asked += 1
        super().cancel(job_id)


def with_fake(hpc: FakeBackend, program: Callable[[WorkflowEngine], Awaitable[None]]) -> None:
    async def with_engine() -> None:
        async with await WorkflowEngine.create(backend=JobBackend("fake", hpc)) as flow:
            await program(flow)

    run(with_engine)


async def until(condition: Callable[[], object], what: str) -> None:
    await asyncio.to_thread(wait_until, condition, what=what)


def test_a_task_outlives_a_backend_that_answers_nothing() -> None:
    hpc = FakeBackend(accept_then_fail=BackendUnavailable("away"), find_error=BackendUnavailable("away"))

    async def program(flow: WorkflowEngine) -> None:
        @flow.executable_task
        async def work() -> str:
            return "true"

        tasks = [work(), work()]
        await until(lambda: hpc.find_calls > 2, "the backend to be asked for the jobs")
        hpc.accept_then_fail = hpc.find_error = None
        await until(lambda: len(hpc.jobs) >= 2, "all jobs")
        for job_id in list(hpc.jobs):
            hpc.set_state(job_id, HPCJobInfo(JobStatus.COMPLETED, exit_code=0))
        await asyncio.gather(*tasks)
        names = [job.request.job_name for job in hpc.jobs.values()]
        assert len(names) == len(set(names)) == 2

    with_fake(hpc, program)


def test_a_cancel_outlives_a_backend_that_is_away() -> None:
    hpc = Asked(cancel_error=BackendUnavailable("away"))

    async def program(flow: WorkflowEngine) -> None:
        @flow.executable_task
        async def work() -> str:
            return "true"

        task = work()
        await until(lambda: hpc.jobs, "the job")
        await until(lambda: hpc.status_calls, "the job to be followed")
        task.cancel()
        await until(lambda: hpc.asked, "the cancel to fail")
        hpc.cancel_error = None
        await until(lambda: hpc.cancelled, "the job to be cancelled")

    with_fake(hpc, program)
