"""Why a scheduler does not take a job, and which jobs have to wait for it while others go on."""

from __future__ import annotations

import time
from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum

from ccat_workflow_manager.errors import BackendUnavailable, JobDeferred

FULL_SECONDS = 15.0
"""After a scheduler has refused a job for a limit, jobs under the same limit are not submitted for so long."""
_UNCONFIRMED_AT_MOST = 3
"""In one call; then the scheduler is in trouble, not those jobs."""


class Refusal(Enum):
    """The meaning of a submit command that failed."""

    NEVER = "never"
    """The job can never run as it was requested."""
    LATER = "later"
    """A limit of the site is reached; the job was not taken."""
    FULL = "full"
    """The same, but the command was going to try again by itself, so its last try may have succeeded."""
    UNSURE = "unsure"
    """The job may have been taken."""


class LimitReached(JobDeferred):
    """A limit of the site is reached; the job was not taken and has to wait."""

    concerns_all_alike = True


class SubmissionUnconfirmed(JobDeferred):
    """The scheduler may have taken the job; the job waits until that is known."""


@dataclass(slots=True)
class SubmitAborted:
    """The first error of one `submit_many` that stands for all jobs after it."""

    error: BackendUnavailable | None = None
    unconfirmed: int = 0

    def count(self, error: SubmissionUnconfirmed) -> None:
        self.unconfirmed += 1
        if self.unconfirmed >= _UNCONFIRMED_AT_MOST:
            self.error = BackendUnavailable(error.message, backend=error.backend)


class LimitCache:
    """The limits that were reached a moment ago, each by its scope: what the jobs under it have in common."""

    def __init__(self) -> None:
        self._reached: dict[Hashable, tuple[float, LimitReached]] = {}

    def put(self, scope: Hashable, error: LimitReached) -> None:
        now = time.monotonic()
        current = {each: known for each, known in self._reached.items() if known[0] > now}
        self._reached = {**current, scope: (now + FULL_SECONDS, error)}

    def get(self, *scopes: Hashable) -> LimitReached | None:
        """The error of the first of these scopes whose limit is reached."""
        now = time.monotonic()
        for scope in scopes:
            until, error = self._reached.get(scope, (0.0, None))
            if until > now:
                return error
        return None

    def __bool__(self) -> bool:
        return bool(self._reached)
