"""What must be true of the rows of runs, whatever has happened: each check finds the rows of which it is not.

A check looks at a slice of runs in one snapshot, so it may run while the service works.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from ccat_workflow_manager.db.conditions import counter, met, quoted
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.lifecycle.states import FINISHED, INITIAL, LIVE, TRANSITIONS, Event, Status, run_status

_ENDED = quoted(FINISHED)
_MET = met("u.")
_LOST = f"u.status IN ({_ENDED}) AND NOT {_MET}"
_SLICE = """
SELECT id FROM runs WHERE id > :after
  AND (CAST(:since AS timestamptz) IS NULL OR created_at >= :since) ORDER BY id LIMIT :limit
"""
_EVENTS = """
SELECT s.id, e.event, e.from_status, e.to_status FROM step_runs s CROSS JOIN LATERAL (
  SELECT event, from_status, to_status FROM events
  WHERE step_run_id = s.id AND at > s.created_at - interval '1 day' ORDER BY id) e
WHERE s.run_id = ANY(:ids)
"""
"""The events of each step run by the index of its own, in no partition of a month before it was created."""
_FIRST_EVENT = "SELECT at FROM events ORDER BY position, id LIMIT 1"
_STATES = "SELECT s.id, s.status, r.created_at FROM step_runs s JOIN runs r ON r.id = s.run_id WHERE r.id = ANY(:ids)"
_COUNTS = "SELECT run_id, status, count(*) FROM step_runs WHERE run_id = ANY(:ids) GROUP BY 1, 2"
_COLUMNS = ", ".join(counter(status) for status in Status)
_RUNS = f"SELECT id, status, tolerated, {_COLUMNS} FROM runs WHERE id = ANY(:ids)"
_REMAINING = f"""
SELECT * FROM (
  SELECT r.run_id, r.name, r.remaining, (SELECT count(*) FROM step_runs u
    WHERE u.run_id = r.run_id AND u.position = r.position AND NOT {_MET}) AS real
  FROM run_steps r WHERE r.run_id = ANY(:ids) AND cardinality(r.downstream_key || r.downstream_all) > 0) x
WHERE remaining <> real
"""
_LOSSES = f"""
SELECT * FROM (
  SELECT r.run_id, r.name, r.lost, (SELECT count(*) FROM step_runs u
    WHERE u.run_id = r.run_id AND u.position = r.position AND {_LOST}) AS real
  FROM run_steps r WHERE r.run_id = ANY(:ids) AND r.soft <> '{{}}') x
WHERE lost <> real
"""
_UNMET = f"""
SELECT * FROM (
  SELECT s.id, s.status, s.unmet, (
    SELECT count(*) + COALESCE(cardinality(s.awaits), 0) FROM run_steps r
    WHERE r.run_id = s.run_id AND s.position <> ALL(r.soft) AND (
      s.position = ANY(r.downstream_all) AND r.remaining > 0
      OR s.position = ANY(r.downstream_key) AND EXISTS (
        SELECT 1 FROM step_runs u
        WHERE u.run_id = r.run_id AND u.position = r.position AND u.key = s.key AND NOT {_MET}))) AS real
  FROM step_runs s WHERE s.run_id = ANY(:ids)) x
WHERE unmet <> real
"""
_CANCELLED = """
SELECT id, reason FROM step_runs
WHERE run_id = ANY(:ids) AND status = 'FAILED' AND cancel_requested_at IS NOT NULL
"""
_ATTEMPTS = f"""
SELECT a.step_run_id, a.number, s.status FROM step_runs s JOIN attempts a ON a.step_run_id = s.id
WHERE s.run_id = ANY(:ids) AND a.finished_at IS NULL AND (s.status IN ({_ENDED}) OR a.number < s.attempt)
"""
_NUMBERS = """
SELECT s.id, s.attempt, count(a.number), COALESCE(max(a.number), 0) FROM step_runs s
LEFT JOIN attempts a ON a.step_run_id = s.id WHERE s.run_id = ANY(:ids)
GROUP BY s.id HAVING count(a.number) <> COALESCE(max(a.number), 0) OR COALESCE(max(a.number), 0) > s.attempt
"""
_STRAYS = """
SELECT name, stray_jobs, unknown_jobs, reap_problem FROM backends
WHERE stray_jobs > 0 OR unknown_jobs > 0 OR reap_problem IS NOT NULL ORDER BY name
"""
_LIVE_ATTEMPTS = f"""
SELECT s.id AS step_run_id, s.attempt, s.status, s.job_id,
  COALESCE(extract(epoch FROM now() - COALESCE(s.unknown_since, s.submitted_at)), 0)::float8 AS seconds
