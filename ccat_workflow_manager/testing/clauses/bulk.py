"""Many jobs at once."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from threading import Event
from time import monotonic

from ccat_workflow_manager.errors import BackendError
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.base import HPCBackend
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.testing.harness import BackendHarness, ClauseFailed, Job, NotClaimed, check

_MANY = 50
_SOME = 10
_LEASE_SECONDS = 20.0
_FORGOTTEN = (JobStatus.COMPLETED, JobStatus.UNKNOWN)
"""A new object of a backend without shared records need not know the jobs of another one."""


def clause_submit_many_in_order(harness: BackendHarness) -> None:
    """`submit_many` gives the ids of the jobs in order, and all of them run."""
    requests = [harness.request("sh", "-c", f"exit {code}") for code in (0, 0, 0)]
    if harness.backend.capabilities.executes:
        requests = [harness.request("sh", "-c", f"exit {code}") for code in (0, 3, 0, 4)]
    jobs = [_job(result) for result in harness.submit_all(requests)]
    codes = [harness.ended(job).exit_code for job in jobs]
    wanted = [int(request.execution_command[-1].removeprefix("exit ")) for request in requests]
    check(codes == wanted, f"the jobs should end with {wanted} in this order, but ended with {codes}")


def clause_submit_many_errors_one_by_one(harness: BackendHarness) -> None:
    """A job of `submit_many` that is refused does not keep the others from running."""
    bad = harness.unsupported()[0]
    requests = [harness.request("true"), harness.request("true", resources=bad), harness.request("true")]
    results = harness.submit_all(requests)
    check(isinstance(results[1], BackendError), f"the second job should have been refused, but got {results[1]!r}")
    for result in (results[0], results[2]):
        harness.until(_job(result), JobStatus.COMPLETED)
    check(harness.backend.submit_many([]) == [], "no jobs, no results")


def clause_slow_submit(harness: BackendHarness) -> None:
    """Submitting takes no longer than a lease, or than `submit_seconds` claims: ten jobs, or one of them by itself."""
    backend = harness.backend
    one_by_one = type(backend).submit_many is HPCBackend.submit_many
    began = monotonic()
    results = harness.submit_all([harness.request("true") for _ in range(_SOME)])
    seconds = (monotonic() - began) / (_SOME if one_by_one else 1)
    most = max(_LEASE_SECONDS, backend.submit_seconds)
    check(seconds <= most, f"submitting took {seconds:.0f} s; `submit_seconds` claims {backend.submit_seconds:g}")
    for result in results:
        _job(result)


def clause_one_garbage_record_among_ten(harness: BackendHarness) -> None:
    """A job that destroys its exit record hides no other job of a status call."""
    jobs = [_job(result) for result in harness.submit_all([harness.request("true") for _ in range(_SOME)])]
    for job in jobs:
        harness.until(job, JobStatus.COMPLETED)
    record = AttemptFiles.of(jobs[3].request.workspace_dir, jobs[3].request.job_name).record
    with contextlib.suppress(OSError), open(record, "wb") as file:
        file.write(b'\xff\x00{"exit_code": 1e999')
    fresh = harness.create()
    try:
        statuses = fresh.get_statuses([job.id for job in jobs])
    finally:
        fresh.close()
    wrong = {job.id: statuses[job.id] for job in [*jobs[:3], *jobs[4:]] if statuses[job.id].status not in _FORGOTTEN}
    check(not wrong, f"nine jobs have completed, but one destroyed record makes them {wrong}")


def clause_fifty_ids_one_status_call(harness: BackendHarness) -> None:
    """The status of fifty jobs costs one call to the scheduler, where that is claimed."""
    if not harness.backend.capabilities.bulk_status:
        raise NotClaimed("the status of many jobs in one call is not claimed")
    jobs = [_job(result) for result in harness.submit_all([harness.request("true") for _ in range(_MANY)])]
    ids = [job.id for job in jobs]

    def all_ended() -> bool:
        return all(info.finished for info in harness.backend.get_statuses(ids).values())

    harness.poll(all_ended, f"{_MANY} jobs to end", harness.patience_seconds * 2)
    with harness.count_status_calls() as calls:
        statuses = harness.backend.get_statuses([*ids, "no-such-job"])
        check(calls() <= 1, f"{_MANY} ids took {calls()} calls")
    check(set(statuses) == {*ids, "no-such-job"}, "get_statuses must answer for every id that it was asked for")
    check(statuses["no-such-job"].status is JobStatus.UNKNOWN, "an unknown id among known ones must be unknown")
    wrong = {job_id: info for job_id in ids if (info := statuses[job_id]).status is not JobStatus.COMPLETED}
    check(not wrong, f"all jobs have completed, but not for get_statuses: {wrong}")
    check(harness.backend.get_statuses([]) == {}, "no ids, no answer")


def clause_ends_are_notified(harness: BackendHarness) -> None:
    """`listen` reports the end of a job, where that is claimed, until it is stopped."""
    if not harness.backend.capabilities.notifies:
        raise NotClaimed("notifying is not claimed")
    heard: set[str] = set()
    rung = Event()

    def on_change(job_ids: Sequence[str]) -> None:
        heard.update(job_ids)
        rung.set()

    stop = harness.backend.listen(on_change)
    try:
        job = harness.submit("true")
        harness.poll(lambda: rung.wait(0.1) and job.id in heard, "news of the job's end")
        check(harness.backend.get_status(job.id).finished, "news of the end must not come before the end")
    finally:
        stop()


def _job(result: Job | BackendError) -> Job:
    if isinstance(result, BackendError):
        raise ClauseFailed(f"an ordinary job was not taken: {result}") from result
    return result
