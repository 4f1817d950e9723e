"""Why a step run ran although a run was to be reused: a comparison of stored rows, part by part."""

from __future__ import annotations

import json
from dataclasses import asdict
from uuid import UUID

from ccat_workflow_manager.db.reuse import Done, find_done, reused_run_of
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.errors import AttemptError, NotFound
from ccat_workflow_manager.lifecycle.states import Status
from ccat_workflow_manager.services.catalogue import Catalogue
from ccat_workflow_manager.services.fingerprint import IMAGE, Difference, differences
from ccat_workflow_manager.services.reuse import DELETED, NO_DIGEST, old_parts

_NOT_ASKED = "this run was not asked to reuse another one (`reuse`)"
_ASKED_TO_RUN = "the replay was asked to run it again, or a step before it"
_SAME = "nothing that decides its products is different"


class WhyNotReused:
    """Compares step runs of one deployment."""

    def __init__(self, database: Database, catalogue: Catalogue, *, most_products: int) -> None:
        self._database = database
        self._catalogue = catalogue
        self._most_products = most_products

    def explain(self, step_run_id: UUID) -> str:
        """The comparison as JSON. Raises NotFound."""
        with self._database.read() as unit:
            now = find_done(unit, step_run_id)
            if now is None:
                raise NotFound(f"there is no step run {step_run_id}")
            old = None if now.item.replay_of is None else find_done(unit, now.item.replay_of)
            reused_run = reused_run_of(unit, now.item.run.run_id)
        differs, text = self._compare(now, old, reused_run)
        reused = now.item.reuse and now.completed and now.item.job_id is None
        return json.dumps(
            {
                "step_run_id": str(step_run_id),
                "reused": reused,
                "compared_with": None if now.item.replay_of is None else str(now.item.replay_of),
                "text": "it was reused" if reused else text,
                "differs": [asdict(each) for each in differs],
            }
        )

    def _compare(self, now: Done, old: Done | None, reused_run: UUID | None) -> tuple[list[Difference], str]:
        item = now.item
        if reused_run is None:
            return [], _NOT_ASKED
        if item.replay_of is None:
            return [], f"run {reused_run} has no completed step run {item.step}/{item.key}"
        if old is None:
            return [], DELETED
        try:
            parts = [old_parts(self._database, self._catalogue, each, self._most_products) for each in (now, old)]
        except AttemptError as error:
            return [], error.message
        unknown = [each for each in (now, old) if each.provenance is not None and each.provenance.get(IMAGE) is None]
        decided = now.provenance is not None or item.status is not Status.PENDING
        if not decided:
            parts[0] = {name: value for name, value in parts[0].items() if name not in (IMAGE, "programs", "upstream")}
        differs = differences(*parts)
        if unknown:
            return differs, NO_DIGEST
        if differs:
            return differs, "; ".join(each.text for each in differs)
        if not item.reuse:
            return [], _ASKED_TO_RUN
        return [], _SAME if decided else f"{_SAME} so far; it is decided when the steps before it are over"
