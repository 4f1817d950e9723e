"""The interface of a backend: four methods that every one has, and more that have a working default."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ccat_workflow_manager.errors import BackendError, BackendRejected, JobDeferred, WorkflowError
from ccat_workflow_manager.hpc import arguments
from ccat_workflow_manager.hpc.queue_hints import QueueLimits
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from ccat_workflow_manager.lifecycle.models import Mount, Resources

if TYPE_CHECKING:
    from ccat_workflow_manager.settings import BackendSettings

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
    """`get_statuses` costs one call to the scheduler, however many ids it gets."""
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
    """`list_jobs` names every job that has not ended, so that the service finds orphans."""
    time_limit: bool = True
    memory_limit: bool = True
    gpu: bool = False
    secrets: Literal["none", "files", "own"] = "none"
    """How jobs get `JobRequest.secrets`. `files`: the backend starts the script of `attempt.script`, which reads them
    from a private file that the service writes. `own`: the backend takes them from a store of its own. `none` is the
    same as `files` for a backend whose commands the service wraps (no `exit_record`); others refuse such steps."""


@dataclass(frozen=True, slots=True)
class JobRequest:
    """The arguments of `submit` as one value, for `submit_many`.

    The constructor takes them as loosely as `BulkBackend.submit` (see `arguments.py`); the fields have exactly the
    types that are written here.
    """

    execution_command: Sequence[str] = ()
    image_ref: str | None = None
    sif_path: str | None = None
    input_dir: str = ""
    output_dir: str = ""
    workspace_dir: str = ""
    manifest_path: str = ""
    resource_requirements: Resources = field(default_factory=Resources)
    environment_variables: Mapping[str, str] = field(default_factory=dict)
    job_name: str = ""
    priority: int = 0
    """Not an argument of `submit`, like `mounts`."""
    mounts: Sequence[Mount] = ()
    """Everything that the container is to see, for a backend that runs images itself."""
    secrets: Mapping[str, str] = field(default_factory=dict)
    """The secret (`PROJECT/NAME`) of each variable that holds one. Like `mounts`; see `Capabilities.secrets`."""

    def __post_init__(self) -> None:
        paths = ("input_dir", "output_dir", "workspace_dir", "manifest_path")
        exact = {name: arguments.path_of(name, getattr(self, name)) for name in paths} | {
            "execution_command": arguments.command_of(self.execution_command),
            "sif_path": arguments.path_of("sif_path", self.sif_path) or None,
            "resource_requirements": arguments.resources_of(self.resource_requirements),
            "environment_variables": arguments.environment_of(self.environment_variables),
            "job_name": arguments.name_of(self.job_name),
        }
        for name, value in exact.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of_submit(cls, keywords: Mapping[str, Any]) -> JobRequest:
        """The request of one call of `submit`. Raises TypeError unless exactly its arguments are given."""
        if wrong := keywords.keys() ^ _SUBMIT_ARGUMENTS:
            raise TypeError(f"submit() lacks, or does not take, the arguments {', '.join(sorted(wrong))}")
        return cls(**keywords)

    def for_submit(self) -> dict[str, Any]:
        """The keyword arguments of `submit`."""
        return {name: getattr(self, name) for name in _SUBMIT_ARGUMENTS}


_SUBMIT_ARGUMENTS = frozenset(each.name for each in fields(JobRequest)) - {"priority", "mounts", "secrets"}


@dataclass(frozen=True, slots=True)
class JobSeen:
    """A job that has not ended, as a listing shows it."""

    job_id: str
    """The id that `submit` returned and that `cancel` takes."""
    job_name: str
    """The name that `submit` was given."""
    since: datetime | None = None
    """When the backend accepted the job, if the listing shows that."""


NODE_STATES = ("full", "mixed", "idle", "down", "other")
"""Of a node: no room, some room, nothing on it, takes no work (down, drained, does not answer), anything else."""


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
    """The most that one job may ask for, if `resources.partition` can name this queue."""
    nodes: Mapping[str, int] | None = None
    """How many of its nodes are in each of NODE_STATES."""
    others_pending: int | None = None
    """Jobs of other users that wait here; an array counts as its tasks. None: the backend cannot tell."""
    waited_seconds: float | None = None
    """The median wait of our jobs that started in the last quarter of an hour."""
    waiting_seconds: float | None = None
    """For how long the first of our jobs has been waiting that only need a place."""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ResourceUsage:
    """What a running job uses at this moment."""

    cpu_seconds: float | None = None
    memory_gb: float | None = None
    peak_memory_gb: float | None = None
    processes: int | None = None


class HPCBackend(ABC):
    """Where jobs run: the interface between the service and one scheduler.

    The life of a job. The service calls `submit` once for an attempt, with a job name that no other attempt ever has.
    It records the returned id and calls `get_statuses` for all live jobs, until the job has ended. A job `completed`
    only if its own process ended with 0; the service then reads its exit record and its outputs. `cleanup` ends the
    life of a job: the backend may forget it, but keeps logs and outputs.

    One job for one attempt. A worker can die before it has recorded the id, and an answer can be lost. So the service
    calls `find` with the job name before it submits an attempt again. A backend that claims `capabilities.find` knows
    the job from the moment `submit` was called. While it does not know whether the scheduler has accepted the job, it
    raises JobDeferred, and the service tries again later.

    States. `unknown` means that the backend does not know the id, or not any more. It is never a guess: the service
    takes a job as lost only after it was unknown for a whole grace period, and takes it back if it reappears.

    Errors. `BackendUnavailable`: the scheduler cannot be reached. `BackendConfused`: its answer cannot be read.
    `BackendRejected`: this job can never run as it was requested. `JobDeferred`: this job has to wait, while others
    need not. None of them changes the state of a job, and no method returns a state instead of one of them. Any other
    exception counts as BackendConfused.

    Cancelling. `cancel` asks for the end of the job and of all its processes, and may return before they have ended.
    The service records CANCELLED when `get_statuses` shows the end.

    Many jobs. `submit_many`, `get_statuses`, `cancel_many` and `cleanup_many` have defaults that go job by job. A
    scheduler that takes many jobs in one call overrides them; `BulkBackend` then supplies `submit`.

    Workers. Any worker on any machine may ask for any job, so the object keeps no state that another process would
    need. Its settings are the keywords of its constructor. One thread at a time uses it.

    What a backend does beyond the four abstract methods it claims in `capabilities`; what it does not claim, the
    service does itself or does without. `ccat-wm backend check NAME` proves the claims.
    """

    name: ClassVar[str] = ""
    capabilities: ClassVar[Capabilities] = Capabilities()
    settings: ClassVar[type[BackendSettings] | None] = None
    """The declaration of this backend's settings, which are keywords of its constructor."""
    runs_images: bool = False
    """The backend starts the container itself, from `image_ref` as the step names it. `execution_command` is then the
    command of the step alone, with the paths that the container sees, and `JobRequest.mounts` says what is mounted
    where. May depend on settings."""
    submit_seconds: ClassVar[float] = 0
    """The longest time that `submit` or `submit_many` takes. Leases are extended by as much before the call."""
    start_seconds: ClassVar[float] = 0
    """The longest time that the first job waits for its pilot, cluster or node."""

    @classmethod
    def is_available(cls) -> Availability:
        """Whether this backend can be used here. Must be quick, and must not need configuration."""
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

        `execution_command` is the whole argument vector to run on the host, with the container runtime in front where
        there is one. It reaches the program byte for byte.

        The service passes exactly these types. Our backends also take any path-like, a mapping of resources
        (`{"cpu": 4}`), and None for a directory, an image or a manifest that does not exist.
        """

    @abstractmethod
    def get_status(self, job_id: str) -> HPCJobInfo:
        """The present state of the job; `unknown` for an id that the backend does not know (any more)."""

    @abstractmethod
    def cancel(self, job_id: str) -> None:
        """Ask the backend to stop the job and all its processes. Twice, too late or for an unknown id: no error."""

    @abstractmethod
    def get_logs(self, job_id: str) -> str:
        """What the job has printed so far, both streams; empty for an unknown id."""

    # --- with defaults ---------------------------------------------------------------------------------------------

    def submit_many(self, requests: Sequence[JobRequest]) -> list[str | BackendError]:
        """Submit several jobs. Returns the id or the error of each, in order.

        If the scheduler becomes unavailable, its error may stand for all jobs that were not submitted yet.
        """
        results: list[str | BackendError] = []
        for request in requests:
            try:
                results.append(self.submit(**request.for_submit()))
            except BackendError as error:
                results.append(error)
        return results

    def full(self, resources: Resources, priority: int) -> JobDeferred | None:
        """The JobDeferred that such a job would meet, if the backend knows of it without asking its scheduler.

        The service calls this before it stages a job. None: submit it and see. Must be quick and must not raise.
        """
        return None

    def get_statuses(self, job_ids: Sequence[str]) -> dict[str, HPCJobInfo]:
        """The state of each of these jobs, without exception."""
        return {job_id: self.get_status(job_id) for job_id in job_ids}

    def await_ends(self, job_ids: Sequence[str], seconds: float) -> None:  # noqa: B027  doing nothing is a good default
        """Return when none of these jobs runs any more, after `seconds` at the latest.

        The service calls this once after a submission, so that it learns the end of a short job at once. A backend that
        cannot wait for an end without polling returns at once.
        """

    def cancel_many(self, job_ids: Sequence[str]) -> None:
        """Ask the backend to stop several jobs."""
        for job_id in job_ids:
            self.cancel(job_id)

    def find(self, job_name: str) -> str | None:
        """The id of the job with this name, if the backend knows one."""
        return None

    def list_jobs(self) -> Iterable[JobSeen]:
        """Every job that has not ended (waiting, running or ending) and whose name begins with JOB_PREFIX.

        Only backends with `capabilities.lists` override this. The jobs of other workers and of other deployments are in
        the list too: a backend cannot distinguish them. It makes one call to its scheduler, or a few, however many jobs
        there are. The answer may be as old as that of `get_status`, and may contain a job that ends meanwhile. Raises
        BackendUnavailable or BackendConfused rather than return a part of the list.
        """
        raise WorkflowError(f"the backend {self.name} does not list its jobs")

    def ping(self) -> str:
        """Ask the scheduler whether it answers, by one cheap call, for `ccat-wm doctor`.

        Returns its answer in a few words, empty if there is no scheduler. Raises BackendError without an answer.
        """
        return ""

    def queue_status(self) -> list[QueueStatus]:
        """The queues of this backend, for operators."""
        return []

    def get_resource_usage(self, job_id: str) -> ResourceUsage | None:
        """What a running job uses now, if the backend knows that."""
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
        """Call `on_change(job_ids)` from another thread when jobs end. Returns a function that ends this.

        Only backends with `capabilities.notifies` override this. Without it the next poll finds the same ends.
        """
        raise WorkflowError(f"the backend {self.name} does not notify")

    def close(self) -> None:  # noqa: B027  doing nothing is a good default
        """Release connections and threads of this object. Jobs go on."""


class BulkBackend(HPCBackend):
    """A backend whose own call submits many jobs. `submit` calls `submit_many` with one request."""

    def submit(self, **keywords: Any) -> str:
        request = JobRequest.of_submit(keywords)
        if self.capabilities.executes and not request.workspace_dir:
            raise BackendRejected("the job has no workspace_dir, and it needs one to run in", backend=self.name)
        [result] = self.submit_many([request])
        if isinstance(result, BackendError):
            raise result
        return result

    # `help` and editors show the arguments of the interface.
    submit.__signature__ = inspect.signature(HPCBackend.submit)  # type: ignore[attr-defined]

    @abstractmethod
    def submit_many(self, requests: Sequence[JobRequest]) -> list[str | BackendError]:
        """Submit several jobs. Returns the id or the error of each, in order."""
