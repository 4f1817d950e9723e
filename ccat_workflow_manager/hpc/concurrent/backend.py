"""A pool of threads or processes inside the worker (`concurrent.futures`): for small commands, also without service.

Without the service:

    backend = ConcurrentBackend(max_workers=4)
    job_id = backend.submit(
        execution_command=["sha256sum", "map.fits"], image_ref=None, sif_path=None, input_dir=None, output_dir=None,
        workspace_dir="/data/in", manifest_path=None, resource_requirements={"memory_gb": 1, "time_hours": 0.1},
        environment_variables={}, job_name="checksum-1",
    )
    backend.wait(job_id)
    print(backend.get_status(job_id).status, backend.get_logs(job_id))
    backend.close()

A job takes one place in the pool, however many CPUs it asks for, and waits until one is free. Its limits of memory and
time are kept by the worker. What is waiting when the worker ends fails (`node_failure`, which the service tries again);
what is running goes on without limits and still leaves its exit record.

With `executor="process"` a script of its own needs `if __name__ == "__main__":`, as always with processes in Python.

Any process on the same host follows and cancels the jobs through small files in `state_dir`.
"""

from __future__ import annotations

import logging
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Future
from concurrent.futures import wait as wait_for_futures
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from signal import SIGTERM
from typing import Any

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.errors import BackendError, BackendRejected, BackendUnavailable
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt import process_tree
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.logs import read_logs, tail_log
from ccat_workflow_manager.hpc.attempt.process_tree import Identity
from ccat_workflow_manager.hpc.attempt.script import render_job_script, write_script
from ccat_workflow_manager.hpc.base import (
    Availability,
    BulkBackend,
    Capabilities,
    JobRequest,
    JobSeen,
    LogStream,
    QueueStatus,
    ResourceUsage,
)
from ccat_workflow_manager.hpc.concurrent import runner
from ccat_workflow_manager.hpc.concurrent.pool import Pool
from ccat_workflow_manager.hpc.concurrent.settings import ConcurrentSettings
from ccat_workflow_manager.hpc.concurrent.store import Claim, Claimed, Owner, Ticket, TicketStore
from ccat_workflow_manager.hpc.exit_info import info_of
from ccat_workflow_manager.lifecycle.job_info import UNKNOWN, HPCJobInfo, JobStatus
from ccat_workflow_manager.lifecycle.models import Resources
from ccat_workflow_manager.settings import settings_of

logger = logging.getLogger(__name__)

_GIB = 1024**3


