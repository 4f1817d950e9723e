"""Jobs as tasks of a RADICAL-Pilot pilot: one allocation of a batch system, or this machine, and many jobs in it.

Each worker process has a pilot of its own, started when its first job comes and looked after by a process of its own
(see `agent_main.py`). Small files hold what is known about jobs (see `store.py`), so any process follows and cancels
them. The claim and the keeper of a job settle on its node what happens to it. A job that waits when its pilot ends goes
to the next one; a job that runs then is stopped, and the service retries it.

`state_dir` has to be seen under the same path by the nodes of the pilot, and by all workers of the backend.
"""

from __future__ import annotations

import os
import pwd
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Any

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.errors import BackendError, BackendRejected, BackendUnavailable, ConfigurationError
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt import process_tree
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.logs import read_logs, tail_log
from ccat_workflow_manager.hpc.attempt.script import render_job_script, write_script
from ccat_workflow_manager.hpc.base import (
    Availability,
    BulkBackend,
    Capabilities,
    JobRequest,
    JobSeen,
    LogStream,
    QueueStatus,
)
from ccat_workflow_manager.hpc.log_watch import LogWatch
from ccat_workflow_manager.hpc.radical_pilot import link as links
from ccat_workflow_manager.hpc.radical_pilot import pilot_dir
from ccat_workflow_manager.hpc.radical_pilot.evidence import Evidence, judged
from ccat_workflow_manager.hpc.radical_pilot.options import PilotOptions
from ccat_workflow_manager.hpc.radical_pilot.settings import RadicalPilotSettings
from ccat_workflow_manager.hpc.radical_pilot.start_script import render_start_script
from ccat_workflow_manager.hpc.radical_pilot.store import (
    BACKEND,
    JobStore,
    Ticket,
    ask_to_stop,
    claim_for_nobody,
    claim_of,
    record_of,
    stopped_of,
)
from ccat_workflow_manager.lifecycle.job_info import UNKNOWN, HPCJobInfo, JobStatus
from ccat_workflow_manager.lifecycle.models import JOB_PREFIX, Resources
from ccat_workflow_manager.settings import settings_of

_HARMLESS = re.compile(r"[A-Za-z0-9_./+@=:,-]+")
_HINT = "pip install 'ccat-workflow-manager[radical_pilot]'"


