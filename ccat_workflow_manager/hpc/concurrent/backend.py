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

A job takes one thread or process of the pool, however many CPUs it asks for, and waits until one is free. The worker
keeps its limits of memory and time. A job that still waits when the worker ends fails (`node_failure`, which the
service retries); a job that runs goes on without limits and still leaves its exit record.

With `executor="process"` a script of its own needs `if __name__ == "__main__":`, as always with processes in Python.

Any process on the same host follows and cancels the jobs through the tickets in `state_dir`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Future
from concurrent.futures import wait as wait_for_futures
from dataclasses import replace
from signal import SIGTERM
from typing import Any

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.errors import BackendError
from ccat_workflow_manager.hpc.attempt import claim as claims
from ccat_workflow_manager.hpc.attempt import process_tree
from ccat_workflow_manager.hpc.attempt.claim import Claim
from ccat_workflow_manager.hpc.attempt.disk import GIB
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.process_tree import HostProcess
from ccat_workflow_manager.hpc.attempt.record import utc
from ccat_workflow_manager.hpc.attempt.runner import Limits
from ccat_workflow_manager.hpc.base import Availability, Capabilities, JobRequest, JobSeen, QueueStatus, ResourceUsage
from ccat_workflow_manager.hpc.concurrent.pool import Pool
from ccat_workflow_manager.hpc.concurrent.runner import NEVER_STARTED
from ccat_workflow_manager.hpc.concurrent.settings import ConcurrentSettings
from ccat_workflow_manager.hpc.concurrent.status import Evidence, resolve_status
from ccat_workflow_manager.hpc.concurrent.tickets import Ticket, TicketStore
from ccat_workflow_manager.hpc.file_backend import (
    FileBackend,
    linux_availability,
    one_machine_lacks,
    state_directory,
)
from ccat_workflow_manager.lifecycle.job_info import UNKNOWN, HPCJobInfo, JobStatus
from ccat_workflow_manager.lifecycle.models import Resources
from ccat_workflow_manager.settings import settings_of

log = logging.getLogger(__name__)

_NOT_FINISHED = (JobStatus.PENDING, JobStatus.RUNNING)