class ConcurrentBackend(BulkBackend):
    """Runs jobs in a pool of this process. `max_workers` 0 means one place for each CPU of the machine."""

    name = "concurrent"
    capabilities = Capabilities(find=True, exit_record=True, survives_worker=False, notifies=True, lists=True)
    settings = ConcurrentSettings

    def __init__(self, *, kill_grace_seconds: float = 5, log_limit_mb: float = 512, **settings: Any) -> None:
        site = settings_of(ConcurrentSettings, self.name, settings)
        self._kill_grace_seconds = kill_grace_seconds
        self._log_limit_bytes = int(log_limit_mb * 1024 * 1024)
        self._store = TicketStore(Path(site.state_dir) if site.state_dir else _default_state_dir())
        me = process_tree.identity(os.getpid())
        assert me is not None, "this process is in the process table"
        self._me = Owner(platform.node(), process_tree.boot_id(), me.pid, me.started)
        self._pool = Pool(site.executor, site.max_workers or os.cpu_count() or 1, self._store.directory, self._ended)
        self._listeners: list[Callable[[Sequence[str]], None]] = []

    @classmethod
    def is_available(cls) -> Availability:
        if not hasattr(os, "pidfd_open") or not Path("/proc/self/stat").exists():
            return Availability(False, "it needs Linux 5.3 or later with /proc mounted")
        return Availability(True)

    # --- the four ----------------------------------------------------------------------------------------------------

    def submit_many(self, requests: Sequence[JobRequest]) -> list[str | BackendError]:
        results: list[str | BackendError] = []
        for request in requests:
            try:
                results.append(self._submit(request))
            except BackendError as error:
                results.append(error)
        return results

    def _submit(self, request: JobRequest) -> str:
        resources, job_name = request.resource_requirements, request.job_name
        self._check(resources, job_name)
        try:
            files = AttemptFiles.of(request.workspace_dir, job_name)
            environment = {**request.environment_variables, process_tree.MARK: job_name}
            script = render_job_script(
                request.execution_command,
                environment=environment,
                cwd=request.workspace_dir,
                files=files,
                supervised=True,
            )
        except ValueError as error:
            raise self._rejected(str(error)) from error
        ticket = Ticket(
            job_id=job_name,
            workspace=request.workspace_dir,
            script=files.script,
            submitted_at=time.time(),
            owner=self._me,
            time_limit_seconds=resources.time_hours * 3600,
            memory_limit_bytes=int(resources.memory_gb * _GIB),
            log_limit_bytes=self._log_limit_bytes,
            kill_grace_seconds=self._kill_grace_seconds,
        )
        if self._store.add(ticket):
            # Nobody but the one who has made the ticket writes the script: it might be running already.
            try:
                failpoints.point("backend.ticket", failpoints.AFTER)
                self._write(files, script, job_name)
                self._pool.submit(ticket)
            except BaseException:
                # Nobody would ever start it, and everybody would take it for one that waits.
                self._store.forget(job_name)
                raise
        return job_name

    def get_status(self, job_id: str) -> HPCJobInfo:
        ticket = self._ticket(job_id)
        if ticket is None:
            return UNKNOWN
        claim = self._store.claimed(job_id)
        if claim is None and self._is_orphaned(ticket):
            # Nobody is going to start it; from now on nobody can.
            if self._store.claim(job_id, self._dropped()) and self._ticket(job_id) is None:
                self._store.forget(job_id)
            claim = self._store.claimed(job_id)
        submitted = _time(ticket.submitted_at)
        match claim.what if claim is not None else None:
            case None if self._here(ticket):
                return HPCJobInfo(JobStatus.PENDING, message="all places of the pool are taken", submitted_at=submitted)
            case Claimed.STARTED if claim is not None:
                return replace(self._started(ticket, claim), submitted_at=submitted)
            case Claimed.CANCELLED if claim is not None:
                return replace(_cancelled(claim.at), submitted_at=submitted)
            case Claimed.DROPPED if claim is not None:
                return replace(self._given_up(ticket, claim), submitted_at=submitted)
            case _:
                # It waits on another host, or has just been forgotten.
                return UNKNOWN

    def cancel(self, job_id: str) -> None:
        ticket = self._ticket(job_id)
        if ticket is None:
            return
        now = time.time()
        if self._store.claim(job_id, Claim(Claimed.CANCELLED, now, self._me.identity)):
            return
        claim = self._store.claimed(job_id)
        if claim is None or self.get_status(job_id).status not in (JobStatus.PENDING, JobStatus.RUNNING):
            return
        self._store.set_cancelled(job_id, now)
        root = self._store.process(job_id)
        process_tree.send(SIGTERM, process_tree.members(job_id, root) - ({root.pid} if root else set()))
        if not claim.by.running:
            # Nobody watches this job any more who would kill it once the grace is over.
            runner.end_all(job_id, root, ticket.kill_grace_seconds)

    def get_logs(self, job_id: str) -> str:
        ticket = self._ticket(job_id)
        if ticket is None:
            return ""
        files = _files(ticket)
        return read_logs(files)

    # --- more --------------------------------------------------------------------------------------------------------

    def find(self, job_name: str) -> str | None:
        return job_name if self._ticket(job_name) is not None else None

    def list_jobs(self) -> list[JobSeen]:
        jobs = []
        for job_id in self._store.job_ids():
            info = self.get_status(job_id)
            if info.status in (JobStatus.PENDING, JobStatus.RUNNING):
                jobs.append(JobSeen(job_id, job_id, info.submitted_at))
        return jobs

    def tail_logs(self, job_id: str, *, stream: LogStream = "stdout", lines: int = 200) -> str:
        ticket = self._ticket(job_id)
        if ticket is None:
            return ""
        files = _files(ticket)
        return tail_log(files, stream, lines)

    def queue_status(self) -> list[QueueStatus]:
        running, pending = self._pool.counts()
        details = {"places": self._pool.places, "executor": self._pool.kind}
        return [QueueStatus(self.name, running=running, pending=pending, details=details)]

    def get_resource_usage(self, job_id: str) -> ResourceUsage | None:
        ticket = self._ticket(job_id)
        root = self._store.process(job_id) if ticket is not None else None
        if ticket is None or root is None or not self._here(ticket):
            return None
        processes = process_tree.table()
        members = [processes[pid] for pid in process_tree.related(root, processes)]
        if not members:
            return None
        return ResourceUsage(
            cpu_seconds=sum(process.cpu_seconds for process in members),
            memory_gb=process_tree.fair_memory(process.pid for process in members) / _GIB,
            processes=len(members),
        )

    def cleanup(self, job_id: str) -> None:
        if self.get_status(job_id).finished:
            self._store.forget(job_id)

    def listen(self, on_change: Callable[[Sequence[str]], None]) -> Callable[[], None]:
        self._listeners.append(on_change)
        return lambda: self._listeners.remove(on_change)

    def wait(self, job_id: str, timeout: float | None = None) -> bool:
        """Wait for a job that was submitted through this object; False if it has not ended in time."""
        future = self._pool.future(job_id)
        return future is None or bool(wait_for_futures([future], timeout).done)

    def close(self) -> None:
        self._listeners.clear()
        for job_id in self._pool.close():
            self._store.claim(job_id, self._dropped())

    # --- inside ------------------------------------------------------------------------------------------------------

    def _check(self, resources: Resources, job_name: str) -> None:
        """Refuse what cannot be given: nothing that is asked for is left out silently."""
        cpus, memory_gb = os.cpu_count() or 1, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / _GIB
        faults = {
            f"{job_name!r} cannot be a file name": not self._store.is_job_id(job_name),
            f"this machine has {cpus} CPUs, not {resources.cpu:g}": resources.cpu > cpus,
            f"this machine has {memory_gb:.1f} GB of memory, not {resources.memory_gb:g}": resources.memory_gb
            > memory_gb,
            "it has no GPUs to give": resources.gpu > 0,
            f"it has no partitions, so not {resources.partition!r} either": resources.partition is not None,
            f"it has no accounts, so not {resources.account!r} either": resources.account is not None,
            f"it knows no extra resources, so not {', '.join(resources.extra)} either": bool(resources.extra),
        }
        wrong = [text for text, is_wrong in faults.items() if is_wrong]
        if wrong:
            raise self._rejected("; ".join(wrong))

    def _rejected(self, why: str) -> BackendRejected:
        return BackendRejected(f"the concurrent backend cannot take this job: {why}", backend=self.name)

    def _write(self, files: AttemptFiles, script: str, job_id: str) -> None:
        try:
            write_script(files, script)
        except OSError as error:
            self._store.forget(job_id)
            words = f"cannot write {error.filename or files.script}: {error.strerror}"
            raise BackendUnavailable(words, backend=self.name) from error

    def _ticket(self, job_id: str) -> Ticket | None:
        return self._store.ticket(job_id) if self._store.is_job_id(job_id) else None

    def _here(self, ticket: Ticket) -> bool:
        """Whether the processes of this ticket are, or were, on this host since it was started."""
        return (ticket.owner.host, ticket.owner.boot) == (self._me.host, self._me.boot)

    def _is_orphaned(self, ticket: Ticket) -> bool:
        """Whether the worker in whose pool it waits is known to be gone. Of other hosts nothing is known."""
        return ticket.owner.host == self._me.host and not (self._here(ticket) and ticket.owner.identity.running)

    def _recorded(self, ticket: Ticket, cancelled_at: float | None) -> HPCJobInfo | None:
        """What the exit record says, if there is one."""
        try:
            text = Path(_files(ticket).record).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BackendUnavailable(
                f"cannot read the exit record of {ticket.job_id}: {error}", backend=self.name
            ) from error
        return info_of(text, cancelled_at)

    def _started(self, ticket: Ticket, claim: Claim) -> HPCJobInfo:
        """A job that has left the queue. Its record is looked for again when its processes are found to be gone."""
        cancelled_at = self._store.cancelled_at(ticket.job_id)
        if (info := self._recorded(ticket, cancelled_at)) is not None:
            return info
        if self._here(ticket):
            process = self._store.process(ticket.job_id)
            if process is None and claim.by.running:
                return HPCJobInfo(JobStatus.PENDING, message="it is being started")
            if claim.by.running or self._runs_alone(ticket.job_id, process):
                return HPCJobInfo(JobStatus.RUNNING, started_at=_time(claim.at), node=ticket.owner.host)
        if (info := self._recorded(ticket, cancelled_at)) is not None:
            return info
        if cancelled_at is not None and self._here(ticket):
            return replace(_cancelled(cancelled_at), started_at=_time(claim.at))
        return UNKNOWN

    def _given_up(self, ticket: Ticket, claim: Claim) -> HPCJobInfo:
        """A job that was dropped while it waited, or ended because nobody could watch it any more."""
        if (info := self._recorded(ticket, None)) is not None:
            return info
        if self._store.process(ticket.job_id) is None:
            reason, words = FailureReason.NODE_FAILURE, "it was never started: the worker it waited for has ended"
        else:
            reason, words = FailureReason.BACKEND_FAILED, "its worker could not watch over it and has ended it"
        return HPCJobInfo(JobStatus.FAILED, reason=reason, message=words, finished_at=_time(claim.at))

    def _ended(self, job_id: str, future: Future[None]) -> None:
        """The pool is done with a job, one way or another."""
        if future.cancelled():
            return
        error = future.exception()
        if error is not None:
            logger.error("the pool could not run %s: %s", job_id, error, exc_info=error)
            self._abandon(job_id, pool_is_dead=isinstance(error, BrokenExecutor))
        for listener in tuple(self._listeners):
            listener([job_id])

    @staticmethod
    def _runs_alone(job_id: str, process: Identity | None) -> bool:
        """Whether a job whose worker is dead is still running."""
        if process is not None:
            return process.running
        # The worker died between starting the job and writing down which process it is.
        return bool(process_tree.members(job_id, None))

    def _abandon(self, job_id: str, *, pool_is_dead: bool) -> None:
        """Nobody watches this job any more: it must neither wait for ever nor run on."""
        if self._store.claim(job_id, self._dropped()):
            return
        # Where the process of the pool has died, the job itself goes on alone and leaves its record.
        if not pool_is_dead:
            runner.kill_all(job_id, self._store.process(job_id))
            self._store.replace_claim(job_id, self._dropped())

    def _dropped(self) -> Claim:
        return Claim(Claimed.DROPPED, time.time(), self._me.identity)


def _cancelled(at: float) -> HPCJobInfo:
    return HPCJobInfo(JobStatus.CANCELLED, reason=FailureReason.CANCELLED, finished_at=_time(at))


def _files(ticket: Ticket) -> AttemptFiles:
    return AttemptFiles.of(ticket.workspace, ticket.job_id)


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _default_state_dir() -> Path:
    return Path(tempfile.gettempdir()) / f"ccat-wm-concurrent-{os.geteuid()}"
