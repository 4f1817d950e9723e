"""Circuit breakers as they are stored. The rule itself is `lifecycle.breaker`.

They are written by `RunStore` in the same transaction as the end that counts. Whoever needs several of them locks them
in the order of their ids, after the step runs and before the runs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from ccat_workflow_manager.db.session import UnitOfWork, json_list
from ccat_workflow_manager.db.statements import CLAIMABLE, HELD_BACK
from ccat_workflow_manager.lifecycle.breaker import Breaker, BreakerPolicy, Failure, after_failure, reason_text

log = logging.getLogger(__name__)

_READY_AT_MOST = 2000

_CIRCUITS = """
SELECT s.id, s.circuit, r.pipeline, s.step, t.image, now()
FROM step_runs s JOIN runs r ON r.id = s.run_id
JOIN run_steps t ON t.run_id = s.run_id AND t.position = s.position
WHERE s.id = ANY(:ids)
"""

_LOCK = "SELECT circuit FROM breakers WHERE circuit = ANY(:circuits) ORDER BY circuit FOR NO KEY UPDATE"

_TAKE = """
INSERT INTO breakers (circuit, pipeline, step, image)
SELECT * FROM (
  SELECT circuit, pipeline, step, image
  FROM json_to_recordset(CAST(:failing AS json)) AS f(circuit uuid, pipeline text, step text, image text)
  UNION ALL SELECT circuit, pipeline, step, image FROM breakers WHERE circuit = ANY(:well)
) x ORDER BY circuit
ON CONFLICT (circuit) DO UPDATE SET updated_at = now()
RETURNING circuit, failures, opened_at, way, probe, probe_at
"""
"""Those that fail, whether there are breakers for them or not, and breakers of those that are well: locked in order."""

_UPDATE = """
UPDATE breakers SET failures = CAST(:failures AS jsonb), opened_at = :opened_at, way = :way, probe = :probe,
  probe_at = :probe_at, reason_text = COALESCE(:reason_text, reason_text)
