"""Logs that grow too large, on machines where nothing but the job itself runs.

The logs lie on a filesystem that is shared, so whoever follows a job can see how large they are. Nothing has to be
remembered: a job that is over and left too large a log was ended for it, or should have been.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ccat_workflow_manager.errors import BackendError
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.log_files import excess
from ccat_workflow_manager.hpc.attempt.script import JobFiles
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus

log = logging.getLogger(__name__)

_EVERY_SECONDS = 10.0
_AT_ONCE = 200
"""So many running jobs are looked at each time, those that were not for longest: following must not stand still."""
_REMEMBERED_SECONDS = 600.0

Files = Callable[[str], JobFiles | None]
"""The files of the job with this id, if it is known."""


class LogWatch:
    """The logs of the jobs of one backend."""

    def __init__(self, backend: str, limit_mb: float) -> None:
        self._backend = backend
        self._limit = limit_mb * 1024**2
        self._looked: dict[str, float] = {}

    def heeded(
        self, infos: Mapping[str, HPCJobInfo], files: Files, stop: Callable[[Sequence[str]], None]
    ) -> dict[str, HPCJobInfo]:
        """What is known of these jobs, by id, and of their logs. Those that are to be stopped are stopped."""
        if too_long := self._too_long(infos, files):
            log.warning("%s: stopping %s: more log than LOG_LIMIT_MB", self._backend, ", ".join(too_long))
            try:
                stop(too_long)
            except BackendError as error:
                log.warning("%s: they could not be stopped yet: %s", self._backend, error.message)
        return {job: self._judged(info, files, job) for job, info in infos.items()}

    def _too_long(self, infos: Mapping[str, HPCJobInfo], files: Files) -> list[str]:
        now = time.monotonic()
        running = [job for job, info in infos.items() if info.status is JobStatus.RUNNING]
        last = {job: self._looked.get(job, -math.inf) for job in running}
        due = sorted((job for job in running if now - last[job] >= _EVERY_SECONDS), key=last.__getitem__)[:_AT_ONCE]
        self._looked = {job: at for job, at in self._looked.items() if now - at < _REMEMBERED_SECONDS}
        self._looked |= dict.fromkeys(due, now)
        return [job for job in due if self._complaint(files(job)) is not None]

    def _judged(self, info: HPCJobInfo, files: Files, job: str) -> HPCJobInfo:
        if info.status not in (JobStatus.FAILED, JobStatus.CANCELLED) or (words := self._complaint(files(job))) is None:
            return info
        return replace(info, status=JobStatus.FAILED, reason=FailureReason.LOG_LIMIT, message=words)

    def _complaint(self, files: JobFiles | None) -> str | None:
        return excess(files, self._limit) if files is not None else None
