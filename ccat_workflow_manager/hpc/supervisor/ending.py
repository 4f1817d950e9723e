"""The ends of jobs: all evidence is put together and published as exit records."""

from __future__ import annotations

import os
import resource
import time
from datetime import datetime
from signal import SIGCONT, SIGTERM

from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.opener import SmallFile, read_small
from ccat_workflow_manager.hpc.attempt.record import ExitRecord, parse_exit_record, publish, signal_in, utc
from ccat_workflow_manager.hpc.supervisor import processes
from ccat_workflow_manager.hpc.supervisor.cgroups import Groups
from ccat_workflow_manager.hpc.supervisor.jobs import End, Job, Memory, State, read_part

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
        if job.group is not None:
            job.memory_used = Memory(job.group.peak(), job.group.version.source, job.group.oom_killed())
            self.release_group(job)
        else:
            job.memory_used = Memory(_peak_of_wait(job), "wait4", False)
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
        end, memory = job.end, job.memory_used
        assert end is not None
        assert memory is not None
        exit_code, ended_by = end.exit_code, end.signal
        if job.stop is not None and signal_in(exit_code) == SIGCONT:
            # SIGCONT ends no program. A container runtime passes it on after the signal that ended its program.
            exit_code, ended_by = 128 + SIGTERM, SIGTERM
        return ExitRecord(
            job_name=job.name,
            exit_code=exit_code,
            signal=ended_by,
            started_at=_time(end.started),
            finished_at=_time(end.finished),
            wall_time_seconds=None if end.wall is None else round(end.wall, 6),
            cpu_seconds=None if end.cpu is None else round(end.cpu, 6),
            peak_memory_bytes=memory.peak,
            oom_killed=memory.oom_killed,
            stopped_by=job.stop.by if job.stop is not None else None,
            stopped_text=job.stop.text if job.stop is not None else None,
            memory_source=memory.source if memory.peak is not None else None,
            host=self._host,
            left_text=job.left,
        )

    def reconstruct(self, job: Job) -> End | None:
        """The end of a job of an earlier supervisor, from the files of its script; None while they are being written.

        Sets `job.lost` if the exit code is not known.
        """
        try:
            found = read_small(job.files.record, root=job.files.directory)
            if found is not None:
                return _from_record(found)
            part = read_part(job.files)
        except (OSError, ValueError) as error:
            job.lost = (FailureReason.EXIT_RECORD_UNREADABLE, str(error))
            return End(None, finished=time.time())
        if part is not None and part.pid is None and time.time() - part.modified < _WRITING_SECONDS:
            return None
        if part is None or not part.complete:
            job.lost = self._why_lost(job)
            return End(None, finished=time.time())
        wall = started = None
        if part.began is not None and job.boot == self._boot:
            began = time.time() - (processes.uptime() - part.began)
            wall = max(0.0, part.modified - began)
            started = part.modified - wall
        return End(part.exit_code, None, started, part.modified, wall)

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


def _from_record(found: SmallFile) -> End:
    """The end of a job from the record of its script alone. Raises ValueError."""
    record, ended = parse_exit_record(found.text), found.modified
    started = None if record.wall_time_seconds is None else ended - record.wall_time_seconds
    return End(record.exit_code, record.signal, started, ended, record.wall_time_seconds, record.cpu_seconds)


def _peak_of_wait(job: Job) -> int | None:
    """The largest process as the kernel counted it, or the largest sum that was measured.

    For the kernel a process begins as large as the one that started it, which says nothing about the job.
    """
    largest = job.end.peak if job.end is not None and job.end.peak is not None else 0
    if largest <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024:
        largest = 0
    return max(largest, job.sampled_peak) or None


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else utc(seconds)
