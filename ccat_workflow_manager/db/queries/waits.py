"""Why step runs wait, in the words of `lifecycle.waiting`.

A run of 10,000 step runs has only a handful of different reasons. So the distinct sets of facts are fetched, worded
here and passed to the statement that renders the JSON, under the key of each set. A step run with a job shows the
reason that a worker recorded, preceded by what keeps all workers from the backend now.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from ccat_workflow_manager.db.breakers import probing
from ccat_workflow_manager.db.conditions import counter, quoted
from ccat_workflow_manager.db.holds import HOLD_OF, active_holds
from ccat_workflow_manager.db.queries import utc
from ccat_workflow_manager.db.quotas import AT_LIMIT, limit_uses
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.lifecycle.breaker import held_text
from ccat_workflow_manager.lifecycle.holds import LimitUse, pause_text
from ccat_workflow_manager.lifecycle.overrides import Term
from ccat_workflow_manager.lifecycle.states import LIVE, Status
from ccat_workflow_manager.lifecycle.waiting import ACTION_REQUIRED, WaitFacts, explain, unattended, uncollected

_OPEN_BREAKER = """CASE WHEN s.breaker_key IN (SELECT b.breaker_key FROM breakers b WHERE b.opened_at IS NOT NULL)
  AND s.id NOT IN (SELECT b.probe FROM breakers b WHERE b.probe IS NOT NULL) THEN s.breaker_key END"""
_FULL_PLACE = """CASE WHEN (s.backend, s.resources) IN (SELECT p.backend, p.resources FROM full_places p)
  THEN md5(s.resources::text) END"""
_NEEDS = "CAST(s.resources ->> 'cpu' AS double precision)"
_AT_LIMIT = f"CASE WHEN {AT_LIMIT} THEN {_NEEDS} END"
WAIT_KEY = (
    "concat_ws('|', s.run_id, s.position, s.backend, s.unmet, s.held, s.cancel_requested_at IS NOT NULL,"
    f" COALESCE(s.not_before::text, '-'), COALESCE(({_OPEN_BREAKER})::text, '-'),"
    f" COALESCE({_FULL_PLACE}, '-'), COALESCE({HOLD_OF}, '-'), COALESCE(({_AT_LIMIT})::text, '-'), s.waiting_for)"
)
"""Equal for pending step runs of a run that wait for the same reason."""

_MORE_IMPORTANT = f"""COALESCE(s.waiting_for IS NOT NULL AND
  (s.cancel_requested_at IS NOT NULL OR starts_with(s.waiting_for, '{ACTION_REQUIRED}')), false)"""
"""The recorded reason says more than that workers cannot reach the backend."""

_NOT_YET_STOPPED = f"""s.status IN ({quoted(LIVE)}) AND s.waiting_for IS NULL AND s.cancel_requested_at IS NOT NULL
  AND NOT s.requeued_by_breaker"""
"""No worker has asked the backend to stop the job yet."""

WAITING_FOR = f"""CASE
  WHEN s.status = '{Status.PENDING}' THEN CAST(:waits AS jsonb) ->> {WAIT_KEY}
  WHEN {_NOT_YET_STOPPED} THEN
    'is being cancelled' || COALESCE(': ' || (CAST(:waits AS jsonb) ->> ('jobs ' || s.backend)), '')
  WHEN s.status IN ({quoted(LIVE)}) AND NOT {_MORE_IMPORTANT} THEN
    COALESCE((CAST(:waits AS jsonb) ->> ('jobs ' || s.backend)) || COALESCE('; before that: ' || s.waiting_for, ''),
      s.waiting_for)
  WHEN s.status = '{Status.COLLECTING_RESULTS}' AND (s.lease_until IS NULL OR s.lease_until < now()) THEN
    COALESCE(s.waiting_for, CAST(:waits AS jsonb) ->> ('results ' || s.backend))
  ELSE s.waiting_for END"""
"""Why `step_runs s` waits. The parameter `:waits` comes from `waits_of_run` or `waits_of_step_run`."""

_WORKERS_SERVING = "(SELECT count(*) FROM workers w WHERE %s = ANY(w.backends))"

_PENDING = f"""
SELECT f.wait_key, f.backend, f.cancelled, f.held, f.unmet, f.not_before, f.waiting_for, now() AS now, b.problem,
  {_WORKERS_SERVING % "f.backend"} AS workers,
  CASE WHEN f.unmet > 0 THEN ARRAY(
    SELECT u.name FROM run_steps t JOIN run_steps u ON u.run_id = t.run_id AND u.position = ANY(t.upstream)
    WHERE t.run_id = f.run_id AND t.position = f.position AND u.remaining > 0 ORDER BY u.position
  ) ELSE '{{}}' END AS upstream,
  p.text AS full_place, f.on_hold, f.needs, l.project,
  r.paused_by, r.paused_why, r.paused_until,
  k.breaker_key, k.reason_text AS breaker_reason, {probing("k")} AS probing, {utc("k.probe_at")} AS probe_at
