"""What a contract clause works with: one backend under test, and jobs on it that are cleaned up afterwards.

Everything that a clause cannot know by itself is a method or an attribute here, to be overridden per backend.
"""

from __future__ import annotations

import json
import os
import select
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any, TypeVar
from unittest import mock
from uuid import uuid4

from ccat_workflow_manager import shell
from ccat_workflow_manager.errors import BackendError
from ccat_workflow_manager.hpc.base import HPCBackend, JobRequest
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from ccat_workflow_manager.lifecycle.models import Resources

T = TypeVar("T")

_PAUSE = Event()


class ClauseFailed(AssertionError):
    """The backend does not do what the contract says."""


class NotClaimed(Exception):
    """The clause is about something that the backend does not claim to do."""


def check(condition: object, text: str) -> None:
    """Fail the clause unless the condition holds; `text` says what was expected and what happened."""
    if not condition:
        raise ClauseFailed(text)


@dataclass(frozen=True, slots=True)
class Attempt:
    """The directories of one attempt, laid out as the service lays them out."""

    root: Path

    @property
    def workspace(self) -> Path:
        return self.root / "workspace"

    @property
    def output(self) -> Path:
        return self.root / "output.partial"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def input(self) -> Path:
        return self.root / "input"

    @property
    def manifest(self) -> Path:
        return self.root / "config" / "manifest.json"

    def create(self) -> Attempt:
        for directory in (self.workspace, self.output, self.logs, self.input, self.manifest.parent):
            directory.mkdir(parents=True)
        self.manifest.write_text("{}")
        return self


@dataclass(frozen=True, slots=True)
class Job:
    """A job that a clause has submitted."""

    id: str
    request: JobRequest
    attempt: Attempt


