"""The files in an attempt's directory that a batch scheduler and its jobs write, besides those of the job script."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ccat_workflow_manager.hpc.attempt.logs import read_end
from ccat_workflow_manager.hpc.batch.script import claim_file
from ccat_workflow_manager.hpc.batch.store import ArrayTask, Submission

_LOG_BYTES = 4096


def claimed(member: ArrayTask) -> list[str]:
    """The number of the job that has started the attempt, though nobody else may remember it."""
    with suppress(OSError):
        number = Path(claim_file(member)).read_text(encoding="utf-8").strip()
        return [number] if number else []
    return []


def output_of(submission: Submission) -> str:
    """Where the scheduler is to write: a file, or for an array a directory of files, which is there then."""
    output = _output(submission)
    if submission.array:
        os.makedirs(output, exist_ok=True)
    return output


def scheduler_words(submission: Submission, index: int) -> str:
    """The end of what the scheduler itself has written about one member."""
    output = _output(submission)
    with suppress(OSError):
        path = os.path.join(output, str(index)) if submission.array else output
        return read_end(path, root=submission.members[0].files.directory, limit=_LOG_BYTES)
    return ""


def _output(submission: Submission) -> str:
    """Beside the logs of the command; of an array, in the directory of its first member, which all nodes see."""
    first = submission.members[0].files
    if submission.array:
        return os.path.join(os.path.dirname(first.script), f"{submission.name}.logs")
    return os.path.join(os.path.dirname(first.stdout), "scheduler.log")
