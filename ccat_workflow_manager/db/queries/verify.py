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
from ccat_workflow_manager.lifecycle.states import FINISHED, INITIAL, LIVE, TRANSITIONS, Status, run_status

_ENDED = quoted(FINISHED)
_MET = met("u.")
_LOST = f"u.status IN ({_ENDED}) AND NOT {_MET}"
_SLICE = """
SELECT id FROM runs WHERE id > :after
  AND (CAST(:since AS timestamptz) IS NULL OR created_at >= :since) ORDER BY id LIMIT :limit
"""
_FIRST_EVENT = "SELECT at FROM events ORDER BY position, id LIMIT 1"
_HISTORIES = """
WITH s AS MATERIALIZED (
  SELECT id, status, created_at FROM step_runs WHERE run_id = ANY(:ids)
), e AS MATERIALIZED (
  SELECT step_run_id, array_agg(ARRAY[event, from_status, to_status] ORDER BY id) AS moves FROM events
  WHERE step_run_id = ANY(ARRAY(SELECT id FROM s)) AND at > (SELECT min(created_at) FROM s) - interval '1 day'
  GROUP BY step_run_id
)
SELECT s.status, COALESCE(s.created_at < :oldest, false) AS is_old, e.moves, string_agg(s.id::text, ' ') AS ids
FROM s LEFT JOIN e ON e.step_run_id = s.id GROUP BY 1, 2, 3
"""
"""Step runs by what has happened to each: most of a million have one of a few histories.

The events are read by the index of the step run: each partition once for all step runs, and none of a month before
the first of them was created.
"""
_COUNTED = f"""
SELECT status, tolerated, counted, real, string_agg(id::text, ' ') AS ids FROM (
  SELECT r.id, r.status, r.tolerated, ARRAY[{", ".join(counter(status) for status in Status)}] AS counted, (
    SELECT ARRAY[{", ".join(f"count(*) FILTER (WHERE s.status = '{status}')" for status in Status)}]
    FROM step_runs s WHERE s.run_id = r.id) AS real
  FROM runs r WHERE r.id = ANY(:ids)) c
GROUP BY 1, 2, 3, 4
"""
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
_ENDS = f"""
SELECT s.id, s.status, s.reason, s.attempt, a.made, a.highest, a.endless,
  s.status = '{Status.FAILED}' AND s.cancel_requested_at IS NOT NULL AS was_cancelled
FROM step_runs s CROSS JOIN LATERAL (
  SELECT count(*) AS made, COALESCE(max(number), 0) AS highest, array_agg(number ORDER BY number) FILTER (
    WHERE finished_at IS NULL AND (s.status IN ({_ENDED}) OR number < s.attempt)) AS endless
  FROM attempts WHERE step_run_id = s.id) a
WHERE s.run_id = ANY(:ids) AND (
  a.made <> a.highest OR a.highest > s.attempt OR a.endless IS NOT NULL
  OR s.status = '{Status.FAILED}' AND s.cancel_requested_at IS NOT NULL)
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


_Check = Callable[[UnitOfWork, str], Iterator[Finding]]


def slice_of_runs(unit: UnitOfWork, after: UUID | None, since: datetime | None, limit: int) -> list[UUID]:
    """The ids of the next runs, in the order of ids. The transaction is one snapshot from here on."""
    unit.snapshot()
    return [row[0] for row in unit.execute(_SLICE, {"after": after or UUID(int=0), "since": since, "limit": limit})]


def findings(unit: UnitOfWork, run_ids: Sequence[UUID]) -> Iterator[Finding]:
    """What is wrong with the rows of these runs, at any moment."""
    ids = _array(run_ids)
    for check in _CHECKS:
        yield from check(unit, ids)


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
    return unit.rows(ProductRow, _PRODUCTS, {"ids": _array(run_ids)})


def _array(ids: Sequence[UUID]) -> str:
    """The ids as PostgreSQL writes an array, made once for all statements."""
    return f"{{{','.join(map(str, ids))}}}"


def _rows(unit: UnitOfWork, statement: str, ids: str) -> Sequence[Any]:
    return unit.execute(statement, {"ids": ids}).all()


def _history(unit: UnitOfWork, ids: str) -> Iterator[Finding]:
    """Every move is in the table of moves, and each begins where the one before has ended."""
    repair = "no row tells what happened: read the log of the service at the times of its events"
    oldest = unit.execute(_FIRST_EVENT, {}).scalar()
    for status, is_old, moves, same in unit.execute(_HISTORIES, {"ids": ids, "oldest": oldest}):
        for kind, text in _faults_of_history(status, moves, may_be_cut=is_old):
            for step_run_id in same.split():
                yield Finding(kind, f"step-runs/{step_run_id}", text, repair)


def _faults_of_history(status: str, moves: Any, *, may_be_cut: bool) -> Iterator[tuple[str, str]]:
    """The kind and the text of each fault. The first events of a history that may be cut were removed for their age."""
    if moves is None and may_be_cut:
        return
    last: str | None = None
    for number, (event, before, after) in enumerate(moves or ()):
        legal = INITIAL if before is None else TRANSITIONS.get((before, event))
        is_cut = number == 0 and before is not None and may_be_cut
        if legal != after or (last != before and not is_cut):
            yield "move", f"{event} led from {before} to {after}; it was {last}"
        last = after
    if last != status:
        yield "status", f"is {status}, its events say {last}"


def _counters(unit: UnitOfWork, ids: str) -> Iterator[Finding]:
    """A run counts what its step runs say, and has the status that follows."""
    for status, tolerated, counted, numbers, same in _rows(unit, _COUNTED, ids):
        real = Counter({each: number for each, number in zip(Status, numbers, strict=True) if number})
        if counted != numbers or status != run_status(real, tolerated=tolerated):
            shown = {str(each): number for each, number in real.items()}
            text = f"is {status} and counts {counted}; its step runs are {shown}"
            columns = ", ".join(f"{counter(each)} = {real[each]}" for each in Status)
            for run_id in same.split():
                yield Finding("counter", f"runs/{run_id}", text, f"UPDATE runs SET {columns} WHERE id = '{run_id}';")


def _steps(unit: UnitOfWork, ids: str) -> Iterator[Finding]:
    """A step counts what is left to do, and what is lost."""
    for column, statement in (("remaining", _REMAINING), ("lost", _LOSSES)):
        for run_id, name, counted, real in _rows(unit, statement, ids):
            text = f"the step {name} counts {counted} {column}, there are {real}"
            repair = f"UPDATE run_steps SET {column} = {real} WHERE run_id = '{run_id}' AND name = '{name}';"
            yield Finding("counter", f"runs/{run_id}", text, repair)


def _dependencies(unit: UnitOfWork, ids: str) -> Iterator[Finding]:
    """A step run waits for as many steps as there are before it with something left to do."""
    for step_run_id, status, unmet, real in _rows(unit, _UNMET, ids):
        text = f"{status}, waits for {unmet} steps; {real} before it are not completed"
        repair = f"UPDATE step_runs SET unmet = {real} WHERE id = '{step_run_id}';"
        yield Finding("dependency", f"step-runs/{step_run_id}", text, repair)


def _ends(unit: UnitOfWork, ids: str) -> Iterator[Finding]:
    """The attempts of what is over are over too, none is missing, and what was cancelled has not failed."""
    for row in _rows(unit, _ENDS, ids):
        subject = f"step-runs/{row.id}"
        if row.was_cancelled:
            repair = f"ccat-wm run retry or cancel step run {row.id}"
            yield Finding("cancel", subject, f"was to be cancelled and is FAILED ({row.reason})", repair)
        for number in row.endless or ():
            repair = f"UPDATE attempts SET finished_at = now() WHERE step_run_id = '{row.id}' AND number = {number};"
            yield Finding("attempt", subject, f"attempt {number} has no end, it is {row.status}", repair)
        if row.made != row.highest or row.highest > row.attempt:
            text = f"has {row.made} attempts, the highest number is {row.highest}, the present one {row.attempt}"
            repair = "rows of attempts are missing or doubled: restore them from a backup"
            yield Finding("attempt", subject, text, repair)


_CHECKS: Sequence[_Check] = (_history, _counters, _steps, _dependencies, _ends)