@dataclass
class BackendHarness:
    """A backend under test. `create` makes a new object of it; its jobs find `workdir` under the same path."""

    create: Callable[[], HPCBackend]
    workdir: Path
    factory: str = ""
    """`module:callable` that makes the backend in another process, given `config` as keywords."""
    config: Mapping[str, Any] = field(default_factory=dict)
    python: str = sys.executable
    """A Python that the jobs can start."""
    resources: Resources = field(default_factory=lambda: Resources(cpu=1, memory_gb=0.25, time_hours=0.05))
    """What an ordinary job asks for."""
    shortest_time_hours: float = 1 / 3600
    """The shortest time limit that the backend can keep."""
    patience_seconds: float = 120.0
    """How long a state may take to come about; a busy site needs more."""
    endless_extra: Mapping[str, Any] = field(default_factory=dict)
    """`resources.extra` of a job that does not end by itself, for backends that run nothing."""
    followed_elsewhere: bool | None = None
    """Jobs are known to every process on the host; None: if they survive the one that has submitted them."""
    jobs_run_here: bool = True
    """The jobs' processes are visible to this one."""
    refused: Sequence[Resources] = ()
    """Resources that this backend cannot give and so must refuse, beyond those that no backend knows."""
    _backend: HPCBackend | None = None
    _jobs: list[Job] = field(default_factory=list)
    _attempts: int = 0
    _other: _OtherProcess | None = None

    # --- the backend -------------------------------------------------------------------------------------------------

    @property
    def backend(self) -> HPCBackend:
        if self._backend is None:
            self._backend = self.create()
        return self._backend

    def needs_programs(self) -> None:
        """For clauses about what a program does."""
        if not self.backend.capabilities.executes:
            raise NotClaimed("this backend runs nothing")

    def needs_to_be_followed_elsewhere(self) -> None:
        """For clauses about another process."""
        claimed = self.followed_elsewhere
        if not (self.backend.capabilities.survives_worker if claimed is None else claimed):
            raise NotClaimed("jobs are only known to the process that has submitted them")

    def close(self) -> None:
        """Stop what is left of the clause's jobs and give the backend back; that jobs stop has clauses of its own."""
        if self._other is not None:
            self._other.close()
            self._other = None
        if self._backend is None:
            return
        for job in self._jobs:
            if not self._backend.get_status(job.id).finished:
                self._backend.cancel(job.id)
        deadline = time.monotonic() + self.patience_seconds
        for job in self._jobs:
            while self._backend.get_status(job.id).status in _ALIVE and time.monotonic() < deadline:
                _PAUSE.wait(0.02)
            self._backend.cleanup(job.id)
        self._jobs.clear()
        self._backend.close()
        self._backend = None

    # --- hooks: what only the author of a backend's tests can do -----------------------------------------------------

    def service_down(self) -> AbstractContextManager[None]:
        """While inside, the service behind the backend does not answer."""
        raise NotClaimed("the tests of this backend do not switch off its service (hook `service_down`)")

    def corrupt_answer(self, job: Job) -> AbstractContextManager[None]:
        """While inside, what the service says about the job cannot be read."""
        raise NotClaimed("the tests of this backend do not corrupt an answer (hook `corrupt_answer`)")

    @contextmanager
    def count_status_calls(self) -> Iterator[Callable[[], int]]:
        """Count the calls to the scheduler: here the programs run by `shell` and the single `get_status` calls."""
        calls = 0
        run, get_status = shell.run, self.backend.get_status

        def counted_run(*args: Any, **kwargs: Any) -> shell.Completed:
            nonlocal calls
            calls += 1
            return run(*args, **kwargs)

        def counted_status(job_id: str) -> HPCJobInfo:
            nonlocal calls
            calls += 1
            return get_status(job_id)

        with (
            mock.patch.object(shell, "run", counted_run),
            mock.patch.object(self.backend, "get_status", counted_status),
        ):
            yield lambda: calls

    # --- jobs --------------------------------------------------------------------------------------------------------

    def attempt(self, directory: str = "") -> Attempt:
        self._attempts += 1
        return Attempt(self.workdir / (directory or "attempts") / str(self._attempts)).create()

    def request(
        self,
        *command: str,
        environment: Mapping[str, str] | None = None,
        resources: Resources | None = None,
        attempt: Attempt | None = None,
    ) -> JobRequest:
        attempt = attempt or self.attempt()
        return JobRequest(
            execution_command=command,
            image_ref=None,
            sif_path=None,
            input_dir=str(attempt.input),
            output_dir=str(attempt.output),
            workspace_dir=str(attempt.workspace),
            manifest_path=str(attempt.manifest),
            resource_requirements=resources or self.resources,
            environment_variables=environment or {},
            job_name=f"ccat-{uuid4().hex}-1",
        )

    def submit(
        self,
        *command: str,
        environment: Mapping[str, str] | None = None,
        resources: Resources | None = None,
        attempt: Attempt | None = None,
    ) -> Job:
        return self.submit_request(
            self.request(*command, environment=environment, resources=resources, attempt=attempt)
        )

    def submit_request(self, request: JobRequest) -> Job:
        job_id = self.backend.submit(
            execution_command=request.execution_command,
            image_ref=request.image_ref,
            sif_path=request.sif_path,
            input_dir=request.input_dir,
            output_dir=request.output_dir,
            workspace_dir=request.workspace_dir,
            manifest_path=request.manifest_path,
            resource_requirements=request.resource_requirements,
            environment_variables=request.environment_variables,
            job_name=request.job_name,
        )
        return self._remember(job_id, request)

    def submit_endless(self) -> Job:
        """A job that does not end by itself."""
        return self.submit_request(self.endless_request())

    def endless_request(self) -> JobRequest:
        return self.request("sleep", "1000", resources=replace(self.resources, extra=dict(self.endless_extra)))

    def submit_all(self, requests: Sequence[JobRequest]) -> list[Job | BackendError]:
        results = self.backend.submit_many(requests)
        check(len(results) == len(requests), f"submit_many gave {len(results)} results for {len(requests)} requests")
        return [
            self._remember(result, request) if isinstance(result, str) else result
            for result, request in zip(results, requests, strict=True)
        ]

    def _remember(self, job_id: str, request: JobRequest) -> Job:
        check(job_id, f"submit must return the job's id, not {job_id!r}")
        job = Job(job_id, request, Attempt(Path(request.workspace_dir).parent))
        self._jobs.append(job)
        return job

    def unsupported(self) -> list[Resources]:
        """Resources that the backend must refuse."""
        asked = [replace(self.resources, extra={"no_backend_has_this_option": 1}), *self.refused]
        if not self.backend.capabilities.gpu:
            asked.append(replace(self.resources, gpu=1))
        return asked

    # --- waiting -----------------------------------------------------------------------------------------------------

    def poll(self, ask: Callable[[], T | None], what: str | Callable[[], str], seconds: float | None = None) -> T:
        """Ask until the answer is neither None nor False; the clause fails at the deadline."""
        seconds = seconds or self.patience_seconds
        deadline = time.monotonic() + seconds
        pause = 0.01
        while True:
            answer = ask()
            if answer is not None and answer is not False:
                return answer
            if time.monotonic() >= deadline:
                raise ClauseFailed(f"waited {seconds:g} s in vain for {what if isinstance(what, str) else what()}")
            _PAUSE.wait(pause)
            pause = min(pause * 1.5, 0.25)

    def until(self, job: Job, *wanted: JobStatus) -> HPCJobInfo:
        """The job once it is in one of these states; failing if it ends in another one or becomes unknown."""

        info: HPCJobInfo | None = None

        def look() -> HPCJobInfo | None:
            nonlocal info
            info = self.backend.get_status(job.id)
            if info.status in wanted:
                return info
            check(
                not info.finished and info.status is not JobStatus.UNKNOWN,
                f"the job should become {' or '.join(wanted)}: {describe(self.backend, job, info)}",
            )
            return None

        def what() -> str:
            return f"{job.id} to become {' or '.join(wanted)}: {describe(self.backend, job, info)}"

        return self.poll(look, what)

    def ended(self, job: Job) -> HPCJobInfo:
        return self.until(job, JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)

    # --- another process ---------------------------------------------------------------------------------------------

    def elsewhere(self, method: str, argument: str) -> Any:
        """What a fresh backend in another process answers: `status`, `logs`, `find` or `cancel`."""
        if not self.factory:
            raise NotClaimed("the harness does not name a `factory` that makes the backend in another process")
        if self._other is None:
            self._other = _OtherProcess(self.factory, self.config)
        return self._other.ask([method, argument], self.patience_seconds)


