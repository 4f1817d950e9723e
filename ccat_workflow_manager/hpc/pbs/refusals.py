"""The meaning of the words and exit codes of PBS's commands. Pure text.

A command of PBS ends with the number of the server's error modulo 256. The texts are those of OpenPBS 23.06.06 and of
its list of messages; Torque has the same ancestor and mostly the same words.
"""

from __future__ import annotations

import re

from ccat_workflow_manager.hpc.batch.refusals import Refusal

HISTORY = 35
"""The job has finished, and only the history knows it."""
NO_HISTORY = 34
UNKNOWN_JOB = 153
WRONG_STATE = 166
"""The state of the job does not allow this, because it is just ending."""

_GONE = re.compile(r"Unknown Job Id|Job has finished|Request invalid for state of job", re.IGNORECASE)
_NO_HISTORY = re.compile(r"not configured to maintain job history", re.IGNORECASE)
_UNSURE = re.compile(
    r"cannot connect|could not connect|connection|errno=|timed? ?out|end of file|premature|protocol error"
    r"|communication|credential|munge|server shutting down|internal error|system error|no server specified"
    r"|no free connections|no route to host|resource temporarily unavailable|Failed to save job",
    re.IGNORECASE,
)
_LATER = re.compile(
    r"maximum number of jobs|would exceed|max_queued|limit .*reached|queue is not enabled|license", re.IGNORECASE
)
_NEVER = re.compile(
    r"unknown (queue|resource|node)|illegal|invalid|undefined attribute|unauthorized|not allowed|denied|too long"
    r"|violates|exceeds|bad [UG]ID|no default queue|rejected|usage:|out of range|specification|mutually exclusive"
    r"|cannot (be used|have)|not of type|duplicated? |unsupported|no support|cannot set attribute",
    re.IGNORECASE,
)


def refusal(returncode: int, words: str) -> Refusal:
    """The meaning of a failed `qsub`. Words that are not known mean that the job may have been taken."""
    if returncode < 0 or _UNSURE.search(words):
        return Refusal.UNSURE
    if _LATER.search(words):
        return Refusal.LATER
    return Refusal.NEVER if _NEVER.search(words) else Refusal.UNSURE


def only_gone(returncode: int, complaints: str) -> bool:
    """Whether a command failed only for jobs that are over or forgotten; it was carried out for the others."""
    lines = [line for line in complaints.splitlines() if line.strip()]
    if not lines:
        # The wrappers around Slurm print nothing.
        return returncode in (HISTORY, UNKNOWN_JOB, WRONG_STATE)
    return all(_GONE.search(line) for line in lines)


def without_history(returncode: int, complaints: str) -> bool:
    """Whether the server refused because it does not keep jobs that are over."""
    return returncode == NO_HISTORY or bool(_NO_HISTORY.search(complaints))
