"""Launching: claim, stage, submit, record. Whatever dies in between is found again by the job's name."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.db.products import Upstream, upstream_of
from ccat_workflow_manager.db.reading import load_items
from ccat_workflow_manager.db.runs import RunStore
from ccat_workflow_manager.definition.compiled import CompiledPipeline
from ccat_workflow_manager.definition.substitution import substitute_step
from ccat_workflow_manager.errors import (
    AttemptError,
    BackendError,
    BackendRejected,
    CancelRequested,
    Invalid,
    JobDeferred,
    LeaseLost,
)
from ccat_workflow_manager.execution.exit_record import wrapped
from ccat_workflow_manager.execution.launch_spec import StepLaunch, UpstreamProduct, UpstreamProducts
from ccat_workflow_manager.execution.layout import attempt_dirs
from ccat_workflow_manager.execution.staging import Staged, stage
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.base import HPCBackend, JobRequest
from ccat_workflow_manager.lifecycle.models import Facts, Transition, TransitionEvent, WorkItem
from ccat_workflow_manager.lifecycle.states import CANCELLABLE, Event, Status
from ccat_workflow_manager.lifecycle.verdict import cancelled, failed
from ccat_workflow_manager.services.asking import asking
from ccat_workflow_manager.services.poll import Poller, PollResult
from ccat_workflow_manager.services.worker_context import Leases, WorkerContext

log = logging.getLogger(__name__)


_BEFORE_CLAIM = """
SELECT (SELECT retry_at > now() FROM backends WHERE name = :name AND problem IS NOT NULL),
  EXISTS (SELECT 1 FROM breakers WHERE probe_at <= now())
