"""The ledger of a pipeline: what became of each step and key, over all runs and attempts of a selection."""

from __future__ import annotations

import json
from typing import Annotated, Any
from uuid import UUID

from fastapi import Path, Query
from pydantic import Field
from starlette.responses import Response

from ccat_workflow_manager.api import openapi
from ccat_workflow_manager.api.dependencies import Ctx, Who
from ccat_workflow_manager.api.openapi import Page, Shape
from ccat_workflow_manager.api.paging import DEFAULT_LIMIT, Cursor, Limit, ProjectName, decode, encode, listed
from ccat_workflow_manager.api.route import api_router
from ccat_workflow_manager.api.run_choice import RunFilterBody
from ccat_workflow_manager.db.queries.ledger import MOST_RUNS, State, ledger
from ccat_workflow_manager.db.queries.pipelines import pipeline_detail
from ccat_workflow_manager.definition.messages import validated
from ccat_workflow_manager.definition.spec import PIPELINE_NAME
from ccat_workflow_manager.errors import NotFound
from ccat_workflow_manager.services.run_request import Text

router = api_router(prefix="/pipelines/{name}", tags=["pipelines"])

_KIND = "ledger"


class LedgerNumbers(Shape):
    """How many pairs of step and key are in each state. The states add up to `expected`."""

    expected: int
    good: int = Field(description="COMPLETED at once.")
    caveats: int = Field(description="COMPLETED, with caveats.")
    recovered: int = Field(description="COMPLETED after a failure.")
    contradictory: int = Field(description="COMPLETED once, but not in the newest run in which it is over.")
    pending: int = Field(description="Not over, and never failed.")
    failing: int = Field(description="Failed before, and not over yet.")
    failed: int
    blocked: int = Field(description="Skipped because of a step before it.")
    cancelled: int
    not_needed: int = Field(description="A person has set it to skipped.")


class LedgerStep(LedgerNumbers):
    step: str
    position: int


class LedgerItem(Shape):
    step: str
    key: str
    state: State
    runs: int
    attempts: int
    step_run_id: UUID = Field(description="The newest one.")


class Ledger(Page):
    pipeline: str
    runs: int = Field(description=f"How many runs are looked at: the newest {MOST_RUNS:,} of those that are selected.")
    truncated: bool = Field(description="True if older runs were left out; a label or a time selects fewer.")
    totals: LedgerNumbers
    steps: list[LedgerStep]
    items: list[LedgerItem]


@router.get("/ledger", response_model=Ledger, responses={304: openapi.not_modified})
def get_ledger(
    context: Ctx,
    who: Who,
    name: Annotated[str, Path(pattern=PIPELINE_NAME)],
    label: Annotated[list[str], Query(description="`name:value`. May be repeated.")] = [],  # noqa: B006
    project: ProjectName = None,
    created_after: Annotated[str | None, Query(description="RFC 3339.")] = None,
    step: Annotated[Text | None, Query(description="Items of this step only.")] = None,
    state: Annotated[State | None, Query(description="Items in this state only.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Response:
    """What became of each step and key of a pipeline over the selected runs: numbers by step, and a page of keys."""
    query: dict[str, object] = {"label": label[0] if len(label) == 1 else label, "created_after": created_after}
    wanted = validated(RunFilterBody, {**query, "project": project, "pipeline": name}).filter(who)
    after = decode(_KIND, cursor, _pair)
    with context.database.read() as unit:
        place = None if after is None else _divided(after)
        found: dict[str, Any] = json.loads(ledger(unit, wanted, place, limit + 1, state=state, step=step))
        if not found["runs"] and pipeline_detail(unit, name) is None:
            raise NotFound(f"there is no pipeline {name}")
    items = found["items"]
    last = items[limit - 1] if len(items) > limit else None
    found["items"] = items[:limit]
    cursor_after = None if last is None else encode(_KIND, f"{last['step']}\n{last['key']}")
    return listed(json.dumps({"pipeline": name, **found, "next_cursor": cursor_after}))


def _pair(value: Any) -> str:
    if not isinstance(value, str) or "\n" not in value or "\0" in value:
        raise ValueError(value)
    return value


def _divided(pair: str) -> tuple[str, str]:
    step, _, key = pair.partition("\n")
    return step, key
