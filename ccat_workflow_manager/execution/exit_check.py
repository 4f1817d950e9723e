"""The exit record of a finished job: the proof that the program came to its own end."""

from __future__ import annotations

import time

from ccat_workflow_manager.errors import OutputError
from ccat_workflow_manager.execution.launch_spec import Progress, no_progress
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.record import ExitRecord, parse_exit_record, read_record

_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0


def check_exit_record(
    workspace_dir: str, job_name: str, *, patience_seconds: float = 0.0, progress: Progress = no_progress
) -> ExitRecord:
    """The record of a job that its backend says has ended.

    A shared filesystem may show the record to another machine only after a while: `patience_seconds` is how long to
    wait for it. Raises OutputError with EXIT_RECORD_MISSING or EXIT_RECORD_UNREADABLE.
    """
    files = AttemptFiles.of(workspace_dir, job_name)
    path = files.record
    deadline = time.monotonic() + patience_seconds
    pause = _FIRST_PAUSE
    while True:
        text = _read(files)
        if text is not None:
            break
        left = deadline - time.monotonic()
        if left <= 0:
            raise OutputError(FailureReason.EXIT_RECORD_MISSING, f"the job is over, but {path} is not there")
        time.sleep(min(pause, left))
        pause = min(pause * 2, _LONGEST_PAUSE)
        progress()
    try:
        record = parse_exit_record(text)
    except ValueError as error:
        raise OutputError(FailureReason.EXIT_RECORD_UNREADABLE, f"{path}: {error}") from error
    if record.job_name != job_name:
        message = f"{path} is the record of the job {record.job_name}"
        raise OutputError(FailureReason.EXIT_RECORD_UNREADABLE, message)
    return record


def _read(files: AttemptFiles) -> str | None:
    try:
        return read_record(files)
    except OSError as error:
        message = f"{files.record} cannot be read: {error.strerror}"
        raise OutputError(FailureReason.EXIT_RECORD_UNREADABLE, message) from error
