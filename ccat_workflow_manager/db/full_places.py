"""Full places: a backend takes no more jobs with certain resources now. The place waits, not each of its step runs.

Step runs of a full place are not claimed, so waiting costs no events and no updates. From time to time a worker claims
a few as probes: one after a refusal, twice as many after each success, until the place counts as free.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict

from ccat_workflow_manager.db.breakers import HELD_BACK
from ccat_workflow_manager.db.conditions import CLAIMABLE
from ccat_workflow_manager.db.holds import ON_HOLD
from ccat_workflow_manager.db.locked_rows import CLAIMED
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.lifecycle.models import Resources

_FREE_AT = 256
"""A place that has taken so many jobs in a row, within doubling probes, is free."""
_LONGEST_TEXT = 2000

LOCK_PROBES_OF_PLACES = f"""
WITH due AS MATERIALIZED (
  SELECT resources, allowed FROM full_places WHERE backend = :backend AND retry_at <= now()
  ORDER BY retry_at LIMIT 20 FOR NO KEY UPDATE SKIP LOCKED
)
SELECT probe.* FROM due CROSS JOIN LATERAL (
  SELECT {CLAIMED}, false AS has_breaker
  FROM step_runs s
  WHERE backend = :backend AND {CLAIMABLE} AND NOT {HELD_BACK} AND NOT {ON_HOLD} AND s.resources = due.resources
  ORDER BY priority DESC, id LIMIT due.allowed FOR NO KEY UPDATE SKIP LOCKED
) probe
"""
"""`ClaimRow`s of the places that are due for a probe. It never waits for a lock."""

_POSTPONE = """
UPDATE full_places f SET retry_at = now() + interval '1 minute'
WHERE backend = :backend AND resources IN (SELECT resources FROM step_runs WHERE id = ANY(:ids))
"""
_REMOVE_EMPTY = "DELETE FROM full_places WHERE backend = :backend AND retry_at <= now()"

_REFUSED = """
INSERT INTO full_places (backend, resources, text, retry_at)
VALUES (:backend, CAST(:resources AS jsonb), :text, now() + :seconds * interval '1 second')
ON CONFLICT (backend, resources) DO UPDATE SET text = excluded.text, allowed = 1,
  refusals = least(full_places.refusals + 1, :most),
  retry_at = now() + :seconds * least(full_places.refusals + 1, :most) * interval '1 second'
"""
_TAKEN = """
UPDATE full_places SET allowed = allowed * 2, refusals = 0, retry_at = now()
WHERE backend = :backend AND resources = CAST(:resources AS jsonb)
"""
_REMOVE_FREE = "DELETE FROM full_places WHERE backend = :backend AND allowed >= :free"


class FullPlaceStore:
    """Reads and writes full places of one backend inside the caller's transaction."""

    def __init__(self, unit: UnitOfWork, backend: str) -> None:
        self.unit = unit
        self._backend = backend

    def postpone(self, probes: Collection[object]) -> None:
        """No other worker probes these places now. Due places without a step run to probe are gone."""
        if probes:
            self.unit.execute(_POSTPONE, {"backend": self._backend, "ids": list(probes)})
        self.unit.execute(_REMOVE_EMPTY, {"backend": self._backend})

    def record(self, refused: Mapping[str, str], taken: Collection[str], seconds: float, most: int) -> None:
        """Record which places have refused a job, with the reason, and which have taken all.

        A place is given by `place_of`. After each further refusal it is left alone for `seconds` more, up to `most`
        times as long.
        """
        for resources, text in sorted(refused.items()):
            self.unit.execute(
                _REFUSED,
                {
                    "backend": self._backend, "resources": resources, "text": text[:_LONGEST_TEXT],
                    "seconds": seconds, "most": most,
                },
            )  # fmt: skip
        for resources in sorted(set(taken) - refused.keys()):
            self.unit.execute(_TAKEN, {"backend": self._backend, "resources": resources})
        self.unit.execute(_REMOVE_FREE, {"backend": self._backend, "free": _FREE_AT})


def place_of(resources: Resources) -> str:
    """The resources of a job as the place that they stand for."""
    return json.dumps(asdict(resources), sort_keys=True)
