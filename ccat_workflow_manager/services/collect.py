"""Collecting: from a finished job to published products and COMPLETED, together or not at all."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from uuid import UUID

from ccat_workflow_manager import failpoints, watchdog
from ccat_workflow_manager.db.leases import LeaseStore
from ccat_workflow_manager.doorbell import Bell
from ccat_workflow_manager.errors import AttemptError, CancelRequested, LeaseLost, ServiceUnavailable, WorkflowError
from ccat_workflow_manager.execution.exit_check import check_exit_record
from ccat_workflow_manager.execution.launch_spec import Progress
from ccat_workflow_manager.execution.logs import check_log_limit
from ccat_workflow_manager.execution.outputs import Collected, collect, publish
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.record import ExitRecord
from ccat_workflow_manager.hpc.exit_info import info_of
from ccat_workflow_manager.json_values import counted
from ccat_workflow_manager.lifecycle.models import Facts, Transition, TransitionEvent, WorkItem
from ccat_workflow_manager.lifecycle.states import Event
from ccat_workflow_manager.lifecycle.verdict import cancelled, failure_of
from ccat_workflow_manager.services import traces
from ccat_workflow_manager.services.backend_handle import BackendHandle
from ccat_workflow_manager.services.leases import Leases
from ccat_workflow_manager.services.worker_context import WorkerContext

log = logging.getLogger(__name__)


_INLINE_SECONDS = 5.0
"""How long a task collects before the rest goes to the thread: a cancel or a launch may wait behind it."""
_AT_ONCE_SECONDS = 0.2
"""How long a launch may collect the results of jobs that ended at once, before it is recorded."""
_MOST_WAITING = 50
"""Step runs in the thread with which a worker leases no more results."""
_STOP_SECONDS = 5.0


class _TakesLong(Exception):
    """The results are too large to be collected in between."""


class _Stopped(Exception):
    """The worker ends."""


class Collector:
    """Scans, checksums and publishes the outputs of jobs that succeeded."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._thread: _CollectorThread | None = None

    def collect_waiting(self, backend_name: str, limit: int) -> int:
        """Lease up to `limit` step runs whose results wait to be collected, and collect them. Returns how many."""
        if self._thread is not None and self._thread.waiting >= _MOST_WAITING:
            return 0
        with self._context.database.begin("commit.take-results") as unit:
            items = LeaseStore(unit).acquire_for_collection(
                backend_name, self._context.worker, limit, self._context.lease_seconds, self._context.max_worker_deaths
            )
        if items:
            self._clean_up(backend_name, self._collect(items))
        return len(items)

    def collect_at_once(self, items: Sequence[WorkItem], leases: Leases) -> dict[UUID, Transition]:
        """The transitions of results that take no time to collect, for step runs whose launch is not recorded yet.

        Records nothing. If the worker dies before the launch is recorded, another one finds the job by its name.
        """
        deadline = time.monotonic() + _AT_ONCE_SECONDS

        def check(item: WorkItem) -> None:
            leases.check(item)
            if time.monotonic() > deadline:
                raise _TakesLong

        found: dict[UUID, Transition] = {}
        for item in items:
            try:
                check(item)
                found[item.step_run_id] = self._publish_or_fail(item, partial(check, item))
            except (_TakesLong, LeaseLost, CancelRequested):
                continue  # its results are collected when its launch is recorded
        return found

    def collect_items(self, backend: BackendHandle, items: Sequence[WorkItem]) -> None:
        """Collect the results of step runs that this worker has a lease on already."""
        if items:
            backend.cleanup_many(self._collect(items))

    # --- the thread for long work ------------------------------------------------------------------------------------

    def start_thread(self) -> None:
        """From now on leave to a thread what takes longer than a moment."""
        self._thread = _CollectorThread(self._context, self._attempt)
        self._thread.start()

    def stop_thread(self) -> None:
        """Give up what the thread has not finished. Another worker collects it."""
        if self._thread is not None:
            self._thread.stop()
            self._thread = None

    def clean_up(self) -> None:
        """Let backends forget the jobs whose results the thread has collected: one thread at a time uses a backend."""
        if self._thread is not None:
            for backend_name, job_ids in self._thread.take_finished().items():
                self._clean_up(backend_name, job_ids)

    def _clean_up(self, backend_name: str, job_ids: Sequence[str]) -> None:
        backend = self._context.usable_backend(backend_name) if job_ids else None
        if backend is not None:
            backend.cleanup_many(job_ids)

    # --- one batch ---------------------------------------------------------------------------------------------------

    def _collect(self, items: Sequence[WorkItem]) -> list[str]:
        """Returns the jobs that are no longer needed."""
        leases = Leases(self._context, items)
        deadline = time.monotonic() + _INLINE_SECONDS if self._thread is not None else math.inf
        transitions, later = list[Transition](), list[WorkItem]()

        def check(item: WorkItem) -> None:
            leases.check(item)
            if time.monotonic() > deadline:
                raise _TakesLong

        for item in items:
            try:
                transition = self._attempt(item, partial(check, item))
            except _TakesLong:
                later.append(item)
            else:
                transitions += [transition] if transition is not None else []
        if later and self._thread is not None:
            self._thread.add(later)
        return _record(self._context, items, transitions)

    def _attempt(self, item: WorkItem, progress: Progress) -> Transition | None:
        """The transition of one step run. Returns None if another worker has taken it over."""
        try:
            progress()
            return self._publish_or_fail(item, progress)
        except LeaseLost:
            log.info("%s/%s was taken over by another worker", item.step, item.key)
            return None
        except CancelRequested:
            return Transition(item.step_run_id, [cancelled(self._context.worker)], item.token)

    def _publish_or_fail(self, item: WorkItem, progress: Progress) -> Transition:
        try:
            with traces.span("collect", item):
                return self._publish(item, progress)
        except AttemptError as error:
            return self._failed(item, error.reason, error.message)
        except (_TakesLong, _Stopped, LeaseLost, CancelRequested, ServiceUnavailable):
            raise
        except Exception as error:  # one step run of many: it fails, the next goes on
            log.exception("the results of %s/%s could not be collected", item.step, item.key)
            return self._failed(item, FailureReason.INTERNAL_ERROR, repr(error))

    def _publish(self, item: WorkItem, progress: Progress) -> Transition:
        host = self._context.host
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
        collected = collect(dirs, limits=host.output_limits, progress=progress)
        failpoints.around("files.publish", lambda: publish(dirs))
        return self._completed(item, record, collected)

    def _completed(self, item: WorkItem, record: ExitRecord, collected: Collected) -> Transition:
        warnings = [*([record.left_text] if record.left_text else []), *collected.warnings]
        text = counted(len(collected.products), "product")
        text += f", {counted(len(warnings), 'warning')}" if warnings else ""
        event = TransitionEvent(Event.RESULTS_COLLECTED, self._context.worker, text=text)
        facts = Facts(warnings=warnings or None)
        products, caveats = collected.products, collected.caveats
        return Transition(item.step_run_id, [event], item.token, facts, products=products, caveats=caveats)

    def _failed(self, item: WorkItem, reason: FailureReason, text: str, facts: Facts | None = None) -> Transition:
        policy = self._context.policies([item])[item.step_run_id]
        return self._context.failure(item, policy, reason, text, facts)


