"""The composition root: builds every part of a process from the settings, when the part is first used."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ccat_workflow_manager import tracing
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.definition.input_roots import InputRoots
from ccat_workflow_manager.doorbell import Doorbell
from ccat_workflow_manager.errors import BackendError
from ccat_workflow_manager.execution import runtime
from ccat_workflow_manager.execution.inputs import InputLimits
from ccat_workflow_manager.execution.layout import group_id
from ccat_workflow_manager.execution.output_limits import OutputLimits
from ccat_workflow_manager.execution.secrets import Secrets
from ccat_workflow_manager.execution.stager import Stager
from ccat_workflow_manager.hpc import registry
from ccat_workflow_manager.hpc.base import HPCBackend
from ccat_workflow_manager.hpc.open_backends import OpenBackends
from ccat_workflow_manager.identity import grants_of
from ccat_workflow_manager.lifecycle.breaker import BreakerPolicy
from ccat_workflow_manager.limits import Limits, enforce
from ccat_workflow_manager.services import verify_jobs
from ccat_workflow_manager.services.backend_handle import BackendHandle
from ccat_workflow_manager.services.breakers import Breakers
from ccat_workflow_manager.services.cancel import Canceller
from ccat_workflow_manager.services.catalogue import Catalogue
from ccat_workflow_manager.services.collect import Collector
from ccat_workflow_manager.services.deletion import Deletions, Remover
from ccat_workflow_manager.services.disks import Disks
from ccat_workflow_manager.services.feed import Feed
from ccat_workflow_manager.services.globs import Globs, answer
from ccat_workflow_manager.services.heartbeat import Heartbeat
from ccat_workflow_manager.services.holds import Holds
from ccat_workflow_manager.services.launch import Launcher
from ccat_workflow_manager.services.logs import Answers, Logs
from ccat_workflow_manager.services.orphans import OrphanReaper
from ccat_workflow_manager.services.outcomes import Outcomes
from ccat_workflow_manager.services.overrides import Overrides
from ccat_workflow_manager.services.poll import Poller
from ccat_workflow_manager.services.projects import ProjectSettings
from ccat_workflow_manager.services.questions import Questions
from ccat_workflow_manager.services.queues import QueueHints
from ccat_workflow_manager.services.replays import Replays
from ccat_workflow_manager.services.requests import Requests
from ccat_workflow_manager.services.status_updater import StatusUpdater
from ccat_workflow_manager.services.submit import Submitter
from ccat_workflow_manager.services.tokens import Tokens
from ccat_workflow_manager.services.why_not_reused import WhyNotReused
from ccat_workflow_manager.services.worker_context import WorkerContext, WorkerHost
from ccat_workflow_manager.services.workers import Workers
from ccat_workflow_manager.settings import Settings

if TYPE_CHECKING:
    from ccat_workflow_manager.services.metrics import DatabaseMetrics, DoorbellMetrics
    from ccat_workflow_manager.services.oidc import OpenIdConnect
    from ccat_workflow_manager.services.sessions import Sessions
    from ccat_workflow_manager.services.webhooks import Webhooks

_RETRY_BACKEND_SECONDS = 10
_EXIT_RECORD_WAIT_SECONDS = 5


class Context:
    """The parts of one process. None of them connects before it is used, so a process may fork before that."""

    def __init__(self, settings: Settings, *, backends: tuple[str, ...] = (), statement_seconds: float = 0) -> None:
        """`statement_seconds` is how long a statement of the API may take; 0: any time."""
        enforce(
            Limits(
                json_depth=settings.json_depth,
                json_values=settings.json_values,
                schema_visits=settings.schema_visits,
                request_step_runs=settings.request_step_runs,
                listed_step_runs=settings.listed_step_runs,
            )
        )
        self.settings = settings
        self.backends = backends or (settings.hpc_backend,)
        tracing.configure(
            settings.otel_exporter_otlp_endpoint,
            settings.otel_exporter_otlp_headers,
            {"service.name": "ccat-workflow-manager", "deployment.environment.name": settings.environment,
             "host.name": socket.gethostname()},
        )  # fmt: skip
        self.worker = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:6]}"
        self._backends = OpenBackends(settings)
        self._statement_seconds = statement_seconds

    # --- shared by manager and worker --------------------------------------------------------------------------------

    @cached_property
    def database(self) -> Database:
        return Database(
            self.settings.database_url,
            application_name=f"ccat-wm {os.getpid()}",
            statement_seconds=self._statement_seconds,
        )

    @cached_property
    def loop_database(self) -> Database:
        """For the loops of a manager, which requests cannot block: one connection, unless a loop keeps it long."""
        name = f"ccat-wm loops {os.getpid()}"
        return Database(self.settings.database_url, pool_size=1, most=6, spare_seconds=0.25, application_name=name)

    @cached_property
    def doorbell(self) -> Doorbell:
        return Doorbell(self.settings.redis_url)

    @cached_property
    def disks(self) -> Disks:
        return Disks({"PIPELINE_BASE_DIR": self.settings.pipeline_base_dir, "DATA_DIR": self.settings.data_dir})

    @cached_property
    def input_roots(self) -> InputRoots:
        settings = self.settings
        secrets = settings.secrets_dir
        closed = [str(secrets), os.path.realpath(secrets)] if secrets != Path() else []
        return InputRoots.of(settings.places_of_inputs, free=settings.environment == "localdev", closed=closed)

    @cached_property
    def catalogue(self) -> Catalogue:
        return Catalogue(self.database, self.input_roots)

    @cached_property
    def submitter(self) -> Submitter:
        return Submitter(
            self.database,
            self.doorbell,
            self.catalogue,
            Globs(self.questions, self.input_roots, self.settings.input_max_entries),
            default_backend=self.settings.hpc_backend,
            known_backends=frozenset(registry.names()),
        )

    @cached_property
    def tokens(self) -> Tokens:
        return Tokens(self.database)

    @cached_property
    def session_key(self) -> bytes | None:
        """Signs the cookies of people who log in. None: there is no log-in. Raises ConfigurationError if it is weak."""
        from ccat_workflow_manager.services.sessions import session_key

        settings = self.settings
        return session_key(settings.session_key_file, settings.data_dir, make=settings.environment == "localdev")

    @cached_property
    def sessions(self) -> Sessions | None:
        from ccat_workflow_manager.services.sessions import Sessions

        return None if self.session_key is None else Sessions(self.database, self.session_key)

    @cached_property
    def oidc(self) -> OpenIdConnect | None:
        """The provider with which people log in, if the settings name one."""
        settings = self.settings
        if not settings.oidc_issuer or self.session_key is None:
            return None
        from ccat_workflow_manager.services.oidc import OpenIdConnect, ProviderPolicy

        policy = ProviderPolicy(
            settings.oidc_issuer,
            settings.oidc_client_id,
            settings.oidc_client_secret_file,
            settings.oidc_role_claim,
            grants_of(settings.oidc_roles),
        )
        return OpenIdConnect(policy, self.session_key)

    @cached_property
    def requests(self) -> Requests:
        return Requests(self.database, self.doorbell, self.catalogue, known_backends=frozenset(registry.names()))

    @cached_property
    def deletions(self) -> Deletions:
        return Deletions(self.database, self.doorbell)

    @cached_property
    def replays(self) -> Replays:
        return Replays(self.database, self.catalogue, self.submitter)

    @cached_property
    def why_not_reused(self) -> WhyNotReused:
        return WhyNotReused(self.database, self.catalogue, most_products=self.settings.upstream_max_products)

    @cached_property
    def outcomes(self) -> Outcomes:
        return Outcomes(self.database, self.doorbell)

    @cached_property
    def breakers(self) -> Breakers:
        return Breakers(self.database, self.doorbell, self.breaker_policy)

    @cached_property
    def holds(self) -> Holds:
        return Holds(self.database, self.doorbell, frozenset(registry.names()))

    @cached_property
    def overrides(self) -> Overrides:
        return Overrides(self.database, self.doorbell, self.holds, self.requests)

    @cached_property
    def workers(self) -> Workers:
        return Workers(self.database, self.doorbell)

    @cached_property
    def projects(self) -> ProjectSettings:
        return ProjectSettings(self.database, self.doorbell)

    @cached_property
    def queue_hints(self) -> QueueHints:
        return QueueHints(self.doorbell, self.settings.hpc_backend)

    @cached_property
    def feed(self) -> Feed:
        return Feed(self.loop_database, self.settings.event_source, most_streams=self.settings.event_streams)

    @cached_property
    def webhooks(self) -> Webhooks:
        from ccat_workflow_manager.services.webhooks import WebhookPolicy, Webhooks

        settings = self.settings
        policy = WebhookPolicy(
            settings.webhook_in_flight, settings.webhook_retry_hours, settings.webhook_private_targets
        )
        return Webhooks(self.loop_database, self.feed, policy)

    @cached_property
    def job_verification(self) -> verify_jobs.JobVerification:
        return verify_jobs.JobVerification(self.database, self.doorbell, self._here, self.settings.reaper_grace_seconds)

    def _here(self, name: str) -> BackendHandle | None:
        """The backend if this host sees its scheduler."""
        return self.backend_handle(name) if registry.get_class(name).is_available().available else None

    @cached_property
    def metrics(self) -> DatabaseMetrics:
        from ccat_workflow_manager.services.metrics import DatabaseMetrics

        return DatabaseMetrics(self.loop_database)

    @cached_property
    def doorbell_metrics(self) -> DoorbellMetrics:
        from ccat_workflow_manager.services.metrics import DoorbellMetrics

        return DoorbellMetrics(self.doorbell)

    @cached_property
    def questions(self) -> Questions:
        return Questions(self.database, self.doorbell)

    @cached_property
    def logs(self) -> Logs:
        return Logs(self.database, self.questions, str(self.settings.pipeline_base_dir))

    # --- of a worker -------------------------------------------------------------------------------------------------

    @cached_property
    def heartbeat(self) -> Heartbeat:
        return Heartbeat(self.database, self.worker, self.backends)

    @cached_property
    def worker_context(self) -> WorkerContext:
        settings = self.settings
        return WorkerContext(
            worker=self.worker,
            database=self.database,
            doorbell=self.doorbell,
            catalogue=self.catalogue,
            host=WorkerHost(
                base_dir=str(settings.pipeline_base_dir),
                sif_cache_dir=str(settings.sif_cache_dir),
                runtime=self.runtime,
                log_limit_mb=settings.log_limit_mb,
                exit_record_wait_seconds=_EXIT_RECORD_WAIT_SECONDS,
                input_roots=self.input_roots,
                input_limits=InputLimits(settings.input_max_files, settings.input_max_entries),
                fetch=Stager(
                    f"{settings.pipeline_base_dir}/.inputs",
                    self.input_roots,
                    limit_gb=settings.input_fetch_gb,
                    limit_seconds=settings.input_fetch_seconds,
                    s3_endpoint=settings.s3_endpoint_url,
                ).fetch,
                secrets=Secrets(settings.secrets_dir if settings.secrets_dir != Path() else None, os.environ),
                image_pull_seconds=settings.image_pull_seconds,
                run_group=group_id(settings.run_group),
                output_limits=OutputLimits(
                    max_files=settings.output_max_files,
                    max_entries=settings.output_max_entries,
                    limit_gb=settings.output_limit_gb,
                    sparse_gb=settings.output_sparse_gb,
                    limit_seconds=settings.output_limit_seconds,
                    metadata_kb=settings.output_metadata_kb,
                    max_parents=settings.output_max_parents,
                ),
            ),
            backend_handle=self.backend_handle,
            lease_seconds=settings.lease_seconds,
            grace_seconds=settings.unknown_grace_seconds,
            cancel_confirm_seconds=settings.cancel_confirm_seconds,
            retry_backend_seconds=_RETRY_BACKEND_SECONDS,
            upstream_max_products=settings.upstream_max_products,
            max_worker_deaths=settings.max_worker_deaths,
            breakers=self.breaker_policy,
            on_ended=self.heartbeat.count_ended,
        )

    @cached_property
    def breaker_policy(self) -> BreakerPolicy:
        settings = self.settings
        return BreakerPolicy(
            settings.breaker_failures, settings.breaker_window_minutes * 60, settings.breaker_probe_minutes * 60
        )

    @cached_property
    def runtime(self) -> runtime.Runtime:
        if all(map(self._runs_images, self.backends)):
            return runtime.BY_BACKEND
        return runtime.detect(self.settings.container_runtime, allow_none=self.settings.environment == "localdev")

    @cached_property
    def collector(self) -> Collector:
        return Collector(self.worker_context)

    @cached_property
    def status_updater(self) -> StatusUpdater:
        return StatusUpdater(self.worker_context, self.collector)

    @cached_property
    def poller(self) -> Poller:
        return Poller(self.worker_context, self.status_updater)

    @cached_property
    def launcher(self) -> Launcher:
        return Launcher(self.worker_context, self.status_updater)

    @cached_property
    def canceller(self) -> Canceller:
        return Canceller(self.worker_context)

    @cached_property
    def remover(self) -> Remover:
        return Remover(self.worker_context)

    @cached_property
    def reaper(self) -> OrphanReaper:
        settings = self.settings
        return OrphanReaper(
            self.worker_context, every_seconds=settings.reaper_seconds, grace_seconds=settings.reaper_grace_seconds
        )

    @cached_property
    def answers(self) -> Answers:
        return Answers(str(self.settings.pipeline_base_dir), self.backend_handle)

    def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """The answer of this worker to a question of a manager."""
        if "glob" in question:
            return answer(question, self.settings.input_max_entries, self.input_roots)
        if verify_jobs.QUESTION in question:
            return verify_jobs.answer(question, self.database, self.backend_handle)
        return self.answers.answer(question)

    def backend_handle(self, name: str) -> BackendHandle:
        """The backend with this name, for services. Raises BackendError."""
        return BackendHandle.create(name, self.backend)

    def use_backend(self, name: str, backend: HPCBackend) -> None:
        """Take this object as the backend `name`, in place of the one that the settings describe."""
        self._backends.use(name, backend)

    def backend(self, name: str) -> HPCBackend:
        """The backend with this name, configured by the settings."""
        return self._backends.get(name)

    def _runs_images(self, name: str) -> bool:
        """Whether the backend starts containers itself. False if it cannot be set up now."""
        try:
            return self.backend_handle(name).runs_images
        except BackendError:
            return False

    def close(self) -> None:
        """Close the backends and the connections to the database. Send the last messages and spans."""
        tracing.flush()
        self._backends.close()
        for name in ("submitter", "database", "loop_database"):
            if name in self.__dict__:
                getattr(self, name).close()
