"""The AWS Batch backend at the stand-in, as the contract and the tests of the backend use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ccat_workflow_manager.hpc.aws_batch.backend import AwsBatchBackend
from ccat_workflow_manager.hpc.base import JobRequest
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo
from ccat_workflow_manager.lifecycle.models import Mount, Resources
from ccat_workflow_manager.testing.harness import Attempt, BackendHarness, Job
from tests.stand_ins.aws_batch.jobs import Job as AwsJob
from tests.stand_ins.aws_batch.server import StandIn
from tests.support.fixtures_aws_batch import aws_batch_config, mend
from tests.support.waiting import wait_for, wait_until

SH = ("/bin/sh", "-c")
_LOOKING = ("DescribeJobs", "ListJobs")


@dataclass
class AwsBatchHarness(BackendHarness):
    """The service of this backend is a server on loopback."""

    stand_in: StandIn | None = None

    @property
    def aws(self) -> StandIn:
        assert self.stand_in is not None
        return self.stand_in

    @contextmanager
    def service_down(self) -> Iterator[None]:
        self.aws.faults.down = True
        yield
        mend(self.aws)

    @contextmanager
    def corrupt_answer(self, job: Job) -> Iterator[None]:
        self.aws.faults.garbage = True
        yield
        mend(self.aws)

    @contextmanager
    def count_status_calls(self) -> Iterator[Callable[[], int]]:
        with self.count_calls(*_LOOKING) as count:
            yield count

    @contextmanager
    def count_calls(self, *operations: str) -> Iterator[Callable[[], int]]:
        calls = self.aws.calls
        before = sum(calls[each] for each in operations)
        yield lambda: sum(calls[each] for each in operations) - before

    def submit_each(self, requests: list[JobRequest]) -> list[Job]:
        """All of them together; none is refused."""
        results = self.submit_all(requests)
        assert all(isinstance(each, Job) for each in results), results
        return [each for each in results if isinstance(each, Job)]

    def until_finished(self, jobs: Sequence[Job]) -> dict[str, HPCJobInfo]:
        """Ask for all of them in one call, until all have ended."""
        ids = [job.id for job in jobs]

        def finished() -> dict[str, HPCJobInfo] | None:
            infos = self.backend.get_statuses(ids)
            return infos if all(info.finished for info in infos.values()) else None

        return wait_for(finished, self.patience_seconds)

    def at_aws(self, job: Job) -> AwsJob:
        """The job, or its array, as the stand-in has it."""
        return self.aws.site.jobs[number_of(job)]

    def named(self, name: str) -> int:
        """How many jobs of this name there are at the stand-in."""
        return sum(each.name == name for each in self.aws.site.jobs.values())

    def run_twin(self, job: Job) -> int | None:
        """Submit the job at AWS once more, behind the back of the backend. Returns the exit code of the second."""
        first = self.at_aws(job)
        overrides = {"command": first.container["command"]}
        body = {"jobName": first.name, "jobQueue": "main", "jobDefinition": first.definition}
        number = self.aws.operations.submit({**body, "containerOverrides": overrides})["jobId"]
        twin = self.aws.site.jobs[number]
        wait_until(lambda: twin.over, 30, "the end of the second job")
        return twin.exit_code


def aws_batch_harness(stand_in: StandIn, workdir: Path, **settings: Any) -> AwsBatchHarness:
    config = {**aws_batch_config(stand_in, workdir), **settings}
    return AwsBatchHarness(
        create=partial(AwsBatchBackend, **config),
        workdir=workdir,
        factory="ccat_workflow_manager.hpc.aws_batch.backend:AwsBatchBackend",
        config=config,
        resources=Resources(cpu=1, memory_gb=0.25, time_hours=1),
        shortest_time_hours=1 / 60,
        stand_in=stand_in,
    )


def number_of(job: Job) -> str:
    """The id of a job, or of its array, at AWS."""
    return job.id.partition("_")[0].partition(":")[0]


def native_request(harness: BackendHarness, image: str, attempt: Attempt, inside: Path, *command: str) -> JobRequest:
    """A request as the service makes it for backends that run images. The container sees the attempt in `inside`."""
    mounts = [
        Mount(str(attempt.workspace), f"{inside}/workspace", writable=True),
        Mount(str(attempt.output), f"{inside}/output", writable=True),
    ]
    return replace(harness.request(*command, attempt=attempt), image_ref=image, mounts=mounts)
