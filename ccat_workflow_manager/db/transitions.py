"""From transitions to records: Python works out what each event changes, so the SQL is one fixed statement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from uuid import UUID

from ccat_workflow_manager.db.conditions import counter
from ccat_workflow_manager.db.locked_rows import Cause, LockedRow, block_of
from ccat_workflow_manager.db.session import new_id
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.breaker import failure_signature
from ccat_workflow_manager.lifecycle.models import Facts, Transition, TransitionEvent, job_name
from ccat_workflow_manager.lifecycle.states import FINISHED, LEASED, Event, IllegalTransition, Status, next_status
from ccat_workflow_manager.lifecycle.verdict import cancelled

REQUEUED = "its job was stopped before it started: the circuit breaker of its step opened, or it was paused"
"""The text of both events of a job that is taken back. It is no end of the step run."""


@dataclass(slots=True)
class Batch:
    """The records of one write, ready for `json_to_recordset`, and what follows from them."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    products: list[dict[str, Any]] = field(default_factory=list)
    parents: list[dict[str, Any]] = field(default_factory=list)
    deltas: dict[UUID, Counter[str]] = field(default_factory=dict)
    """Changes of the counters of runs."""
    started: set[UUID] = field(default_factory=set)
    """Runs with a step run that was claimed."""
    reasons: dict[UUID, str] = field(default_factory=dict)
    """The first failure of each run."""
    completed: list[LockedRow] = field(default_factory=list)
    """Completed step runs that others depend on, and those that a person has set to skipped."""
    blocked: list[Cause] = field(default_factory=list)
    """Step runs that ended without completing and that others depend on."""
    failures: list[tuple[UUID, str]] = field(default_factory=list)
    """Failures that count for a breaker, with their signatures."""
    succeeded: list[LockedRow] = field(default_factory=list)
    reopened: set[UUID] = field(default_factory=set)
    """Runs with a finished step run that was reset for retry."""
    regained: list[LockedRow] = field(default_factory=list)
    """Step runs that had ended without completing and that others depend on."""
    caveats: dict[UUID, list[dict[str, str]]] = field(default_factory=dict)
    """The caveats of completed step runs, by run."""
    cancelled: set[UUID] = field(default_factory=set)
    """Runs for which a cancel was requested."""

    def add(self, row: LockedRow, transition: Transition) -> None:
        """Add one transition, or raise IllegalTransition. Brings `row` to the state after the write."""
        transition = _apply_breaker_requeue(row, _apply_cancel_precedence(row, transition))
        before = status = row.status
        for each in transition.events:
            status = next_status(status, each.event)
        record = _record(row, transition)
        for each in transition.events:
            self._add_event(row, each, record)
        record["status"], record["finished"] = status, status in FINISHED
        record["attempt"], record["claims"], record["token"] = row.attempt, row.claims, row.token
        record["max_attempts"] = row.max_attempts
        if transition.lease is not None and status in LEASED:
            record["lease_owner"], record["lease_seconds"] = transition.lease.owner, transition.lease.seconds
        if transition.caveats:
            record["caveats"] = [asdict(each) for each in transition.caveats]
            row.caveats = [*(row.caveats or []), *record["caveats"]]
        self.rows.append(record)
        self._add_products(row, transition)
        self._count(row, before)
        self._add_consequences(row, transition)

    @property
    def stands_alone(self) -> bool:
        """It concerns no other step runs, and no breaker."""
        others = self.completed or self.blocked or self.regained
        return not (others or self.failures or any(row.has_breaker for row in self.succeeded))

    def _count(self, row: LockedRow, before: Status) -> None:
        delta = self.delta(row.run_id)
        delta[counter(before)] -= 1
        delta[counter(row.status)] += 1
        if before in FINISHED:
            self.reopened.add(row.run_id)
            if row.has_dependents:
                self.regained.append(row)

    def delta(self, run_id: UUID) -> Counter[str]:
        """The changes of the counters of a run, to be added to."""
        return self.deltas.setdefault(run_id, Counter())

    def _add_consequences(self, row: LockedRow, transition: Transition) -> None:
        """Register what the new status means for the run, the breaker and the dependents."""
        last = transition.events[-1]
        if row.status is Status.FAILED:
            self.reasons.setdefault(row.run_id, f"{row.step}/{row.key}: {last.reason}: {last.text or ''}".rstrip(": "))
        if row.status is Status.COMPLETED or last.event is Event.SET_SKIPPED:
            if last.reason is not FailureReason.SET_BY_HAND:
                self.succeeded.append(row)
            self._add_caveats(row)
            if row.has_dependents:
                self.completed.append(row)
            return
        if signature := _signature(transition):
            self.failures.append((row.id, signature))
        if row.status in FINISHED and row.has_dependents:
            self.blocked.append(Cause(row, block_of(row, str(last.reason or last.event), last.text)))

    def _add_caveats(self, row: LockedRow) -> None:
        if row.caveats:
            named = [{**each, "text": f"{row.step}/{row.key}: {each['text']}"} for each in row.caveats]
            self.caveats.setdefault(row.run_id, []).extend(named)

    def _add_event(self, row: LockedRow, event: TransitionEvent, record: dict[str, Any]) -> None:
        """Add the row of one event, and what the event changes besides the status."""
        before = row.status
        row.status = next_status(before, event.event)
        match event.event:
            case Event.CLAIMED:
                row.token += 1
                row.claims += 1
                if row.claims == 1:
                    row.attempt += 1
                    record["new_attempt"] = job_name(row.id, row.attempt)
                record["number"], record["worker"], record["worked_on"] = row.attempt, event.actor, True
                self.started.add(row.run_id)
            case Event.RELEASED:
                record["waiting_for"], record["delay_seconds"] = event.text, event.delay_seconds
            case Event.JOB_SUBMITTED:
                record["submitted"] = True
            case Event.JOB_STARTED:
                record["started"] = True
            case Event.FAILED | Event.SKIPPED | Event.CANCELLED | Event.SET_COMPLETED | Event.SET_SKIPPED:
                record["reason"], record["reason_text"] = event.reason or FailureReason.CANCELLED, event.text
            case Event.RETRIED:
                _reset(row, event, record)
        self.events.append(
            {
                "step_run_id": str(row.id),
                "run_id": str(row.run_id),
                "event": event.event,
                "from_status": before,
                "to_status": row.status,
                "attempt": row.attempt,
                "actor": event.actor,
                "reason": event.reason,
                "text": event.text,
            }
        )

    def _add_products(self, row: LockedRow, transition: Transition) -> None:
        for product in transition.products:
            product_id = str(new_id())
            self.products.append(
                {
                    "id": product_id,
                    "step_run_id": str(row.id),
                    "attempt": row.attempt,
                    "run_id": str(row.run_id),
                    "name": product.name,
                    "type": product.type,
                    "path": product.path,
                    "size": product.size,
                    "sha256": product.sha256,
                    "is_directory": product.is_directory,
                    "file_count": product.file_count,
                    "metadata": dict(product.metadata),
                }
            )
            self.parents += [{"product_id": product_id, "parent_id": str(parent)} for parent in product.parents]

    def delta_records(self) -> list[dict[str, Any]]:
        """The changes of the rows of `runs`, in the order in which they are locked."""
        records: list[dict[str, Any]] = []
        for run_id in sorted(self.deltas.keys() | self.cancelled):
            changes = {column: change for column, change in self.deltas.get(run_id, {}).items() if change}
            if changes or run_id in self.started or run_id in self.cancelled:
                records.append(
                    {
                        "id": str(run_id),
                        "began": run_id in self.started,
                        "reopened": run_id in self.reopened,
                        "cancelled": run_id in self.cancelled,
                        "status_reason": self.reasons.get(run_id),
                        "caveats": self.caveats.get(run_id),
                        **changes,
                    }
                )
        return records


