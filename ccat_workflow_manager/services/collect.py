"""Collecting: from a finished job to published products and COMPLETED, together or not at all."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.db.reading import LeaseStore
from ccat_workflow_manager.db.runs import RunStore
from ccat_workflow_manager.doorbell import Bell
from ccat_workflow_manager.errors import AttemptError, CancelRequested, LeaseLost
from ccat_workflow_manager.execution.exit_check import check_exit_record
from ccat_workflow_manager.execution.logs import check_log_limit
from ccat_workflow_manager.execution.outputs import collect, publish
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.record import ExitRecord
from ccat_workflow_manager.hpc.exit_info import info_of
from ccat_workflow_manager.lifecycle.models import Facts, Transition, TransitionEvent, WorkItem
from ccat_workflow_manager.lifecycle.states import Event
from ccat_workflow_manager.lifecycle.verdict import cancelled, failed, failure_of
from ccat_workflow_manager.services.cleaning import forget
from ccat_workflow_manager.services.worker_context import Leases, WorkerContext

log = logging.getLogger(__name__)


class Collector:
    """Scans, checksums and publishes what jobs have left behind."""

    def __init__(self, worker_context: WorkerContext) -> None:
        self._context = worker_context

    def collect_waiting(self, backend_name: str, limit: int) -> int:
        """Take step runs whose results nobody is collecting: how many were taken."""
        with self._context.database.begin("commit.take-results") as unit:
            items = LeaseStore(unit).take_for_collection(
                backend_name, self._context.worker, limit, self._context.lease_seconds
            )
        self._collect(backend_name, items)
        return len(items)

    def collect_items(self, backend_name: str, items: Sequence[WorkItem]) -> None:
        """Collect those whose results are in this worker's hands already."""
        self._collect(backend_name, items)

    def _collect(self, backend_name: str, items: Sequence[WorkItem]) -> None:
        if not items:
            return
        held = Leases(self._context, items)
        transitions: list[Transition] = []
        for item in items:
            transition = self._one(item, held)
            if transition is not None:
                transitions.append(transition)
        with self._context.database.begin("commit.collected") as unit:
            done = RunStore(unit, self._context.breakers).apply(transitions)
            unit.after_commit(lambda: self._context.doorbell.ring_all(Bell.LAUNCH, done.ready))
        for step_run_id, why in done.refused.items():
            log.info("results of %s not recorded: %s", step_run_id, why)
        applied = set(done.applied)
        jobs = [item.job_id for item in items if item.step_run_id in applied and item.job_id is not None]
        backend = self._context.usable(backend_name)
        if backend is not None:
            forget(backend, jobs)

    def _one(self, item: WorkItem, held: Leases) -> Transition | None:
        """What becomes of one step run; None if it is in other hands by now."""
        worker, site = self._context.worker, self._context.site
        try:
            held.check(item)
            dirs = site.dirs(item)
            progress = held.progress_for(item)
            failpoints.point("files.record")
            record = check_exit_record(
                dirs.workspace, item.job_name, patience_seconds=site.exit_record_wait_seconds, progress=progress
            )
            if record.exit_code != 0 or record.stopped_by is not None:
                return self._contradicted(item, record)
            failpoints.point("files.scan")
            check_log_limit(dirs, site.log_limit_mb)
            found = collect(dirs, progress=progress)
            failpoints.around("files.publish", lambda: publish(dirs))
        except LeaseLost:
            log.info("%s/%s was taken over by another worker", item.step, item.key)
            return None
        except CancelRequested:
            return Transition(item.step_run_id, [cancelled(worker)], item.token)
        except AttemptError as error:
            return self._failed(item, error.reason, error.message)
        except Exception as error:  # one step run fails, the next goes on
            log.exception("the results of %s/%s could not be collected", item.step, item.key)
            return self._failed(item, FailureReason.INTERNAL_ERROR, repr(error))
        warnings = [*([record.left_text] if record.left_text else []), *found.warnings]
        text = f"{len(found.products)} products" + (f", {len(warnings)} warnings" if warnings else "")
        note = TransitionEvent(Event.RESULTS_COLLECTED, worker, text=text)
        return Transition(
            item.step_run_id, [note], item.token, Facts(warnings=warnings or None), products=found.products
        )

    def _contradicted(self, item: WorkItem, record: ExitRecord) -> Transition:
        """The backend says that the job has completed, its own record that it has not: that one was there."""
        reason, text = failure_of(info_of(record.to_json(), None))
        return self._failed(item, reason, text, Facts(exit_code=record.exit_code, signal=record.signal))

    def _failed(self, item: WorkItem, reason: FailureReason, text: str, facts: Facts | None = None) -> Transition:
        policy = self._context.policies([item])[item.step_run_id]
        notes = failed(item, policy, reason, text, actor=self._context.worker, jitter=self._context.jitter())
        return Transition(item.step_run_id, notes, item.token, facts)
