"""A backend that goes through every state and runs nothing: for dry runs and load tests.

Everything about a job is in its id: when it was submitted, how long it "runs", how it ends. So any process can compute
its state, nothing is stored, and a status costs next to nothing. Only a cancel leaves a trace: a small file in
`state_dir`, or, without one, a note in this process.

A job waits for a tenth of its delay (a second at most), then runs for the delay. `resources.extra` chooses the end:

    resources: {extra: {delay_seconds: 2, outcome: out_of_memory}}       # or failed, time_limit, completed
    resources: {extra: {outcome: failed, exit_code: 3}}

`find` is not claimed: it would need a note for every job, and a noop job that is submitted a second time does no harm.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from pydantic import Field

from ccat_workflow_manager.errors import BackendError, BackendRejected, BackendUnavailable, ConfigurationError
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.base import BulkBackend, Capabilities, JobRequest
from ccat_workflow_manager.json_values import JSON
from ccat_workflow_manager.lifecycle.job_info import UNKNOWN, HPCJobInfo, JobStatus
from ccat_workflow_manager.lifecycle.models import Resources
from ccat_workflow_manager.settings import BackendSettings, settings_of

_PREFIX = "noop"
_WAITING_SHARE = 0.1
_LONGEST_WAIT_MILLISECONDS = 1000
_LONGEST_DELAY_SECONDS = 10 * 365 * 86400
_EXTRA_KEYS = ("delay_seconds", "outcome", "exit_code")

_cancelled_here: dict[str, float] = {}
"""Cancelled jobs of backends without `state_dir`, and when."""


class Outcome(StrEnum):
    """How a noop job ends."""

    COMPLETED = "completed"
    FAILED = "failed"
    OUT_OF_MEMORY = "out_of_memory"
    TIME_LIMIT = "time_limit"


_EXIT_CODES = {Outcome.COMPLETED: 0, Outcome.FAILED: 1, Outcome.OUT_OF_MEMORY: 137, Outcome.TIME_LIMIT: 143}
_REASONS = {
    Outcome.COMPLETED: None,
    Outcome.FAILED: FailureReason.PROGRAM_FAILED,
    Outcome.OUT_OF_MEMORY: FailureReason.OUT_OF_MEMORY,
    Outcome.TIME_LIMIT: FailureReason.TIME_LIMIT,
}


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the first part of a job id says; times in milliseconds since the epoch."""

    submitted: int
    started: int
    finished: int
    outcome: Outcome
    exit_code: int


class NoopSettings(BackendSettings):
    """`NOOP_...`: how noop jobs end."""

    delay_seconds: float = Field(default=0, ge=0, description="How long a job of the noop backend pretends to run.")
    failure_rate: float = Field(default=0, ge=0, le=1, description="Share of noop jobs that fail.")


