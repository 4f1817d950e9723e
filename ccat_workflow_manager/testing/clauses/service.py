"""Trouble with the service behind a backend is never taken for the state of a job."""

from __future__ import annotations

from collections.abc import Callable

from ccat_workflow_manager.errors import BackendConfused, BackendUnavailable
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.testing.harness import BackendHarness, ClauseFailed, check


def clause_service_down_is_unavailable(harness: BackendHarness) -> None:
    """When the service does not answer, every call says so; the job's state is known again afterwards."""
    job = harness.submit("true")
    harness.until(job, JobStatus.COMPLETED)
    calls: dict[str, Callable[[], object]] = {
        "get_status": lambda: harness.backend.get_status(job.id),
        "get_statuses": lambda: harness.backend.get_statuses([job.id, "no-such-job"]),
        "submit": lambda: harness.submit("true"),
    }
    with harness.service_down():
        for name, call in calls.items():
            try:
                answer = call()
            except BackendUnavailable:
                continue
            raise ClauseFailed(f"the service is down, and yet {name} answered {answer}")
    status = harness.backend.get_status(job.id).status
    check(status is JobStatus.COMPLETED, f"after the service came back the job is {status}")


def clause_unreadable_answer_is_confused(harness: BackendHarness) -> None:
    """When an answer cannot be read, the backend says so and concludes nothing from it."""
    job = harness.submit("true")
    harness.until(job, JobStatus.COMPLETED)
    with harness.corrupt_answer(job):
        try:
            info = harness.backend.get_status(job.id)
        except BackendConfused as error:
            check(len(error.message) > 20, f"the error does not say what could not be read: {error.message!r}")
        else:
            raise ClauseFailed(f"the answer cannot be read, and yet the backend concluded {info}")
    status = harness.backend.get_status(job.id).status
    check(status is JobStatus.COMPLETED, f"after the answer became readable the job is {status}")