class ConcurrentBackend(FileBackend):
    """Runs jobs in a pool of this process. `max_workers` 0 means one for each CPU of the machine."""

    name = "concurrent"
    capabilities = Capabilities(
        find=True, exit_record=True, survives_worker=False, notifies=True, lists=True, secrets="files"
    )
    settings = ConcurrentSettings

    def __init__(
        self, *, kill_grace_seconds: float = 5, log_limit_mb: float = 512, disk_limit_gb: float = 0, **settings: Any
    ) -> None:
        site = settings_of(ConcurrentSettings, self.name, settings)
        self._limits = Limits.configured(log_limit_mb, disk_limit_gb, kill_grace_seconds)
        self._tickets = TicketStore(state_directory(self.name, site.state_dir))
        self._me = HostProcess.of(os.getpid())
        places = site.max_workers or os.cpu_count() or 1
        self._pool = Pool(site.executor, places, self._tickets.directory, self._ended)
        self._listeners: list[Callable[[Sequence[str]], None]] = []

    @classmethod
    def is_available(cls) -> Availability:
        return linux_availability()

    # --- submitting --------------------------------------------------------------------------------------------------

    def submit_many(self, requests: Sequence[JobRequest]) -> list[str | BackendError]:
        results: list[str | BackendError] = []
        for request in requests:
            try:
                results.append(self._submit(request))
            except BackendError as error:
                results.append(error)
        return results

    def _submit(self, request: JobRequest) -> str:
        resources, job_id = request.resource_requirements, request.job_name
        self._refuse_excess(resources)
        self.prepare(request)
        limits = self._limits.of_job(resources.time_hours, resources.memory_gb)
        ticket = Ticket(job_id, request.workspace_dir, time.time(), self._me, limits)
        if self._tickets.add(job_id, ticket):
            try:
                failpoints.point("backend.ticket", failpoints.AFTER)
                self._pool.submit(ticket)
            except BaseException:
                # A job that the pool does not have would wait for ever.
                self._tickets.remove(job_id)
                raise
        return job_id

    def _refuse_excess(self, resources: Resources) -> None:
        cpus, memory_gb = os.cpu_count() or 1, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
        too_much_memory = f"this machine has {memory_gb:.1f} GB of memory, not {resources.memory_gb:g}"
        self.refuse(
            {
                f"this machine has {cpus} CPUs, not {resources.cpu:g}": resources.cpu > cpus,
                too_much_memory: resources.memory_gb > memory_gb,
                **one_machine_lacks(resources),
            }
        )

    def find(self, job_name: str) -> str | None:
        return job_name if self._tickets.get(job_name) is not None else None

    # --- following ---------------------------------------------------------------------------------------------------

    def get_statuses(self, job_ids: Sequence[str]) -> dict[str, HPCJobInfo]:
        return {job_id: self._status(job_id) for job_id in job_ids}

    def _status(self, job_id: str) -> HPCJobInfo:
        ticket = self._tickets.get(job_id)
        if ticket is None:
            return UNKNOWN
        claim = self.claim_of(ticket.files)
        if claim is None and self._is_orphaned(ticket):
            self.on_files(lambda: claims.block(ticket.files, NEVER_STARTED))
            claim = self.claim_of(ticket.files)
        evidence = self._evidence(ticket, claim)
        if evidence.record is None and claim is not None:
            # The job may have ended since its record was looked for.
            evidence = replace(evidence, record=self.record_of(ticket.files))
        return replace(resolve_status(evidence), submitted_at=utc(ticket.submitted_at))

    def _evidence(self, ticket: Ticket, claim: Claim | None) -> Evidence:
        here = ticket.owner.is_of_this_boot
        if claim is None:
            return Evidence(here=here)
        files = ticket.files
        cancelled_at = self.on_files(lambda: claims.cancel_requested_at(files))
        if claim.blocked is not None or (record := self.record_of(files)) is not None:
            return Evidence(claim, None if claim.blocked is not None else record, cancelled_at, here=here)
        claimer = HostProcess.parse(claim.owner)
        watched = here and claimer is not None and claimer.running
        # The ticket may have been read before the job started.
        ticket = self._tickets.get(ticket.job_id) or ticket
        if ticket.process is not None:
            alive = here and ticket.process.running
        else:
            # The worker may have died after it started the job and before it updated the ticket.
            alive = here and not watched and bool(process_tree.members(ticket.job_id, None))
        return Evidence(
            claim, None, cancelled_at, here, watched, alive, ticket.process is not None, ticket.abandoned, self._me.host
        )

    def _is_orphaned(self, ticket: Ticket) -> bool:
        """Whether the worker in whose pool the job waits is known to be gone; of other hosts nothing is known."""
        return ticket.owner.host == self._me.host and not ticket.owner.running

    def list_jobs(self) -> list[JobSeen]:
        infos = self.get_statuses(self._tickets.ids())
        return [JobSeen(job, job, info.submitted_at) for job, info in infos.items() if info.status in _NOT_FINISHED]

    def queue_status(self) -> list[QueueStatus]:
        running, pending = self._pool.counts()
        details = {"places": self._pool.places, "executor": self._pool.kind}
        return [QueueStatus(self.name, running=running, pending=pending, details=details)]

    def get_resource_usage(self, job_id: str) -> ResourceUsage | None:
        ticket = self._tickets.get(job_id)
        if ticket is None or ticket.process is None or not ticket.owner.is_of_this_boot:
            return None
        processes = process_tree.table()
        members = [processes[pid] for pid in process_tree.related(ticket.process, processes)]
        if not members:
            return None
        return ResourceUsage(
            cpu_seconds=sum(process.cpu_seconds for process in members),
            memory_gb=process_tree.fair_memory(process.pid for process in members) / GIB,
            processes=len(members),
        )

    def attempt_files(self, job_id: str) -> AttemptFiles | None:
        ticket = self._tickets.get(job_id)
        return None if ticket is None else ticket.files

    def wait(self, job_id: str, timeout: float | None = None) -> bool:
        """Wait for a job that this object submitted. Returns False if it has not ended in time."""
        future = self._pool.future(job_id)
        return future is None or bool(wait_for_futures([future], timeout).done)

    def listen(self, on_change: Callable[[Sequence[str]], None]) -> Callable[[], None]:
        self._listeners.append(on_change)
        return lambda: self._listeners.remove(on_change)

    # --- stopping and forgetting -------------------------------------------------------------------------------------

    def cancel_many(self, job_ids: Sequence[str]) -> None:
        for job_id in job_ids:
            ticket = self._tickets.get(job_id)
            if ticket is not None:
                self._cancel(ticket)

    def _cancel(self, ticket: Ticket) -> None:
        files, job_id = ticket.files, ticket.job_id
        if (
            self.on_files(lambda: claims.block(files, claims.CANCELLED))
            or self._status(job_id).status not in _NOT_FINISHED
        ):
            return
        self.on_files(lambda: claims.request_cancel(files, time.time()))
        claim, root = self.claim_of(files), (self._tickets.get(job_id) or ticket).process
        process_tree.send(SIGTERM, process_tree.members(job_id, root) - ({root.pid} if root else set()))
        claimer = HostProcess.parse(claim.owner) if claim is not None else None
        if claimer is None or not claimer.running:
            # Without its worker, no process would kill the job once the grace is over.
            process_tree.end_all(job_id, root, ticket.limits.kill_grace_seconds)

    def cleanup_many(self, job_ids: Sequence[str]) -> None:
        for job_id, info in self.get_statuses(job_ids).items():
            if info.finished:
                self._tickets.remove(job_id)

    def close(self) -> None:
        self._listeners.clear()
        for job_id in self._pool.close():
            self._drop(job_id)

    # --- the pool ----------------------------------------------------------------------------------------------------

    def _ended(self, job_id: str, future: Future[None]) -> None:
        """Called by the pool when a job ends or when the pool cannot run it."""
        if future.cancelled():
            return
        error = future.exception()
        if error is not None:
            log.error("the pool could not run %s: %s", job_id, error, exc_info=error)
            self._abandon(job_id, pool_is_dead=isinstance(error, BrokenExecutor))
        for listener in tuple(self._listeners):
            listener([job_id])

    def _abandon(self, job_id: str, *, pool_is_dead: bool) -> None:
        """A job without a runner must neither wait for ever nor run on without limits."""
        # If the process of the pool died, the job itself goes on alone and leaves its record.
        if self._drop(job_id) or pool_is_dead:
            return
        ticket = self._tickets.get(job_id)
        process_tree.kill_all(job_id, ticket.process if ticket is not None else None)
        self._tickets.update(job_id, abandoned="its worker could not watch over it and has ended it")

    def _drop(self, job_id: str) -> bool:
        """Block a job that has not started. Returns False if it may have started."""
        ticket = self._tickets.get(job_id)
        return ticket is None or self.on_files(lambda: claims.block(ticket.files, NEVER_STARTED))