class RadicalPilotBackend(BulkBackend):
    """Runs jobs in pilots. See `settings.py` for what the keywords mean."""

    name = BACKEND
    capabilities = Capabilities(
        bulk_status=True,
        find=True,
        exit_record=True,
        survives_worker=False,
        lists=True,
        memory_limit=False,
        gpu=True,
    )
    settings = RadicalPilotSettings
    start_seconds = 120

    def __init__(self, *, kill_grace_seconds: float = 5, log_limit_mb: float = 512, **settings: Any) -> None:
        site = settings_of(RadicalPilotSettings, self.name, settings)
        default = Path(tempfile.gettempdir(), f"ccat-wm-{os.geteuid()}", self.name)
        root = Path(site.state_dir).absolute() if site.state_dir else default
        if not _HARMLESS.fullmatch(str(root)):
            # RADICAL-Pilot writes it into shell scripts as it is.
            raise ConfigurationError(f"RADICAL_PILOT_STATE_DIR may hold no blanks and no special characters: {root}")
        self._options = PilotOptions(**site.model_dump(), kill_grace_seconds=kill_grace_seconds)
        self._store = JobStore(root / "jobs")
        self._store.prepare()
        self._logs = LogWatch(self.name, log_limit_mb)
        self._home = pwd.getpwuid(os.geteuid()).pw_dir
        self._link: links.PilotLink | None = links.hold(root, self._options)

    @classmethod
    def is_available(cls) -> Availability:
        with suppress(ModuleNotFoundError):
            if find_spec("radical.pilot") is not None:
                if not hasattr(os, "pidfd_open") or not Path("/proc/self/stat").exists():
                    return Availability(False, "it needs Linux 5.3 or later with /proc mounted")
                program = Path(sys.executable).with_name("radical-pilot-bridge")
                if not program.exists():
                    return Availability(False, f"RADICAL-Pilot is installed without its programs: no {program}", _HINT)
                if sys.prefix == sys.base_prefix and "CONDA_PREFIX" not in os.environ:
                    return Availability(False, "RADICAL-Pilot works only in a virtual or a conda environment", _HINT)
                return Availability(True)
        return Availability(False, "not installed: radical.pilot", _HINT)

    # --- submitting --------------------------------------------------------------------------------------------------

    def submit_many(self, requests: Sequence[JobRequest]) -> list[str | BackendError]:
        results: list[str | BackendError] = []
        tickets = []
        away: BackendUnavailable | None = None
        for request in requests:
            try:
                if away is not None:
                    raise away
                ticket = self._written(request)
                if ticket is not None:
                    tickets.append(ticket)
                results.append(request.job_name)
            except BackendError as error:
                away = error if isinstance(error, BackendUnavailable) else None
                results.append(error)
        if tickets:
            try:
                self._held().hand_over(self._store, tickets)
            except BackendUnavailable as error:
                # They are written down: `find` knows them, and whoever looks at them hands them over again.
                names = {ticket.job_id for ticket in tickets}
                return [error if result in names else result for result in results]
        return results

    def _written(self, request: JobRequest) -> Ticket | None:
        """The ticket of a job that is new, with its scripts in place."""
        if self._store.ticket(request.job_name) is not None:
            return None
        ticket = self._ticket_for(request)
        try:
            script = render_job_script(
                request.execution_command,
                environment={**request.environment_variables, process_tree.MARK: request.job_name},
                cwd=request.workspace_dir,
                files=ticket.files,
            )
            write_script(ticket.files, script)
        except ValueError as error:
            raise self._rejected(str(error)) from error
        except OSError as error:
            text = f"the job script cannot be written: {error.strerror}: {error.filename}"
            raise BackendRejected(text, backend=self.name, reason=FailureReason.STAGING_FAILED) from error
        start = render_start_script(ticket, home=self._home, grace_seconds=self._options.kill_grace_seconds)
        try:
            self._store.path(ticket.job_id, "start").write_bytes(start.encode("utf-8", "surrogateescape"))
        except OSError as error:
            raise BackendUnavailable(
                f"{error.filename} cannot be written: {error.strerror}", backend=self.name
            ) from error
        if not self._store.add(ticket):
            return None
        failpoints.point("backend.ticket", failpoints.AFTER)
        return ticket

    def _ticket_for(self, request: JobRequest) -> Ticket:
        resources = request.resource_requirements
        self._check(resources, request.job_name)
        try:
            AttemptFiles.of(request.workspace_dir, request.job_name)
        except ValueError as error:
            raise self._rejected(str(error)) from error
        return Ticket(
            job_id=request.job_name,
            workspace=request.workspace_dir,
            cores=max(1, ceil(resources.cpu)),
            gpus=resources.gpu,
            memory_mb=ceil(resources.memory_gb * 1024),
            limit_seconds=ceil(resources.time_hours * 3600),
            priority=request.priority,
            submitted_at=time.time(),
            pilot=self._held().ready(),
        )

    def _check(self, resources: Resources, job_name: str) -> None:
        """Refuse what cannot be given: nothing that is asked for is left out silently."""
        options = self._options
        pilot = self._held().pilot
        node = pilot.note() if pilot is not None else pilot_dir.PilotNote()
        cores = node.cores_per_node or options.pilot_size.get("cores", 0)
        limits = {
            f"{job_name!r} cannot be a file name": not self._store.is_job_id(job_name),
            f"a node of the pilot has {cores} cores, not {resources.cpu:g}": 0 < cores < ceil(resources.cpu),
            f"a node of the pilot has {node.memory_mb_per_node / 1024:.1f} GB of memory, not {resources.memory_gb:g}": 0
            < node.memory_mb_per_node
            < resources.memory_gb * 1024,
            f"a node of the pilot has {options.gpus} GPUs (RADICAL_PILOT_GPUS), not {resources.gpu}": resources.gpu
            > options.gpus,
            f"the pilot lives for {options.walltime_minutes} minutes (RADICAL_PILOT_WALLTIME_MINUTES), "
            f"not for {resources.time_hours:g} hours": resources.time_hours * 60 > options.walltime_minutes,
            f"its queue is that of the pilot (RADICAL_PILOT_QUEUE), not {resources.partition!r}": resources.partition
            not in (None, options.queue),
            f"its project is that of the pilot (RADICAL_PILOT_PROJECT), not {resources.account!r}": resources.account
            not in (None, options.project),
            f"it knows no extra resources, so not {', '.join(resources.extra)} either": bool(resources.extra),
        }
        wrong = [text for text, is_wrong in limits.items() if is_wrong]
        if wrong:
            raise self._rejected("; ".join(wrong))

    def _rejected(self, why: str) -> BackendRejected:
        return BackendRejected(f"the radical_pilot backend cannot take this job: {why}", backend=self.name)

    # --- following ---------------------------------------------------------------------------------------------------

    def get_status(self, job_id: str) -> HPCJobInfo:
        return self.get_statuses([job_id])[job_id]

    def get_statuses(self, job_ids: Sequence[str]) -> dict[str, HPCJobInfo]:
        infos: dict[str, HPCJobInfo] = {}
        homeless: list[Ticket] = []
        pilots: dict[str, tuple[bool, pilot_dir.PilotNote]] = {}
        for job_id in job_ids:
            ticket = self._store.ticket(job_id)
            info = self._look(ticket, pilots) if ticket is not None else UNKNOWN
            if ticket is not None and info is None:
                homeless.append(ticket)
            elif ticket is not None and info is not None:
                info = replace(info, submitted_at=datetime.fromtimestamp(ticket.submitted_at, UTC))
            infos[job_id] = info or HPCJobInfo(JobStatus.PENDING, message="the pilot is starting")
        if homeless:
            text = self._hand_over_again(homeless)
            infos |= {ticket.job_id: HPCJobInfo(JobStatus.PENDING, message=text) for ticket in homeless}
        return self._logs.apply(infos, self._files, self.cancel_many)

    def _hand_over_again(self, tickets: Sequence[Ticket]) -> str:
        """Their pilot ended before they were started; their claims see to it that none of them runs twice."""
        try:
            self._held().hand_over(self._store, tickets)
        except BackendUnavailable as error:
            return error.message
        return "the pilot is starting"

    def _look(self, ticket: Ticket, pilots: dict[str, tuple[bool, pilot_dir.PilotNote]]) -> HPCJobInfo | None:
        """The job by all that is written down; None if it waits for a pilot that is gone."""
        try:
            claim = claim_of(ticket)
            cancelled_at = self._store.cancelled_at(ticket.job_id)
            if claim is None and cancelled_at is not None:
                # Whoever cancelled it may have died before he could settle it.
                claim_for_nobody(ticket)
                claim = claim_of(ticket)
            runner = claim.pilot if claim is not None and self._store.is_job_id(claim.pilot) else ticket.pilot
            if runner not in pilots:
                pilot = self._held().dir_of(runner)
                pilots[runner] = (pilot.alive(), pilot.note())
            alive, note = pilots[runner]
            end = self._store.end(ticket.job_id)
            # After all that says that it is over, since it was there before; and before what may have brought it about.
            record = record_of(ticket) if claim is not None else None
            stopped, over = stopped_of(ticket) if claim is not None else (None, False)
        except OSError as error:
            text = f"the files of {ticket.job_id} cannot be read: {error.strerror}: {error.filename}"
            raise BackendUnavailable(text, backend=self.name) from error
        seen = Evidence(
            record=record,
            stopped=stopped,
            over=over,
            end=end,
            claim=claim,
            cancelled_at=cancelled_at,
            pilot_alive=alive,
            pilot_text=note.text,
            pilot_until=note.until,
        )
        return judged(seen, time.time())

    def _is_over(self, ticket: Ticket) -> bool:
        info = self._look(ticket, {})
        return info is not None and info.finished

    def find(self, job_name: str) -> str | None:
        return job_name if self._store.ticket(job_name) is not None else None

    def list_jobs(self) -> list[JobSeen]:
        names = [name for name in self._store.job_ids() if name.startswith(JOB_PREFIX)]
        infos = self.get_statuses(names)
        # Of those that are unknown nothing runs any more, or not for long: their keepers end them.
        alive = (JobStatus.PENDING, JobStatus.RUNNING)
        return [JobSeen(name, name, info.submitted_at) for name, info in infos.items() if info.status in alive]

    # --- the rest ----------------------------------------------------------------------------------------------------

    def cancel(self, job_id: str) -> None:
        ticket = self._store.ticket(job_id)
        if ticket is None or self._is_over(ticket):
            return
        self._store.set_cancelled(job_id, time.time())
        try:
            if not claim_for_nobody(ticket):
                ask_to_stop(ticket, "cancel")
        except OSError as error:
            text = f"the files of {job_id} cannot be written: {error.strerror}: {error.filename}"
            raise BackendUnavailable(text, backend=self.name) from error

    def get_logs(self, job_id: str) -> str:
        files = self._files(job_id)
        return read_logs(files) if files is not None else ""

    def tail_logs(self, job_id: str, *, stream: LogStream = "stdout", lines: int = 200) -> str:
        files = self._files(job_id)
        return tail_log(files, stream, lines) if files is not None else ""

    def _files(self, job_id: str) -> AttemptFiles | None:
        ticket = self._store.ticket(job_id)
        return ticket.files if ticket is not None else None

    def queue_status(self) -> list[QueueStatus]:
        queues = []
        for path in sorted(self._held().root.glob("pilots/*")):
            pilot = pilot_dir.PilotDir(path)
            note = pilot.note()
            if pilot.alive() and note.state in (pilot_dir.STARTING, pilot_dir.ACTIVE):
                queues.append(
                    QueueStatus(
                        path.name,
                        available=note.state == pilot_dir.ACTIVE,
                        running=note.running,
                        pending=note.pending,
                        cpus_total=note.cores or None,
                        details={**note.details, "state": note.state, "text": note.text},
                    )
                )
        return queues

    def cleanup(self, job_id: str) -> None:
        ticket = self._store.ticket(job_id)
        if ticket is not None and self._is_over(ticket):
            self._store.forget(job_id)

    def close(self) -> None:
        if self._link is not None:
            links.release(self._link)
            self._link = None

    def _held(self) -> links.PilotLink:
        if self._link is None:
            self._link = links.hold(self._store.directory.parent, self._options)
        return self._link
