"""A job is known by its id and by its name, from its submission on and from anywhere."""

from __future__ import annotations

from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.testing.harness import BackendHarness, Job, NotClaimed, check
from ccat_workflow_manager.testing.programs import WAIT_FOR_FILE, sh

STRANGE_IDS = (
    "no-such-job",
    "",
    "0",
    "-1",
    "../../../../etc/passwd",
    "/etc/passwd",
    "a b; true",
    "$(true)",
    "%s%n",
    "line\nbreak",
    "nul\0byte",
    "\u00e9\u4e16\u754c",
    "x" * 5000,
    "999999999999999999999999",
)


def clause_id_known_after_submit(harness: BackendHarness) -> None:
    """A job is known under its id as soon as submit has returned."""
    job = harness.submit("true")
    status = harness.backend.get_status(job.id).status
    check(status is not JobStatus.UNKNOWN, "the job is unknown right after submit")
    check(status is not JobStatus.FAILED, "the job failed right after submit")
    harness.until(job, JobStatus.COMPLETED)


def clause_ids_are_different(harness: BackendHarness) -> None:
    """Every job has an id of its own."""
    jobs = [harness.submit("true") for _ in range(5)]
    check(len({job.id for job in jobs}) == 5, f"five jobs have the ids {[job.id for job in jobs]}")


def clause_unknown_id_is_unknown(harness: BackendHarness) -> None:
    """An id that the backend does not know is `unknown`: never an exception, never completed; it has no log."""
    for job_id in STRANGE_IDS:
        status = harness.backend.get_status(job_id).status
        check(status is JobStatus.UNKNOWN, f"the status of the unknown id {job_id!r} is {status}, not unknown")
        log = harness.backend.get_logs(job_id)
        check(log == "", f"the log of the unknown id {job_id!r} is {log[:200]!r}")
    statuses = harness.backend.get_statuses(STRANGE_IDS)
    check(set(statuses) == set(STRANGE_IDS), "get_statuses must answer for every id that it was asked for")
    check(all(info.status is JobStatus.UNKNOWN for info in statuses.values()), f"not all are unknown: {statuses}")


def clause_followed_from_another_process(harness: BackendHarness) -> None:
    """A fresh backend object in another process follows the job, reads its log and sees its end."""
    harness.needs_to_be_followed_elsewhere()
    if not harness.backend.capabilities.executes:
        job = harness.submit("true")
        harness.until(job, JobStatus.COMPLETED)
        check(harness.elsewhere("status", job.id)["status"] == "completed", "another process does not see the end")
        return
    gate = harness.attempt().root / "go"
    job = harness.submit(*sh("echo started; " + WAIT_FOR_FILE + "; echo over; exit 4", str(gate)))
    harness.until(job, JobStatus.RUNNING)
    seen = harness.elsewhere("status", job.id)["status"]
    check(seen == "running", f"the job is running, but {seen} for another process")
    if harness.backend.capabilities.live_logs:
        harness.poll(lambda: "started" in harness.elsewhere("logs", job.id), "another process to read the log")
    gate.touch()
    harness.until(job, JobStatus.FAILED)
    seen = harness.elsewhere("status", job.id)
    check(seen == {"status": "failed", "exit_code": 4}, f"the job failed with exit code 4, another process sees {seen}")
    check("over" in harness.elsewhere("logs", job.id), "another process does not see the whole log")


def clause_cancelled_from_another_process(harness: BackendHarness) -> None:
    """A fresh backend object in another process can cancel the job."""
    harness.needs_to_be_followed_elsewhere()
    job = endless(harness)
    harness.elsewhere("cancel", job.id)
    harness.until(job, JobStatus.CANCELLED)


def clause_find_by_name(harness: BackendHarness) -> None:
    """`find` knows a job by its name from the moment of submit, also in another process, and never invents one."""
    if not harness.backend.capabilities.find:
        raise NotClaimed("`find` is not claimed")
    job = endless(harness)
    name = job.request.job_name
    found = harness.backend.find(name)
    check(found == job.id, f"find({name!r}) is {found!r}, but the job's id is {job.id!r}")
    found = harness.backend.find(name + "0")
    check(found is None, f"find knows {found!r} under a name that was never used")
    found = harness.elsewhere("find", name)
    check(found == job.id, f"in another process find({name!r}) is {found!r}, but the job's id is {job.id!r}")


def clause_find_adopts(harness: BackendHarness) -> None:
    """One that does not know whether it has submitted asks `find` first, and so a job never runs twice."""
    if not harness.backend.capabilities.find:
        raise NotClaimed("`find` is not claimed")
    harness.needs_programs()
    request = harness.request(*sh('echo once >> "$1"', str(harness.attempt().root / "starts")))
    job = harness.submit_request(request)
    harness.until(job, JobStatus.COMPLETED)
    adopted = harness.create()
    try:
        found = adopted.find(request.job_name)
        check(found == job.id, f"a job that is over must still be found by name, but find gave {found!r}")
    finally:
        adopted.close()
    starts = request.execution_command[-1]
    with open(starts, encoding="utf-8") as file:
        check(file.read() == "once\n", "the job has run more than once")


def endless(harness: BackendHarness) -> Job:
    """A job that does not end by itself, known to be there."""
    job = harness.submit_endless()
    harness.until(job, JobStatus.PENDING, JobStatus.RUNNING)
    return job
