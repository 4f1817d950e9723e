"""A backend whose jobs do what a test tells them: for the cases that a real backend cannot be brought into at will."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import ClassVar

from ccat_workflow_manager.errors import BackendError
from ccat_workflow_manager.hpc.base import Capabilities, HPCBackend, JobSeen
from ccat_workflow_manager.lifecycle.job_info import UNKNOWN, HPCJobInfo, JobStatus
from ccat_workflow_manager.lifecycle.models import Resources


@dataclass
class FakeJob:
    """A job as the fake keeps it."""

    name: str
    info: HPCJobInfo
    resources: Resources
    command: Sequence[str]
    environment: Mapping[str, str]
    workspace_dir: str


@dataclass
class FakeBackend(HPCBackend):
    """Jobs stay pending until `tell` says what has become of them."""

    name: ClassVar[str] = "fake"
    capabilities: ClassVar[Capabilities] = Capabilities(find=True, bulk_status=True, executes=False, lists=True)

    jobs: dict[str, FakeJob] = field(default_factory=dict)
    submit_error: BackendError | None = None
    status_error: BackendError | None = None
    accept_then_fail: BackendError | None = None
    """Take the job and answer with this error all the same, as a scheduler does that times out."""
    stubborn: bool = False
    """Do not stop on `cancel`."""
    status_calls: int = 0
    cancelled: list[str] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))
    """Ids are not given out again, not even after `forget`."""

    def submit(
        self,
        *,
        execution_command: Sequence[str],
        image_ref: str | None,
        sif_path: str | None,
        input_dir: str,
        output_dir: str,
        workspace_dir: str,
        manifest_path: str,
        resource_requirements: Resources,
        environment_variables: Mapping[str, str],
        job_name: str,
    ) -> str:
        if self.submit_error is not None:
            raise self.submit_error
        job_id = f"fake-{next(self._numbers)}"
        self.jobs[job_id] = FakeJob(
            job_name,
            HPCJobInfo(JobStatus.PENDING),
            resource_requirements,
            execution_command,
            environment_variables,
            workspace_dir,
        )
        if self.accept_then_fail is not None:
            raise self.accept_then_fail
        return job_id

    def get_status(self, job_id: str) -> HPCJobInfo:
        return self.get_statuses([job_id])[job_id]

    def get_statuses(self, job_ids: Sequence[str]) -> dict[str, HPCJobInfo]:
        self.status_calls += 1
        if self.status_error is not None:
            raise self.status_error
        return {job_id: self.jobs[job_id].info if job_id in self.jobs else UNKNOWN for job_id in job_ids}

    def cancel(self, job_id: str) -> None:
        self.cancelled.append(job_id)
        job = self.jobs.get(job_id)
        if job is not None and not self.stubborn and not job.info.finished:
            job.info = replace(job.info, status=JobStatus.CANCELLED)

    def get_logs(self, job_id: str) -> str:
        return ""

    def find(self, job_name: str) -> str | None:
        return next((job_id for job_id, job in self.jobs.items() if job.name == job_name), None)

    def list_jobs(self) -> list[JobSeen]:
        if self.status_error is not None:
            raise self.status_error
        return [JobSeen(job_id, job.name) for job_id, job in self.jobs.items() if not job.info.finished]

    # --- what a test says --------------------------------------------------------------------------------------------

    def tell(self, job_id: str, info: HPCJobInfo) -> None:
        """From now on the job is in this state."""
        self.jobs[job_id].info = info

    def forget(self, job_id: str) -> None:
        """From now on nobody here has heard of the job."""
        del self.jobs[job_id]
