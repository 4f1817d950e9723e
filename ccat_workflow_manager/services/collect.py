"""Collecting: from a finished job to published products and COMPLETED, together or not at all."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.db.leases import LeaseStore
from ccat_workflow_manager.db.runs import RunStore
from ccat_workflow_manager.doorbell import Bell
from ccat_workflow_manager.errors import AttemptError, CancelRequested, LeaseLost
from ccat_workflow_manager.execution.exit_check import check_exit_record
from ccat_workflow_manager.execution.logs import check_log_limit
from ccat_workflow_manager.execution.outputs import Collected, collect, publish
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.record import ExitRecord
from ccat_workflow_manager.hpc.exit_info import info_of
from ccat_workflow_manager.lifecycle.models import Facts, Transition, TransitionEvent, WorkItem
from ccat_workflow_manager.lifecycle.states import Event
from ccat_workflow_manager.lifecycle.verdict import cancelled, failure_of
from ccat_workflow_manager.services.backend_handle import BackendHandle
from ccat_workflow_manager.services.leases import Leases
from ccat_workflow_manager.services.worker_context import WorkerContext

log = logging.getLogger(__name__)


class Collector:
    """Scans, checksums and publishes the outputs of jobs that succeeded."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context

    def collect_waiting(self, backend_name: str, limit: int) -> int:
        """Lease up to `limit` step runs whose results wait to be collected, and collect them. Returns how many."""
        with self._context.database.begin("commit.take-results") as unit:
            items = LeaseStore(unit).acquire_for_collection(
                backend_name, self._context.worker, limit, self._context.lease_seconds
            )
        if items:
            job_ids = self._collect(items)
            backend = self._context.usable_backend(backend_name)
            if backend is not None:
                backend.cleanup_many(job_ids)
        return len(items)

    def collect_items(self, backend: BackendHandle, items: Sequence[WorkItem]) -> None:
        """Collect the results of step runs that this worker has a lease on already."""
        if items:
            backend.cleanup_many(self._collect(items))

    def _collect(self, items: Sequence[WorkItem]) -> list[str]:
        """Returns the jobs that are no longer needed."""
        leases = Leases(self._context, items)
        found = [self._transition(item, leases) for item in items]
        transitions = [transition for transition in found if transition is not None]
        with self._context.database.begin("commit.collected") as unit:
            done = RunStore(unit, self._context.breakers).apply(transitions)
            unit.after_commit(lambda: self._context.doorbell.ring_all(Bell.LAUNCH, done.ready))
        for step_run_id, why in done.refused.items():
            log.info("results of %s not recorded: %s", step_run_id, why)
        applied = set(done.applied)
        return [item.job_id for item in items if item.step_run_id in applied and item.job_id is not None]

    def _transition(self, item: WorkItem, leases: Leases) -> Transition | None:
        """The transition of one step run. Returns None if another worker has taken it over."""
        try:
            leases.check(item)
            return self._publish(item, leases)
        except LeaseLost:
            log.info("%s/%s was taken over by another worker", item.step, item.key)
            return None
        except CancelRequested:
            return Transition(item.step_run_id, [cancelled(self._context.worker)], item.token)
        except AttemptError as error:
            return self._failed(item, error.reason, error.message)
        except Exception as error:  # one step run fails, the next goes on
            log.exception("the results of %s/%s could not be collected", item.step, item.key)
            return self._failed(item, FailureReason.INTERNAL_ERROR, repr(error))

    def _publish(self, item: WorkItem, leases: Leases) -> Transition:
        host, progress = self._context.host, leases.progress_for(item)
        dirs = host.dirs(item)
        failpoints.point("files.record")
        record = check_exit_record(
            dirs.workspace, item.job_name, patience_seconds=host.exit_record_wait_seconds, progress=progress
        )
        if record.exit_code != 0 or record.stopped_by is not None:
            # The backend reported success. The record was written on the node, so it is right.
            reason, text = failure_of(info_of(record.to_json(), None), item.resources)
            return self._failed(item, reason, text, Facts(exit_code=record.exit_code, signal=record.signal))
        failpoints.point("files.scan")
        check_log_limit(dirs, host.log_limit_mb)
        collected = collect(dirs, progress=progress)
        failpoints.around("files.publish", lambda: publish(dirs))
        return self._completed(item, record, collected)

    def _completed(self, item: WorkItem, record: ExitRecord, collected: Collected) -> Transition:
        warnings = [*([record.left_text] if record.left_text else []), *collected.warnings]
        text = f"{len(collected.products)} products" + (f", {len(warnings)} warnings" if warnings else "")
        event = TransitionEvent(Event.RESULTS_COLLECTED, self._context.worker, text=text)
        facts = Facts(warnings=warnings or None)
        return Transition(item.step_run_id, [event], item.token, facts, products=collected.products)

    def _failed(self, item: WorkItem, reason: FailureReason, text: str, facts: Facts | None = None) -> Transition:
        policy = self._context.policies([item])[item.step_run_id]
        return self._context.failure(item, policy, reason, text, facts)
