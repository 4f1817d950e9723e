"""Why the step runs of a run do not get on, in the words of lifecycle.waiting.

A run of 10,000 step runs has only a handful of different reasons. So the different sets of facts are fetched, put into
words here, and handed to the statement that builds the JSON, by the key of the set. Of step runs that are not PENDING
the words that workers have left are shown, and before them that no worker or backend can be asked at this moment.
"""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from ccat_workflow_manager.db.schema import counter, quoted
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.views.sql import utc
from ccat_workflow_manager.lifecycle.attention import MARK
from ccat_workflow_manager.lifecycle.breaker import held_text
from ccat_workflow_manager.lifecycle.states import LIVE, Status
from ccat_workflow_manager.lifecycle.waiting import WaitFacts, explain, unattended, uncollected

_BREAKER = """CASE WHEN s.circuit IN (SELECT b.circuit FROM breakers b WHERE b.opened_at IS NOT NULL)
  AND s.id NOT IN (SELECT b.probe FROM breakers b WHERE b.probe IS NOT NULL) THEN s.circuit END"""
WAIT_KEY = (
    "concat_ws('|', s.position, s.backend, s.unmet, s.held, s.cancel_requested_at IS NOT NULL,"
    f" COALESCE(s.not_before::text, '-'), COALESCE(({_BREAKER})::text, '-'), s.waiting_for)"
)
"""Equal for step runs (of one run) that wait for the same."""

_ASKS_FOR_MORE = f"""COALESCE(s.waiting_for IS NOT NULL AND
  (s.cancel_requested_at IS NOT NULL OR starts_with(s.waiting_for, '{MARK}')), false)"""
WAITING_FOR = f"""CASE
  WHEN s.status = 'PENDING' THEN CAST(:waits AS jsonb) ->> {WAIT_KEY}
  WHEN s.status IN ({quoted(LIVE)}) AND NOT {_ASKS_FOR_MORE} THEN
    COALESCE((CAST(:waits AS jsonb) ->> ('jobs ' || s.backend)) || COALESCE('; before that: ' || s.waiting_for, ''),
      s.waiting_for)
  WHEN s.status = '{Status.COLLECTING_RESULTS}' AND (s.lease_until IS NULL OR s.lease_until < now()) THEN
    COALESCE(s.waiting_for, CAST(:waits AS jsonb) ->> ('results ' || s.backend))
  ELSE s.waiting_for END"""

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

_AT_BACKENDS = f"""
SELECT n.backend, b.problem, (SELECT count(*) FROM workers w WHERE n.backend = ANY(w.backends))
FROM (
  SELECT DISTINCT s.backend FROM step_runs s
  WHERE %where% AND s.status IN ({quoted(LIVE)}, '{Status.COLLECTING_RESULTS}')
) n LEFT JOIN backends b ON b.name = n.backend
"""
_STARTED = " + ".join(map(counter, sorted([*LIVE, Status.COLLECTING_RESULTS])))
_STARTED_OF_RUN = _AT_BACKENDS.replace(
    "%where%", f"s.run_id = :id AND (SELECT {_STARTED} FROM runs WHERE id = :id) > 0"
)
_STARTED_OF_STEP_RUN = _AT_BACKENDS.replace("%where%", "s.id = :id")


def waits_of_run(unit: UnitOfWork, parameters: dict[str, Any]) -> str:
    """What `:waits` of WAITING_FOR is to hold for the step runs of a run."""
    return _worded(unit, _OF_RUN, _STARTED_OF_RUN, parameters)


def waits_of_step_run(unit: UnitOfWork, parameters: dict[str, Any]) -> str:
    """The same for one step run."""
    return _worded(unit, _OF_STEP_RUN, _STARTED_OF_STEP_RUN, parameters)


def _worded(unit: UnitOfWork, waiting: str, started: str, parameters: dict[str, Any]) -> str:
    words: dict[str, str | None] = {row[0]: explain(_facts(*row[1:])) for row in unit.execute(waiting, parameters)}
    for backend, problem, workers in unit.execute(started, parameters):
        words[f"jobs {backend}"] = unattended(backend, problem, workers)
        words[f"results {backend}"] = uncollected(backend, workers)
    return json.dumps(words)


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
