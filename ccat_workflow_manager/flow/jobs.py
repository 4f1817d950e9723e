"""Tasks as jobs of a backend of the registry. One thread drives the backend."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from uuid import uuid4

from ccat_workflow_manager.errors import BackendError, BackendUnavailable, JobDeferred, WorkflowError
from ccat_workflow_manager.flow.errors import FlowError, TaskFailed
from ccat_workflow_manager.flow.execution import ExecutionBackend, Failed, Work, failure
from ccat_workflow_manager.flow.job_files import JobFiles
from ccat_workflow_manager.hpc import registry
from ccat_workflow_manager.hpc.base import HPCBackend, JobRequest
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus

log = logging.getLogger(__name__)

PLACEHOLDER = "Dummy Output"
"""The result of a task that was not executed."""

_SHORTEST_POLL_SECONDS, _LONGEST_POLL_SECONDS = 0.02, 2.0
_LOST_AFTER_SECONDS = 60.0
_PATIENCE_SECONDS = 600.0
_END_SECONDS = 30.0
_TRAVELS = ("noop", "dask", "radical_pilot")


@dataclass(slots=True, eq=False)
class _Job:
    work: Work
    name: str
    request: JobRequest
    files: JobFiles | None
    tried: bool = False
    unknown_since: float | None = None
    cancelled: bool = False


@dataclass(slots=True)
class _Inbox:
    """What the event loop asks of the driving thread."""

    works: deque[Work] = field(default_factory=deque)
    cancels: deque[Work] = field(default_factory=deque)
    bell: threading.Event = field(default_factory=threading.Event)
    closing: bool = False


class JobBackend(ExecutionBackend):
    """Submits every task as one job and reports its end. Jobs work in the directory of the engine."""

    def __init__(self, name: str, backend: HPCBackend, image: str | None = None) -> None:
        super().__init__(name)
        self.hpc = backend
        self._image = image
        self._prefix = f"flow-{uuid4().hex[:12]}"
        self._number = 0
        self._inbox = _Inbox()
        self._thread: threading.Thread | None = None
        self._waiting: list[_Job] = []
        self._live: dict[str, _Job] = {}
        self._to_cancel: set[str] = set()
        self._jobs: dict[Work, str] = {}
        self._pause = _SHORTEST_POLL_SECONDS
        self._failing_since: float | None = None

    @property
    def refuses_functions(self) -> str | None:
        if self.hpc.name in _TRAVELS:
            return None
        return (
            f"function tasks cannot run on the backend {self.hpc.name}, where Python functions do not travel: "
            "define an executable task, or use concurrent, dask or radical_pilot for this one"
        )

    @property
    def executes(self) -> bool:
        return self.hpc.capabilities.executes

    @property
    def own_directories(self) -> bool:
        return self.hpc.runs_images

    def start(self, work: Work) -> None:
        if self._inbox.closing:
            raise FlowError(f"task {work.name} cannot start: the backend {self.name} is shut down")
        if self.hpc.runs_images and not (work.options.image or self._image):
            raise FlowError(
                f"task {work.name} needs an image on the backend {self.name}: "
                "task_description={'image': ...}, or config={'image': ...} of the backend"
            )
        if self.hpc.runs_images and work.options.cwd:
            raise FlowError(f"task {work.name} cannot have a cwd: in its image it has a directory of its own")
        self._inbox.works.append(work)
        self._inbox.bell.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._drive, name=f"flow-{self.name}", daemon=True)
            self._thread.start()

    def cancel(self, work: Work) -> None:
        self._inbox.cancels.append(work)
        self._inbox.bell.set()

    async def shutdown(self) -> None:
        self._inbox.closing = True
        self._inbox.bell.set()
        if self._thread is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._thread.join)
        else:
            self.hpc.close()

    def abandon(self) -> None:
        self._inbox.closing = True
        self._inbox.bell.set()
        if self._thread is not None:
            self._thread.join(_END_SECONDS)

    # --- the thread --------------------------------------------------------------------------------------------------

    def _drive(self) -> None:
        stop_listening = self.hpc.listen(lambda ids: self._inbox.bell.set()) if self.hpc.capabilities.notifies else None
        try:
            while not self._inbox.closing:
                self._inbox.bell.clear()
                if not self._guarded_round():
                    self._pause = min(self._pause * 1.5, _LONGEST_POLL_SECONDS)
                if not self._inbox.works and not self._inbox.closing:
                    self._inbox.bell.wait(self._pause if self._live or self._waiting else None)
            self._end_all()
        except BaseException as error:  # noqa: BLE001 - the end of a thread: without it, all tasks would wait for ever
            self._fail_all(error)
        finally:
            if stop_listening is not None:
                stop_listening()
            self.hpc.close()

    def _guarded_round(self) -> bool:
        """One round. Returns whether anything changed. A backend that is away for a while only costs time."""
        try:
            changed = self._round()
        except BackendError as error:
            now = time.monotonic()
            if self._failing_since is None:
                log.warning("the backend %s does not answer: %s", self.name, error.message)
                self._failing_since = now
            if now - self._failing_since > _PATIENCE_SECONDS:
                self._fail_all(error)
                self._failing_since = None
            return False
        self._failing_since = None
        if changed:
            self._pause = _SHORTEST_POLL_SECONDS
        return changed

    def _round(self) -> bool:
        self._take_works()
        cancelled = self._take_cancels()
        changed = self._submit() or cancelled
        if self._live:
            infos = self.hpc.get_statuses(list(self._live))
            changed = self._look(infos) or changed
        return changed

    def _take_works(self) -> None:
        works = self._inbox.works
        while works:
            work = works.popleft()
            if work.future.done():
                continue
            try:
                self._waiting.append(self._job(work))
            except (WorkflowError, OSError, ValueError) as error:
                self.post(work, failure(work, error))

    def _job(self, work: Work) -> _Job:
        self._number += 1
        name = f"{self._prefix}-{self._number}"
        files = JobFiles.create(self.work_dir, name, work, self.hpc) if self.executes else None
        request = JobRequest(
            execution_command=files.command if files is not None else ("true",),
            image_ref=work.options.image or self._image,
            workspace_dir=files.workspace if files is not None else "",
            input_dir=files.input if files is not None else "",
            output_dir=files.output if files is not None else "",
            resource_requirements=work.options.resources,
            environment_variables=files.environment if files is not None else {},
            job_name=name,
            mounts=files.mounts if files is not None else (),
        )
        return _Job(work, name, request, files)

    def _submit(self) -> bool:
        """Submit what waits. A job whose submission may have been lost is looked for first."""
        ready = [job for job in self._waiting if not job.work.future.done()]
        try:
            fresh = [job for job in ready if not (job.tried and self._found(job))]
        except BackendError:
            self._waiting = [job for job in ready if job.work not in self._jobs]
            raise
        self._waiting = []
        try:
            results = self.hpc.submit_many([job.request for job in fresh]) if fresh else []
        except BackendError as error:
            results = [error] * len(fresh)
        changed = False
        for job, result in zip(fresh, results, strict=True):
            job.tried = True
            if isinstance(result, str):
                self._live[result] = job
                self._jobs[job.work] = result
                changed = True
            elif isinstance(result, JobDeferred) or (
                isinstance(result, BackendUnavailable) and self.hpc.capabilities.find
            ):
                self._waiting.append(job)
            else:
                self._end(job, failure(job.work, result))
        return changed

    def _found(self, job: _Job) -> bool:
        """Look for the job of a submission that may have been lost. Raises BackendError."""
        job_id = self.hpc.find(job.name) if self.hpc.capabilities.find else None
        if job_id is not None:
            self._live[job_id] = job
            self._jobs[job.work] = job_id
        return job_id is not None

    def _take_cancels(self) -> bool:
        while self._inbox.cancels:
            job_id = self._jobs.get(self._inbox.cancels.popleft())
            if job_id is not None and (job := self._live.get(job_id)) is not None:
                job.cancelled = True
                self._to_cancel.add(job_id)
        self._to_cancel &= self._live.keys()
        asked = list(self._to_cancel)
        if asked:
            self.hpc.cancel_many(asked)
            self._to_cancel.clear()
        return bool(asked)

    def _look(self, infos: dict[str, HPCJobInfo]) -> bool:
        ended = []
        for job_id, info in infos.items():
            job = self._live[job_id]
            if info.status is JobStatus.RUNNING:
                job.work.future.is_running = True
            if info.finished or self._is_lost(job, info):
                ended.append(job_id)
                outcome = self._outcome(job, job_id, info) if not job.cancelled else None
                del self._live[job_id]
                self._end(job, outcome)
        if ended:
            self.hpc.cleanup_many(ended)
        return bool(ended)

    @staticmethod
    def _is_lost(job: _Job, info: HPCJobInfo) -> bool:
        if info.status is not JobStatus.UNKNOWN:
            job.unknown_since = None
            return False
        job.unknown_since = job.unknown_since or time.monotonic()
        return time.monotonic() - job.unknown_since > _LOST_AFTER_SECONDS

    def _outcome(self, job: _Job, job_id: str, info: HPCJobInfo) -> object:
        work = job.work
        try:
            if info.status is JobStatus.COMPLETED:
                return PLACEHOLDER if job.files is None else job.files.result(self.hpc, job_id, work)
            out, err = ("", "") if job.files is None else job.files.tails(self.hpc, job_id)
            if job.files is not None and work.capture_stdio:
                job.files.keep(self.hpc, job_id, work)
        except Exception as error:  # noqa: BLE001 - code of a program: what a function raised, and its classes
            return failure(work, error)
        code = -info.signal if info.signal is not None else info.exit_code
        why = info.message or (f"exit code {code}" if info.status is JobStatus.FAILED else f"its job is {info.status}")
        return Failed(TaskFailed(work.name, why, exit_code=code, stdout=out, stderr=err, attempts=work.attempt))

    def _end(self, job: _Job, outcome: object) -> None:
        self._jobs.pop(job.work, None)
        if job.files is not None:
            job.files.remove()
        if not job.cancelled:
            self.post(job.work, outcome)

    # --- the end -----------------------------------------------------------------------------------------------------

    def _end_all(self) -> None:
        for job in self._waiting:
            job.cancelled = True
            self._end(job, None)
        self._waiting = []
        self._inbox.works.clear()
        for job in self._live.values():
            job.cancelled = True
        self._to_cancel.update(self._live)
        deadline = time.monotonic() + _END_SECONDS
        pause = threading.Event()
        while self._live and time.monotonic() < deadline:
            if not self._guarded_round():
                pause.wait(_SHORTEST_POLL_SECONDS)

    def _fail_all(self, error: BaseException) -> None:
        jobs = [*self._live.values(), *self._waiting]
        self._live, self._waiting = {}, []
        for job in jobs:
            self._end(job, failure(job.work, error))
        while self._inbox.works:
            work = self._inbox.works.popleft()
            self.post(work, failure(work, error))


class NoopExecutionBackend(JobBackend):
    """Ends every task at once, with a placeholder as its result: for dry runs, and for tests of a program."""

    def __init__(self, name: str = "default", **settings: object) -> None:
        super().__init__(name, registry.create("noop", **settings))
