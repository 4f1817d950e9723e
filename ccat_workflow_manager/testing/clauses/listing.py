"""The list of jobs, in which the service finds orphans."""

from __future__ import annotations

from ccat_workflow_manager.errors import BackendError
from ccat_workflow_manager.hpc.base import HPCBackend
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.testing.clauses.identity import endless
from ccat_workflow_manager.testing.harness import BackendHarness, ClauseFailed, Job, NotClaimed, check

_A_FEW_CALLS = 5


def clause_lists_what_has_not_ended(harness: BackendHarness) -> None:
    """`list_jobs` gives id and name of each job that has not ended, in a few calls, also to a fresh object."""
    _needs_listing(harness)
    over = harness.submit("true")
    harness.until(over, JobStatus.COMPLETED)
    live = endless(harness)
    _until_listed(harness, harness.backend, live)
    looker = harness.create()
    try:
        _until_listed(harness, looker, live)
        with harness.count_status_calls() as calls:
            for _ in looker.list_jobs():
                pass
            check(calls() <= _A_FEW_CALLS, f"a list took {calls()} calls")
        harness.poll(lambda: over.id not in _listed(looker), "a job that has ended to leave the list")
    finally:
        looker.close()


def clause_lists_each_of_many(harness: BackendHarness) -> None:
    """`list_jobs` lists each of the jobs that were submitted together."""
    _needs_listing(harness)
    results = harness.submit_all([harness.endless_request() for _ in range(3)])
    for result in results:
        if isinstance(result, BackendError):
            raise ClauseFailed(f"an ordinary job was not taken: {result}") from result
        _until_listed(harness, harness.backend, result)


def clause_cancelled_by_the_listed_id(harness: BackendHarness) -> None:
    """A job is cancelled by the id that `list_jobs` gives, and leaves the list when it is gone."""
    _needs_listing(harness)
    job = endless(harness)
    _until_listed(harness, harness.backend, job)
    [listed] = [job_id for job_id, name in _listed(harness.backend).items() if name == job.request.job_name]
    harness.backend.cancel(listed)
    harness.until(job, JobStatus.CANCELLED)
    harness.poll(lambda: job.id not in _listed(harness.backend), "a cancelled job to leave the list")


def _until_listed(harness: BackendHarness, backend: HPCBackend, job: Job) -> None:
    """An answer may be a little old."""
    name = job.request.job_name
    harness.poll(lambda: _listed(backend).get(job.id) == name, f"the job {job.id} to be listed under its name {name}")


def _listed(backend: HPCBackend) -> dict[str, str]:
    return {job.job_id: job.job_name for job in backend.list_jobs()}


def _needs_listing(harness: BackendHarness) -> None:
    if not harness.backend.capabilities.lists:
        raise NotClaimed("listing jobs is not claimed")
