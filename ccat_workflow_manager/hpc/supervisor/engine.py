"""Starts jobs, keeps their limits and ends them: the part of the supervisor that handles processes and no sockets.

To stop a job, the engine sends SIGTERM to all of its processes but the script, which records how the command ended.
After the grace period it sends SIGKILL to the rest until none is left. A job is over when its main process has ended:
processes that it leaves in the background are killed at once.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from math import inf
from typing import Any, Protocol

from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt import process_tree
from ccat_workflow_manager.hpc.attempt.record import ExitRecord, signal_in, utc
from ccat_workflow_manager.hpc.attempt.runner import IGNORED_BY_PYTHON
from ccat_workflow_manager.hpc.attempt.script import CGROUP_VARIABLE, clean_environment, job_variables
from ccat_workflow_manager.hpc.supervisor import processes
from ccat_workflow_manager.hpc.supervisor.cgroups import Groups
from ccat_workflow_manager.hpc.supervisor.ending import Endings, disk_full, ended_now
from ccat_workflow_manager.hpc.supervisor.index import Index
from ccat_workflow_manager.hpc.supervisor.jobs import Job, Part, State, Stop, claim, new_job, read_part
from ccat_workflow_manager.hpc.supervisor.queue import Limits, Queue
from ccat_workflow_manager.json_values import listed

_TICK_SECONDS = 1.0
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.01, 0.25
_GIVE_UP_SECONDS = 30.0
_NAMED = 10
_TRY_AGAIN_SECONDS = 1.0


class Watcher(Protocol):
    """Calls the engine when a process ends that is not its child."""

    def watch(self, pidfd: int, job: Job) -> None: ...
    def unwatch(self, pidfd: int) -> None: ...


class Engine:
    """The jobs, their queue and their processes."""

    def __init__(self, index: Index, groups: Groups | None, limits: Limits, watcher: Watcher, boot: str) -> None:
        self.jobs: dict[str, Job] = {}
        self.active: dict[str, Job] = {}
        """Jobs that run or are being ended."""
        self.queue = Queue(limits)
        self.boot = boot
        self._index = index
        self._groups = groups
        self._watcher = watcher
        self._names: dict[str, str] = {}
        self._children: dict[int, Job] = {}
        self._endings = Endings(groups, boot)
        self._disk = processes.DiskWatch()
        self._tick_at = inf
        self._try_again_at = 0.0
        self._environment = clean_environment()

    # --- requests of clients ----------------------------------------------------------------------------------------

    def submit(self, item: dict[str, Any]) -> str:
        """Accept a job, unless one of its name is known. Returns the id of either. Raises Refused and OSError."""
        known = self._names.get(item["name"])
        if known is not None:
            return known
        job = new_job(item, self.boot)
        self.queue.check(job)
        self._index.add(job)
        self.keep(job)
        self.queue.put(job)
        return job.id

    def find(self, name: str) -> str | None:
        return self._names.get(name)

    def cancel(self, job_id: str) -> None:
        job = self.jobs.get(job_id)
        if job is not None:
            self.stop(job, Stop("cancel", "cancelled on request"), self.queue.limits.kill_grace)

    def forget(self, job_id: str) -> None:
        """Forget a job if it is finished."""
        job = self.jobs.get(job_id)
        if job is not None and job.state is State.FINISHED:
            self._index.remove(job_id)
            del self.jobs[job_id]
            self._names.pop(job.name, None)

    def is_running(self, job_ids: Iterable[str]) -> bool:
        """Whether one of these jobs runs, or is being ended."""
        return any(job_id in self.active for job_id in job_ids)

    def why_waiting(self) -> str:
        if self._try_again_at:
            return "the machine could not start another process; it is tried again"
        return self.queue.why()

    @property
    def idle(self) -> bool:
        return not self.active and not len(self.queue)

    # --- keeping and starting ----------------------------------------------------------------------------------------

    def keep(self, job: Job) -> None:
        self.jobs[job.id] = job
        self._names[job.name] = job.id

    def start_next(self) -> None:
        """Start the jobs for which there is room."""
        while not self._try_again_at and (job := self.queue.take()) is not None:
            if not self._start(job):
                self.queue.put(job, first=True)
                self._try_again_at = time.monotonic() + _TRY_AGAIN_SECONDS

    def _start(self, job: Job) -> bool:
        """Start the script of a job. Returns False if the machine cannot start a process now."""
        job.group = self._groups.acquire(job.memory) if self._groups is not None else None
        environment = {**self._environment, **job_variables(job.id)}
        if job.group is not None:
            environment[CGROUP_VARIABLE] = job.group.join_file
        try:
            pid = os.posix_spawn(
                "/bin/sh",
                ["/bin/sh", job.files.script],
                environment,
                setsid=True,
                setsigdef=IGNORED_BY_PYTHON,
                setsigmask=(),
            )
        except OSError:
            self._endings.release_group(job)
            return False
        self._children[pid] = job
        self._run(job, pid, time.time(), time.monotonic())
        return True

    def _run(self, job: Job, pid: int, started: float, began: float) -> None:
        job.state, job.pid = State.RUNNING, pid
        job.started, job.began = started, began
        job.deadline = job.wake = began + job.time_limit
        if job.stop is not None:
            job.kill_at, job.wake, job.pause = time.monotonic() + self.queue.limits.kill_grace, 0.0, _SHORTEST_PAUSE
        self.queue.occupy(job)
        job.occupies = True
        self._attend(job)

    def _attend(self, job: Job) -> None:
        self._tick_at = min(self._tick_at, time.monotonic() + _TICK_SECONDS)
        self.active[job.id] = job

    def _leave(self, job: Job) -> None:
        """Free the resources of a job."""
        self.active.pop(job.id, None)
        if job.occupies:
            self.queue.vacate(job)
            job.occupies = False
        if not self.active:
            self._tick_at = inf

    def adopt(self, job: Job, part: Part) -> bool:
        """Take over a job that an earlier supervisor has started. Returns False if its script is over."""
        if part.pid is None or part.began is None:
            return False
        try:
            pidfd = os.pidfd_open(part.pid) if hasattr(os, "pidfd_open") else None
        except OSError:
            pidfd = None  # it has ended, or the kernel is older than 5.3: then `_tick` checks it
        if not processes.is_script_of(part.pid, job):
            if pidfd is not None:
                os.close(pidfd)
            return False
        job.adopted = True
        job.root = process_tree.identity(part.pid)
        job.group = self._groups.adopt(part.pid) if self._groups is not None else None
        age = max(0.0, processes.uptime() - part.began)
        self._run(job, part.pid, time.time() - age, time.monotonic() - age)
        if pidfd is not None:
            job.watch = pidfd
            self._watcher.watch(pidfd, job)
        return True

    # --- the ends of job scripts -------------------------------------------------------------------------------------

    def reap(self) -> None:
        """Collect the children that have ended. Orphans that have become children are waited for as well."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            job = self._children.pop(pid, None)
            if job is None:
                continue
            code = os.waitstatus_to_exitcode(status)
            end = ExitRecord(
                job.name,
                exit_code=128 - code if code < 0 else code,
                signal=-code if code < 0 else signal_in(code),
                started_at=utc(job.started),
                finished_at=utc(time.time()),
                wall_time_seconds=round(time.monotonic() - job.began, 6),
                cpu_seconds=round(usage.ru_utime + usage.ru_stime, 6),
                peak_memory_bytes=usage.ru_maxrss * 1024,
            )
            if code <= 0 or self._has_run(job, code):
                self._script_over(job, end)

    def _has_run(self, job: Job, code: int) -> bool:
        """Whether a child that ended with this code is the script that has run the command.

        It is not if an earlier script had claimed the attempt, or has left its record: then that script is taken over.
        `job.lost` is set if the script could not begin, or could not record the end.
        """
        try:
            part = read_part(job.files)
        except OSError:
            part = None
        another = os.path.exists(job.files.record) if part is None else part.pid not in (None, job.pid)
        if another:
            self._leave(job)
            self._endings.release_group(job)
            job.pid, job.root = 0, None
            if part is None or not self.adopt(job, part):
                self.take_over_ended(job)
            return False
        if part is None or not part.complete:
            if disk_full(job.workspace):
                job.lost = (FailureReason.DISK_FULL, "the disk is full, the job script could not go on")
            else:
                words = f"the job script ended with {code} and has not written why"
                job.lost = (FailureReason.EXIT_RECORD_MISSING, words)
        return True

    def adopted_ended(self, job: Job) -> None:
        """The script of an adopted job is over."""
        if job.watch is not None:
            self._watcher.unwatch(job.watch)
            os.close(job.watch)
            job.watch = None
        if job.state is State.RUNNING:
            self.take_over_ended(job)

    def take_over_ended(self, job: Job) -> None:
        """End a job of an earlier supervisor, as the files of its script show the end."""
        job.adopted = True
        if self._endings.is_published(job):
            self._leave(job)
            self._endings.add(job)
            return
        end = self._endings.reconstruct(job)
        if end is not None:
            self._script_over(job, end)
        else:
            # The script is writing its first line at this moment.
            job.state, job.wake = State.RUNNING, time.monotonic() + _SHORTEST_PAUSE
            self._attend(job)

    def _script_over(self, job: Job, end: ExitRecord) -> None:
        """The main process of a job is over. Once its other processes have ended, the job is finished."""
        job.end = end
        job.state = State.ENDING
        now = time.monotonic()
        job.give_up_at = (now if job.stop is None else max(now, job.kill_at)) + _GIVE_UP_SECONDS
        job.pause = _SHORTEST_PAUSE
        self._end_rest(job, now)

    def _end_rest(self, job: Job, now: float) -> None:
        rest = processes.left_over(job, self._children) | {found.pid for found in job.ending if found.running}
        job.ending = process_tree.identities(rest)
        if rest and now >= job.give_up_at:
            # No signal ends a process that waits in the kernel, such as for a file server.
            job.left = f"{len(rest)} processes of the job could not be killed: {listed(sorted(map(str, rest)), _NAMED)}"
            rest = set()
            if job.group is not None:
                job.group.tainted = True
        if not rest:
            self._leave(job)
            self._endings.add(job)
            return
        if job.stop is None or now >= job.kill_at:
            process_tree.send(signal.SIGKILL, rest)
        else:
            _ask(job, rest)
        _pause(job, now)
        self._attend(job)

    def publish_ended(self) -> list[str]:
        """Write the records of the jobs that have ended. Returns their ids."""
        return self._endings.publish()

    # --- stopping ----------------------------------------------------------------------------------------------------

    def stop(self, job: Job, stop: Stop, grace: float) -> None:
        """Stop a job, unless it is over or is being stopped."""
        if job.stop is not None or job.state not in (State.QUEUED, State.RUNNING):
            return
        with suppress(OSError):  # only a supervisor after this one would read it
            self._index.add_stop(job.id, stop)
        job.stop = stop
        if job.state is State.QUEUED:
            self.queue.drop()
            self.drop(job)
        else:
            now = time.monotonic()
            job.kill_at, job.pause = now + grace, _SHORTEST_PAUSE
            self._go_on_stopping(job, now)

    def drop(self, job: Job) -> None:
        """End a job that has not started, unless a script of an earlier supervisor has."""
        try:
            claimed = claim(job.files)
            part = None if claimed else read_part(job.files)
        except OSError:
            claimed = True  # its directory is gone or the disk is full: no script can claim it either
            part = None
        if claimed:
            job.end = ended_now(job)
            job.state = State.ENDING
            self._endings.add(job)
        elif part is None or not self.adopt(job, part):
            self.take_over_ended(job)

    def _go_on_stopping(self, job: Job, now: float) -> None:
        everything = processes.everything(job)
        if now >= job.kill_at:
            process_tree.send(signal.SIGKILL, everything)
        else:
            _ask(job, everything - {job.pid})
        _pause(job, now)

    # --- time --------------------------------------------------------------------------------------------------------

    def due(self) -> float | None:
        """When `look_after_jobs` has to be called next, by the monotonic clock."""
        earliest = min([self._tick_at, *(job.wake for job in self.active.values())])
        if self._try_again_at:
            earliest = min(earliest, self._try_again_at)
        return earliest if earliest < inf else None

    def look_after_jobs(self) -> None:
        """Keep the limits, and go on with stopping, where that is due."""
        now = time.monotonic()
        if now >= self._try_again_at:
            self._try_again_at = 0.0
        for job in [job for job in self.active.values() if job.wake <= now]:
            self._look_after(job, now)
        if now >= self._tick_at:
            self._tick_at = now + _TICK_SECONDS
            self._tick()

    def _look_after(self, job: Job, now: float) -> None:
        if job.state is State.ENDING:
            self._end_rest(job, now)
        elif not job.pid:
            self.take_over_ended(job)
        elif job.stop is not None:
            self._go_on_stopping(job, now)
        else:
            words = f"the job was ended after its time limit of {job.time_limit:g} s"
            self.stop(job, Stop("time_limit", words), self.queue.limits.kill_grace)

    def _tick(self) -> None:
        running = [job for job in self.active.values() if job.state is State.RUNNING and job.pid]
        for job in running:
            if job.adopted and job.watch is None and not processes.is_script_of(job.pid, job):
                self.adopted_ended(job)
        limited = [job for job in running if job.stop is None]
        for job, stop in processes.broken_limits(limited, self.queue.limits.log_limit):
            self.stop(job, stop, grace=0)
        too_much = self._disk.excess(limited, self.queue.limits.disk_limit)
        for job in limited:
            if job.id in too_much:
                self.stop(job, Stop("disk_limit", too_much[job.id]), grace=0)


def _ask(job: Job, processes: Iterable[int]) -> None:
    """Send SIGTERM once to each process, also to those that started later."""
    new = set(processes) - job.asked
    job.asked |= new
    process_tree.send(signal.SIGTERM, new)
    process_tree.send(signal.SIGCONT, new)


def _pause(job: Job, now: float) -> None:
    """Look again soon, then less often, but when the grace period ends."""
    job.wake = now + job.pause
    if now < job.kill_at:
        job.wake = min(job.wake, job.kill_at)
    job.pause = min(job.pause * 2, _LONGEST_PAUSE)
