"""Circuit breakers in the database: what they hold back, and how they open and close. `lifecycle.breaker` has the rule.

`RunStore` writes breakers in the transaction of the ends that they count. Breakers are locked in the order of their
keys, after the step runs and before the runs.
"""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from ccat_workflow_manager.db.conditions import CLAIMABLE
from ccat_workflow_manager.db.holds import ANY_PAUSE, ON_HOLD, PAUSED
from ccat_workflow_manager.db.locked_rows import CLAIMED
from ccat_workflow_manager.db.overrides import freed_breakers
from ccat_workflow_manager.db.quotas import AT_LIMIT
from ccat_workflow_manager.db.session import UnitOfWork, json_list
from ccat_workflow_manager.lifecycle.breaker import Breaker, BreakerPolicy, Failure, after_failure, reason_text
from ccat_workflow_manager.lifecycle.states import Status

log = logging.getLogger(__name__)

_MOST_READY = 2000
"""How many step runs of closed breakers are announced at once. The manager's `RequeueSweep` finds the others."""

# --- conditions on `step_runs` ---------------------------------------------------------------------------------------
# `breakers` is mostly empty and always small, so a statement reads it once, as a hashed subplan.

_PROBES = "SELECT b.probe FROM breakers b WHERE b.probe IS NOT NULL"

HELD_BACK = f"""(breaker_key IN (SELECT b.breaker_key FROM breakers b WHERE b.opened_at IS NOT NULL)
  AND id NOT IN ({_PROBES}))"""
"""The breaker of the step run is open, and the step run is not its probe."""

# In both, a subquery for one value: PostgreSQL may answer EXISTS for all breakers at once, by reading all of step_runs.
PROBE_DUE = f"""(b.opened_at IS NOT NULL AND COALESCE((
  SELECT CASE WHEN p.finished_at IS NULL AND NOT (p.held AND p.status = '{Status.PENDING}') THEN false
    WHEN p.status <> '{Status.FAILED}' THEN true END
  FROM step_runs p WHERE p.id = b.probe), b.probe_at <= now()))"""
"""`breakers b` is open, has no probe that can still finish, and its waiting time is over.

It begins again with each probe: a failure that does not count, as of a disk, fails the next step run as well. A probe
that was cancelled, or whose run is paused, has told nothing.
"""


def probing(breaker: str) -> str:
    """SQL: a probe of this row of `breakers` is not finished."""
    return f"COALESCE((SELECT p.finished_at IS NULL FROM step_runs p WHERE p.id = {breaker}.probe), false)"


IN_FULL_PLACE = "(backend, resources) IN (SELECT f.backend, f.resources FROM full_places f)"
"""The backend takes no job with the resources of the step run now (`db.full_places`)."""

LAUNCHABLE = f"""{CLAIMABLE}
  AND (backend, resources) NOT IN (SELECT f.backend, f.resources FROM full_places f WHERE f.retry_at > now())
  AND NOT (breaker_key IN (SELECT b.breaker_key FROM breakers b
    WHERE b.opened_at IS NOT NULL AND {PROBE_DUE} IS NOT TRUE)
  AND id NOT IN ({_PROBES}))
  AND NOT {ON_HOLD} AND NOT {AT_LIMIT}"""
"""A worker should come for the step run: it can be claimed, at once or as a probe."""

LOCK_PROBES = f"""
WITH due AS MATERIALIZED (
  SELECT b.breaker_key FROM breakers b WHERE {PROBE_DUE} ORDER BY b.breaker_key FOR NO KEY UPDATE SKIP LOCKED
)
SELECT probe.* FROM due CROSS JOIN LATERAL (
  SELECT {CLAIMED}, true AS has_breaker
  FROM step_runs s WHERE backend = :backend AND {CLAIMABLE} AND breaker_key = due.breaker_key AND NOT {ON_HOLD}
  ORDER BY priority DESC, id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
) probe
"""
"""One `ClaimRow` of each breaker that is due for a probe.

The only place that locks breakers before step runs. It never waits for a lock, so it cannot take part in a deadlock.
"""

# --- statements of the store -----------------------------------------------------------------------------------------

_ENDED = """
SELECT s.id AS step_run_id, s.breaker_key, r.project, r.pipeline, s.step, t.image, now() AS at
FROM step_runs s JOIN runs r ON r.id = s.run_id
JOIN run_steps t ON t.run_id = s.run_id AND t.position = s.position
WHERE s.id = ANY(:ids) ORDER BY s.id
"""

_LOCK = "SELECT 1 FROM breakers WHERE breaker_key = :key FOR NO KEY UPDATE"