class NoopBackend(BulkBackend):
    """Runs nothing. `failure_rate` is the share of jobs that fail; which ones follows from their names alone."""

    name = "noop"
    # A dry run takes whatever the real backend would be asked for (GPUs, partition, account): nothing is allocated.
    capabilities = Capabilities(
        bulk_status=True,
        bulk_submit=True,
        executes=False,
        live_logs=False,
        time_limit=False,
        memory_limit=False,
        gpu=True,
    )
    settings = NoopSettings

    def __init__(self, *, state_dir: str | os.PathLike[str] | None = None, **settings: Any) -> None:
        given = settings_of(NoopSettings, self.name, settings)
        if given.delay_seconds > _LONGEST_DELAY_SECONDS:
            raise ConfigurationError(f"NOOP_DELAY_SECONDS must be at most {_LONGEST_DELAY_SECONDS}")
        self._delay_seconds = given.delay_seconds
        self._failure_rate = given.failure_rate
        self._state_dir = Path(state_dir) if state_dir is not None else None

    def submit_many(self, requests: Sequence[JobRequest]) -> list[str | BackendError]:
        now = int(time.time() * 1000)
        results: list[str | BackendError] = []
        for request in requests:
            try:
                results.append(self._job_id(request.resource_requirements, request.job_name, now))
            except BackendRejected as error:
                results.append(error)
        return results

    def get_status(self, job_id: str) -> HPCJobInfo:
        return self.get_statuses([job_id])[job_id]

    def get_statuses(self, job_ids: Sequence[str]) -> dict[str, HPCJobInfo]:
        now = int(time.time() * 1000)
        cancelled = self._cancelled()
        # Jobs that were submitted together have the same plan, and so share one answer.
        by_plan: dict[str, HPCJobInfo] = {}
        infos: dict[str, HPCJobInfo] = {}
        for job_id in job_ids:
            plan = job_id.partition(":")[0]
            info = by_plan.get(plan)
            if info is None:
                info = by_plan[plan] = _info(_parse(plan), now)
            infos[job_id] = info
        if cancelled:
            for job_id, info in infos.items():
                if info is not UNKNOWN and (when := cancelled.get(_marker(job_id))) is not None:
                    infos[job_id] = _cancelled_info(info, when)
        return infos

    def cancel(self, job_id: str) -> None:
        info = self.get_status(job_id)
        if info.finished or info is UNKNOWN:
            return
        if self._state_dir is None:
            _cancelled_here.setdefault(_marker(job_id), time.time())
            return
        try:
            self._state_dir.mkdir(parents=True, exist_ok=True)
            (self._state_dir / _marker(job_id)).touch()
        except OSError as error:
            raise self._unavailable(error) from error

    def get_logs(self, job_id: str) -> str:
        return ""

    def cleanup(self, job_id: str) -> None:
        _cancelled_here.pop(_marker(job_id), None)
        if self._state_dir is not None:
            with suppress(FileNotFoundError):
                (self._state_dir / _marker(job_id)).unlink()

    def _job_id(self, resources: Resources, job_name: str, now: int) -> str:
        if resources.extra:
            delay, outcome, exit_code = self._wishes(resources.extra, job_name)
        else:
            delay, outcome = self._delay_seconds, self._drawn_outcome(job_name)
            exit_code = _EXIT_CODES[outcome]
        return f"{_PREFIX}-{now}-{int(delay * 1000)}-{outcome}-{exit_code}:{job_name}"

    def _drawn_outcome(self, job_name: str) -> Outcome:
        if not self._failure_rate:
            return Outcome.COMPLETED
        draw = int.from_bytes(blake2b(job_name.encode(), digest_size=8).digest()) / 2**64
        return Outcome.FAILED if draw < self._failure_rate else Outcome.COMPLETED

    def _wishes(self, extra: Mapping[str, JSON], job_name: str) -> tuple[float, Outcome, int]:
        """What `resources.extra` says about this one job."""
        unknown = [key for key in extra if key not in _EXTRA_KEYS]
        if unknown:
            raise self._rejected(f"extra.{unknown[0]} means nothing here; known are {', '.join(_EXTRA_KEYS)}")
        delay = extra.get("delay_seconds", self._delay_seconds)
        if not _is_number(delay) or not 0 <= delay <= _LONGEST_DELAY_SECONDS:
            raise self._rejected(f"extra.delay_seconds must be a number, 0 or more, not {delay!r}")
        wanted = extra.get("outcome", self._drawn_outcome(job_name))
        if wanted not in tuple(Outcome):
            raise self._rejected(f"extra.outcome must be one of {', '.join(Outcome)}, not {wanted!r}")
        outcome = Outcome(wanted)
        exit_code = extra.get("exit_code", _EXIT_CODES[outcome])
        if not isinstance(exit_code, int) or isinstance(exit_code, bool) or not 0 <= exit_code <= 255:
            raise self._rejected(f"extra.exit_code must be a whole number from 0 to 255, not {exit_code!r}")
        if (exit_code == 0) is not (outcome is Outcome.COMPLETED):
            raise self._rejected(f"extra.exit_code {exit_code} and the outcome {outcome} contradict each other")
        return delay, outcome, exit_code

    def _cancelled(self) -> Mapping[str, float]:
        """The markers of cancelled jobs and when they were made."""
        if self._state_dir is None:
            return _cancelled_here
        try:
            with os.scandir(self._state_dir) as entries:
                return {entry.name: entry.stat().st_mtime for entry in entries}
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._unavailable(error) from error

    def _rejected(self, message: str) -> BackendRejected:
        return BackendRejected(f"the noop backend cannot take this job: {message}", backend=self.name)

    def _unavailable(self, error: OSError) -> BackendUnavailable:
        return BackendUnavailable(f"the noop backend cannot use {self._state_dir}: {error.strerror}", backend=self.name)


def _is_number(value: JSON) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _marker(job_id: str) -> str:
    """A file name for any job id."""
    return blake2b(job_id.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


@lru_cache(maxsize=1024)
def _parse(plan: str) -> _Plan | None:
    """The plan in the first part of a job id; None if it is none of ours."""
    parts = plan.split("-")
    if len(parts) != 5 or parts[0] != _PREFIX or not all(part.isdecimal() for part in (parts[1], parts[2], parts[4])):
        return None
    try:
        submitted, delay, outcome, exit_code = int(parts[1]), int(parts[2]), Outcome(parts[3]), int(parts[4])
        _time(submitted + 2 * delay)
    except (ValueError, OverflowError, OSError):
        return None
    started = submitted + min(int(delay * _WAITING_SHARE), _LONGEST_WAIT_MILLISECONDS)
    return _Plan(submitted, started, started + delay, outcome, exit_code)


def _info(plan: _Plan | None, now: int) -> HPCJobInfo:
    if plan is None:
        return UNKNOWN
    submitted = _time(plan.submitted)
    if now < plan.started:
        return HPCJobInfo(JobStatus.PENDING, message="the noop backend lets jobs wait a little", submitted_at=submitted)
    if now < plan.finished:
        return HPCJobInfo(JobStatus.RUNNING, submitted_at=submitted, started_at=_time(plan.started))
    completed = plan.outcome is Outcome.COMPLETED
    return HPCJobInfo(
        JobStatus.COMPLETED if completed else JobStatus.FAILED,
        exit_code=plan.exit_code,
        wall_time_seconds=(plan.finished - plan.started) / 1000,
        cpu_hours=0.0,
        peak_memory_gb=0.0,
        reason=_REASONS[plan.outcome],
        message=None if completed else f"the noop backend was asked to end this job as {plan.outcome}",
        submitted_at=submitted,
        started_at=_time(plan.started),
        finished_at=_time(plan.finished),
    )


def _cancelled_info(info: HPCJobInfo, when: float) -> HPCJobInfo:
    """A job is marked only while it has not finished, so a marked job is cancelled whatever its plan says."""
    stopped = datetime.fromtimestamp(when, UTC)
    started = info.started_at if info.started_at is not None and info.started_at < stopped else None
    return replace(
        info,
        status=JobStatus.CANCELLED,
        exit_code=None,
        wall_time_seconds=(stopped - started).total_seconds() if started else None,
        reason=FailureReason.CANCELLED,
        message=None,
        started_at=started,
        finished_at=stopped,
    )


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