class _OtherProcess:
    """A process in which backends are made: see `backend_process`. Its start costs more than a call."""

    def __init__(self, factory: str, config: Mapping[str, Any]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `close`
        self._process = shell.spawn(
            [sys.executable, "-m", "ccat_workflow_manager.testing.backend_process", factory],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            stdin=shell.PIPE,
            stdout=shell.PIPE,
            stderr=self._errors,
        )
        self._write(dict(config))

    def ask(self, call: list[str], seconds: float) -> Any:
        self._write(call)
        out = self._process.stdout
        assert out is not None
        answer = out.readline() if select.select([out], [], [], seconds)[0] else b""
        if not answer:
            self._errors.seek(0)
            failure = self._errors.read()[-2000:].decode("utf-8", "replace")
            raise ClauseFailed(f"a fresh backend in another process failed, or is silent: {failure}")
        return json.loads(answer)

    def _write(self, value: Any) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(value).encode() + b"\n")
            self._process.stdin.flush()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()


_ALIVE = (JobStatus.PENDING, JobStatus.RUNNING)


def describe(backend: HPCBackend, job: Job, info: HPCJobInfo | None) -> str:
    """All there is to say about a job, for the text of a failed clause."""
    return f"{info}; command {list(job.request.execution_command)}; log: {backend.get_logs(job.id)[-2000:]!r}"
