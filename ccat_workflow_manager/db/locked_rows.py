"""The step run as the writer sees it: the columns, the row, and the statements that lock rows.

Every statement here returns `LockedRow`s under the names of its fields, and locks in the order of the ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from ccat_workflow_manager.db.conditions import quoted
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.json_values import JSON
from ccat_workflow_manager.lifecycle.states import CANCELLABLE, RETRYABLE, Status


@dataclass(slots=True)
class LockedRow:
    """A step run, locked by the present transaction."""

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
    requeued_by_breaker: bool
    """The cancel was requested by a breaker: the step run returns to PENDING instead of CANCELLED."""
    has_breaker: bool
    """There is a breaker for its key. Only `LOCK_STEP_RUNS` and the claim of probes look for one."""
    caveats: list[dict[str, str]] | None

    def __post_init__(self) -> None:
        self.status = Status(self.status)


@dataclass(slots=True)
class BlockingRow(LockedRow):
    """A step run that ended without completing while others still wait for it."""

    reason: str | None
    reason_text: str | None


@dataclass(slots=True)
class ClaimRow(LockedRow):
    """A step run that a worker is about to claim."""

    lane: int
    item: JSON
    resources: Mapping[str, Any]
    priority: int
    job_id: str | None
    replay_of: UUID | None
    reuse: bool

    @property
    def cpus(self) -> float:
        return float(self.resources["cpu"])


class Block(NamedTuple):
    """Why dependents are skipped: what did not complete, with the chain to the root, and the reason that they get."""

    text: str
    reason: FailureReason


class Cause(NamedTuple):
    """A step run that did not complete, and what it means for its dependents."""

    row: LockedRow
    block: Block


BLOCKED_BY = "blocked by "
"""The beginning of the text of a step run that is skipped because of others."""
_BEHIND = ", behind "
_LONGEST_CHAIN = 6


def block_of(row: LockedRow, reason: str | None, text: str | None) -> Block:
    """What the end of this step run, with this reason and text, means for its dependents."""
    cancelled = row.status is Status.CANCELLED or reason == FailureReason.UPSTREAM_CANCELLED
    name = f"{row.step}/{row.key}"
    if row.status is Status.SKIPPED and text is not None and text.startswith(BLOCKED_BY):
        chain = [name, *text.removeprefix(BLOCKED_BY).split(_BEHIND)]
        if len(chain) > _LONGEST_CHAIN:
            chain = [*chain[:3], "...", *chain[-2:]]
        shown = _BEHIND.join(chain)
    else:
        shown = f"{name} ({row.status}: {reason})"
    return Block(shown, FailureReason.UPSTREAM_CANCELLED if cancelled else FailureReason.UPSTREAM_FAILED)


LOCKED = """s.id, s.run_id, s.position, s.step, s.key, s.backend, s.status, s.attempt, s.max_attempts, s.claims,
  s.token, s.unmet, s.has_dependents, s.cancel_requested_at IS NOT NULL AS cancel_requested, s.requeued_by_breaker,
  s.caveats"""
"""The columns of a `LockedRow` of `step_runs s`, all but `has_breaker`."""

CLAIMED = f"{LOCKED}, s.lane, s.item, s.resources, s.priority, s.job_id, s.replay_of, s.reuse"
"""The same of a `ClaimRow`."""

LOCK_STEP_RUNS = f"""
SELECT {LOCKED}, s.breaker_key IN (SELECT b.breaker_key FROM breakers b) AS has_breaker
FROM step_runs s WHERE s.id = ANY(:ids) ORDER BY s.id FOR NO KEY UPDATE
"""

LOCK_CANCELLABLE = f"""
SELECT {LOCKED}, false AS has_breaker
FROM step_runs s WHERE s.run_id = ANY(:run_ids) AND s.status IN ({quoted(CANCELLABLE)})
ORDER BY s.id FOR NO KEY UPDATE
"""
"""The step runs of these runs that can still be cancelled."""

LOCK_DEPENDENTS = f"""
WITH blocked AS (
  SELECT * FROM json_to_recordset(CAST(:blocked AS json)) AS d(run_id uuid, position smallint, key text, whole boolean)
)
SELECT {LOCKED}, false AS has_breaker
FROM step_runs s
WHERE s.status = '{Status.PENDING}' AND s.run_id = ANY(ARRAY(SELECT b.run_id FROM blocked b)) AND EXISTS (
  SELECT 1 FROM blocked b WHERE b.run_id = s.run_id AND b.position = s.position AND (b.whole OR b.key = s.key))
ORDER BY s.id FOR NO KEY UPDATE
"""
"""The pending step runs of the steps in `blocked`: all of a step if `whole`, else the one with this key.

Without the array of runs PostgreSQL would read all step runs there are.
"""

LOCK_FREE_DEPENDENTS = f"{LOCK_DEPENDENTS} SKIP LOCKED"
"""The same without waiting: what another transaction has locked is left out."""

_PENDING_DEPENDENTS = f"""
SELECT 1 FROM run_steps t JOIN step_runs d ON d.run_id = t.run_id AND d.status = '{Status.PENDING}'
  AND d.position <> ALL(t.soft)
  AND (d.position = ANY(t.downstream_all) OR (d.position = ANY(t.downstream_key) AND d.key = s.key))
WHERE t.run_id = s.run_id AND t.position = s.position"""

_SET_BY_HAND = f"s.reason IS NOT DISTINCT FROM '{FailureReason.SET_BY_HAND}'"
BLOCKS_OTHERS = f"""s.status IN ({quoted(RETRYABLE)}) AND s.has_dependents AND NOT {_SET_BY_HAND}
  AND EXISTS ({_PENDING_DEPENDENTS})"""
"""`step_runs s` ended without completing, and pending step runs depend on it by strong edges."""

SELECT_BLOCKING = f"""
SELECT {LOCKED}, false AS has_breaker, s.reason, s.reason_text
FROM step_runs s WHERE s.run_id = ANY(:run_ids) AND {BLOCKS_OTHERS} ORDER BY s.id
"""
"""`BlockingRow`s of these runs. Not locked: none of them changes."""
