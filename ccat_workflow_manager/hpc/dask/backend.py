"""Jobs on a Dask cluster: at a scheduler that the site names, or on a small cluster of our own on this machine.

Without the service:

    backend = DaskBackend(scheduler_address="tcp://head:8786")
    job_id = backend.submit(execution_command=["sha256sum", "map.fits"], ...)

Each job is one Dask task, whose key is the job's name; the task starts the job as a process of its own under a watcher
(`watcher.py`) and waits for it. See docs/backends/dask.md.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.errors import (
    BackendConfused,
    BackendError,
    BackendRejected,
    BackendUnavailable,
    ConfigurationError,
)
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt import process_tree
from ccat_workflow_manager.hpc.attempt.log_files import last_lines, read_end
from ccat_workflow_manager.hpc.attempt.script import JobFiles, job_files, render_job_script
from ccat_workflow_manager.hpc.base import (
    Availability,
    BulkBackend,
    Capabilities,
    JobRequest,
    JobSeen,
    LogStream,
    QueueStatus,
)
from ccat_workflow_manager.hpc.dask import claims
from ccat_workflow_manager.hpc.dask.claims import Claim, What
from ccat_workflow_manager.hpc.dask.evidence import FORGOTTEN, RESTARTED, Evidence, forgotten, judge
from ccat_workflow_manager.hpc.dask.link import ANSWER_SECONDS, Batch, DaskLink, SchedulerSeen
from ccat_workflow_manager.hpc.dask.notes import Note, NoteStore
from ccat_workflow_manager.hpc.dask.own_cluster import START_SECONDS, OwnCluster, Shape
from ccat_workflow_manager.hpc.dask.resources import NAMED, ResourceRequest, request_of
from ccat_workflow_manager.hpc.dask.watcher import Order
from ccat_workflow_manager.hpc.script_file import write_script
from ccat_workflow_manager.lifecycle.job_info import UNKNOWN, HPCJobInfo
from ccat_workflow_manager.lifecycle.models import parse_job_name

T = TypeVar("T")

_GIB = 1024**3
_CHUNK = 1000
_JOBS_PER_CPU = 4
_ENDED = ("memory", "erred", "forgotten")
_REMEMBERED = 20_000


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A job whose script is written."""

    note: Note
    order: Order
    wishes: ResourceRequest


