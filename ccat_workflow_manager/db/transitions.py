"""From transitions to rows: what each event writes is worked out before any SQL, so the SQL is one fixed statement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from uuid import UUID

from ccat_workflow_manager.db.ids import new_id
from ccat_workflow_manager.db.schema import counter
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle import breaker
from ccat_workflow_manager.lifecycle.models import Facts, Transition, TransitionEvent, job_name
from ccat_workflow_manager.lifecycle.states import FINISHED, LEASED, Event, IllegalTransition, Status, next_status
from ccat_workflow_manager.lifecycle.verdict import cancelled


@dataclass(slots=True)
class LockedRow:
    """A step run as it stands, locked by the present transaction."""

    id: UUID
    run_id: UUID
    position: int
    step: str
    key: str
    backend: str
    status: Status
    attempt: int
    max_attempts: int
    claims: int
    token: int
    unmet: int
    has_dependents: bool
    cancel_requested: bool
    withdrawn: bool = False
    """Its cancel was not asked for by anybody: it is to wait again, because its breaker has opened."""
    breaker: bool = False
    """There is a breaker for its circuit."""


Cause = tuple[LockedRow, Status, str]
"""What has ended without completing, how, and why: the cause of all that is skipped behind it."""


@dataclass(slots=True)
class Batch:
    """The records of one write, ready for `json_to_recordset`."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    products: list[dict[str, Any]] = field(default_factory=list)
    parents: list[dict[str, Any]] = field(default_factory=list)
    deltas: dict[UUID, Counter[str]] = field(default_factory=dict)
    started: set[UUID] = field(default_factory=set)
    reasons: dict[UUID, str] = field(default_factory=dict)
    completed: list[LockedRow] = field(default_factory=list)
    blocked: list[Cause] = field(default_factory=list)
    """Finished without completing: what depends on them can no longer run."""
    ways: list[tuple[UUID, str]] = field(default_factory=list)
    """Failures that count for a breaker, and in what way they failed."""
    succeeded: list[LockedRow] = field(default_factory=list)
    reopened: set[UUID] = field(default_factory=set)
    """Runs of which something finished was opened again."""
    cancelled: set[UUID] = field(default_factory=set)
    """Runs that somebody wants stopped."""

    def add(self, row: LockedRow, transition: Transition) -> None:
        """Work out one transition, or raise IllegalTransition. `row` is left as it will be after the write."""
        transition = _apply_breaker_requeue(row, _apply_cancel_precedence(row, transition))
        status = row.status
        for note in transition.notes:
            status = next_status(status, note.event)
        before = row.status
        record = self._record(row, transition)
        for note in transition.notes:
            self._step(row, note, record)
        row.status = status
        record["status"] = status
        record["attempt"], record["claims"], record["token"] = row.attempt, row.claims, row.token
        record["max_attempts"] = row.max_attempts
        record["finished"] = status in FINISHED
        if transition.lease is not None and status in LEASED:
            record["lease_owner"], record["lease_seconds"] = transition.lease.owner, transition.lease.seconds
        self.rows.append(record)
        self._products(row, transition)
        delta = self.deltas.setdefault(row.run_id, Counter())
        delta[counter(before)] -= 1
        delta[counter(status)] += 1
        if before in FINISHED:
            self.reopened.add(row.run_id)
        if status is Status.FAILED:
            last = transition.notes[-1]
            self.reasons.setdefault(row.run_id, f"{row.step}/{row.key}: {last.reason}: {last.text or ''}".rstrip(": "))
        if status is Status.COMPLETED:
            self.succeeded.append(row)
        elif way := _way(transition):
            self.ways.append((row.id, way))
        if status in FINISHED and row.has_dependents:
            if status is Status.COMPLETED:
                self.completed.append(row)
            else:
                last = transition.notes[-1]
                self.blocked.append((row, status, str(last.reason or last.event)))

    def _record(self, row: LockedRow, transition: Transition) -> dict[str, Any]:
        record: dict[str, Any] = {"id": str(row.id), "number": row.attempt, "worked_on": row.claims > 0}
        if transition.waiting_for is not None:
            record["waiting_for"] = transition.waiting_for
        if transition.facts is not None:
            record |= {name: value for name, value in _facts(transition).items() if value is not None}
        return record

    def _step(self, row: LockedRow, note: TransitionEvent, record: dict[str, Any]) -> None:
        """One event: the event row, and what it changes besides the status."""
        before, after = row.status, next_status(row.status, note.event)
        row.status = after
        match note.event:
            case Event.CLAIMED:
                row.token += 1
                row.claims += 1
                if row.claims == 1:
                    row.attempt += 1
                    record["new_attempt"] = job_name(row.id, row.attempt)
                record["number"], record["worker"], record["worked_on"] = row.attempt, note.actor, True
                self.started.add(row.run_id)
            case Event.RELEASED:
                record["waiting_for"], record["delay_seconds"] = note.text, note.delay_seconds
            case Event.JOB_SUBMITTED:
                record["submitted"] = True
            case Event.JOB_STARTED:
                record["started"] = True
            case Event.FAILED | Event.SKIPPED | Event.CANCELLED:
                record["reason"], record["reason_text"] = note.reason or FailureReason.CANCELLED, note.text
            case Event.RETRIED:
                self._retry(row, note, record)
        self.events.append(
            {
                "step_run_id": str(row.id),
                "run_id": str(row.run_id),
                "event": note.event,
                "from_status": before,
                "to_status": after,
                "attempt": row.attempt,
                "actor": note.actor,
                "reason": note.reason,
                "text": note.text,
            }
        )

    def _retry(self, row: LockedRow, note: TransitionEvent, record: dict[str, Any]) -> None:
        row.claims = 0
        row.token += 1
        row.max_attempts = row.max_attempts + 1 if row.withdrawn else max(row.max_attempts, row.attempt + 1)
        record["reset"] = True
        record["waiting_for"], record["delay_seconds"] = note.text, note.delay_seconds
        if note.resources is not None:
            record["resources"] = asdict(note.resources)

    def _products(self, row: LockedRow, transition: Transition) -> None:
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


