"""The log limit of jobs that run without a runner of ours: the process that polls them looks at their logs.

The logs lie on a shared filesystem. Nothing is remembered: a job that failed or was cancelled and left too large a log
was stopped for it, or should have been.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ccat_workflow_manager.errors import BackendError
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.logs import log_excess
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus

log = logging.getLogger(__name__)

_EVERY_SECONDS = 10.0
_AT_ONCE = 200
"""The most running jobs that one poll looks at, those first that were looked at longest ago."""
_REMEMBERED_SECONDS = 600.0

Files = Callable[[str], AttemptFiles | None]
"""The files of the job with this id, if it is known."""


class LogWatch:
    """Watches the logs of the jobs of one backend."""

    def __init__(self, backend: str, limit_mb: float) -> None:
        self._backend = backend
        self._limit = limit_mb * 1024**2
        self._looked_at: dict[str, float] = {}

    def apply(
        self, infos: Mapping[str, HPCJobInfo], files: Files, stop: Callable[[Sequence[str]], None]
    ) -> dict[str, HPCJobInfo]:
        """Stop the running jobs whose logs are too large. Returns the infos with that as the reason of a failure."""
        if too_long := self._too_long(infos, files):
            log.warning("%s: stopping %s: more log than LOG_LIMIT_MB", self._backend, ", ".join(too_long))
            try:
                stop(too_long)
            except BackendError as error:
                log.warning("%s: the jobs could not be stopped yet: %s", self._backend, error.message)
        return {job: self._with_reason(info, files, job) for job, info in infos.items()}

    def _too_long(self, infos: Mapping[str, HPCJobInfo], files: Files) -> list[str]:
        now = time.monotonic()
        running = [job for job, info in infos.items() if info.status is JobStatus.RUNNING]
        last = {job: self._looked_at.get(job, -math.inf) for job in running}
        due = sorted((job for job in running if now - last[job] >= _EVERY_SECONDS), key=last.__getitem__)[:_AT_ONCE]
        self._looked_at = {job: at for job, at in self._looked_at.items() if now - at < _REMEMBERED_SECONDS}
        self._looked_at |= dict.fromkeys(due, now)
        return [job for job in due if self._excess(files(job)) is not None]

    def _with_reason(self, info: HPCJobInfo, files: Files, job: str) -> HPCJobInfo:
        if info.status not in (JobStatus.FAILED, JobStatus.CANCELLED) or (why := self._excess(files(job))) is None:
            return info
        return replace(info, status=JobStatus.FAILED, reason=FailureReason.LOG_LIMIT, message=why)

    def _excess(self, files: AttemptFiles | None) -> str | None:
        return log_excess(files, self._limit) if files is not None else None
