"""A backend that runs each job when it is submitted, so that runs of real programs need no waiting."""

from __future__ import annotations

import subprocess
from typing import ClassVar
from uuid import UUID

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.hpc.base import Capabilities, HPCJobInfo, JobRequest, JobStatus
from ccat_workflow_manager.testing.fake_backend import FakeBackend


class Inline(FakeBackend):
    """Runs programs in the process of the test, one after the other."""

    capabilities: ClassVar[Capabilities] = Capabilities(find=True, bulk_status=True)

    def accept(self, request: JobRequest) -> str:
        job_id = super().accept(request)
        done = subprocess.run(
            request.execution_command, env=request.environment_variables, cwd=request.workspace_dir, check=False
        )
        status = JobStatus.COMPLETED if done.returncode == 0 else JobStatus.FAILED
        self.set_state(job_id, HPCJobInfo(status, exit_code=done.returncode, wall_time_seconds=1.0))
        return job_id


def work(context: Context) -> int:
    """Launch, poll and collect until nothing is left to do. Returns how many step runs were claimed."""
    total = 0
    while claimed := context.launcher.launch("noop", 100):
        total += claimed
        context.poller.poll_all("noop")
        context.collector.collect_waiting("noop", 100)
    return total


def ran(backend: FakeBackend) -> list[UUID]:
    """The step runs whose programs were started, in order."""
    return [UUID(job.request.job_name.split("-")[1]) for job in backend.jobs.values() if job.request.job_name]