def _apply_cancel_precedence(row: LockedRow, transition: Transition) -> Transition:
    """What ends without completing after a cancel was asked for is cancelled, and there is no further attempt.

    The caller may have read the row before the cancel: then the stopped job looks to it like one that failed.
    """
    if not row.cancel_requested:
        return transition
    ends = [index for index, note in enumerate(transition.notes) if note.event is Event.FAILED]
    if not ends or any(note.event is not Event.RETRIED for note in transition.notes[ends[-1] + 1 :]):
        return transition
    failure = transition.notes[ends[-1]]
    instead = cancelled(failure.actor)
    if failure.reason is FailureReason.LOST:
        instead = replace(instead, text=f"cancelled; that it has stopped was not confirmed: {failure.text}")
    return replace(transition, notes=[*transition.notes[: ends[-1]], instead])


def _apply_breaker_requeue(row: LockedRow, transition: Transition) -> Transition:
    """A job that was withdrawn is gone: its step run waits for another attempt, which is not one of those it has."""
    if row.withdrawn and transition.notes[-1].event is Event.CANCELLED:
        text = "its job was withdrawn, because the others of its step fail"
        gone = replace(transition.notes[-1], text=text)
        return replace(
            transition, notes=[*transition.notes[:-1], gone, TransitionEvent(Event.RETRIED, actor="breaker", text=text)]
        )
    return transition


def _way(transition: Transition) -> str | None:
    """In what way the attempt failed, if that counts for a breaker."""
    for note in transition.notes:
        if note.event is Event.FAILED and note.reason is not None:
            facts = transition.facts or Facts()
            raised = any(each.resources is not None for each in transition.notes)
            return breaker.way(note.reason, raised=raised, exit_code=facts.exit_code, signal=facts.signal)
    return None


def _facts(transition: Transition) -> Mapping[str, Any]:
    facts = transition.facts
    assert facts is not None
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
    }


def validate_transitions(
    rows: Mapping[UUID, LockedRow], transitions: Iterable[Transition]
) -> tuple[Batch, list[UUID], dict[UUID, str]]:
    """The records of all transitions that are legal now; those applied; and why the others are refused."""
    batch, applied, refused = Batch(), [], dict[UUID, str]()
    for transition in transitions:
        row = rows.get(transition.step_run_id)
        if row is None:
            refused[transition.step_run_id] = "it does not exist (any more)"
        elif transition.token is not None and transition.token != row.token:
            refused[transition.step_run_id] = "another worker has taken it over"
        else:
            try:
                batch.add(row, transition)
            except IllegalTransition as error:
                refused[transition.step_run_id] = error.message
            else:
                applied.append(transition.step_run_id)
    return batch, applied, refused


def delta_records(batch: Batch) -> list[dict[str, Any]]:
    """What changes on the rows of `runs`, in the order in which they are to be locked."""
    records: list[dict[str, Any]] = []
    for run_id in sorted(batch.deltas.keys() | batch.cancelled):
        changes = {column: change for column, change in batch.deltas.get(run_id, {}).items() if change}
        if changes or run_id in batch.started or run_id in batch.cancelled:
            records.append(
                {
                    "id": str(run_id),
                    "began": run_id in batch.started,
                    "reopened": run_id in batch.reopened,
                    "cancelled": run_id in batch.cancelled,
                    "status_reason": batch.reasons.get(run_id),
                    **changes,
                }
            )
    return records


def positions(values: Sequence[int]) -> str:
    """A smallint array literal."""
    return "{" + ",".join(map(str, values)) + "}"