def _record(context: WorkerContext, items: Sequence[WorkItem], transitions: Sequence[Transition]) -> list[str]:
    """Apply the transitions. Returns the jobs that are no longer needed."""
    done = context.writer(point="commit.collected").write(transitions)
    context.doorbell.ring_all(Bell.LAUNCH, done.ready)
    for step_run_id, why in done.refused.items():
        log.info("results of %s not recorded: %s", step_run_id, why)
    applied = set(done.applied)
    return [item.job_id for item in items if item.step_run_id in applied and item.job_id is not None]


class _CollectorThread(threading.Thread):
    """Collects large results, one after the other, while the worker does other work."""

    def __init__(self, context: WorkerContext, attempt: Callable[[WorkItem, Progress], Transition | None]) -> None:
        super().__init__(name="collect", daemon=True)
        self._context = context
        self._attempt = attempt
        self._leases = Leases(context, [])
        self._new: queue.SimpleQueue[WorkItem | None] = queue.SimpleQueue()
        self._items: deque[WorkItem] = deque()
        self._finished: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self._stopping = threading.Event()

    @property
    def waiting(self) -> int:
        return self._new.qsize() + len(self._items)

    def add(self, items: Sequence[WorkItem]) -> None:
        """Collect these step runs, whose leases the worker holds."""
        for item in items:
            self._new.put(item)

    def take_finished(self) -> dict[str, list[str]]:
        """By backend: the jobs whose results were collected since the last call."""
        found: dict[str, list[str]] = defaultdict(list)
        with suppress(queue.Empty):
            while True:
                backend_name, job_id = self._finished.get_nowait()
                found[backend_name].append(job_id)
        return found

    def stop(self) -> None:
        self._stopping.set()
        self._new.put(None)
        self.join(_STOP_SECONDS)

    def run(self) -> None:
        while not self._stopping.is_set():
            if not self._items:
                self._take_in(self._new.get())
                continue
            try:
                self._collect_first()
            except _Stopped:
                break
            except WorkflowError as error:
                log.warning("collecting large results: %s", error.message)
            except Exception:  # the tick of a loop
                log.exception("collecting large results failed")
        with suppress(WorkflowError):
            self._leases.release()

    def _collect_first(self) -> None:
        item = self._items[0]
        watchdog.report("collecting")
        try:
            transition = self._attempt(item, partial(self._progress, item))
            if transition is not None:
                done = _record(self._context, [item], [transition])
                for job_id in done:
                    self._finished.put((item.backend, job_id))
        finally:
            watchdog.forget()
            if not self._stopping.is_set():
                self._items.popleft()
                self._leases.drop(item)

    def _progress(self, item: WorkItem) -> None:
        """Renew the leases of all that waits here, too."""
        while not self._new.empty():
            self._take_in(self._new.get())
        if self._stopping.is_set():
            raise _Stopped
        self._leases.check(item)

    def _take_in(self, item: WorkItem | None) -> None:
        if item is not None:
            self._items.append(item)
            self._leases.add([item])
