"""Whether the losses of a finished run are tolerated: then it is COMPLETED, with caveats.

A step run that ended without completing is a tolerated loss if at least one step run depends on it, every soft edge
behind it is within its tolerance, and every step run that was skipped because of it is itself a tolerated loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from uuid import UUID

from ccat_workflow_manager.db.conditions import SET_ASIDE, quoted
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.statements import FAILURE_TEXT
from ccat_workflow_manager.lifecycle.states import RETRYABLE, Status

_STEPS = """
SELECT run_id, position, total, lost, downstream_key, downstream_all, soft, soft_allowed FROM run_steps
WHERE run_id IN (SELECT run_id FROM run_steps WHERE run_id = ANY(:run_ids) AND soft <> '{}')
ORDER BY run_id, position
"""
_LOSSES = f"""
SELECT run_id, position, key, CASE status WHEN '{Status.FAILED}' THEN id END FROM step_runs
WHERE run_id = ANY(:run_ids) AND status IN ({quoted(RETRYABLE)}) AND NOT {SET_ASIDE}
ORDER BY finished_at, id
"""
_MARK = "UPDATE runs SET tolerated = true, status_reason = NULL WHERE id = ANY(:run_ids)"
_RESTATE = f"""
UPDATE runs r SET status_reason = {FAILURE_TEXT} FROM step_runs s WHERE s.id = ANY(:ids) AND r.id = s.run_id
"""

Loss = tuple[int, str]
"""The position and the key of a step run that ended without completing."""


@dataclass(frozen=True, slots=True)
class StepLosses:
    """One step of a finished run: how many of its step runs are lost, and who depends on them."""

    run_id: UUID
    position: int
    total: int
    lost: int
    downstream_key: Sequence[int]
    downstream_all: Sequence[int]
    soft: Sequence[int]
    soft_allowed: Sequence[int]


def mark_tolerated(unit: UnitOfWork, run_ids: Sequence[UUID]) -> None:
    """Mark those of these finished runs whose losses are all tolerated. A run without soft edges has none.

    The reason of another one is its first failure that is not tolerated.
    """
    marked, reasons = list[UUID](), list[UUID]()
    for run_id, steps, found in _losses(unit, run_ids):
        tolerated = tolerance(steps, found)
        if all(tolerated.values()):
            marked.append(run_id)
        elif any(tolerated.values()):
            failed = (id_ for loss, id_ in found.items() if id_ is not None and not tolerated[loss])
            reasons += [first] if (first := next(failed, None)) is not None else []
    if marked:
        unit.execute(_MARK, {"run_ids": marked})
    if reasons:
        unit.execute(_RESTATE, {"ids": reasons, "colon": ": "})


def losses_of(unit: UnitOfWork, run_id: UUID) -> dict[Loss, bool]:
    """Each loss of a run, and whether it is tolerated so far. Empty: no step of it tolerates any."""
    return next((tolerance(steps, found) for _, steps, found in _losses(unit, [run_id])), {})


def _losses(
    unit: UnitOfWork, run_ids: Sequence[UUID]
) -> Iterator[tuple[UUID, list[StepLosses], dict[Loss, UUID | None]]]:
    """The steps of those of these runs that have soft edges, and their losses: the id of what failed, else None."""
    steps = unit.rows(StepLosses, _STEPS, {"run_ids": list(run_ids)}) if run_ids else []
    if not steps:
        return
    by_run = {run_id: list(of_run) for run_id, of_run in groupby(steps, key=lambda step: step.run_id)}
    losses: dict[UUID, dict[Loss, UUID | None]] = {run_id: {} for run_id in by_run}
    for run_id, position, key, failed in unit.execute(_LOSSES, {"run_ids": list(by_run)}):
        losses[run_id][position, key] = failed
    for run_id, of_run in by_run.items():
        yield run_id, of_run, losses[run_id]


def tolerance(steps: Iterable[StepLosses], losses: Iterable[Loss]) -> dict[Loss, bool]:
    """Whether each of these losses is tolerated."""
    by_position = {step.position: step for step in steps}
    tolerated: dict[Loss, bool] = {}
    whole: dict[int, bool] = {}
    """By position: whether all losses of the step are tolerated."""
    for loss in sorted(losses, reverse=True):  # those behind a step run have higher positions
        position = loss[0]
        tolerated[loss] = _is_tolerated(loss, by_position, tolerated, whole)
        whole[position] = whole.get(position, True) and tolerated[loss]
    return tolerated


def _is_tolerated(
    loss: Loss, steps: Mapping[int, StepLosses], tolerated: Mapping[Loss, bool], whole: Mapping[int, bool]
) -> bool:
    position, key = loss
    step = steps[position]
    allowed = dict(zip(step.soft, step.soft_allowed, strict=True))
    behind = [each for each in (*step.downstream_key, *step.downstream_all) if steps[each].total]
    for each in behind:
        if each in allowed:
            within = step.lost <= allowed[each]
        elif each in step.downstream_key:
            within = tolerated.get((each, key), True)
        else:
            within = whole.get(each, True)
        if not within:
            return False
    return bool(behind)