def validate_transitions(
    rows: Mapping[UUID, LockedRow], transitions: Iterable[Transition]
) -> tuple[Batch, list[UUID], dict[UUID, str]]:
    """Add every legal transition to a batch. Returns it, the ids applied, and a reason for each id refused."""
    batch, applied, refused = Batch(), [], dict[UUID, str]()
    for transition in transitions:
        row = rows.get(transition.step_run_id)
        if row is None:
            refused[transition.step_run_id] = "the step run does not exist"
        elif transition.is_fenced_off(row.token):
            refused[transition.step_run_id] = "another worker has taken it over"
        else:
            try:
                batch.add(row, transition)
            except IllegalTransition as error:
                refused[transition.step_run_id] = error.message
            else:
                applied.append(transition.step_run_id)
    return batch, applied, refused


def _apply_cancel_precedence(row: LockedRow, transition: Transition) -> Transition:
    """Turn a failure after a cancel request into CANCELLED, without a retry.

    The caller may have read the row before the request and takes the stopped job for a failed one.
    """
    if not row.cancel_requested:
        return transition
    ends = [index for index, each in enumerate(transition.events) if each.event is Event.FAILED]
    if not ends or any(each.event is not Event.RETRIED for each in transition.events[ends[-1] + 1 :]):
        return transition
    failure = transition.events[ends[-1]]
    instead = cancelled(failure.actor)
    if failure.reason is FailureReason.LOST:
        instead = replace(instead, text=f"cancelled; the stop is not confirmed: {failure.text}")
    return replace(transition, events=[*transition.events[: ends[-1]], instead])


