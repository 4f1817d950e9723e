"""The inputs of the step runs of one claim: finds them, and keeps what the first attempt has found."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from uuid import UUID

from ccat_workflow_manager.db.inputs import save_inputs, saved_inputs
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.definition.compiled import CompiledPipeline
from ccat_workflow_manager.definition.inputs import substituted_inputs
from ccat_workflow_manager.execution.inputs import find_inputs
from ccat_workflow_manager.execution.launch_spec import Input, Progress
from ccat_workflow_manager.lifecycle.models import WorkItem
from ccat_workflow_manager.services.worker_context import WorkerHost

_RUN = re.compile(r"[^/]+/([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})/")


class InputFinder:
    """Finds the inputs of step runs that one worker has claimed together."""

    def __init__(self, database: Database, host: WorkerHost, items: Sequence[WorkItem]) -> None:
        self._database = database
        self._host = host
        self._repeated = [item.step_run_id for item in items if item.attempt > 1 or item.claims > 1]
        self._known: dict[UUID, list[Input]] | None = None
        self._new: dict[UUID, Sequence[Input]] = {}

    def of(self, item: WorkItem, compiled: CompiledPipeline, progress: Progress) -> list[Input]:
        """The inputs of a step run. Raises StagingError, or JobDeferred while one of them is on its way."""
        entries = compiled.step(item.step).inputs
        if not entries:
            return []
        run = item.run
        known = self._saved().get(item.step_run_id)
        found = find_inputs(
            substituted_inputs(entries, run.parameters, item.item, str(run.run_id), item.step),
            self._host.input_roots,
            self._host.input_limits,
            known=known,
            fetch=self._host.fetch,
            progress=progress,
        )
        if known is None:
            self._new[item.step_run_id] = found
        return found

    def save(self) -> None:
        """Keep what was found, before the first job that reads it is submitted."""
        if not self._new:
            return
        new = {key: ([asdict(each) for each in found], self._runs(found)) for key, found in self._new.items()}
        self._new = {}
        with self._database.begin("commit.inputs") as unit:
            save_inputs(unit, new)

    def _saved(self) -> dict[UUID, list[Input]]:
        if self._known is None:
            self._known = {}
            if self._repeated:
                with self._database.read() as unit:
                    saved = saved_inputs(unit, self._repeated)
                self._known = {key: [Input(**each) for each in inputs] for key, inputs in saved.items()}
        return self._known

    def _runs(self, inputs: Sequence[Input]) -> set[UUID]:
        """The runs in whose directories these inputs lie."""
        base = f"{self._host.base_dir.rstrip('/')}/"
        below = [each.path[len(base) :] for each in inputs if each.path.startswith(base)]
        return {UUID(match[1]) for path in below if (match := _RUN.match(f"{path}/"))}
