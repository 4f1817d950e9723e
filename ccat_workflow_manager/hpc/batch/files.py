"""The files in an attempt's directory that a batch scheduler and its jobs write, besides those of the job script."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ccat_workflow_manager.hpc.batch.script import claim_file, scheduler_log
from ccat_workflow_manager.hpc.batch.store import Member, Submission
from ccat_workflow_manager.hpc.log_files import read_end

_LOG_BYTES = 4096


def claimed(member: Member) -> list[str]:
    """The number of the job that has started the attempt, though nobody else may remember it."""
    with suppress(OSError):
        number = Path(claim_file(member)).read_text(encoding="utf-8").strip()
        return [number] if number else []
    return []


def output_of(submission: Submission) -> str:
    """Where the scheduler is to write: a file, or for an array a directory with a link for each of its tasks."""
    if not submission.array:
        return scheduler_log(submission.members[0])
    directory = Path(submission.members[0].files.script).parent / f"{submission.name}.logs"
    directory.mkdir(exist_ok=True)
    for index, member in enumerate(submission.members):
        with suppress(FileExistsError):
            os.symlink(scheduler_log(member), directory / str(index))
    return str(directory)


def scheduler_words(member: Member) -> str:
    """The end of what the scheduler itself has written about a job."""
    with suppress(OSError):
        return read_end(scheduler_log(member), _LOG_BYTES)
    return ""