"""
"""Whether the backend is not to be tried now (null: it is well), and whether a breaker may be due for a probe."""
_MOST_DELAYS = 6
"""What is kept out by a limit again and again is tried less often: this many times the delay between two tries."""


@dataclass(slots=True)
class _Batch:
    """What becomes of the step runs of one claim."""

    items: list[WorkItem]
    compiled: dict[UUID, CompiledPipeline]
    upstream: dict[UUID, list[Upstream]]
    transitions: list[Transition] = field(default_factory=list)
    requests: list[tuple[WorkItem, JobRequest]] = field(default_factory=list)
    problem: BackendError | None = None
    after_trouble: bool = False
    """The backend could not be used the last time."""


class Launcher:
    """Brings ready step runs to their backend."""

    def __init__(self, worker_context: WorkerContext, poller: Poller) -> None:
        self._context = worker_context
        self._poller = poller

    def launch(self, backend_name: str, limit: int) -> int:
        """Claim up to `limit` step runs and submit them: how many were claimed."""
        backend = self._context.usable(backend_name)
        batch = self._load(backend, backend_name, limit) if backend is not None else None
        if backend is None or batch is None or not batch.items:
            return 0
        held = Leases(self._context, batch.items)
        for item in batch.items:
            self._prepare(item, backend, batch, held)
        self._submit(backend_name, backend, batch, held)
        self._record(backend_name, backend, batch)
        return len(batch.items)

    # --- load --------------------------------------------------------------------------------------------------------

    def _load(self, backend: HPCBackend, backend_name: str, limit: int) -> _Batch:
        with self._context.database.begin("commit.claim") as unit:
            trouble, probes = unit.execute(_BEFORE_CLAIM, {"name": backend_name}).one()
            if trouble:
                return _Batch([], {}, {})
            items = RunStore(unit).claim(
                backend_name, self._context.worker, limit, self._context.lease_seconds, probes=probes
            )
            compiled = {
                spec_id: self._context.catalogue.compiled(unit, spec_id)
                for spec_id in {item.run.spec_id for item in items}
            }
            upstream = upstream_of(unit, items) if backend.capabilities.executes else {}
            return _Batch(items, compiled, upstream, after_trouble=trouble is not None)

    # --- act ---------------------------------------------------------------------------------------------------------

    def _prepare(self, item: WorkItem, backend: HPCBackend, batch: _Batch, held: Leases) -> None:
        """Adopt the job of an earlier, interrupted try, or put everything in place for a new one."""
        if batch.problem is not None:
            batch.transitions.append(self._released(item, batch.problem))
            return
        may_have_a_job = item.claims > 1
        try:
            held.check(item)
            job_id = self._earlier_job(item, backend) if may_have_a_job else None
            may_have_a_job = False
            if job_id is not None:
                batch.transitions.append(self._submitted(item, job_id, "found again by its name"))
            else:
                self._require_room(item, backend)
                batch.requests.append((item, self._request(item, backend, batch, held)))
        except LeaseLost:
            log.info("%s/%s was taken over by another worker", item.step, item.key)
        except CancelRequested:
            # Where an earlier try may have left a job, the canceller looks for it before it says CANCELLED.
            if may_have_a_job:
                batch.transitions.append(self._given_back(item, "to be cancelled", 0))
            else:
                batch.transitions.append(Transition(item.step_run_id, [cancelled(self._context.worker)], item.token))
        except JobDeferred as error:
            batch.transitions.append(self._deferred(item, error))
        except AttemptError as error:
            batch.transitions.append(self._failed(item, batch, error.reason, error.message))
        except Invalid as error:
            batch.transitions.append(self._failed(item, batch, FailureReason.REJECTED, error.message))
        except BackendError as error:
            batch.problem = error
            batch.transitions.append(self._released(item, error))
        except Exception as error:  # one step run fails, the next goes on
            log.exception("%s/%s could not be launched", item.step, item.key)
            batch.transitions.append(self._failed(item, batch, FailureReason.INTERNAL_ERROR, repr(error)))

    @staticmethod
    def _earlier_job(item: WorkItem, backend: HPCBackend) -> str | None:
        with asking(item.backend):
            return failpoints.around("backend.find", lambda: backend.find(item.job_name))

    @staticmethod
    def _require_room(item: WorkItem, backend: HPCBackend) -> None:
        """Raises JobDeferred if the backend knows already that the job would have to wait."""
        with asking(item.backend):
            deferred = backend.full(item.resources, item.priority)
        if deferred is not None:
            raise deferred

    def _request(self, item: WorkItem, backend: HPCBackend, batch: _Batch, held: Leases) -> JobRequest:
        compiled = batch.compiled[item.run.spec_id]
        if not backend.capabilities.executes:
            return _empty_request(item)
        site = self._context.site
        step = substitute_step(
            compiled.step(item.step).spec, item.run.parameters, item.item, str(item.run.run_id), item.step
        )
        staged = stage(
            StepLaunch(
                pipeline=item.run.pipeline,
                run_id=str(item.run.run_id),
                step=item.step,
                key=item.key,
                attempt=item.attempt,
                command=step.command,
                image=step.image,
                environment=step.environment,
                resources=item.resources,
                parameters=item.run.parameters,
                item=item.item,
                upstream=[self._upstream(item, each) for each in batch.upstream.get(item.step_run_id, ())],
                limits_by_runtime=not backend.capabilities.memory_limit,
            ),
            base_dir=site.base_dir,
            sif_cache_dir=site.sif_cache_dir,
            runtime=site.runtime_of(backend),
            progress=held.progress_for(item),
        )
        return _request(item, staged, wrap=not backend.capabilities.exit_record)

    def _upstream(self, item: WorkItem, upstream: Upstream) -> UpstreamProducts:
        run = item.run
        dirs = attempt_dirs(
            self._context.site.base_dir, run.pipeline, str(run.run_id), upstream.step, upstream.key, upstream.attempt
        )
        products = [
            UpstreamProduct(p.id, p.name, p.type, p.path, p.size, p.sha256, p.is_directory) for p in upstream.products
        ]
        return UpstreamProducts(upstream.step, upstream.key, dirs.output, products)

    def _submit(self, backend_name: str, backend: HPCBackend, batch: _Batch, held: Leases) -> None:
        if not batch.requests:
            return
        if batch.problem is not None:
            batch.transitions += [self._released(item, batch.problem) for item, _ in batch.requests]
            return
        slow = backend.submit_seconds
        if slow or held.age > self._context.lease_seconds / 4:
            held.renew(silent_seconds=slow)
            batch.requests = [(item, each) for item, each in batch.requests if self._still_wanted(item, batch, held)]
        results = self._submit_all(backend_name, backend, [request for _, request in batch.requests])
        for (item, _), result in zip(batch.requests, results, strict=True):
            if isinstance(result, str):
                batch.transitions.append(self._submitted(item, result))
            elif isinstance(result, BackendRejected):
                batch.transitions.append(self._failed(item, batch, result.reason, result.message))
            elif isinstance(result, JobDeferred):
                batch.transitions.append(self._deferred(item, result))
            else:
                batch.problem = result
                batch.transitions.append(self._released(item, result))

    def _still_wanted(self, item: WorkItem, batch: _Batch, held: Leases) -> bool:
        """Whether it is still held and still to be launched, as was seen when the leases were renewed."""
        try:
            held.check(item)
        except LeaseLost:
            log.info("%s/%s was taken over by another worker", item.step, item.key)
            return False
        except CancelRequested:
            batch.transitions.append(Transition(item.step_run_id, [cancelled(self._context.worker)], item.token))
            return False
        return True

    @staticmethod
    def _submit_all(
        backend_name: str, backend: HPCBackend, requests: Sequence[JobRequest]
    ) -> Sequence[str | BackendError]:
        try:
            with asking(backend_name):
                return failpoints.around("backend.submit", lambda: backend.submit_many(requests)) if requests else []
        except BackendError as error:
            return [error] * len(requests)

    # --- apply -------------------------------------------------------------------------------------------------------

    def _record(self, backend_name: str, backend: HPCBackend, batch: _Batch) -> None:
        """Write down what happened; then look once at jobs that may have ended before anybody could know of them."""
        jobs = {
            transition.step_run_id: transition.facts.job_id
            for transition in batch.transitions
            if transition.facts is not None
        }
        submitted = [
            replace(item, status=Status.SUBMITTED, job_id=jobs[item.step_run_id], waiting_for=None)
            for item in batch.items
            if item.step_run_id in jobs
        ]
        # A job that runs nothing has ended by now, which is written in one go; of others this would tell nothing yet.
        news = None
        if submitted and not backend.capabilities.executes:
            news = self._poller.ask(backend_name, backend, submitted)
        with self._context.database.begin("commit.launched") as unit:
            written = self._poller.write(unit, news or PollResult(backend_name, backend, ()), batch.transitions)
        done = written.done
        for step_run_id, why in done.refused.items():
            log.info("launch of %s not recorded: %s", step_run_id, why)
        if batch.problem is not None:
            self._context.note_problem(backend_name, batch.problem)
        elif batch.after_trouble:
            self._context.note_well(backend_name)
        self._undo(backend, batch, done.refused)
        self._poller.finish(written)
        if backend.capabilities.notifies:
            applied = set(done.applied)
            self._poller.follow_items(backend_name, [item for item in submitted if item.step_run_id in applied])

    def _undo(self, backend: HPCBackend, batch: _Batch, refused: Collection[UUID]) -> None:
        """Stop the jobs that came too late and that nobody else will look for.

        While this worker was silent its step runs may have been cancelled, or have been given another attempt. As long
        as they are still in the same attempt, whoever has them now finds the job by its name.
        """
        jobs = {m.step_run_id: m.facts.job_id for m in batch.transitions if m.facts is not None and m.facts.job_id}
        late = [item for item in batch.items if item.step_run_id in refused and item.step_run_id in jobs]
        if not late or not backend.capabilities.executes:
            return
        with self._context.database.read() as unit:
            now = {item.step_run_id: item for item in load_items(unit, [item.step_run_id for item in late])}
        orphans = [
            jobs[item.step_run_id]
            for item in late
            if not _is_sought(jobs[item.step_run_id], item, now.get(item.step_run_id))
        ]
        if orphans:
            log.warning("stopping %d jobs that were submitted too late: %s", len(orphans), ", ".join(orphans[:10]))
            try:
                with asking(late[0].backend):
                    failpoints.around("backend.undo", lambda: backend.cancel_many(orphans))
            except BackendError as error:
                log.error("jobs run that nobody wants, stop them: %s: %s", ", ".join(orphans), error.message)

    def _submitted(self, item: WorkItem, job_id: str, text: str | None = None) -> Transition:
        note = TransitionEvent(Event.JOB_SUBMITTED, self._context.worker, text=text)
        return Transition(item.step_run_id, [note], item.token, Facts(job_id=job_id))

    def _released(self, item: WorkItem, error: BackendError) -> Transition:
        return self._given_back(item, f"{item.backend} cannot be used: {error.message}")

    def _deferred(self, item: WorkItem, error: JobDeferred) -> Transition:
        """One that waits while others go on, longer each time: the places of those behind it are not taken for long."""
        delay = self._context.retry_backend_seconds * min(item.claims, _MOST_DELAYS)
        return self._given_back(item, error.message, delay)

    def _given_back(self, item: WorkItem, text: str, delay_seconds: float | None = None) -> Transition:
        delay = self._context.retry_backend_seconds if delay_seconds is None else delay_seconds
        note = TransitionEvent(Event.RELEASED, self._context.worker, text=text, delay_seconds=delay)
        return Transition(item.step_run_id, [note], item.token)

    def _failed(self, item: WorkItem, batch: _Batch, reason: FailureReason, text: str) -> Transition:
        policy = batch.compiled[item.run.spec_id].step(item.step).retry
        worker = self._context.worker
        return Transition(
            item.step_run_id,
            failed(item, policy, reason, text, actor=worker, jitter=self._context.jitter()),
            item.token,
        )


def _is_sought(job_id: str, then: WorkItem, now: WorkItem | None) -> bool:
    """Whether somebody still asks for this job of this attempt."""
    if now is None or now.attempt != then.attempt or now.cancel_requested:
        return False
    return now.job_id == job_id if now.job_id is not None else now.status in CANCELLABLE and now.claims > 0


def _request(item: WorkItem, staged: Staged, *, wrap: bool) -> JobRequest:
    dirs, launch = staged.dirs, staged.launch
    command = wrapped(launch, dirs, item.job_name) if wrap else launch.vector
    return JobRequest(
        execution_command=command,
        image_ref=staged.image.reference if staged.image else None,
        sif_path=(staged.image.path or None) if staged.image else None,
        input_dir=dirs.input,
        output_dir=dirs.output_partial,
        workspace_dir=dirs.workspace,
        manifest_path=dirs.manifest,
        resource_requirements=item.resources,
        environment_variables=launch.environment,
        job_name=item.job_name,
        priority=item.priority,
        mounts=launch.mounts,
    )


def _empty_request(item: WorkItem) -> JobRequest:
    """For backends that run nothing: no directory is made for them."""
    return JobRequest((), None, None, "", "", "", "", item.resources, {}, item.job_name, item.priority)