def _apply_breaker_requeue(row: LockedRow, transition: Transition) -> Transition:
    """Follow a cancel that a breaker requested by a retry. It does not use up one of the attempts."""
    if not row.requeued_by_breaker or transition.events[-1].event is not Event.CANCELLED:
        return transition
    *before, end = transition.events
    retried = TransitionEvent(Event.RETRIED, actor="breaker", text=REQUEUED)
    return replace(transition, events=[*before, replace(end, text=REQUEUED), retried])


def _signature(transition: Transition) -> str | None:
    """The failure signature of the attempt, if its failure counts for a breaker."""
    for each in transition.events:
        if each.event is Event.FAILED and each.reason is not None:
            facts = transition.facts or Facts()
            raised = any(other.resources is not None for other in transition.events)
            return failure_signature(each.reason, raised=raised, exit_code=facts.exit_code, signal=facts.signal)
    return None


def _record(row: LockedRow, transition: Transition) -> dict[str, Any]:
    record: dict[str, Any] = {"id": str(row.id), "number": row.attempt, "worked_on": row.claims > 0}
    if transition.waiting_for is not None:
        record["waiting_for"] = transition.waiting_for
    if transition.facts is not None:
        record |= {name: value for name, value in _columns(transition.facts).items() if value is not None}
    return record


def _reset(row: LockedRow, event: TransitionEvent, record: dict[str, Any]) -> None:
    """Make the row wait for its next attempt."""
    row.claims = 0
    row.token += 1
    row.max_attempts = row.max_attempts + 1 if row.requeued_by_breaker else max(row.max_attempts, row.attempt + 1)
    record["reset"] = True
    after = "" if event.reason is None else f" after {event.reason}"
    record["waiting_for"], record["delay_seconds"] = event.text and event.text + after, event.delay_seconds
    if event.resources is not None:
        record["resources"] = asdict(event.resources)
    if event.backend is not None:
        row.backend = record["backend"] = event.backend


def _columns(facts: Facts) -> dict[str, Any]:
    return {
        "job_id": facts.job_id,
        "job_state": facts.job_state,
        "exit_code": facts.exit_code,
        "signal": facts.signal,
        "wall_time_seconds": facts.wall_time_seconds,
        "cpu_hours": facts.cpu_hours,
        "cpu_hours_allocated": facts.cpu_hours_allocated,
        "peak_memory_gb": facts.peak_memory_gb,
        "job_started_at": facts.started_at.isoformat() if facts.started_at else None,
        "job_finished_at": facts.finished_at.isoformat() if facts.finished_at else None,
        "node": facts.node,
        "warnings": list(facts.warnings) if facts.warnings else None,
        "provenance": None if facts.provenance is None else dict(facts.provenance),
    }
