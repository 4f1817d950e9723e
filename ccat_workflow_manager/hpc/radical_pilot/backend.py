"""Jobs as tasks of a RADICAL-Pilot pilot: one allocation of a batch system, or this machine, and many jobs in it.

Each worker process has a pilot of its own, which its agent manages (`pilot_agent.py`). Jobs and pilots are recorded in
files, so any process follows and cancels jobs without asking RADICAL-Pilot. On the node, a job process runs the job
(`job_process.py`). A job that waits when its pilot ends is given to the next one; a job that runs then is stopped, and
the service retries it.

`state_dir` must have the same path on the nodes of the pilot and for all workers of the backend.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Any

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.errors import BackendError, BackendUnavailable, ConfigurationError
from ccat_workflow_manager.hpc.attempt import claim as claims
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.record import utc
from ccat_workflow_manager.hpc.attempt.runner import Limits
from ccat_workflow_manager.hpc.base import Availability, Capabilities, JobRequest, JobSeen, QueueStatus
from ccat_workflow_manager.hpc.file_backend import FileBackend, linux_availability, state_directory
from ccat_workflow_manager.hpc.radical_pilot import agent_client
from ccat_workflow_manager.hpc.radical_pilot.job import BACKEND, PilotJob
from ccat_workflow_manager.hpc.radical_pilot.pilot import ACTIVE, PilotState
from ccat_workflow_manager.hpc.radical_pilot.settings import RadicalPilotSettings
from ccat_workflow_manager.hpc.radical_pilot.status import Evidence, needs_pilot, resolve_status
from ccat_workflow_manager.lifecycle.job_info import UNKNOWN, HPCJobInfo, JobStatus
from ccat_workflow_manager.lifecycle.models import JOB_PREFIX, Resources
from ccat_workflow_manager.settings import settings_of

_HARMLESS = re.compile(r"[A-Za-z0-9_./+@=:,-]+")
_INSTALL = "pip install 'ccat-workflow-manager[radical_pilot]'"
_OPEN_PORTS = (
    "RADICAL-Pilot listens on all interfaces without a password, and any user who reaches it runs programs as this one"
)
_TRUST = "if all of them are trusted, set RADICAL_PILOT_TRUSTED_NETWORK=true"


class RadicalPilotBackend(FileBackend):
    """Runs jobs in pilots."""

    name = BACKEND
    capabilities = Capabilities(
        bulk_status=True, find=True, exit_record=True, survives_worker=False, lists=True, gpu=True, secrets="files"
    )
    settings = RadicalPilotSettings
    start_seconds = 120

    def __init__(
        self, *, kill_grace_seconds: float = 5, log_limit_mb: float = 512, disk_limit_gb: float = 0, **settings: Any
    ) -> None:
        site = settings_of(RadicalPilotSettings, self.name, settings)
        if not site.trusted_network:
            raise ConfigurationError(f"{_OPEN_PORTS}; {_TRUST}")
        root = state_directory(self.name, site.state_dir).absolute()
        if not _HARMLESS.fullmatch(str(root)):
            # RADICAL-Pilot writes it into shell scripts without quotes.
            raise ConfigurationError(f"RADICAL_PILOT_STATE_DIR must have no blanks or special characters: {root}")
        self._site = site
        self._limits = Limits.configured(log_limit_mb, disk_limit_gb, kill_grace_seconds)
        self._root = root
        self._acquired: agent_client.AgentClient | None = agent_client.acquire(root, site)

    @property
    def _client(self) -> agent_client.AgentClient:
        if self._acquired is None:
            self._acquired = agent_client.acquire(self._root, self._site)
        return self._acquired

    @classmethod
    def is_available(cls) -> Availability:
        try:
            installed = find_spec("radical.pilot") is not None
        except ModuleNotFoundError:
            installed = False
        program = Path(sys.executable).with_name("radical-pilot-bridge")
        why = ""
        if not installed:
            why = "not installed: radical.pilot"
        elif not (linux := linux_availability()).available:
            return linux
        elif not program.exists():
            why = f"RADICAL-Pilot is installed without its programs: no {program}"
        elif sys.prefix == sys.base_prefix and "CONDA_PREFIX" not in os.environ:
            why = "RADICAL-Pilot works only in a virtual or a conda environment"
        return Availability(not why, why, _INSTALL if why else "")

    # --- submitting --------------------------------------------------------------------------------------------------

    def submit_many(self, requests: Sequence[JobRequest]) -> list[str | BackendError]:
        results: dict[str, str | BackendError] = {}
        jobs = []
        unavailable: BackendUnavailable | None = None
        for request in requests:
            try:
                if unavailable is not None:
                    raise unavailable
                if (job := self._recorded(request)) is not None:
                    jobs.append(job)
                results[request.job_name] = request.job_name
            except BackendError as error:
                unavailable = error if isinstance(error, BackendUnavailable) else None
                results[request.job_name] = error
        try:
            if jobs:
                self._client.give(jobs)
        except BackendUnavailable as error:
            # They are recorded: `find` knows them, and the next status call gives them to a pilot again.
            results |= dict.fromkeys([job.job_id for job in jobs], error)
        return [results[request.job_name] for request in requests]

    def _recorded(self, request: JobRequest) -> PilotJob | None:
        """Write the script of a job and record the job. Returns None if it is recorded already."""
        jobs = self._client.store.jobs
        if jobs.get(request.job_name) is not None:
            return None
        resources = request.resource_requirements
        self._refuse_excess(resources)
        self.prepare(request)
        job = PilotJob(
            job_id=request.job_name,
            workspace=request.workspace_dir,
            cores=max(1, ceil(resources.cpu)),
            gpus=resources.gpu,
            limits=self._limits.of_job(resources.time_hours, resources.memory_gb),
            priority=request.priority,
            submitted_at=time.time(),
            pilot=self._client.ready(),
        )
        if not jobs.add(job.job_id, job):
            return None
        failpoints.point("backend.ticket", failpoints.AFTER)
        return job

    def _refuse_excess(self, resources: Resources) -> None:
        site, node = self._site, self._client.state()
        cores = node.cores_per_node or site.pilot_size.get("cores", 0)
        memory_gb = node.memory_mb_per_node / 1024
        minutes = resources.time_hours * 60
        a_node, here = "a node of the pilot has", "the pilot"
        self.refuse(
            {
                f"{a_node} {cores} cores, not {resources.cpu:g}": 0 < cores < ceil(resources.cpu),
                f"{a_node} {memory_gb:.1f} GB of memory, not {resources.memory_gb:g}": 0
                < memory_gb
                < resources.memory_gb,
                f"{a_node} {site.gpus} GPUs (RADICAL_PILOT_GPUS), not {resources.gpu}": resources.gpu > site.gpus,
                f"{here} lives for {site.walltime_minutes} minutes (RADICAL_PILOT_WALLTIME_MINUTES), not for "
                f"{minutes:g}": minutes > site.walltime_minutes,
                f"{here} is in the queue {site.queue!r} (RADICAL_PILOT_QUEUE), not in {resources.partition!r}": (
                    resources.partition not in (None, site.queue)
                ),
                f"{here} has the project {site.project!r} (RADICAL_PILOT_PROJECT), not {resources.account!r}": (
                    resources.account not in (None, site.project)
                ),
                f"it knows no extra resources, so not {', '.join(resources.extra)} either": bool(resources.extra),
            }
        )

    def find(self, job_name: str) -> str | None:
        return job_name if self._client.store.jobs.get(job_name) is not None else None

    # --- following ---------------------------------------------------------------------------------------------------

    def get_statuses(self, job_ids: Sequence[str]) -> dict[str, HPCJobInfo]:
        infos = dict.fromkeys(job_ids, UNKNOWN)
        waiting: list[PilotJob] = []
        pilots: dict[str, tuple[bool, PilotState]] = {}
        for job_id in infos:
            if (job := self._client.store.jobs.get(job_id)) is not None:
                evidence = self._evidence(job, pilots)
                if needs_pilot(evidence):
                    waiting.append(job)
                infos[job_id] = replace(resolve_status(evidence), submitted_at=utc(job.submitted_at))
        if waiting:
            text = self._give_again(waiting)
            infos |= {job.job_id: replace(infos[job.job_id], message=text) for job in waiting}
        return infos

    def _give_again(self, jobs: Sequence[PilotJob]) -> str:
        """Give jobs to another pilot; their claims prevent that one runs twice. Returns what they wait for."""
        try:
            self._client.give(jobs)
        except BackendUnavailable as error:
            return error.message
        return "the pilot is starting"

    def _evidence(self, job: PilotJob, pilots: dict[str, tuple[bool, PilotState]]) -> Evidence:
        """Reads the newest evidence last: what a pilot reports, then the claim, then the record."""
        end = self._client.store.ends.get(job.job_id)
        claim = self.claim_of(job.files)
        pilot = claim.owner if claim is not None and claim.blocked is None else job.pilot
        if pilot not in pilots:
            state = self._client.pilots.states.get(pilot) or PilotState()
            pilots[pilot] = (self._client.pilots.alive(pilot, state), state)
        alive, state = pilots[pilot]
        if not alive:
            # The job may have been started, or may have ended, before the pilot did.
            claim = self.claim_of(job.files)
        record = self.record_of(job.files) if claim is not None else None
        return Evidence(time.time(), record, claim, end, pilot_alive=alive, pilot=state)

    def list_jobs(self) -> list[JobSeen]:
        names = [name for name in self._client.store.jobs.ids() if name.startswith(JOB_PREFIX)]
        # The job process of an unknown job has ended it, or does so within a minute.
        live = (JobStatus.PENDING, JobStatus.RUNNING)
        infos = self.get_statuses(names).items()
        return [JobSeen(name, name, info.submitted_at) for name, info in infos if info.status in live]

    def queue_status(self) -> list[QueueStatus]:
        pilots = self._client.pilots
        states = {name: state for name in pilots.states.ids() if (state := pilots.states.get(name)) is not None}
        return [
            QueueStatus(
                name,
                available=state.state == ACTIVE,
                running=state.running,
                pending=state.pending,
                cpus_total=state.cores or None,
                details={"resource": state.resource, "state": state.state, "text": state.text},
            )
            for name, state in states.items()
            if state.takes_jobs and pilots.alive(name, state)
        ]

    # --- stopping and forgetting -------------------------------------------------------------------------------------

    def cancel_many(self, job_ids: Sequence[str]) -> None:
        for job_id in job_ids:
            job = self._client.store.jobs.get(job_id)
            if job is not None and not self._finished(job):
                self._cancel(job)

    def _cancel(self, job: PilotJob) -> None:
        self.on_files(lambda: claims.cancel(job.files, time.time()))

    def _finished(self, job: PilotJob) -> bool:
        return resolve_status(self._evidence(job, {})).finished

    def cleanup_many(self, job_ids: Sequence[str]) -> None:
        for job_id in job_ids:
            job = self._client.store.jobs.get(job_id)
            if job is not None and self._finished(job):
                self._client.store.forget(job_id)

    def attempt_files(self, job_id: str) -> AttemptFiles | None:
        job = self._client.store.jobs.get(job_id)
        return None if job is None else job.files

    def close(self) -> None:
        if self._acquired is not None:
            agent_client.release(self._acquired)
            self._acquired = None
