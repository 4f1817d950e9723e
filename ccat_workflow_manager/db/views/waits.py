"""Why the PENDING step runs of a run wait, in the words of core.waiting.

A run of 10,000 step runs has only a handful of different reasons. So the different sets of facts are fetched, put into
words here, and handed to the statement that builds the JSON, by the key of the set.
"""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from ccat_workflow_manager.core.breaker import held_text
from ccat_workflow_manager.core.waiting import WaitFacts, explain
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.views.sql import utc

_BREAKER = """CASE WHEN s.circuit IN (SELECT b.circuit FROM breakers b WHERE b.opened_at IS NOT NULL)
  AND s.id NOT IN (SELECT b.probe FROM breakers b WHERE b.probe IS NOT NULL) THEN s.circuit END"""
WAIT_KEY = (
    "concat_ws('|', s.position, s.backend, s.unmet, s.held, s.cancel_requested_at IS NOT NULL,"
    f" COALESCE(s.not_before::text, '-'), COALESCE(({_BREAKER})::text, '-'), s.waiting_for)"
)
"""Equal for step runs (of one run) that wait for the same."""

WAITING_FOR = f"""CASE WHEN s.status = 'PENDING' THEN CAST(:waits AS jsonb) ->> {WAIT_KEY} ELSE s.waiting_for END"""

_FACTS = f"""
SELECT f.wait_key, f.backend, f.cancelled, f.held, f.unmet, f.not_before, f.waiting_for, now(), b.problem,
  (SELECT count(*) FROM workers w WHERE f.backend = ANY(w.backends)),
  CASE WHEN f.unmet > 0 THEN ARRAY(
    SELECT u.name FROM run_steps t JOIN run_steps u ON u.run_id = t.run_id AND u.position = ANY(t.upstream)
    WHERE t.run_id = f.run_id AND t.position = f.position AND u.remaining > 0 ORDER BY u.position
  ) ELSE '{{}}' END,
  k.circuit, k.reason_text, k.probe IS NOT NULL, {utc("k.probe_at")}
FROM (
  SELECT DISTINCT ON (wait_key) {WAIT_KEY} AS wait_key, s.run_id, s.position, s.backend, s.unmet, s.held, s.not_before,
    s.waiting_for, s.cancel_requested_at IS NOT NULL AS cancelled, {_BREAKER} AS circuit
  FROM step_runs s WHERE %where% AND s.status = 'PENDING'
) f LEFT JOIN backends b ON b.name = f.backend LEFT JOIN breakers k ON k.circuit = f.circuit
"""
_OF_RUN = _FACTS.replace("%where%", "s.run_id = :id AND (SELECT n_pending FROM runs WHERE id = :id) > 0")
_OF_STEP_RUN = _FACTS.replace("%where%", "s.id = :id")


def waits_of_run(unit: UnitOfWork, parameters: dict[str, Any]) -> str:
    """What `:waits` of WAITING_FOR is to hold for the step runs of a run."""
    return _worded(unit, _OF_RUN, parameters)


def waits_of_step_run(unit: UnitOfWork, parameters: dict[str, Any]) -> str:
    """The same for one step run."""
    return _worded(unit, _OF_STEP_RUN, parameters)


def _worded(unit: UnitOfWork, statement: str, parameters: dict[str, Any]) -> str:
    return json.dumps({row[0]: explain(_facts(*row[1:])) for row in unit.execute(statement, parameters)})


def _facts(
    backend: str, cancelled: bool, held: bool, unmet: int, not_before: Any, waiting_for: str | None, now: Any,
    problem: str | None, workers: int, upstream: list[str], breaker: UUID | None, failures: str, probing: bool,
    probe_at: str | None,
) -> WaitFacts:  # fmt: skip
    return WaitFacts(
        backend=backend,
        cancel_requested=cancelled,
        paused=held,
        unmet=unmet,
        # Where each item waits for its own item, a step that is not done may be so for other items only: no names then.
        upstream=upstream if len(upstream) == unmet else (),
        not_before=not_before,
        now=now,
        stored_reason=waiting_for,
        backend_problem=problem,
        held_back=None if breaker is None else held_text(failures, breaker, probing=probing, probe_at=probe_at),
        workers_serving=workers,
    )
