"""The ledger of a pipeline: what became of each step and key over all runs and attempts of a selection.

Each pair of step and key has one state, so the numbers of all states add up to what is expected. The newest step run of
a pair decides, with what came before it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from ccat_workflow_manager.db.conditions import SET_ASIDE
from ccat_workflow_manager.db.queries import one
from ccat_workflow_manager.db.queries.run_filter import RunFilter
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.states import Status

MOST_RUNS = 10_000
"""A ledger looks at so many of the newest runs that are selected: what it costs must not grow with all runs."""


class State(StrEnum):
    """The state of a step and key in a ledger."""

    GOOD = "good"
    CAVEATS = "caveats"
    RECOVERED = "recovered"
    CONTRADICTORY = "contradictory"
    PENDING = "pending"
    FAILING = "failing"
    FAILED = "failed"
    BLOCKED = "blocked"
    CANCELLED = "cancelled"
    NOT_NEEDED = "not_needed"


_STATES = list(State)


def _code(state: State) -> int:
    return _STATES.index(state)


def _in(column: str, *states: State) -> str:
    return f"({column} & 15) IN ({', '.join(str(_code(state)) for state in states)})"


_OUTCOME = f"""CASE
  WHEN s.status = '{Status.COMPLETED}' AND s.caveats IS NULL THEN {_code(State.GOOD)}
  WHEN s.status = '{Status.COMPLETED}' THEN {_code(State.CAVEATS)}
  WHEN {SET_ASIDE} THEN {_code(State.NOT_NEEDED)}
  WHEN s.status = '{Status.FAILED}' THEN {_code(State.FAILED)}
  WHEN s.status = '{Status.SKIPPED}' THEN {_code(State.BLOCKED)}
  WHEN s.status = '{Status.CANCELLED}' THEN {_code(State.CANCELLED)}
  ELSE {_code(State.PENDING)} END"""
_FAILED_BEFORE = f"""CASE WHEN s.status = '{Status.FAILED}' THEN true
  WHEN s.attempt > 1 OR s.attempt = 1 AND s.status = '{Status.PENDING}' THEN EXISTS (
  SELECT 1 FROM attempts a WHERE a.step_run_id = s.id AND a.reason <> '{FailureReason.CANCELLED}') ELSE false END"""

# The number of the run, the position and the outcome in one whole number: the greatest one is that of the newest run.
_PLACED = f"((c.n << 19) | (s.position::bigint << 4) | ({_OUTCOME}))"
_LEDGER = f"""
WITH chosen AS MATERIALIZED (
  SELECT r.id, row_number() OVER (ORDER BY r.id) AS n
  FROM (SELECT r.id FROM runs r WHERE %where% ORDER BY r.id DESC LIMIT :most) r
), pairs AS MATERIALIZED (
  SELECT s.step, s.key, min(s.position) AS position, count(*) AS runs, sum(s.attempt) AS attempts,
    max({_PLACED}) AS newest, max({_PLACED}) FILTER (WHERE s.finished_at IS NOT NULL) AS ended,
    bool_or(s.status = '{Status.COMPLETED}') AS done, bool_or({_FAILED_BEFORE}) AS failed
  FROM step_runs s JOIN chosen c ON c.id = s.run_id GROUP BY s.step, s.key
), ledger AS MATERIALIZED (
  SELECT step, key, position, runs, attempts, newest, CASE
    WHEN done AND NOT {_in("ended", State.GOOD, State.CAVEATS, State.NOT_NEEDED)} THEN '{State.CONTRADICTORY}'
    WHEN done AND {_in("ended", State.CAVEATS)} THEN '{State.CAVEATS}'
    WHEN done AND failed THEN '{State.RECOVERED}'
    WHEN done THEN '{State.GOOD}'
    WHEN {_in("newest", State.PENDING)} AND failed THEN '{State.FAILING}'
    ELSE (CAST(:states AS text[]))[(newest & 15) + 1] END AS state
  FROM pairs
), page AS (
  SELECT l.step, l.key, l.state, l.runs, l.attempts, s.id AS step_run_id
  FROM (
    SELECT * FROM ledger
    WHERE (CAST(:state AS text) IS NULL OR state = :state) AND (CAST(:step AS text) IS NULL OR step = :step)
      AND (CAST(:after_step AS text) IS NULL OR (step, key) > (:after_step, :after_key))
    ORDER BY step, key LIMIT :limit
  ) l JOIN chosen c ON c.n = l.newest >> 19
  JOIN step_runs s ON s.run_id = c.id AND s.position = ((l.newest >> 4) & 32767) AND s.key = l.key
)
SELECT json_build_object(
  'runs', (SELECT count(*) FROM chosen),
  'truncated', (SELECT count(*) > :most FROM (SELECT FROM runs r WHERE %where% LIMIT :most + 1) t),
  'totals', (SELECT row_to_json(t) FROM (SELECT {{numbers}} FROM ledger) t),
  'steps', COALESCE((SELECT json_agg(row_to_json(t) ORDER BY t.position, t.step) FROM (
    SELECT step, min(position) AS position, {{numbers}} FROM ledger GROUP BY step) t), '[]'),
  'items', COALESCE((SELECT json_agg(row_to_json(p) ORDER BY p.step, p.key) FROM page p), '[]')
)::text
""".replace(
    "{numbers}",
    "count(*) AS expected, " + ", ".join(f"count(*) FILTER (WHERE state = '{state}') AS {state}" for state in State),
)


def ledger(
    unit: UnitOfWork,
    wanted: RunFilter,
    after: tuple[str, str] | None,
    limit: int,
    *,
    state: str | None = None,
    step: str | None = None,
) -> str:
    """The numbers of all steps, and a page of their keys, over the runs that the filter selects."""
    where, values = wanted.conditions()
    page: dict[str, Any] = {"state": state, "step": step, "limit": limit, "states": [state.value for state in _STATES]}
    page["most"] = MOST_RUNS
    page |= {"after_step": after[0] if after else None, "after_key": after[1] if after else None}
    text = one(unit, _LEDGER.replace("%where%", " AND ".join(where)), values | page)
    assert text is not None
    return text
