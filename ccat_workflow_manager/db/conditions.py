"""SQL fragments about statuses, derived from `lifecycle.states`."""

from __future__ import annotations

from collections.abc import Iterable

from ccat_workflow_manager.definition.project import DEFAULT_PROJECT
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.states import CANCELLABLE, LIVE, Status


def quoted(statuses: Iterable[Status]) -> str:
    """The statuses as an SQL list, in the order of `Status`."""
    return ", ".join(f"'{status}'" for status in Status if status in set(statuses))


def counter(status: Status) -> str:
    """The column of `runs` that counts its step runs in this status."""
    return f"n_{status.lower()}"


OPEN = " + ".join(counter(status) for status in Status if status in CANCELLABLE)
ALL = " + ".join(counter(status) for status in Status)

RUN_STATUS_SQL = (
    f"CASE WHEN {OPEN} = 0 THEN"
    " CASE WHEN tolerated THEN 'COMPLETED' WHEN n_failed > 0 THEN 'FAILED' WHEN n_cancelled > 0 THEN 'CANCELLED'"
    " ELSE 'COMPLETED' END"
    f" WHEN n_pending = {ALL} THEN 'PENDING' ELSE 'RUNNING' END"
)
"""`lifecycle.states.run_status` in SQL."""


def set_aside(row: str = "") -> str:
    """A person has set it to skipped: what depends on it goes on, as behind a completed one. `row` is such as `u.`."""
    return f"({row}status = '{Status.SKIPPED}' AND {row}reason IS NOT DISTINCT FROM '{FailureReason.SET_BY_HAND}')"


def met(row: str = "") -> str:
    """What depends on it need not wait for it."""
    return f"({row}status = '{Status.COMPLETED}' OR {set_aside(row)})"


SET_ASIDE = set_aside()
MET = met()

READY = "status = 'PENDING' AND unmet = 0 AND NOT held"
"""All upstream steps are completed and the run is not paused. The condition of an index: use it literally."""

USES_LIMITS = LIVE | {Status.STAGING_DATA}
IN_USE = f"status IN ({quoted(USES_LIMITS)})"
"""It has a job, or a worker is about to submit it. The condition of an index: use it literally."""

OTHER_PROJECT = f"project <> '{DEFAULT_PROJECT}'"
"""Runs of `default` are in no index of the project: most are of it, and their list is that of all runs."""

LABELLED = "labels <> '{}'"
"""Runs without labels are in no index of labels."""

CLAIMABLE = f"{READY} AND (not_before IS NULL OR not_before <= now()) AND cancel_requested_at IS NULL"
"""Ready, not backing off and not cancelled.

A breaker (`db.breakers`), a hold (`db.holds`) or a limit (`db.quotas`) may still keep it from being claimed.
"""