class DaskBackend(BulkBackend):
    """Runs jobs as tasks of a Dask cluster."""

    name = "dask"
    capabilities = Capabilities(bulk_status=True, bulk_submit=True, find=True, exit_record=True, lists=True)
    submit_seconds = START_SECONDS + 2 * ANSWER_SECONDS

    def __init__(
        self,
        *,
        scheduler_address: str = "",
        resources: str = "",
        workers: int = 1,
        jobs_per_worker: int = 0,
        idle_seconds: float = 60,
        state_dir: str | os.PathLike[str] | None = None,
        kill_grace_seconds: float = 5,
        log_limit_mb: float = 512,
    ) -> None:
        """Without `scheduler_address` the other settings of Dask shape the cluster of our own."""
        directory = Path(state_dir) if state_dir is not None else _default_state_dir()
        self._kill_grace_seconds = kill_grace_seconds
        self._log_limit_bytes = int(log_limit_mb * 1024 * 1024)
        self._notes = NoteStore(directory)
        self._remembered: dict[str, Note] = {}
        """The notes of the jobs that were asked for, the last of them last."""
        self._remembering = threading.Lock()
        self._shape: Shape | None = None
        if scheduler_address:
            named = frozenset(resources.replace(",", " ").split())
            if unknown := sorted(named - set(NAMED)):
                raise ConfigurationError(
                    f"DASK_RESOURCES names {', '.join(unknown)}; what can be named: {', '.join(NAMED)}"
                )
        else:
            if workers < 1:
                raise ConfigurationError(f"DASK_WORKERS must be 1 or more, not {workers}")
            named = frozenset({"cpu", "memory_gb"})
            self._shape = _shape(workers, jobs_per_worker, idle_seconds)
        self._named = named
        own = OwnCluster(directory, self._shape) if self._shape is not None else None
        self._link = DaskLink(scheduler_address, own)

    @classmethod
    def is_available(cls, scheduler_address: str = "") -> Availability:
        if not hasattr(os, "pidfd_open") or not Path("/proc/self/stat").exists():
            return Availability(False, "it needs Linux 5.3 or later with /proc mounted")
        if find_spec("distributed") is None:
            return Availability(False, "not installed: distributed", "pip install 'ccat-workflow-manager[dask]'")
        if not scheduler_address and shutil.which("openssl") is None:
            hint = "install openssl, or name a scheduler in DASK_SCHEDULER_ADDRESS"
            return Availability(False, "openssl, which makes the key of our own cluster, is not installed", hint)
        return Availability(True)

    # --- submitting --------------------------------------------------------------------------------------------------

    def submit_many(self, requests: Sequence[JobRequest]) -> list[str | BackendError]:
        results: list[str | BackendError] = []
        for start in range(0, len(requests), _CHUNK):
            try:
                results += self._submit_chunk(requests[start : start + _CHUNK])
            except (BackendUnavailable, BackendConfused) as error:
                results += [error] * (len(requests) - start)
                break
        return results

    def _submit_chunk(self, requests: Sequence[JobRequest]) -> list[str | BackendError]:
        scheduler = self._link.scheduler()
        results: dict[str, str | BackendError] = {}
        alike: dict[ResourceRequest, list[_Prepared]] = {}
        for request in requests:
            try:
                prepared = self._prepare(request, scheduler)
            except BackendRejected as error:
                results[request.job_name] = error
            else:
                results[request.job_name] = request.job_name
                alike.setdefault(prepared.wishes, []).append(prepared)
        for members in alike.values():
            for member in members:
                self._notes.write(member.note)
        if alike:
            self._link.hand_over([_batch(wishes, members) for wishes, members in alike.items()])
        return [results[request.job_name] for request in requests]

    def _prepare(self, request: JobRequest, scheduler: SchedulerSeen) -> _Prepared:
        """Write the job script. Raises BackendRejected."""
        resources, name = request.resource_requirements, request.job_name
        try:
            wishes = request_of(resources, self._named, self._shape, request.priority)
            files = job_files(request.workspace_dir, name)
            script = render_job_script(
                request.execution_command,
                environment={**request.environment_variables, process_tree.MARK: name},
                cwd=request.workspace_dir,
                files=files,
                supervised=True,
            ).encode("utf-8", "surrogateescape")
            failpoints.around("files.job-script", lambda: write_script(files, script))
        except ValueError as error:
            raise BackendRejected(f"the dask backend cannot take this job: {error}", backend=self.name) from error
        except OSError as error:
            text = f"its job script cannot be written: {error.strerror}: {error.filename}"
            raise BackendRejected(text, backend=self.name, reason=FailureReason.STAGING_FAILED) from error
        order = Order(
            job_name=name,
            workspace=request.workspace_dir,
            time_limit_seconds=resources.time_hours * 3600,
            memory_limit_bytes=int(resources.memory_gb * _GIB),
            log_limit_bytes=self._log_limit_bytes,
            kill_grace_seconds=self._kill_grace_seconds,
        )
        return _Prepared(Note(name, request.workspace_dir, scheduler.id, time.time()), order, wishes)

    def find(self, job_name: str) -> str | None:
        note = self._notes.read(job_name)
        if note is None:
            return None
        if self._read(lambda: claims.read(note.base)) is not None or _exists(note.files.record):
            return job_name
        # A note alone says only that somebody was about to submit. If the job is on its way all the same, a second one
        # of this name is the same task for Dask, and whichever claims the attempt first is the only one to run it.
        return job_name if self._link.states([job_name])[job_name] not in (None, "forgotten") else None

    # --- following ---------------------------------------------------------------------------------------------------

    def get_status(self, job_id: str) -> HPCJobInfo:
        return self.get_statuses([job_id])[job_id]

    def get_statuses(self, job_ids: Sequence[str]) -> dict[str, HPCJobInfo]:
        infos = dict.fromkeys(job_ids, UNKNOWN)
        notes = [note for job_id in infos if (note := self._note(job_id)) is not None]
        if not notes:
            return infos
        scheduler = self._link.scheduler()
        notes = [current for note in notes if (current := self._current(note, scheduler.id)) is not None]
        now = time.time()
        # Both before Dask is asked: each proves what has been true until then. Without a claim there is no record.
        claimed = {note.job_name: self._claim(note) for note in notes}
        seen = {
            note.job_name: (self._record(note) if claimed[note.job_name] else None, claimed[note.job_name])
            for note in notes
        }
        asked = [name for name, (record, _) in seen.items() if record is None]
        states = self._link.states(asked)
        errors = self._link.errors([name for name, state in states.items() if state == "erred"])
        for note in notes:
            record, claim = seen[note.job_name]
            state = states.get(note.job_name)
            if record is None and state in (None, *_ENDED):
                # It may have started, and even ended, since.
                claim, record = self._claim(note), self._record(note)
            evidence = Evidence(
                record=record,
                claim=claim,
                state=state,
                same_scheduler=note.scheduler == scheduler.id,
                workers=len(scheduler.workers),
                now=now,
                error=errors.get(note.job_name),
            )
            info = judge(self._settled(note, evidence))
            infos[note.job_name] = replace(info, submitted_at=datetime.fromtimestamp(note.submitted_at, UTC))
            if info.finished:
                # Whichever worker cleans it up, the others shall not keep it for ever.
                self._forget(note.job_name)
        return infos

    def _note(self, job_id: str) -> Note | None:
        """The note of a job, read once; it is shown to `get_statuses` again and again."""
        note = self._forget(job_id) or self._notes.read(job_id)
        if note is not None:
            with self._remembering:
                self._remembered[job_id] = note
                if len(self._remembered) > _REMEMBERED:
                    del self._remembered[next(iter(self._remembered))]
        return note

    def _current(self, note: Note, scheduler: str) -> Note | None:
        """What is remembered may be of a try that came to nothing, with the scheduler before this one."""
        if note.scheduler == scheduler:
            return note
        self._forget(note.job_name)
        return self._note(note.job_name)

    def _forget(self, job_id: str) -> Note | None:
        with self._remembering:
            return self._remembered.pop(job_id, None)

    def _settled(self, note: Note, evidence: Evidence) -> Evidence:
        """A job that nobody is going to start is made sure of never starting."""
        if not forgotten(evidence):
            return evidence
        text = FORGOTTEN if evidence.same_scheduler else RESTARTED
        self._take(note, What.DROPPED, text)
        return replace(evidence, claim=self._claim(note), record=self._record(note))

    def list_jobs(self) -> Iterable[JobSeen]:
        names = [key for key in self._link.names() if parse_job_name(key) is not None]
        states = self._link.states(names)
        seen = []
        for name, state in states.items():
            if state is None or state in _ENDED:
                continue
            note = self._notes.read(name)
            # Dask runs a task again whose result was on a worker that has left; its job is over all the same.
            if note is None or not _exists(note.files.record):
                since = datetime.fromtimestamp(note.submitted_at, UTC) if note is not None else None
                seen.append(JobSeen(name, name, since))
        return seen

    def queue_status(self) -> list[QueueStatus]:
        scheduler = self._link.scheduler()
        workers = scheduler.workers.values()
        try:
            threads = sum(int(worker["nthreads"]) for worker in workers)
            running = sum(int(worker["metrics"].get("executing", 0)) for worker in workers if "metrics" in worker)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            text = f"the Dask scheduler describes its workers in a way that means nothing: {error!r}"
            raise BackendConfused(text, backend=self.name) from error
        details = {"workers": len(scheduler.workers), "places": threads, "scheduler": scheduler.id}
        return [QueueStatus(self.name, bool(scheduler.workers), running=running, details=details)]

    # --- stopping and forgetting -------------------------------------------------------------------------------------

    def cancel(self, job_id: str) -> None:
        self.cancel_many([job_id])

    def cancel_many(self, job_ids: Sequence[str]) -> None:
        never_started = []
        for job_id in job_ids:
            note = self._notes.read(job_id)
            if note is None or _exists(note.files.record):
                continue
            if self._take(note, What.CANCELLED):
                never_started.append(job_id)
            elif (claim := self._claim(note)) is not None and claim.what is What.STARTED:
                self._ask_to_stop(note)
        self._link.release(never_started)

    def cleanup(self, job_id: str) -> None:
        self.cleanup_many([job_id])

    def cleanup_many(self, job_ids: Sequence[str]) -> None:
        infos = self.get_statuses(job_ids)
        over = [job_id for job_id, info in infos.items() if info.finished]
        self._link.release(over)
        for job_id in over:
            self._notes.forget(job_id)
            self._forget(job_id)

    def close(self) -> None:
        self._link.close()

    # --- logs --------------------------------------------------------------------------------------------------------

    def get_logs(self, job_id: str) -> str:
        files = self._files(job_id)
        return "" if files is None else read_end(files.stdout) + read_end(files.stderr)

    def tail_logs(self, job_id: str, *, stream: LogStream = "stdout", lines: int = 200) -> str:
        files = self._files(job_id)
        return "" if files is None else last_lines(files.stderr if stream == "stderr" else files.stdout, lines)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _files(self, job_id: str) -> JobFiles | None:
        note = self._notes.read(job_id)
        return None if note is None else note.files

    def _take(self, note: Note, what: What, text: str = "") -> bool:
        claim = Claim(what, time.time(), platform.node(), text=text)
        return self._read(lambda: claims.take(note.base, claim))

    def _ask_to_stop(self, note: Note) -> None:
        self._read(lambda: claims.ask_to_stop(note.base))

    def _claim(self, note: Note) -> Claim | None:
        return self._read(lambda: claims.read(note.base))

    def _record(self, note: Note) -> str | None:
        def read() -> str | None:
            try:
                return Path(note.files.record).read_text(encoding="utf-8", errors="replace")
            except FileNotFoundError:
                return None

        return self._read(read)

    def _read(self, what: Callable[[], T]) -> T:
        """Do something with the files of an attempt."""
        try:
            return what()
        except OSError as error:
            text = f"the files of the attempt cannot be used: {error.strerror}: {error.filename}"
            raise BackendUnavailable(text, backend=self.name) from error
        except ValueError as error:
            raise BackendConfused(f"the claim of the attempt cannot be read: {error}", backend=self.name) from error


def _batch(wishes: ResourceRequest, members: Sequence[_Prepared]) -> Batch:
    orders: dict[str, Mapping[str, Any]] = {each.note.job_name: asdict(each.order) for each in members}
    return Batch(orders, wishes.priority, dict(wishes.resources), wishes.workers)


def _shape(workers: int, jobs_per_worker: int, idle_seconds: float) -> Shape:
    cpus = os.cpu_count() or 1
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / _GIB
    return Shape(workers, jobs_per_worker or _JOBS_PER_CPU * cpus, float(cpus), 0.9 * memory, idle_seconds)


def _exists(path: str) -> bool:
    return os.path.exists(path)


def _default_state_dir() -> Path:
    return Path(tempfile.gettempdir()) / f"ccat-wm-dask-{os.geteuid()}"