_LOCK_OR_CREATE = """
INSERT INTO breakers (breaker_key, project, pipeline, step, image)
SELECT * FROM (
  SELECT breaker_key, project, pipeline, step, image
  FROM json_to_recordset(CAST(:failing AS json)) AS f(breaker_key uuid, project text, pipeline text, step text,
    image text)
  UNION ALL SELECT breaker_key, project, pipeline, step, image FROM breakers WHERE breaker_key = ANY(:healthy)
) x ORDER BY breaker_key
ON CONFLICT (breaker_key) DO UPDATE SET updated_at = now()
RETURNING breaker_key, failures, opened_at, failure_signature, probe, probe_at
"""
"""The breakers of `failing` steps, created if missing, and those of `healthy` ones that exist. Locked in order."""

_UPDATE = """
UPDATE breakers SET failures = CAST(:failures AS jsonb), opened_at = :opened_at, probe = :probe, probe_at = :probe_at,
  failure_signature = :failure_signature, reason_text = COALESCE(:reason_text, reason_text)
WHERE breaker_key = :key
"""

_RECORD_EVENT = """
INSERT INTO breaker_events (breaker_key, project, pipeline, step, image, event, actor, text)
SELECT breaker_key, project, pipeline, step, image, :event, :actor, :text FROM breakers WHERE breaker_key = :key
"""

_REMOVE = """
WITH removed AS (
  DELETE FROM breakers WHERE breaker_key = ANY(:keys)
  RETURNING breaker_key, project, pipeline, step, image, opened_at
)
INSERT INTO breaker_events (breaker_key, project, pipeline, step, image, event, actor, text)
SELECT breaker_key, project, pipeline, step, image, :event, :actor, :text FROM removed WHERE opened_at IS NOT NULL
RETURNING breaker_key, pipeline, step
"""
"""Removes breakers, and returns those that were open."""

_READY = f"""
SELECT x.backend, count(*) FROM (
  SELECT backend FROM step_runs WHERE {CLAIMABLE} AND breaker_key = ANY(:keys) LIMIT :limit
) x GROUP BY x.backend
"""

_SET_PROBES = """
UPDATE breakers b SET probe = s.id, probe_at = now() + :seconds * interval '1 second'
FROM step_runs s WHERE s.id = ANY(:ids) AND b.breaker_key = s.breaker_key
RETURNING b.breaker_key, s.step, s.key
"""

_ANY_OPEN = f"SELECT EXISTS (SELECT 1 FROM breakers WHERE opened_at IS NOT NULL) OR {ANY_PAUSE}"

_STALE = """
SELECT breaker_key FROM breakers WHERE :off OR (opened_at IS NULL AND updated_at < now() - :window)
ORDER BY breaker_key
"""

_REQUEUE_WAITING = f"""
UPDATE step_runs SET cancel_requested_at = now(), cancel_requested_by = 'breaker', requeued_by_breaker = true
WHERE id IN (
  SELECT id FROM step_runs WHERE status = '{Status.SUBMITTED}' AND cancel_requested_at IS NULL
    AND ({HELD_BACK} OR {PAUSED})
  ORDER BY id LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED
) RETURNING backend
"""


@dataclass(frozen=True, slots=True)
class _EndedStepRun:
    """A step run that failed or completed, with the step that its breaker stands for."""

    step_run_id: UUID
    breaker_key: UUID
    project: str
    pipeline: str
    step: str
    image: str | None
    at: datetime


