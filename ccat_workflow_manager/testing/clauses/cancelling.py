"""A cancel stops the job with all its processes, and is never an error."""

from __future__ import annotations

from pathlib import Path

from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.testing.clauses.identity import STRANGE_IDS, endless
from ccat_workflow_manager.testing.harness import BackendHarness, NotClaimed, check
from ccat_workflow_manager.testing.programs import FAMILY, sh


def clause_cancel_running(harness: BackendHarness) -> None:
    """A running job that is cancelled becomes `cancelled`, and stays so."""
    job = endless(harness)
    harness.until(job, JobStatus.RUNNING)
    harness.backend.cancel(job.id)
    harness.until(job, JobStatus.CANCELLED)
    check(harness.backend.get_status(job.id).status is JobStatus.CANCELLED, "a cancelled job must stay cancelled")


def clause_cancel_at_once(harness: BackendHarness) -> None:
    """A job that is cancelled right after submit is stopped as well, however far it has got."""
    job = harness.submit_endless()
    harness.backend.cancel(job.id)
    harness.until(job, JobStatus.CANCELLED)


def clause_cancel_ignoring_term(harness: BackendHarness) -> None:
    """A program that ignores the polite signal, or answers it with exit code 0, is cancelled none the less."""
    harness.needs_programs()
    for reaction in ("", "exit 0"):
        ready = harness.attempt().root / "ready"
        script = f"trap '{reaction}' TERM; touch \"$1\"; while :; do sleep 0.1; done"
        job = harness.submit(*sh(script, str(ready)))
        harness.poll(ready.exists, "the program to start")
        harness.backend.cancel(job.id)
        harness.until(job, JobStatus.CANCELLED)


def clause_cancel_twice(harness: BackendHarness) -> None:
    """Cancelling twice is no error."""
    job = endless(harness)
    harness.backend.cancel(job.id)
    harness.backend.cancel(job.id)
    harness.until(job, JobStatus.CANCELLED)
    harness.backend.cancel(job.id)
    check(harness.backend.get_status(job.id).status is JobStatus.CANCELLED, "a cancelled job must stay cancelled")


def clause_cancel_finished(harness: BackendHarness) -> None:
    """A job that has finished stays what it is when it is cancelled."""
    completed = harness.submit("true")
    harness.until(completed, JobStatus.COMPLETED)
    harness.backend.cancel(completed.id)
    status = harness.backend.get_status(completed.id).status
    check(status is JobStatus.COMPLETED, f"a completed job became {status} when it was cancelled")
    if harness.backend.capabilities.executes:
        failed = harness.submit("false")
        harness.until(failed, JobStatus.FAILED)
        harness.backend.cancel(failed.id)
        status = harness.backend.get_status(failed.id).status
        check(status is JobStatus.FAILED, f"a failed job became {status} when it was cancelled")


def clause_cancel_unknown(harness: BackendHarness) -> None:
    """Cancelling an unknown id is no error, and does not make it known."""
    for job_id in STRANGE_IDS:
        harness.backend.cancel(job_id)
        status = harness.backend.get_status(job_id).status
        check(status is JobStatus.UNKNOWN, f"the unknown id {job_id!r} became {status} when it was cancelled")


def clause_cancel_kills_the_whole_tree(harness: BackendHarness) -> None:
    """No process of a cancelled job is left: children, children in their own session, orphans."""
    harness.needs_programs()
    if not harness.jobs_run_here:
        raise NotClaimed("the processes of the jobs are not visible here")
    family = harness.attempt().root
    job = harness.submit(*sh(FAMILY, str(family)))
    harness.poll((family / "ready").exists, "all processes of the job to start")
    members = {path.stem: int(path.read_text()) for path in family.glob("*.pid")}
    check(all(map(_alive, members.values())), f"the job's processes should all be running: {members}")
    harness.backend.cancel(job.id)
    harness.until(job, JobStatus.CANCELLED)
    harness.poll(
        lambda: not any(map(_alive, members.values())),
        f"the end of all processes of a cancelled job; started were {members}",
    )


def _alive(pid: int) -> bool:
    """Whether there is such a process and it is not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
