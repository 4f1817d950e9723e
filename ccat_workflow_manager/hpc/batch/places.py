"""Jobs that have to wait while others go on, and the places that take no more of them."""

from __future__ import annotations

import time
from collections.abc import Hashable
from dataclasses import dataclass

from ccat_workflow_manager.errors import BackendUnavailable, JobDeferred

FULL_SECONDS = 15.0
"""What has just said that it is full is not asked again for so long."""
_UNSETTLED_AT_MOST = 3
"""In one call; then it is not those jobs but the scheduler that is in trouble."""


class LimitReached(JobDeferred):
    """A limit of the site is reached; the job was not taken and has to wait."""


class SubmissionUnconfirmed(JobDeferred):
    """The scheduler may have taken the job; that has to be known before anything else is done."""


@dataclass(slots=True)
class SubmitAborted:
    """The first error of one `submit_many` that stands for all the rest."""

    error: BackendUnavailable | None = None
    unsettled: int = 0

    def count(self, error: SubmissionUnconfirmed) -> None:
        self.unsettled += 1
        if self.unsettled >= _UNSETTLED_AT_MOST:
            self.error = BackendUnavailable(error.message, backend=error.backend)


class LimitCache:
    """What takes no more jobs, for a moment."""

    def __init__(self) -> None:
        self._full: dict[Hashable, tuple[float, LimitReached]] = {}

    def note(self, place: Hashable, error: LimitReached) -> None:
        now = time.monotonic()
        still = {each: known for each, known in self._full.items() if known[0] > now}
        self._full = {**still, place: (now + FULL_SECONDS, error)}

    def at(self, *places: Hashable) -> LimitReached | None:
        """What one of these has said, if it is known to be full."""
        now = time.monotonic()
        for place in places:
            until, error = self._full.get(place, (0.0, None))
            if until > now:
                return error
        return None

    def __bool__(self) -> bool:
        return bool(self._full)
