"""The inputs that the first attempt of a step run has found."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

from ccat_workflow_manager.db.session import UnitOfWork, json_list

_SAVE = """
INSERT INTO step_run_inputs (step_run_id, inputs, source_runs)
SELECT x.step_run_id, x.inputs, x.source_runs
FROM json_to_recordset(CAST(:rows AS json)) AS x(step_run_id uuid, inputs jsonb, source_runs uuid[])
JOIN step_runs s ON s.id = x.step_run_id
ON CONFLICT (step_run_id) DO NOTHING
"""

_KNOWN = "SELECT step_run_id, inputs FROM step_run_inputs WHERE step_run_id = ANY(:ids)"


def save_inputs(unit: UnitOfWork, found: Mapping[UUID, tuple[Sequence[Mapping[str, Any]], Collection[UUID]]]) -> None:
    """Save the inputs of these step runs, and the runs in whose directories they lie. What is saved before stays."""
    rows = [
        {"step_run_id": str(key), "inputs": list(inputs), "source_runs": [str(run_id) for run_id in runs]}
        for key, (inputs, runs) in found.items()
    ]
    unit.execute(_SAVE, {"rows": json_list(rows)})


def saved_inputs(unit: UnitOfWork, step_run_ids: Collection[UUID]) -> dict[UUID, list[dict[str, Any]]]:
    """The saved inputs of those of these step runs that have some."""
    return {row[0]: row[1] for row in unit.execute(_KNOWN, {"ids": list(step_run_ids)})}
