"""What it means that `sbatch` failed: can it ever work, must it wait, or did the job perhaps get through? Pure text."""

from __future__ import annotations

import re
from enum import Enum


class Refusal(Enum):
    """What became of a job that was not taken."""

    NEVER = "never"
    """It can never run as it was asked for."""
    LATER = "later"
    """A limit of the site is reached; it was not taken."""
    UNSURE = "unsure"
    """Nobody knows whether it was taken."""


_UNSURE = re.compile(
    r"timed? ?out|unable to contact|connect failure|connection (refused|reset|failure)|zero bytes were transmitted"
    r"|transport endpoint|communication|not responding|authentication|credential|munge|temporarily unable|in standby mode"
    r"|resource temporarily unavailable|no route to host|unexpected message|slurmdbd|i/o error|write error",
    re.IGNORECASE,
)
_NEVER_LIMIT = re.compile(
    r"(QOS|Assoc)?\w*(PerJob|PerNode|MaxWall\w*|MinCpu|MinGRES|MinTRES)\w*Limit|MaxWallDuration", re.IGNORECASE
)
_LATER = re.compile(
    r"accounting/QOS policy|(QOS|Assoc)(Max|Grp)\w+|MaxSubmit|MaxJobs|job submit limit|job queue is full|job.*count.*limit"
    r"|MaxJobCount|partition is (down|inactive|drained)|required partition not available|reached the limit",
    re.IGNORECASE,
)
_NEVER = re.compile(
    r"batch job submission failed|invalid|unrecogni[sz]ed|not (valid|allowed|permitted|authorized)|unknown|can not be satisfied"
    r"|does not look like a batch script|denied",
    re.IGNORECASE,
)


def refusal(returncode: int, words: str) -> Refusal:
    """What `sbatch` meant. In doubt it may have been taken: that is looked up before anything is submitted again."""
    if returncode < 0 or _UNSURE.search(words):
        return Refusal.UNSURE
    if _NEVER_LIMIT.search(words):
        return Refusal.NEVER
    if _LATER.search(words):
        return Refusal.LATER
    return Refusal.NEVER if _NEVER.search(words) else Refusal.UNSURE