class BreakerStore:
    """Reads and writes breakers inside the caller's transaction."""

    def __init__(self, unit: UnitOfWork, policy: BreakerPolicy) -> None:
        self.unit = unit
        self.opened = False
        """A breaker has opened in this transaction."""
        self._policy = policy

    def record(self, failures: Iterable[tuple[UUID, str]], succeeded: Iterable[UUID]) -> Counter[str]:
        """Count failures (step run, signature) and successes. Returns how many become ready, by backend.

        A success in the same transaction outweighs the failures of its key: their order is unknown.
        """
        signatures = dict(failures) if self._policy.failures else {}
        ended = self.unit.rows(_EndedStepRun, _ENDED, {"ids": sorted({*signatures, *succeeded})})
        healthy = {each.breaker_key for each in ended if each.step_run_id not in signatures}
        failed: dict[UUID, list[_EndedStepRun]] = defaultdict(list)
        for each in ended:
            if each.breaker_key not in healthy:
                failed[each.breaker_key].append(each)
        breakers = self._lock_or_create([group[0] for group in failed.values()], healthy)
        ready = self.close(healthy & breakers.keys(), "closed", "success", "a step run has completed")
        for key in sorted(failed.keys() - freed_breakers(self.unit, failed)) if failed else ():
            self._count(breakers[key], failed[key], signatures)
        return ready

    def _lock_or_create(self, failing: Sequence[_EndedStepRun], healthy: Collection[UUID]) -> dict[UUID, Breaker]:
        new = [
            {
                "breaker_key": str(each.breaker_key),
                "project": each.project,
                "pipeline": each.pipeline,
                "step": each.step,
                "image": each.image,
            }
            for each in failing
        ]
        found = self.unit.records(_LOCK_OR_CREATE, {"failing": json_list(new), "healthy": sorted(healthy)})
        return {
            record.pop("breaker_key"): Breaker(**record | {"failures": _decoded(record["failures"])})
            for record in found
        }

    def _count(self, before: Breaker, failed: Sequence[_EndedStepRun], signatures: Mapping[UUID, str]) -> None:
        breaker, last = before, failed[-1]
        for each in failed:
            failure = Failure(each.step_run_id, signatures[each.step_run_id], each.at)
            breaker = after_failure(breaker, failure, self._policy)
        if breaker == before:
            return
        key, why = last.breaker_key, None
        if before.opened_at is None and breaker.opened_at is not None:
            why = reason_text(breaker, f"{last.pipeline}/{last.step}", last.image, self._policy)
        self.unit.execute(
            _UPDATE,
            {
                "key": key,
                "failures": json.dumps([[str(f.step_run_id), f.signature, f.at.isoformat()] for f in breaker.failures]),
                "opened_at": breaker.opened_at,
                "failure_signature": breaker.failure_signature,
                "probe": breaker.probe,
                "probe_at": breaker.probe_at,
                "reason_text": why,
            },
        )
        if why is not None:
            self.opened = True
            self.unit.execute(_RECORD_EVENT, {"key": key, "event": "opened", "actor": "breaker", "text": why})
            self.unit.after_commit(partial(log.warning, "breaker %s opened: %s", key, why))

    def set_probes(self, step_run_ids: Sequence[UUID], actor: str) -> None:
        """Make each of these step runs the probe of its breaker. The breakers are locked already (`LOCK_PROBES`)."""
        if not step_run_ids:
            return
        values = {"ids": list(step_run_ids), "seconds": self._policy.probe_seconds}
        for breaker_key, step, key in self.unit.execute(_SET_PROBES, values).all():
            event = {"key": breaker_key, "event": "probed", "actor": actor, "text": f"{step}/{key} is the probe"}
            self.unit.execute(_RECORD_EVENT, event)

    def close(self, keys: Iterable[UUID], event: str, actor: str, text: str) -> Counter[str]:
        """Remove breakers, open or not. Returns how many step runs become ready, by backend."""
        wanted = sorted(keys)
        if not wanted:
            return Counter()
        closed = self.unit.execute(_REMOVE, {"keys": wanted, "event": event, "actor": actor, "text": text}).all()
        if not closed:
            return Counter()
        for key, pipeline, step in closed:
            words = ("breaker %s of %s/%s %s: %s", key, pipeline, step, event, text)
            self.unit.after_commit(partial(log.warning, *words))
        found = self.unit.execute(_READY, {"keys": [row[0] for row in closed], "limit": _MOST_READY})
        return Counter(dict(found))

    def any_open(self) -> bool:
        """Whether `requeue_waiting` may find anything."""
        return bool(self.unit.execute(_ANY_OPEN).scalar())

    def requeue_waiting(self, limit: int) -> list[str]:
        """Request the cancel of submitted jobs that an open breaker or a pause holds back. Returns a backend for each.

        Their step runs return to PENDING once the jobs are gone.
        """
        return [row[0] for row in self.unit.execute(_REQUEUE_WAITING, {"limit": limit})]

    def stale(self) -> list[UUID]:
        """Closed breakers whose last failure is out of the window; all breakers if they are switched off."""
        window = timedelta(seconds=self._policy.window_seconds)
        found = self.unit.execute(_STALE, {"off": not self._policy.failures, "window": window})
        return [row[0] for row in found]

    def lock(self, key: UUID) -> bool:
        """Lock a breaker. Returns False if it does not exist."""
        return self.unit.execute(_LOCK, {"key": key}).first() is not None


def _decoded(stored: Iterable[tuple[str, str, str]]) -> tuple[Failure, ...]:
    return tuple(
        Failure(UUID(step_run_id), signature, datetime.fromisoformat(at)) for step_run_id, signature, at in stored
    )
