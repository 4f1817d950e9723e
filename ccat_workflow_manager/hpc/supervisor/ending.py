"""The ends of jobs: all evidence is put together and published as exit records."""

from __future__ import annotations

import os
import resource
import time
from dataclasses import replace
from signal import SIGCONT, SIGTERM

from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.opener import SmallFile, read_small
from ccat_workflow_manager.hpc.attempt.record import ExitRecord, parse_exit_record, publish, signal_in, utc
from ccat_workflow_manager.hpc.supervisor import processes
from ccat_workflow_manager.hpc.supervisor.cgroups import Groups
from ccat_workflow_manager.hpc.supervisor.jobs import Job, State, read_part

_WRITING_SECONDS = 2.0
"""After this long no script is still writing the first line of its part."""


class Endings:
    """Collects the jobs that have ended and publishes their records."""

    def __init__(self, groups: Groups | None, boot: str) -> None:
        self._groups = groups
        self._boot = boot
        self._host = os.uname().nodename
        self._ended: list[Job] = []

    def add(self, job: Job) -> None:
        """Add a job that is over and has no processes left."""
        if job.end is not None:
            job.end = _with_memory(job.end, job)
        self.release_group(job)
        self._ended.append(job)

    def release_group(self, job: Job) -> None:
        if job.group is not None and self._groups is not None:
            self._groups.release(job.group)
        job.group = None

    def publish(self) -> list[str]:
        """Write the records of the jobs that were added since the last call. Returns their ids."""
        ended, self._ended = self._ended, []
        for job in ended:
            self._publish(job)
            job.state = State.FINISHED
        return [job.id for job in ended]

    def is_published(self, job: Job) -> bool:
        """Whether a supervisor has written the whole record, which then counts."""
        try:
            found = read_small(job.files.record, root=job.files.directory)
            if found is None or parse_exit_record(found.text).finished_at is None:
                return False
        except (OSError, ValueError):
            return False
        job.record = found.text
        return True

    def _publish(self, job: Job) -> None:
        if job.record is not None:
            return
        if job.stop is not None:
            job.lost = None
        record = self._record(job)
        job.record = record.to_json()
        if job.lost is not None:
            return
        try:
            publish(job.files, record)
        except OSError as error:
            if job.stop is None:
                full = disk_full(job.workspace)
                reason = FailureReason.DISK_FULL if full else FailureReason.EXIT_RECORD_MISSING
                job.lost = (reason, f"the exit record cannot be written: {error.strerror}: {job.files.record}")

    def _record(self, job: Job) -> ExitRecord:
        end = job.end
        assert end is not None
        if job.stop is not None and signal_in(end.exit_code) == SIGCONT:
            # SIGCONT ends no program. A container runtime passes it on after the signal that ended its program.
            end = replace(end, exit_code=128 + SIGTERM, signal=SIGTERM)
        return replace(
            end,
            stopped_by=job.stop.by if job.stop is not None else None,
            stopped_text=job.stop.text if job.stop is not None else None,
            host=self._host,
            left_text=job.left,
        )

    def reconstruct(self, job: Job) -> ExitRecord | None:
        """The end of a job of an earlier supervisor, from the files of its script; None while they are being written.

        Sets `job.lost` if the exit code is not known.
        """
        try:
            return self._reconstructed(job)
        except (OSError, ValueError, OverflowError) as error:
            job.lost = (FailureReason.EXIT_RECORD_UNREADABLE, str(error))
            return ended_now(job)

    def _reconstructed(self, job: Job) -> ExitRecord | None:
        found = read_small(job.files.record, root=job.files.directory)
        if found is not None:
            return _from_record(found, job)
        part = read_part(job.files)
        if part is not None and part.pid is None and time.time() - part.modified < _WRITING_SECONDS:
            return None
        if part is None or not part.complete:
            job.lost = self._why_lost(job)
            return ended_now(job)
        wall = started = None
        if part.began is not None and job.boot == self._boot:
            began = time.time() - (processes.uptime() - part.began)
            wall = round(max(0.0, part.modified - began), 6)
            started = utc(part.modified - wall)
        finished = utc(part.modified)
        return ExitRecord(job.name, part.exit_code, None, started, finished, wall_time_seconds=wall)

    def _why_lost(self, job: Job) -> tuple[FailureReason, str]:
        if job.boot != self._boot:
            return FailureReason.NODE_FAILURE, f"{self._host} was started anew while the job ran"
        return FailureReason.EXIT_RECORD_MISSING, "the job's processes are gone, and its script has left no exit code"


def disk_full(path: str) -> bool:
    try:
        space = os.statvfs(path)
    except OSError:
        return False
    return space.f_bavail == 0 or (space.f_files > 0 and space.f_favail == 0)


def ended_now(job: Job) -> ExitRecord:
    """The end of a job of which nothing else is known."""
    return ExitRecord(job.name, None, finished_at=utc(time.time()))


def _from_record(found: SmallFile, job: Job) -> ExitRecord:
    """The end of a job from the record of its script alone."""
    record, ended = parse_exit_record(found.text), found.modified
    started = None if record.wall_time_seconds is None else utc(ended - record.wall_time_seconds)
    return replace(record, job_name=job.name, started_at=started, finished_at=utc(ended), peak_memory_bytes=None)


def _with_memory(end: ExitRecord, job: Job) -> ExitRecord:
    """With the most memory that the job has used, and the source of the number."""
    if job.group is not None:
        peak, source, oom_killed = job.group.peak(), job.group.version.source, job.group.oom_killed()
    else:
        peak, source, oom_killed = _peak_of_wait(end, job), "wait4", False
    return replace(
        end, peak_memory_bytes=peak, memory_source=source if peak is not None else None, oom_killed=oom_killed
    )


def _peak_of_wait(end: ExitRecord, job: Job) -> int | None:
    """The largest process as the kernel counted it, or the largest sum that was measured.

    For the kernel a process begins as large as the one that started it, which says nothing about the job.
    """
    largest = end.peak_memory_bytes or 0
    if largest <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024:
        largest = 0
    return max(largest, job.sampled_peak) or None
