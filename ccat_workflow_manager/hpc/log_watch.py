"""The log limit of jobs that run without a runner of ours: the process that polls them looks at their logs.

The logs lie on a shared filesystem. Nothing is remembered: a job that failed or was cancelled and left too large a log
was stopped for it, or should have been.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from ccat_workflow_manager.errors import BackendError
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.disk import GIB, disk_excess
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.logs import log_excess
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)

_EVERY_SECONDS = 10.0
_AT_ONCE = 200
_REMEMBERED_SECONDS = 600.0
_SHOWN_LATE_SECONDS = 60.0

Files = Callable[[str], AttemptFiles | None]
"""The files of the job with this id, if it is known."""


class Turns:
    """Which of many jobs to look at in one poll: those first that were looked at longest ago, and not all of them."""

    def __init__(self) -> None:
        self._looked_at: dict[Hashable, float] = {}

    def take(self, jobs: Iterable[K]) -> list[K]:
        now = time.monotonic()
        last = {job: self._looked_at.get(job, -math.inf) for job in jobs}
        due = sorted((job for job in last if now - last[job] >= _EVERY_SECONDS), key=last.__getitem__)[:_AT_ONCE]
        self._looked_at = {job: at for job, at in self._looked_at.items() if now - at < _REMEMBERED_SECONDS}
        self._looked_at |= dict.fromkeys(due, now)
        return due


class LogWatch:
    """Watches the logs of the jobs of one backend, and the disk space of their attempts."""

    def __init__(self, backend: str, limit_mb: float, disk_limit_gb: float = 0) -> None:
        """`disk_limit_gb`: 0 is none."""
        self._backend = backend
        self._limit = limit_mb * 1024**2
        self._disk_limit = disk_limit_gb * GIB
        self._turns = Turns()

    def apply(
        self, infos: Mapping[str, HPCJobInfo], files: Files, stop: Callable[[Sequence[str]], None]
    ) -> dict[str, HPCJobInfo]:
        """Stop the running jobs that write too much. Returns the infos with that as the reason of a failure."""
        if too_much := self._too_much(infos, files):
            log.warning("%s: stopping %s: %s", self._backend, ", ".join(too_much), "; ".join(set(too_much.values())))
            try:
                stop(list(too_much))
            except BackendError as error:
                log.warning("%s: the jobs could not be stopped yet: %s", self._backend, error.message)
        return {job: self._with_reason(info, files, job) for job, info in infos.items()}

    def _too_much(self, infos: Mapping[str, HPCJobInfo], files: Files) -> dict[str, str]:
        running = (job for job, info in infos.items() if info.status is JobStatus.RUNNING)
        found = {job: self._excess(files(job), JobStatus.RUNNING) for job in self._turns.take(running)}
        return {job: excess[1] for job, excess in found.items() if excess is not None}

    def _with_reason(self, info: HPCJobInfo, files: Files, job: str) -> HPCJobInfo:
        if info.status not in (JobStatus.FAILED, JobStatus.CANCELLED):
            return info
        if (excess := self._excess(files(job), info.status)) is None:
            return info
        reason, text = excess
        return replace(info, status=JobStatus.FAILED, reason=reason, message=text)

    def _excess(self, files: AttemptFiles | None, status: JobStatus) -> tuple[FailureReason, str] | None:
        if files is None:
            return None
        why = log_excess(files, self._limit)
        if why is None and status is not JobStatus.FAILED:
            # A program that fails may have tidied up. One that goes on to write cannot be watched.
            why = _removed(files)
        if why is not None:
            return FailureReason.LOG_LIMIT, why
        if self._disk_limit and (why := disk_excess(files.directory, self._disk_limit)) is not None:
            return FailureReason.DISK_LIMIT, why
        return None


def _removed(files: AttemptFiles) -> str | None:
    """Why a job must stop whose log is not there any more although its script has made it."""
    started = False
    with suppress(OSError):
        started = time.time() - os.lstat(files.record_part).st_mtime > _SHOWN_LATE_SECONDS
    if not (started or os.path.lexists(files.record)):
        return None
    if all(map(os.path.lexists, (files.stdout, files.stderr))):
        return None
    return "the program removed its log while it ran, so LOG_LIMIT_MB cannot be kept"
