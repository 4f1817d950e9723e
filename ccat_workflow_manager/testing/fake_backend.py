"""A backend whose jobs a test controls, for states that no real backend can be brought into at will."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import ClassVar

from ccat_workflow_manager.errors import BackendError
from ccat_workflow_manager.hpc.base import BulkBackend, Capabilities, JobRequest, JobSeen
from ccat_workflow_manager.lifecycle.job_info import UNKNOWN, HPCJobInfo, JobStatus


@dataclass
class FakeJob:
    """A submitted job and its present state."""

    request: JobRequest
    info: HPCJobInfo


@dataclass
class FakeBackend(BulkBackend):
    """Jobs stay pending until `set_state` changes that."""

    name: ClassVar[str] = "fake"
    capabilities: ClassVar[Capabilities] = Capabilities(find=True, bulk_status=True, executes=False, lists=True)

    jobs: dict[str, FakeJob] = field(default_factory=dict)
    submit_error: BackendError | None = None
    status_error: BackendError | None = None
    find_error: Exception | None = None
    cancel_error: Exception | None = None
    accept_then_fail: BackendError | None = None
    """Accept the job and answer with this error all the same, like a scheduler whose answer times out."""
    stubborn: bool = False
    """Do not stop jobs on `cancel`."""
    status_calls: int = 0
    find_calls: int = 0
    cancelled: list[str] = field(default_factory=list)
    cleaned: list[str] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))
    """Ids are never reused, not even after `drop`."""

    def submit_many(self, requests: Sequence[JobRequest]) -> list[str | BackendError]:
        results: list[str | BackendError] = []
        for request in requests:
            try:
                results.append(self.accept(request))
            except BackendError as error:
                results.append(error)
        return results

    def accept(self, request: JobRequest) -> str:
        """Take one job."""
        if self.submit_error is not None:
            raise self.submit_error
        job_id = f"fake-{next(self._numbers)}"
        self.jobs[job_id] = FakeJob(request, HPCJobInfo(JobStatus.PENDING))
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
        if self.cancel_error is not None:
            raise self.cancel_error
        self.cancelled.append(job_id)
        job = self.jobs.get(job_id)
        if job is not None and not self.stubborn and not job.info.finished:
            job.info = replace(job.info, status=JobStatus.CANCELLED)

    def get_logs(self, job_id: str) -> str:
        return ""

    def cleanup(self, job_id: str) -> None:
        self.cleaned.append(job_id)

    def find(self, job_name: str) -> str | None:
        self.find_calls += 1
        if self.find_error is not None:
            raise self.find_error
        return next((job_id for job_id, job in self.jobs.items() if job.request.job_name == job_name), None)

    def list_jobs(self) -> list[JobSeen]:
        if self.status_error is not None:
            raise self.status_error
        return [JobSeen(job_id, job.request.job_name) for job_id, job in self.jobs.items() if not job.info.finished]

    # --- called by tests ---------------------------------------------------------------------------------------------

    def set_state(self, job_id: str, info: HPCJobInfo) -> None:
        self.jobs[job_id].info = info

    def drop(self, job_id: str) -> None:
        """The backend does not know this job any more."""
        del self.jobs[job_id]
