"""The cause for which a step run does not go on, as SQL on `step_runs s`. `lifecycle.causes` has what each means.

The small tables (breakers, backends, workers, full places) are read once for each statement, as hashed subplans.
"""

from __future__ import annotations

from ccat_workflow_manager.db.breakers import HELD_BACK
from ccat_workflow_manager.db.conditions import SET_ASIDE, quoted
from ccat_workflow_manager.db.holds import ON_HOLD
from ccat_workflow_manager.db.quotas import AT_LIMIT
from ccat_workflow_manager.lifecycle.causes import Cause
from ccat_workflow_manager.lifecycle.states import LIVE, Status
from ccat_workflow_manager.lifecycle.waiting import ACTION_REQUIRED

_AWAY = "s.backend IN (SELECT b.name FROM backends b WHERE b.problem IS NOT NULL)"
_UNSERVED = "s.backend NOT IN (SELECT unnest(w.backends) FROM workers w)"
_FULL = "(s.backend, s.resources) IN (SELECT f.backend, f.resources FROM full_places f)"
_UNLEASED = "(s.lease_until IS NULL OR s.lease_until < now())"
_LIVE = f"s.status IN ({quoted(LIVE)})"

CAUSE = f"""CASE
  WHEN s.status = '{Status.COMPLETED}' THEN '{Cause.COMPLETED}'
  WHEN {SET_ASIDE} THEN '{Cause.SET_BY_HAND}'
  WHEN s.status = '{Status.SKIPPED}' THEN '{Cause.BLOCKED}'
  WHEN s.status = '{Status.FAILED}' THEN '{Cause.FAILED}'
  WHEN s.status = '{Status.CANCELLED}' THEN '{Cause.CANCELLED}'
  WHEN s.cancel_requested_at IS NOT NULL AND NOT ({_LIVE} AND {_UNSERVED}) THEN '{Cause.CANCELLING}'
  WHEN s.status = '{Status.PENDING}' THEN CASE
    WHEN s.held THEN '{Cause.PAUSED}'
    WHEN s.unmet > 0 THEN '{Cause.UPSTREAM}'
    WHEN {ON_HOLD} THEN '{Cause.ON_HOLD}'
    WHEN {HELD_BACK} THEN '{Cause.BREAKER}'
    WHEN {_AWAY} THEN '{Cause.BACKEND_AWAY}'
    WHEN {_UNSERVED} THEN '{Cause.NO_WORKER}'
    WHEN s.not_before > now() AND s.claims = 0 THEN '{Cause.BACK_OFF}'
    WHEN {AT_LIMIT} THEN '{Cause.QUOTA}'
    WHEN {_FULL} THEN '{Cause.FULL_PLACE}'
    WHEN s.not_before > now() THEN '{Cause.DEFERRED}'
    ELSE '{Cause.QUEUED}' END
  WHEN s.status = '{Status.STAGING_DATA}' THEN
    CASE WHEN s.lease_until < now() THEN '{Cause.DEAD_WORKER}' ELSE '{Cause.STAGING}' END
  WHEN {_LIVE} THEN CASE
    WHEN starts_with(s.waiting_for, '{ACTION_REQUIRED}') THEN '{Cause.ACTION_REQUIRED}'
    WHEN {_AWAY} THEN '{Cause.BACKEND_AWAY}'
    WHEN {_UNSERVED} THEN '{Cause.NO_WORKER}'
    WHEN s.unknown_since IS NOT NULL THEN '{Cause.UNKNOWN_JOB}'
    WHEN s.status = '{Status.SUBMITTED}' THEN '{Cause.SCHEDULER}'
    ELSE '{Cause.RUNNING}' END
  WHEN NOT {_UNLEASED} THEN '{Cause.COLLECTING}'
  WHEN {_UNSERVED} THEN '{Cause.NO_WORKER}'
  ELSE '{Cause.RESULTS}' END"""
"""A `Cause`. The first that holds is the one whose removal changes something."""


def subject(row: str) -> str:
    """What the column `cause` of this row is about: a breaker, a run, a backend."""
    return f"""CASE {row}.cause
  WHEN '{Cause.BREAKER}' THEN {row}.breaker_key::text
  WHEN '{Cause.PAUSED}' THEN {row}.run_id::text
  WHEN '{Cause.ON_HOLD}' THEN {row}.on_hold
  WHEN '{Cause.QUOTA}' THEN (SELECT l.project FROM lanes l WHERE l.id = {row}.lane)
  ELSE {row}.backend END"""


SINCE = f"""COALESCE(
  (SELECT b.opened_at FROM breakers b WHERE b.breaker_key = s.breaker_key AND s.status = '{Status.PENDING}'),
  s.finished_at, s.unknown_since, s.cancel_requested_at, s.started_at, s.submitted_at,
  (SELECT max(e.at) FROM events e WHERE e.step_run_id = s.id), s.created_at)"""
"""When the step run came into this, at the latest."""
