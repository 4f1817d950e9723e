"""Every way in which a job ends has its own status and reason."""

from __future__ import annotations

from ccat_workflow_manager.errors import BackendRejected
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.record import parse_exit_record
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from ccat_workflow_manager.testing.harness import BackendHarness, ClauseFailed, Job, NotClaimed, check
from ccat_workflow_manager.testing.programs import BURN, sh

_MISSING = "/nonexistent/no-such-program"


def clause_exit_0_is_completed(harness: BackendHarness) -> None:
    """Exit code 0 is `completed`, and stays so."""
    job = harness.submit(*sh("exit 0"))
    info = harness.until(job, JobStatus.COMPLETED)
    check(info.exit_code == 0, f"a completed job must have exit code 0, not {info.exit_code}")
    check(harness.backend.get_status(job.id).status is JobStatus.COMPLETED, "a completed job must stay completed")


def clause_exit_3_is_failed(harness: BackendHarness) -> None:
    """Exit code 3 is `failed` with exit code 3."""
    harness.needs_programs()
    info = harness.until(harness.submit(*sh("exit 3")), JobStatus.FAILED)
    check(info.exit_code == 3, f"the program ended with exit code 3, the backend says {info.exit_code}")
    check(info.reason in (None, FailureReason.PROGRAM_FAILED), f"exit code 3 is the program's own, not {info.reason}")


def clause_exit_255_is_failed(harness: BackendHarness) -> None:
    """Exit codes up to 255 arrive as they are."""
    harness.needs_programs()
    info = harness.until(harness.submit(*sh("exit 255")), JobStatus.FAILED)
    check(info.exit_code == 255, f"the program ended with exit code 255, the backend says {info.exit_code}")


def clause_missing_program_is_failed(harness: BackendHarness) -> None:
    """A program that does not exist is refused or fails, and the backend says that it is missing."""
    harness.needs_programs()
    try:
        job = harness.submit(_MISSING)
    except BackendRejected as error:
        check(_MISSING in error.message, f"the refusal must name the program: {error.message}")
        return
    info = harness.until(job, JobStatus.FAILED)
    check(
        info.reason is FailureReason.COMMAND_NOT_FOUND or (info.reason is None and info.exit_code == 127),
        f"a missing program must give exit code 127 or the reason command_not_found, not {info}",
    )


def clause_killed_by_signal_is_failed(harness: BackendHarness) -> None:
    """A program that is killed by a signal fails, and the signal is known."""
    harness.needs_programs()
    info = harness.until(harness.submit(*sh("kill -KILL $$")), JobStatus.FAILED)
    check(info.signal == 9 or info.exit_code == 137, f"the program was ended by signal 9, the backend says {info}")
    check(
        info.reason in (None, FailureReason.KILLED_BY_SIGNAL),
        f"the job exceeded no limit, and yet the reason is {info.reason}",
    )


def clause_exit_record_is_there(harness: BackendHarness) -> None:
    """Where the exit record is claimed, it is there once the job is over, and says the same."""
    if not harness.backend.capabilities.exit_record:
        raise NotClaimed("the exit record is not claimed; the service wraps the command itself")
    for code, status in ((0, JobStatus.COMPLETED), (3, JobStatus.FAILED)):
        job = harness.submit(*sh(f"exit {code}"))
        harness.until(job, status)
        try:
            files = AttemptFiles.of(job.request.workspace_dir, job.request.job_name)
            with open(files.record, encoding="utf-8") as file:
                record = parse_exit_record(file.read())
        except (OSError, ValueError) as error:
            raise ClauseFailed(f"the exit record of a job that is over cannot be read: {error}") from error
        check(record.exit_code == code, f"the program ended with {code}, the exit record says {record.exit_code}")
        check(record.job_name == job.request.job_name, f"the exit record is that of {record.job_name!r}")


def clause_metrics_are_plausible(harness: BackendHarness) -> None:
    """Wall time, CPU time and peak memory of a finished job are those of its program, if the backend reports them."""
    harness.needs_programs()
    job = harness.submit(harness.python, "-I", "-c", BURN)
    info = harness.until(job, JobStatus.COMPLETED)
    told = [value for value in (info.wall_time_seconds, info.cpu_hours, info.peak_memory_gb) if value is not None]
    if not told:
        raise NotClaimed("this backend reports no metrics")
    _check_metrics(info, job)


def _check_metrics(info: HPCJobInfo, job: Job) -> None:
    if info.wall_time_seconds is not None:
        check(0.3 <= info.wall_time_seconds < 600, f"0.4 s of work took {info.wall_time_seconds} s of wall time")
    if info.cpu_hours is not None:
        seconds = info.cpu_hours * 3600
        check(0.3 <= seconds < 30, f"0.4 s of CPU time are reported as {seconds} s")
    if info.peak_memory_gb is not None:
        check(0.05 <= info.peak_memory_gb < 1, f"a program of some 75 MB peaked at {info.peak_memory_gb} GB")
    if info.started_at is not None and info.finished_at is not None:
        check(info.started_at <= info.finished_at, f"{job.id} finished before it started: {info}")