FROM step_runs s WHERE s.backend = :backend AND s.status IN ({quoted(LIVE)})
"""
_USED_BACKENDS = f"""
SELECT name FROM backends UNION SELECT DISTINCT backend FROM step_runs WHERE status IN ({quoted(LIVE)}) ORDER BY 1
"""
_PRODUCTS = """
SELECT p.id, r.pipeline, p.run_id, s.step, s.key, p.attempt, p.path, p.size, p.sha256, p.is_directory, p.file_count,
  extract(epoch FROM p.created_at)::float8 AS collected
FROM products p JOIN step_runs s ON s.id = p.step_run_id JOIN runs r ON r.id = p.run_id
WHERE p.run_id = ANY(:ids) ORDER BY p.id
"""


KINDS = (
    "move", "status", "counter", "dependency", "cancel", "attempt", "product", "job", "figure",
)  # fmt: skip
"""Of findings."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that must not be."""

    kind: str
    subject: str
    """What it is about: `runs/ID`, `step-runs/ID`, `products/ID`."""
    text: str
    repair: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.text}"


@dataclass(frozen=True, slots=True)
class ProductRow:
    """A product, and where its attempt lies."""

    id: UUID
    pipeline: str
    run_id: UUID
    step: str
    key: str
    attempt: int
    path: str
    size: int
    sha256: str
    is_directory: bool
    file_count: int
    collected: float
    """When it was, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class LiveAttempt:
    """A step run that has a job, as its row says. `seconds`: since the job was submitted, or is not known any more."""

    step_run_id: UUID
    attempt: int
    status: str
    job_id: str | None
    seconds: float = field(compare=False)


_Check = Callable[[UnitOfWork, Sequence[UUID]], Iterator[Finding]]


def slice_of_runs(unit: UnitOfWork, after: UUID | None, since: datetime | None, limit: int) -> list[UUID]:
    """The ids of the next runs, in the order of ids. The transaction is one snapshot from here on."""
    unit.snapshot()
    return [row[0] for row in unit.execute(_SLICE, {"after": after or UUID(int=0), "since": since, "limit": limit})]


def findings(unit: UnitOfWork, run_ids: Sequence[UUID]) -> Iterator[Finding]:
    """What is wrong with the rows of these runs, at any moment."""
    for check in _CHECKS:
        yield from check(unit, run_ids)


def strays(unit: UnitOfWork) -> Iterator[Finding]:
    """Jobs without a live attempt, as the last search of each backend has found them."""
    for name, stray, unknown, problem in unit.execute(_STRAYS, {}):
        text = f"the last search has found {stray} jobs of attempts that are over, and {unknown} of no attempt"
        repair = "managers stop jobs of attempts that are over (REAPER_SECONDS); the others belong to another database"
        yield Finding("job", f"backends/{name}", text if problem is None else f"{text}; {problem}", repair)


def live_attempts(unit: UnitOfWork, backend: str) -> list[LiveAttempt]:
    """The step runs with a job at this backend."""
    return unit.rows(LiveAttempt, _LIVE_ATTEMPTS, {"backend": backend})


def used_backends(unit: UnitOfWork) -> list[str]:
    """The backends that have live jobs, or of which something is stored."""
    return [row[0] for row in unit.execute(_USED_BACKENDS, {})]


def products_of(unit: UnitOfWork, run_ids: Sequence[UUID]) -> list[ProductRow]:
    return unit.rows(ProductRow, _PRODUCTS, {"ids": list(run_ids)})


def _rows(unit: UnitOfWork, statement: str, ids: Sequence[UUID]) -> Sequence[Any]:
    return unit.execute(statement, {"ids": list(ids)}).all()


def _history(unit: UnitOfWork, ids: Sequence[UUID]) -> Iterator[Finding]:
    """Every move is in the table of moves, and each begins where the one before has ended."""
    repair = "no row tells what happened: read the log of the service at the times of its events"
    oldest = unit.execute(_FIRST_EVENT, {}).scalar()
    states = {row[0]: (row[1], row[2]) for row in _rows(unit, _STATES, ids)}
    last: dict[UUID, str | None] = {}
    for step_run_id, event, before, after in _rows(unit, _EVENTS, ids):
        is_first = step_run_id not in last
        made = states.get(step_run_id, (None, None))[1]
        is_pruned = is_first and before is not None and made is not None and oldest is not None and made < oldest
        legal = INITIAL if before is None else TRANSITIONS.get((Status(before), Event(event)))
        if legal != after or (last.get(step_run_id) != before and not is_pruned):
            text = f"{event} led from {before} to {after}; it was {last.get(step_run_id)}"
            yield Finding("move", f"step-runs/{step_run_id}", text, repair)
        last[step_run_id] = after
    for step_run_id, (status, made) in states.items():
        if last.get(step_run_id) != status and not (step_run_id not in last and oldest is not None and made < oldest):
            text = f"is {status}, its events say {last.get(step_run_id)}"
            yield Finding("status", f"step-runs/{step_run_id}", text, repair)


def _counters(unit: UnitOfWork, ids: Sequence[UUID]) -> Iterator[Finding]:
    """A run counts what its step runs say, and has the status that follows."""
    counts: dict[UUID, Counter[Status]] = {}
    for run_id, status, number in _rows(unit, _COUNTS, ids):
        counts.setdefault(run_id, Counter())[Status(status)] = number
    for run_id, status, tolerated, *counted in _rows(unit, _RUNS, ids):
        real = counts.get(run_id, Counter())
        wanted = [real[each] for each in Status]
        if counted != wanted or status != run_status(real, tolerated=tolerated):
            shown = {str(each): number for each, number in real.items()}
            text = f"is {status} and counts {counted}; its step runs are {shown}"
            columns = ", ".join(f"{counter(each)} = {real[each]}" for each in Status)
            yield Finding("counter", f"runs/{run_id}", text, f"UPDATE runs SET {columns} WHERE id = '{run_id}';")


def _steps(unit: UnitOfWork, ids: Sequence[UUID]) -> Iterator[Finding]:
    """A step counts what is left to do, and what is lost."""
    for column, statement in (("remaining", _REMAINING), ("lost", _LOSSES)):
        for run_id, name, counted, real in _rows(unit, statement, ids):
            text = f"the step {name} counts {counted} {column}, there are {real}"
            repair = f"UPDATE run_steps SET {column} = {real} WHERE run_id = '{run_id}' AND name = '{name}';"
            yield Finding("counter", f"runs/{run_id}", text, repair)


def _dependencies(unit: UnitOfWork, ids: Sequence[UUID]) -> Iterator[Finding]:
    """A step run waits for as many steps as there are before it with something left to do."""
    for step_run_id, status, unmet, real in _rows(unit, _UNMET, ids):
        text = f"{status}, waits for {unmet} steps; {real} before it are not completed"
        repair = f"UPDATE step_runs SET unmet = {real} WHERE id = '{step_run_id}';"
        yield Finding("dependency", f"step-runs/{step_run_id}", text, repair)


def _ends(unit: UnitOfWork, ids: Sequence[UUID]) -> Iterator[Finding]:
    """The attempts of what is over are over too, none is missing, and what was cancelled has not failed."""
    for step_run_id, reason in _rows(unit, _CANCELLED, ids):
        text = f"was to be cancelled and is FAILED ({reason})"
        yield Finding("cancel", f"step-runs/{step_run_id}", text, f"ccat-wm run retry or cancel step run {step_run_id}")
    for step_run_id, number, status in _rows(unit, _ATTEMPTS, ids):
        repair = f"UPDATE attempts SET finished_at = now() WHERE step_run_id = '{step_run_id}' AND number = {number};"
        yield Finding("attempt", f"step-runs/{step_run_id}", f"attempt {number} has no end, it is {status}", repair)
    for step_run_id, current, number, highest in _rows(unit, _NUMBERS, ids):
        text = f"has {number} attempts, the highest number is {highest}, the present one {current}"
        repair = "rows of attempts are missing or doubled: restore them from a backup"
        yield Finding("attempt", f"step-runs/{step_run_id}", text, repair)


_CHECKS: Sequence[_Check] = (_history, _counters, _steps, _dependencies, _ends)
