"""Limits are kept, each with its own reason; a request that cannot be met is refused."""

from __future__ import annotations

from dataclasses import replace

from ccat_workflow_manager.errors import BackendRejected
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.testing.harness import BackendHarness, ClauseFailed, NotClaimed, check
from ccat_workflow_manager.testing.programs import HOG, sh


def clause_time_limit(harness: BackendHarness) -> None:
    """A job that runs into its time limit is ended and fails with the reason time_limit."""
    harness.needs_programs()
    if not harness.backend.capabilities.time_limit:
        raise NotClaimed("a time limit is not claimed")
    limited = replace(harness.resources, time_hours=harness.shortest_time_hours)
    job = harness.submit("sleep", "1000", resources=limited)
    harness.patience_seconds += harness.shortest_time_hours * 3600
    info = harness.until(job, JobStatus.FAILED)
    check(info.reason is FailureReason.TIME_LIMIT, f"the reason must be time_limit: {info}")


def clause_memory_limit(harness: BackendHarness) -> None:
    """A job that needs more memory than it has asked for is ended and fails with the reason out_of_memory."""
    harness.needs_programs()
    if not harness.backend.capabilities.memory_limit:
        raise NotClaimed("a memory limit is not claimed")
    job = harness.submit(harness.python, "-I", "-c", HOG, resources=replace(harness.resources, memory_gb=0.125))
    info = harness.until(job, JobStatus.FAILED)
    check(info.reason is FailureReason.OUT_OF_MEMORY, f"the reason must be out_of_memory: {info}")


def clause_limits_do_not_hurt_the_modest(harness: BackendHarness) -> None:
    """A job that stays within its limits does not notice them."""
    harness.needs_programs()
    job = harness.submit(*sh("i=0; while [ $i -lt 1000 ]; do i=$((i+1)); done"))
    harness.until(job, JobStatus.COMPLETED)


def clause_unsupported_resources_are_refused(harness: BackendHarness) -> None:
    """What the backend cannot give is refused, never dropped; the refusal says what it is about."""
    for resources in harness.unsupported():
        request = harness.request("true", resources=resources)
        try:
            job = harness.submit_request(request)
        except BackendRejected as error:
            check(len(error.message) > 20, f"the refusal of {resources} does not say why: {error.message!r}")
        else:
            raise ClauseFailed(f"{resources} cannot be given here, and yet the job was taken as {job.id}")
