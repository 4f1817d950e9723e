"""The interface of a backend: four methods that every one has, and more that have a working default.

A backend is created with keyword settings, keeps no state that another process would need, and may be used from one
thread at a time. It raises `BackendUnavailable` when its service cannot be reached, `BackendConfused` when an answer
cannot be read, `BackendRejected` when a job can never run and `JobDeferred` when one job has to wait while others need
not; it never turns any of these into the state of a job.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from os import PathLike
from typing import Any, ClassVar

from ccat_workflow_manager.errors import BackendError, BackendRejected, JobDeferred, WorkflowError
from ccat_workflow_manager.hpc import arguments
from ccat_workflow_manager.hpc.queue_hints import QueueLimits
from ccat_workflow_manager.lifecycle.job_info import UNKNOWN, HPCJobInfo, JobStatus
from ccat_workflow_manager.lifecycle.models import Mount, Resources

__all__ = [
    "Availability",
    "BulkBackend",
    "Capabilities",
    "HPCBackend",
    "HPCJobInfo",
    "JobRequest",
    "JobSeen",
    "JobStatus",
    "LogStream",
    "QueueLimits",
    "QueueStatus",
    "ResourceUsage",
]

LogStream = str
"""`stdout` or `stderr`."""


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a backend can be used here and now; if not, why, and what to install or start."""

    available: bool
    reason: str = ""
    installation_hint: str = ""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend does beyond the four methods. The contract suite proves each claim."""

    bulk_status: bool = False
    """`get_statuses` costs one call to the scheduler however many ids it is given."""
    bulk_submit: bool = False
    """`submit_many` costs (much) less than its jobs submitted one by one."""
    find: bool = False
    """`find` knows a job by name from the moment `submit` was called."""
    exit_record: bool = False
    """The backend runs the command under the exit-record wrapper itself; otherwise the service wraps the command."""
    executes: bool = True
    """False: jobs run nothing and leave no files (dry runs)."""
    survives_worker: bool = True
    """A job goes on when the process that submitted it dies."""
    notifies: bool = False
    """`listen` reports the ends of jobs as they happen."""
    live_logs: bool = True
    """Logs can be read while the job runs."""
    lists: bool = False
    """`list_jobs` names every job that has not ended, so that jobs that nobody waits for any more are noticed."""
    time_limit: bool = True
    memory_limit: bool = True
    gpu: bool = False


@dataclass(frozen=True, slots=True)
class JobRequest:
    """The arguments of `submit` as one value, for `submit_many`.

    They may be given as loosely as to `submit` itself (see `arguments.py`), and are then what they say here.
    """

    execution_command: Sequence[str]
    image_ref: str | None
    sif_path: str | None
    input_dir: str
    output_dir: str
    workspace_dir: str
    manifest_path: str
    resource_requirements: Resources
    environment_variables: Mapping[str, str]
    job_name: str
    priority: int = 0
    mounts: Sequence[Mount] = ()
    """For a backend that runs images itself: all that the container is to see."""

    def __post_init__(self) -> None:
        image = self.sif_path
        exact = {
            "execution_command": arguments.command_of(self.execution_command),
            "sif_path": None if image is None else arguments.path_of("sif_path", image),
            "input_dir": arguments.path_of("input_dir", self.input_dir),
            "output_dir": arguments.path_of("output_dir", self.output_dir),
            "workspace_dir": arguments.path_of("workspace_dir", self.workspace_dir),
            "manifest_path": arguments.path_of("manifest_path", self.manifest_path),
            "resource_requirements": arguments.resources_of(self.resource_requirements),
            "environment_variables": arguments.environment_of(self.environment_variables),
            "job_name": arguments.name_of(self.job_name),
        }
        for name, value in exact.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, slots=True)
class JobSeen:
    """A job that has not ended, as a listing shows it."""

    job_id: str
    """The id as `submit` gave it: `cancel` takes it."""
    job_name: str
    """The name as `submit` was given it."""
    since: datetime | None = None
    """When the backend took it, if the listing says so."""


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """One queue (partition, node, pool) of a backend."""

    name: str
    available: bool = True
    running: int = 0
    pending: int = 0
    cpus_total: float | None = None
    cpus_used: float | None = None
    memory_total_gb: float | None = None
    memory_used_gb: float | None = None
    limits: QueueLimits | None = None
    """For queues that `resources.partition` can name: what one job may ask of them."""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ResourceUsage:
    """What a running job uses at this moment."""

    cpu_seconds: float | None = None
    memory_gb: float | None = None
    peak_memory_gb: float | None = None
    processes: int | None = None


class HPCBackend(ABC):
    """Where jobs run."""

    name: ClassVar[str] = ""
    capabilities: ClassVar[Capabilities] = Capabilities()
    runs_images: bool = False
    """The backend starts the container itself, from `image_ref` as the step names it: the command is that of the step
    alone, with the paths as the container sees them, and `mounts` says what is where. It may depend on settings."""
    submit_seconds: ClassVar[float] = 0
    """How long `submit` or `submit_many` may stay silent at worst; leases are held that much longer meanwhile."""
    start_seconds: ClassVar[float] = 0
    """How long the first job may wait for what it is to run in."""

    @classmethod
    def is_available(cls) -> Availability:
        """Whether this backend can be used here. Must not need configuration and must be quick."""
        return Availability(True)

    # --- the four that every backend has ---------------------------------------------------------------------------

    @abstractmethod
    def submit(
        self,
        *,
        execution_command: Sequence[str],
        image_ref: str | None,
        sif_path: str | None,
        input_dir: str,
        output_dir: str,
        workspace_dir: str,
        manifest_path: str,
        resource_requirements: Resources,
        environment_variables: Mapping[str, str],
        job_name: str,
    ) -> str:
        """Start a job and return its id.

        `execution_command` is the whole argument vector to run on the host (with the container runtime in front, where
        there is one); it reaches the program byte for byte. `job_name` is unique for each attempt, for ever.

        The service gives exactly these types. Ours also take what scripts write: any path-like, a mapping of resources
        (`{"cpu": 4}`), None for a directory, image or manifest that there is not.
        """

    @abstractmethod
    def get_status(self, job_id: str) -> HPCJobInfo:
        """The job as it is now; status `unknown` for an id that the backend does not know (any more)."""

    @abstractmethod
    def cancel(self, job_id: str) -> None:
        """Ask the backend to stop the job and all its processes. Twice, too late or for an unknown id: no error."""

    @abstractmethod
    def get_logs(self, job_id: str) -> str:
        """What the job has printed so far, both streams; empty for an unknown id."""

    # --- with defaults ---------------------------------------------------------------------------------------------

    def submit_many(self, requests: Sequence[JobRequest]) -> list[str | BackendError]:
        """Submit several jobs; for each its id or the error that it met, in order.

        When the service itself is away, the first BackendUnavailable stands for all the rest.
        """
        results: list[str | BackendError] = []
        for request in requests:
            try:
                results.append(
                    self.submit(
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
                )
            except BackendError as error:
                results.append(error)
        return results

    def full(self, resources: Resources, priority: int) -> JobDeferred | None:
        """Why a job that asks for this would have to wait, if that is known without asking anybody.

        Asked before anything is staged for a job. None: submit it and see. Must be quick and must not raise.
        """
        return None

    def get_statuses(self, job_ids: Sequence[str]) -> dict[str, HPCJobInfo]:
        """The state of many jobs; every id that was asked for is in the answer."""
        return {job_id: self.get_status(job_id) for job_id in job_ids}

    def cancel_many(self, job_ids: Sequence[str]) -> None:
        """Ask the backend to stop several jobs."""
        for job_id in job_ids:
            self.cancel(job_id)

    def find(self, job_name: str) -> str | None:
        """The id of the job with this name, if the backend knows one."""
        return None

    def list_jobs(self) -> Iterable[JobSeen]:
        """Every job that has not ended (waiting, running or ending) and was submitted under one of our names.

        Only backends with `capabilities.lists` override this. Ours are those whose names begin with
        `lifecycle.models.JOB_PREFIX`, whichever process, worker or deployment has submitted them: a backend does not
        tell them apart. One call to the service, or a few, however many jobs there are. The answer may be
        as old as that of `get_status`, and may contain a job that ends meanwhile. Raises BackendUnavailable and
        BackendConfused rather than give a part of the list.
        """
        raise WorkflowError(f"the backend {self.name} does not list its jobs")

    def queue_status(self) -> list[QueueStatus]:
        """The queues of this backend, for operators."""
        return []

    def get_resource_usage(self, job_id: str) -> ResourceUsage | None:
        """What a running job uses now, if the backend can tell."""
        return None

    def cleanup(self, job_id: str) -> None:  # noqa: B027  doing nothing is a good default
        """Forget a finished job: remove what the backend itself keeps about it (never logs or outputs)."""

    def cleanup_many(self, job_ids: Sequence[str]) -> None:
        """Forget several finished jobs."""
        for job_id in job_ids:
            self.cleanup(job_id)

    def tail_logs(self, job_id: str, *, stream: LogStream = "stdout", lines: int = 200) -> str:
        """The last lines of one stream."""
        if lines <= 0:
            return ""
        return "".join(self.get_logs(job_id).splitlines(keepends=True)[-lines:])

    def listen(self, on_change: Callable[[Sequence[str]], None]) -> Callable[[], None]:
        """Call `on_change(job_ids)` from another thread when jobs end, until the returned function is called.

        Only backends with `capabilities.notifies` override this; polling finds everything as well, only later.
        """
        raise WorkflowError(f"the backend {self.name} does not notify")

    def close(self) -> None:  # noqa: B027  doing nothing is a good default
        """Give back what this object holds (connections, threads); jobs go on."""


class BulkBackend(HPCBackend):
    """A backend that takes jobs in batches: one job is a batch of one.

    `submit` takes its arguments as loosely as JobRequest does; `submit_many` sees them as they are to be.
    """

    def submit(
        self,
        *,
        execution_command: Sequence[str | PathLike[str]],
        image_ref: str | None,
        sif_path: str | PathLike[str] | None,
        input_dir: str | PathLike[str] | None,
        output_dir: str | PathLike[str] | None,
        workspace_dir: str | PathLike[str],
        manifest_path: str | PathLike[str] | None,
        resource_requirements: Resources | Mapping[str, Any] | None,
        environment_variables: Mapping[str, str] | None,
        job_name: str,
    ) -> str:
        given: dict[str, Any] = {
            "execution_command": execution_command,
            "image_ref": image_ref,
            "sif_path": sif_path,
            "input_dir": input_dir,
            "output_dir": output_dir,
            "workspace_dir": workspace_dir,
            "manifest_path": manifest_path,
            "resource_requirements": resource_requirements,
            "environment_variables": environment_variables,
            "job_name": job_name,
        }
        request = JobRequest(**given)
        if self.capabilities.executes and not request.workspace_dir:
            raise BackendRejected("the job has no workspace_dir, and it needs one to run in", backend=self.name)
        [result] = self.submit_many([request])
        if isinstance(result, BackendError):
            raise result
        return result

    @abstractmethod
    def submit_many(self, requests: Sequence[JobRequest]) -> list[str | BackendError]:
        """Submit several jobs; for each its id or the error that it met, in order."""


def unknown(job_ids: Sequence[str]) -> dict[str, HPCJobInfo]:
    """The honest answer when nothing is known."""
    return dict.fromkeys(job_ids, UNKNOWN)