WHERE circuit = :circuit
"""

_EVENT = """
INSERT INTO breaker_events (circuit, pipeline, step, image, event, actor, text)
SELECT circuit, pipeline, step, image, :event, :actor, :text FROM breakers WHERE circuit = :circuit
"""

_REMOVE = """
WITH gone AS (
  DELETE FROM breakers WHERE circuit = ANY(:circuits)
  RETURNING circuit, pipeline, step, image, opened_at
)
INSERT INTO breaker_events (circuit, pipeline, step, image, event, actor, text)
SELECT circuit, pipeline, step, image, :event, :actor, :text FROM gone WHERE opened_at IS NOT NULL
RETURNING circuit, pipeline, step
"""

_READY = f"SELECT id, backend FROM step_runs WHERE {CLAIMABLE} AND circuit = ANY(:circuits) ORDER BY id LIMIT :limit"

_TRY = """
UPDATE breakers b SET probe = s.id FROM step_runs s WHERE s.id = ANY(:ids) AND b.circuit = s.circuit
RETURNING b.circuit, s.step, s.key
"""


_WITHDRAW = f"""
UPDATE step_runs SET cancel_requested_at = now(), cancel_requested_by = 'breaker', withdrawn = true
WHERE id IN (
  SELECT id FROM step_runs WHERE status = 'SUBMITTED' AND cancel_requested_at IS NULL AND {HELD_BACK}
  ORDER BY id LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED
) RETURNING backend
"""


class BreakerStore:
    """Reads and writes breakers inside the caller's transaction."""

    def __init__(self, unit: UnitOfWork, policy: BreakerPolicy) -> None:
        self.unit = unit
        self.opened = False
        """Whether one has opened in this transaction."""
        self._policy = policy

    def record(self, failed: Sequence[tuple[UUID, str]], succeeded: Sequence[UUID]) -> dict[str, list[UUID]]:
        """Count these failures (step run and way) and successes: by backend, what may go on because of them."""
        ways = dict(failed) if self._policy.failures else {}
        found = self.unit.execute(_CIRCUITS, {"ids": sorted({*ways, *succeeded})}).all()
        facts = {row[1]: row for row in found}
        well = {row[1] for row in found if row[0] not in ways}
        failing = [
            {"circuit": str(circuit), "pipeline": row[2], "step": row[3], "image": row[4]}
            for circuit, row in facts.items()
            if circuit not in well
        ]
        taken = self.unit.execute(_TAKE, {"failing": json_list(failing), "well": sorted(well)}).all()
        breakers = {row[0]: Breaker(_failures(row[1]), *row[2:]) for row in taken}
        ready = self.close(well & breakers.keys(), "closed", "success", "a step run has completed")
        failures: dict[UUID, list[Failure]] = {}
        for step_run_id, circuit, _, _, _, now in sorted(found):
            if circuit not in well:
                failures.setdefault(circuit, []).append(Failure(step_run_id, ways[step_run_id], now))
        for circuit in sorted(failures):
            self._count(circuit, breakers[circuit], failures[circuit], *facts[circuit][2:5])
        return ready

    def _count(
        self,
        circuit: UUID,
        before: Breaker,
        failures: Sequence[Failure],
        pipeline: str,
        step: str,
        image: str | None,
    ) -> None:
        breaker = before
        for failure in failures:
            breaker = after_failure(breaker, failure, self._policy)
        if breaker == before:
            return
        opened = before.opened_at is None and breaker.opened_at is not None
        why = reason_text(breaker, f"{pipeline}/{step}", image, self._policy) if opened else None
        self.unit.execute(
            _UPDATE,
            {
                "circuit": circuit,
                "failures": json.dumps([[str(f.step_run_id), f.way, f.at.isoformat()] for f in breaker.failures]),
                "opened_at": breaker.opened_at,
                "way": breaker.way,
                "probe": breaker.probe,
                "probe_at": breaker.probe_at,
                "reason_text": why,
            },
        )
        if why is not None:
            self.opened = True
            self.unit.execute(_EVENT, {"circuit": circuit, "event": "opened", "actor": "breaker", "text": why})
            self.unit.after_commit(partial(log.warning, "breaker %s has opened: %s", circuit, why))

    def try_again(self, step_run_ids: Sequence[UUID], actor: str) -> None:
        """These are let through to see whether it goes well now. Their breakers are locked."""
        if not step_run_ids:
            return
        for circuit, step, key in self.unit.execute(_TRY, {"ids": list(step_run_ids)}).all():
            text = f"{step}/{key} is tried"
            self.unit.execute(_EVENT, {"circuit": circuit, "event": "probed", "actor": actor, "text": text})

    def close(self, circuits: Iterable[UUID], event: str, actor: str, text: str) -> dict[str, list[UUID]]:
        """Remove breakers, open or not: by backend, what may go on because of it."""
        wanted = sorted(circuits)
        if not wanted:
            return {}
        gone = self.unit.execute(_REMOVE, {"circuits": wanted, "event": event, "actor": actor, "text": text}).all()
        ready: dict[str, list[UUID]] = {}
        if gone:
            found = self.unit.execute(_READY, {"circuits": [row[0] for row in gone], "limit": _READY_AT_MOST})
            for step_run_id, backend in found:
                ready.setdefault(backend, []).append(step_run_id)
            for circuit, pipeline, step in gone:
                words = ("breaker %s of %s/%s %s: %s", circuit, pipeline, step, event, text)
                self.unit.after_commit(partial(log.warning, *words))
        return ready

    def withdraw(self, limit: int) -> list[str]:
        """Ask for the jobs to be stopped that wait at a backend though a breaker has opened: their backends."""
        return [row[0] for row in self.unit.execute(_WITHDRAW, {"limit": limit})]

    def old(self) -> list[UUID]:
        """What failed some time ago and has neither failed nor succeeded since; everything, if breakers are off."""
        found = self.unit.execute(
            "SELECT circuit FROM breakers WHERE :off OR (opened_at IS NULL AND updated_at < now() - :window)"
            " ORDER BY circuit",
            {"off": not self._policy.failures, "window": timedelta(seconds=self._policy.window_seconds)},
        )
        return [row[0] for row in found]

    def lock(self, circuit: UUID) -> bool:
        """Whether there is such a breaker."""
        return bool(self.unit.execute(_LOCK, {"circuits": [circuit]}).all())


def _failures(stored: Sequence[Sequence[Any]]) -> tuple[Failure, ...]:
    return tuple(Failure(UUID(step_run_id), way, datetime.fromisoformat(at)) for step_run_id, way, at in stored)
