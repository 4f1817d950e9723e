"""Jobs on a Dask cluster: at a scheduler that the site names, or on a small cluster of our own on this machine.

Without the service:

    backend = DaskBackend(scheduler_address="tcp://head:8786")
    job_id = backend.submit(execution_command=["sha256sum", "map.fits"], ...)

Each job is one Dask task, whose key is the job's name. The task starts a job process (`job_process.py`), which runs the
job, and waits for it. See docs/backends/dask.md.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ccat_workflow_manager.errors import (
    BackendConfused,
    BackendError,
    BackendRejected,
    ConfigurationError,
)
from ccat_workflow_manager.hpc.attempt import claim as claims
from ccat_workflow_manager.hpc.attempt.claim import Claim
from ccat_workflow_manager.hpc.attempt.disk import GIB
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.record import utc
from ccat_workflow_manager.hpc.attempt.runner import Limits
from ccat_workflow_manager.hpc.base import Availability, Capabilities, JobRequest, JobSeen, QueueStatus
from ccat_workflow_manager.hpc.dask.client import ANSWER_SECONDS, SchedulerClient, SchedulerInfo, TaskGroup
from ccat_workflow_manager.hpc.dask.own_cluster import START_SECONDS, OwnCluster, Shape
from ccat_workflow_manager.hpc.dask.resources import NAMED, ResourceRequest, request_of
from ccat_workflow_manager.hpc.dask.settings import DaskSettings
from ccat_workflow_manager.hpc.dask.status import (
    FORGOTTEN,
    RESTARTED,
    Evidence,
    is_forgotten,
    resolve_status,
)
from ccat_workflow_manager.hpc.file_backend import FileBackend, linux_availability, state_directory
from ccat_workflow_manager.hpc.note_store import JobNote, NoteStore
from ccat_workflow_manager.lifecycle.job_info import UNKNOWN, HPCJobInfo
from ccat_workflow_manager.lifecycle.models import parse_job_name
from ccat_workflow_manager.settings import settings_of

_CHUNK = 1000
_JOBS_PER_CPU = 4
_ENDED = ("memory", "erred", "forgotten")


@dataclass(frozen=True, slots=True)
class DaskJob(JobNote):
    scheduler: str
    """The id that the scheduler gave itself when it started."""
    submitted_at: float


def job_store(state_dir: Path) -> NoteStore[DaskJob]:
    """The submitted jobs, for all workers that share the directory."""
    return NoteStore("dask", state_dir / "jobs", asdict, lambda data: DaskJob(**data))


class DaskBackend(FileBackend):
    """Runs jobs as tasks of a Dask cluster."""

    name = "dask"
    capabilities = Capabilities(
        bulk_status=True, bulk_submit=True, find=True, exit_record=True, lists=True, secrets="files"
    )
    settings = DaskSettings
    submit_seconds = START_SECONDS + 2 * ANSWER_SECONDS

    def __init__(
        self, *, kill_grace_seconds: float = 5, log_limit_mb: float = 512, disk_limit_gb: float = 0, **settings: Any
    ) -> None:
        """Without `scheduler_address` the other settings of Dask shape the cluster of our own."""
        site = settings_of(DaskSettings, self.name, settings)
        directory = state_directory(self.name, site.state_dir)
        self._limits = Limits.configured(log_limit_mb, disk_limit_gb, kill_grace_seconds)
        self._store = job_store(directory)
        self._shape: Shape | None = None
        if site.scheduler_address:
            named = frozenset(site.resources.replace(",", " ").split())
            if unknown := sorted(named - set(NAMED)):
                raise ConfigurationError(
                    f"DASK_RESOURCES names {', '.join(unknown)}; what can be named: {', '.join(NAMED)}"
                )
        else:
            named = frozenset({"cpu", "memory_gb"})
            self._shape = _shape(site.workers, site.jobs_per_worker, site.idle_seconds)
        self._named = named
        own = OwnCluster(directory, self._shape) if self._shape is not None else None
        self._client = SchedulerClient(site.scheduler_address, own)

    @classmethod
    def is_available(cls, scheduler_address: str = "") -> Availability:
        if not (linux := linux_availability()).available:
            return linux
        if find_spec("distributed") is None:
            return Availability(False, "not installed: distributed", "pip install 'ccat-workflow-manager[dask]'")
        if not scheduler_address and shutil.which("openssl") is None:
            hint = "install openssl, or name a scheduler in DASK_SCHEDULER_ADDRESS"
            return Availability(False, "openssl, which makes the key of our own cluster, is not installed", hint)
        return Availability(True)

    # --- submitting --------------------------------------------------------------------------------------------------

    def submit_many(self, requests: Sequence[JobRequest]) -> list[str | BackendError]:
        return self.submit_chunks(requests, _CHUNK, self._submit_chunk)

    def _submit_chunk(self, requests: Sequence[JobRequest]) -> list[str | BackendError]:
        scheduler = self._client.scheduler()
        results: dict[str, str | BackendError] = {}
        groups: dict[ResourceRequest, dict[str, Mapping[str, Any]]] = {}
        for request in requests:
            name = request.job_name
            try:
                asked = self._resources(request)
                self.prepare(request)
            except BackendRejected as error:
                results[name] = error
            else:
                results[name] = name
                groups.setdefault(asked, {})[name] = self._order(request)
        for request in requests:
            if results[request.job_name] == request.job_name:
                job = DaskJob(request.job_name, request.workspace_dir, scheduler.id, time.time())
                self._store.put(job.job_name, job)
        if groups:
            self._client.submit(
                [
                    TaskGroup(orders, asked.priority, dict(asked.resources), asked.workers)
                    for asked, orders in groups.items()
                ]
            )
        return [results[request.job_name] for request in requests]

    def _resources(self, request: JobRequest) -> ResourceRequest:
        """Raises BackendRejected."""
        try:
            return request_of(request.resource_requirements, self._named, self._shape, request.priority)
        except ValueError as error:
            raise self.rejected(str(error)) from error

    def _order(self, request: JobRequest) -> dict[str, Any]:
        """The argument of the job process."""
        resources = request.resource_requirements
        limits = self._limits.of_job(resources.time_hours, resources.memory_gb)
        return {"job_name": request.job_name, "workspace": request.workspace_dir, "limits": asdict(limits)}

    def find(self, job_name: str) -> str | None:
        job = self._store.get(job_name)
        if job is None:
            return None
        if self.claim_of(job.files) is not None or os.path.lexists(job.files.record):
            return job_name
        # A stored job may not have been submitted. If it was, a second task of this name is the same one for Dask, and
        # of two starts only the one that takes the claim runs the command.
        return job_name if self._client.states([job_name])[job_name] not in (None, "forgotten") else None

    # --- following ---------------------------------------------------------------------------------------------------

    def get_statuses(self, job_ids: Sequence[str]) -> dict[str, HPCJobInfo]:
        infos = dict.fromkeys(job_ids, UNKNOWN)
        known = [job for job_id in infos if (job := self._store.cached(job_id)) is not None]
        if not known:
            return infos
        scheduler = self._client.scheduler()
        jobs = [job for each in known if (job := self._current(each, scheduler.id)) is not None]
        # The files before the scheduler: what they prove holds when it answers.
        files = {job.job_name: self._files_of(job) for job in jobs}
        states = self._client.states([name for name, (_, record) in files.items() if record is None])
        errors = self._client.errors([name for name, state in states.items() if state == "erred"])
        for job in jobs:
            name, state = job.job_name, states.get(job.job_name)
            claim, record = files[name]
            if record is None and state in (None, *_ENDED):
                # The job may have started, and even ended, since its files were read.
                claim, record = self._files_of(job)
            evidence = Evidence(
                record=record,
                claim=claim,
                state=state,
                same_scheduler=job.scheduler == scheduler.id,
                workers=len(scheduler.workers),
                now=time.time(),
                error=errors.get(name),
            )
            info = resolve_status(self._settled(job, evidence))
            infos[name] = replace(info, submitted_at=utc(job.submitted_at))
        return infos

    def _current(self, job: DaskJob, scheduler: str) -> DaskJob | None:
        """A cached job may stem from an earlier submission, at the scheduler before this one: then read it again."""
        return job if job.scheduler == scheduler else self._store.get(job.job_name)

    def _files_of(self, job: DaskJob) -> tuple[Claim | None, str | None]:
        """Claim and record. Without a claim there is no record."""
        claim = self.claim_of(job.files)
        return claim, self.record_of(job.files) if claim is not None else None

    def _settled(self, job: DaskJob, evidence: Evidence) -> Evidence:
        """Block the attempt of a job that will never start by itself."""
        if not is_forgotten(evidence):
            return evidence
        text = FORGOTTEN if evidence.same_scheduler else RESTARTED
        self.on_files(lambda: claims.block(job.files, text))
        claim, record = self._files_of(job)
        return replace(evidence, claim=claim, record=record)

    def list_jobs(self) -> Iterable[JobSeen]:
        names = [key for key in self._client.names() if parse_job_name(key) is not None]
        jobs = []
        for name, state in self._client.states(names).items():
            if state is None or state in _ENDED:
                continue
            job = self._store.get(name)
            # Dask runs a task again if its result was on a worker that has left; the job is over all the same.
            if job is None or not os.path.lexists(job.files.record):
                jobs.append(JobSeen(name, name, utc(job.submitted_at) if job is not None else None))
        return jobs

    def queue_status(self) -> list[QueueStatus]:
        scheduler = self._client.scheduler()
        threads, running = self._counts(scheduler)
        details = {"workers": len(scheduler.workers), "places": threads, "scheduler": scheduler.id}
        return [QueueStatus(self.name, bool(scheduler.workers), running=running, details=details)]

    def _counts(self, scheduler: SchedulerInfo) -> tuple[int, int]:
        """Threads and running tasks of all workers."""
        workers = scheduler.workers.values()
        try:
            threads = sum(int(worker["nthreads"]) for worker in workers)
            running = sum(int(worker["metrics"].get("executing", 0)) for worker in workers if "metrics" in worker)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            text = f"the Dask scheduler describes its workers in an unexpected way: {error!r}"
            raise BackendConfused(text, backend=self.name) from error
        return threads, running

    # --- stopping and forgetting -------------------------------------------------------------------------------------

    def cancel_many(self, job_ids: Sequence[str]) -> None:
        never_started = []
        for job_id in job_ids:
            job = self._store.get(job_id)
            if job is None or os.path.lexists(job.files.record):
                continue
            if self._cancel(job):
                never_started.append(job_id)
        self._client.release(never_started)

    def _cancel(self, job: DaskJob) -> bool:
        return self.on_files(lambda: claims.cancel(job.files, time.time()))

    def cleanup_many(self, job_ids: Sequence[str]) -> None:
        infos = self.get_statuses(job_ids)
        over = [job_id for job_id, info in infos.items() if info.finished]
        self._client.release(over)
        for job_id in over:
            self._store.remove(job_id)

    def attempt_files(self, job_id: str) -> AttemptFiles | None:
        job = self._store.get(job_id)
        return None if job is None else job.files

    def close(self) -> None:
        self._client.close()


def _shape(workers: int, jobs_per_worker: int, idle_seconds: float) -> Shape:
    cpus = os.cpu_count() or 1
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    return Shape(workers, jobs_per_worker or _JOBS_PER_CPU * cpus, float(cpus), 0.9 * memory, idle_seconds)
