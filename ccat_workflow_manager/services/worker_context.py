"""What the services of one worker process share."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from ccat_workflow_manager.db.backends import BackendStore
from ccat_workflow_manager.db.batches import BatchWriter
from ccat_workflow_manager.db.pipelines import PipelineStore
from ccat_workflow_manager.db.runs import RunStore
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.definition.input_roots import InputRoots
from ccat_workflow_manager.doorbell import Doorbell
from ccat_workflow_manager.errors import BackendError
from ccat_workflow_manager.execution.images import PULL_TIMEOUT_SECONDS
from ccat_workflow_manager.execution.inputs import Fetch, InputLimits
from ccat_workflow_manager.execution.layout import AttemptDirs, attempt_dirs
from ccat_workflow_manager.execution.output_limits import OutputLimits
from ccat_workflow_manager.execution.runtime import BY_BACKEND, Runtime
from ccat_workflow_manager.execution.secrets import Secrets
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.script import remove_secrets
from ccat_workflow_manager.lifecycle.breaker import BreakerPolicy
from ccat_workflow_manager.lifecycle.models import Facts, RetryPolicy, RunFacts, Transition, WorkItem
from ccat_workflow_manager.lifecycle.verdict import failed
from ccat_workflow_manager.services.backend_handle import BackendHandle
from ccat_workflow_manager.services.catalogue import Catalogue

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerHost:
    """The filesystem and the container runtime of the host that a worker runs on."""

    base_dir: str
    sif_cache_dir: str
    runtime: Runtime
    log_limit_mb: float
    exit_record_wait_seconds: float
    output_limits: OutputLimits
    input_roots: InputRoots
    input_limits: InputLimits
    fetch: Fetch
    """Brings inputs of stores to this host."""
    image_pull_seconds: float = PULL_TIMEOUT_SECONDS
    secrets: Secrets = field(default_factory=Secrets)
    run_group: int | None = None
    """The group that may read the directories of runs, besides the user of the service."""

    def runtime_for(self, backend: BackendHandle) -> Runtime:
        return BY_BACKEND if backend.runs_images else self.runtime

    def dirs(self, item: WorkItem) -> AttemptDirs:
        return self.dirs_of(item.run, item.step, item.key, item.attempt)

    def remove_secrets(self, item: WorkItem) -> None:
        """Remove what is left of the secrets of an attempt whose job has ended or does not exist."""
        files = AttemptFiles.of(self.dirs(item).workspace, item.job_name)
        try:
            remove_secrets(files)
        except OSError as error:
            log.error("remove %s by hand, it may hold secrets: %s", files.secrets, error.strerror)

    def dirs_of(self, run: RunFacts, step: str, key: str, attempt: int) -> AttemptDirs:
        return attempt_dirs(self.base_dir, run.pipeline, str(run.run_id), step, key, attempt)


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """The dependencies and the settings of the services of one worker process."""

    worker: str
    database: Database
    doorbell: Doorbell
    catalogue: Catalogue
    host: WorkerHost
    backend_handle: Callable[[str], BackendHandle]
    lease_seconds: float
    grace_seconds: float
    cancel_confirm_seconds: float
    retry_backend_seconds: float
    upstream_max_products: int
    max_worker_deaths: int
    breakers: BreakerPolicy
    on_ended: Callable[[int], None]
    """Takes the number of step runs that this worker has just ended."""

    def usable_backend(self, name: str) -> BackendHandle | None:
        """The backend, or None if it cannot be set up now. The reason is then recorded for operators."""
        try:
            return self.backend_handle(name)
        except BackendError as error:
            self.record_problem(name, error)
            return None

    def record_problem(
        self, backend: str, error: BackendError, waits: Sequence[tuple[UUID, int, str | None, bool]] = ()
    ) -> None:
        """Record for operators and for other workers that the backend cannot be used now.

        `waits` are the step runs that wait for it, as `RunStore.record_waits` takes them.
        """
        with self.database.begin("commit.problem") as unit:
            BackendStore(unit).report_problem(backend, error.message, self.retry_backend_seconds)
            RunStore(unit).record_waits(waits)

    def record_recovery(self, backend: str, problem: str | None = None) -> None:
        """Clear the problem of a backend that has answered, as `BackendStore.mark_healthy` does."""
        with self.database.begin("commit.well") as unit:
            BackendStore(unit).mark_healthy(backend, problem)

    def writer(self, *, point: str) -> BatchWriter:
        """The writer of one batch of transitions; `point` is the failpoint of its transaction."""
        return BatchWriter(self.database, point, actor=self.worker, breakers=self.breakers, on_ended=self.on_ended)

    def read_files(self, digests: Collection[str]) -> Mapping[str, bytes]:
        """The contents of these files of a definition, by SHA-256."""
        with self.database.read() as unit:
            return PipelineStore(unit).files(digests)

    def policies(self, items: Sequence[WorkItem]) -> dict[UUID, RetryPolicy]:
        """The retry policy of each of these step runs."""
        if not items:
            return {}
        with self.database.read() as unit:
            policies = self.catalogue.policies(unit, items)
        for item in items:
            made = policies[item.step_run_id].irreversible_after
            if made is not None and os.path.lexists(f"{self.host.dirs(item).workspace}/{made}"):
                policies[item.step_run_id] = replace(policies[item.step_run_id], irreversible=True)
        return policies

    def jitter(self) -> float:
        return random.random()

    def failure(
        self, item: WorkItem, policy: RetryPolicy, reason: FailureReason, text: str, facts: Facts | None = None
    ) -> Transition:
        """The failure of an attempt that this worker has found, with the retry that the policy grants."""
        events = failed(item, policy, reason, text, actor=self.worker, jitter=self.jitter(), facts=facts)
        return Transition(item.step_run_id, events, item.token, facts)