FROM (
  SELECT DISTINCT ON (wait_key) {WAIT_KEY} AS wait_key, s.run_id, s.position, s.backend, s.unmet, s.held, s.not_before,
    s.waiting_for, s.resources, s.cancel_requested_at IS NOT NULL AS cancelled, {_OPEN_BREAKER} AS breaker_key,
    {HOLD_OF} AS on_hold, {_AT_LIMIT} AS needs, s.lane
  FROM step_runs s WHERE %where% AND s.status = '{Status.PENDING}'
) f LEFT JOIN backends b ON b.name = f.backend LEFT JOIN breakers k ON k.breaker_key = f.breaker_key
  LEFT JOIN runs r ON f.held AND r.id = f.run_id LEFT JOIN lanes l ON l.id = f.lane
  LEFT JOIN full_places p ON p.backend = f.backend AND p.resources = f.resources
"""
_PENDING_OF_RUN = _PENDING.replace("%where%", "s.run_id = :id AND (SELECT n_pending FROM runs WHERE id = :id) > 0")
_PENDING_OF_STEP_RUNS = _PENDING.replace("%where%", "s.id = ANY(:id)")

_AT_BACKENDS = f"""
SELECT n.backend, b.problem, {_WORKERS_SERVING % "n.backend"} AS workers
FROM (
  SELECT DISTINCT s.backend FROM step_runs s
  WHERE %where% AND s.status IN ({quoted(LIVE)}, '{Status.COLLECTING_RESULTS}')
) n LEFT JOIN backends b ON b.name = n.backend
"""
STARTED = " + ".join(map(counter, sorted([*LIVE, Status.COLLECTING_RESULTS])))
"""How many step runs of a run have been launched and are not finished."""
_AT_BACKENDS_OF_RUN = _AT_BACKENDS.replace(
    "%where%", f"s.run_id = :id AND (SELECT {STARTED} FROM runs WHERE id = :id) > 0"
)
_AT_BACKENDS_OF_STEP_RUNS = _AT_BACKENDS.replace("%where%", "s.id = ANY(:id)")


def waits_of_run(unit: UnitOfWork, run_id: UUID) -> str:
    """The parameter `:waits` of WAITING_FOR for the step runs of a run."""
    return _worded(unit, _PENDING_OF_RUN, _AT_BACKENDS_OF_RUN, run_id)


def waits_of_step_run(unit: UnitOfWork, step_run_id: UUID) -> str:
    """The same for one step run."""
    return waits_of_step_runs(unit, [step_run_id])


def waits_of_step_runs(unit: UnitOfWork, ids: Sequence[UUID]) -> str:
    """The same for some step runs."""
    return _worded(unit, _PENDING_OF_STEP_RUNS, _AT_BACKENDS_OF_STEP_RUNS, list(ids))


def _worded(unit: UnitOfWork, pending: str, at_backends: str, of: UUID | list[UUID]) -> str:
    rows = unit.records(pending, {"id": of})
    holds = {each.subject: each.text() for each in active_holds(unit)} if any(row["on_hold"] for row in rows) else {}
    full = {row["project"] for row in rows if row["needs"] is not None}
    limits = {each.project: each for each in limit_uses(unit, full)}
    words: dict[str, str | None] = {row["wait_key"]: explain(_facts(row, holds, limits)) for row in rows}
    for backend, problem, workers in unit.execute(at_backends, {"id": of}):
        words[f"jobs {backend}"] = unattended(backend, problem, workers)
        words[f"results {backend}"] = uncollected(backend, workers)
    return json.dumps(words)


def pause_of(row: Mapping[str, Any]) -> Term:
    """The pause of the run in these columns."""
    return Term(row["paused_by"], row["paused_why"], row["paused_until"])


def _facts(row: Mapping[str, Any], holds: Mapping[str, str], limits: Mapping[str, LimitUse]) -> WaitFacts:
    breaker, unmet, upstream = row["breaker_key"], row["unmet"], row["upstream"]
    if breaker is not None:
        breaker = held_text(row["breaker_reason"], breaker, probing=row["probing"], probe_at=row["probe_at"])
    return WaitFacts(
        backend=row["backend"],
        cancel_requested=row["cancelled"],
        paused=pause_text(pause_of(row)) if row["held"] else None,
        unmet=unmet,
        # If each key waits for its own key only, an unfinished step need not be one that this step run waits for.
        upstream=upstream if len(upstream) == unmet else (),
        not_before=row["not_before"],
        now=row["now"],
        stored_reason=row["waiting_for"],
        backend_problem=row["problem"],
        on_hold=holds.get(row["on_hold"]),
        at_limit=None if row["needs"] is None else limits[row["project"]].text(row["needs"]),
        held_back=breaker,
        full_place=row["full_place"],
        workers_serving=row["workers"],
    )
