"""Figures for other dashboards: each is computed once a second for all readers, and has an ETag."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request
from pydantic import Field
from starlette.responses import Response

from ccat_workflow_manager.api.dependencies import Who
from ccat_workflow_manager.api.openapi import Shape, Time
from ccat_workflow_manager.api.paging import etag_of, matches, not_modified, tagged
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.views import attention, pipelines, runs
from ccat_workflow_manager.definition.spec import PIPELINE_NAME
from ccat_workflow_manager.errors import NotFound

router = APIRouter(tags=["service"])

Span = Literal["1h", "24h", "7d"]
Name = Annotated[str, Path(pattern=PIPELINE_NAME)]
_SPANS = {"1h": timedelta(hours=1), "24h": timedelta(hours=24), "7d": timedelta(days=7)}


class Timeseries(Shape):
    """Runs by the time at which they were created, in equal parts of the span."""

    first: Time
    last: Time
    seconds: float = Field(description="Length of one part.")
    runs: dict[str, list[int]] = Field(description="For each status of runs, how many in each part.")
    truncated: bool = Field(description="True if only the newest 20,000 runs were counted.")


class Cause(Shape):
    """One thing that needs a person, with what it holds up."""

    kind: Literal["breaker", "backend", "action", "cancel", "stray"]
    id: str
    text: str | None = Field(description="In the words of what caused it.")
    since: Time | None
    held_up: int = Field(description="Step runs or jobs, counted up to 10,000.")
    example: str | None = Field(description="The id of one step run.")
    backend: str | None
    pipeline: str | None
    step: str | None


class Causes(Shape):
    items: list[Cause]


class StepUsage(Shape):
    """What a step used in the last finished runs."""

    step: str
    step_runs: int
    completed: int
    failed: int
    saved_by_retry: int
    median_seconds: float | None
    high_seconds: float | None = Field(description="95 % took at most this long.")
    median_memory_gb: float | None
    high_memory_gb: float | None
    most_memory_gb: float | None
    cpu_hours: float | None
    mostly: str | None = Field(description="The most common reason of failures.")


class PipelineStats(Shape):
    name: str
    runs: dict[str, int] = Field(description="The last runs by status.")
    steps: list[StepUsage]


def _answer(request: Request, key: Hashable, compute: Callable[[Context], dict[str, Any]]) -> Response:
    """The shared answer; 304 if the reader has it."""
    context: Context = request.app.state.context
    text: str = request.app.state.answers.get(("json", key), lambda: json.dumps(compute(context), default=str))
    etag = etag_of(text)
    if matches(request.headers.get("if-none-match"), etag):
        return not_modified(etag)
    return tagged(text, etag)


def _read(context: Context, view: Callable[[UnitOfWork], Any]) -> Any:
    with context.database.read() as unit:
        return view(unit)


@router.get("/dashboard/timeseries", response_model=Timeseries)
def get_timeseries(request: Request, who: Who, span: Span = "24h") -> Response:
    """Runs by status over time."""

    def compute(context: Context) -> dict[str, Any]:
        last = datetime.now(UTC)
        first = last - _SPANS[span]
        found, is_cut = _read(context, lambda unit: runs.history(unit, first, last, who.projects))
        return {
            "first": first.isoformat(),
            "last": last.isoformat(),
            "seconds": _SPANS[span].total_seconds() / runs.BUCKETS,
            "runs": found,
            "truncated": is_cut,
        }

    return _answer(request, ("timeseries", span, who.projects), compute)


@router.get("/dashboard/attention", response_model=Causes)
def get_causes(request: Request, who: Who) -> Response:
    """What needs a person, grouped by its cause, what holds up most first."""

    def compute(context: Context) -> dict[str, Any]:
        projects = who.projects
        if projects is None:
            found = _read(context, attention.causes)
        else:
            found = _read(context, lambda unit: attention.causes_in(unit, projects))
        names = ("kind", "id", "text", "since", "example", "backend", "pipeline", "step")
        return {
            "items": [
                {**{name: each.get(name) for name in names}, "held_up": attention.held_by(each)} for each in found
            ]
        }

    return _answer(request, ("attention", who.projects), compute)


@router.get("/pipelines/{name}/stats", response_model=PipelineStats)
def get_pipeline_stats(request: Request, name: Name) -> Response:
    """How the last runs of a pipeline ended, and what its steps used."""

    def compute(context: Context) -> dict[str, Any]:
        with context.database.read() as unit:
            last, usage = pipelines.last_runs(unit, name), pipelines.step_usage(unit, name)
            if not last and not pipelines.exists(unit, name):
                raise NotFound(f"there is no pipeline {name}")
        counts: dict[str, int] = {}
        for each in last:
            counts[each["status"]] = counts.get(each["status"], 0) + 1
        return {"name": name, "runs": counts, "steps": [_usage(each) for each in usage.values()]}

    return _answer(request, ("stats", name), compute)


def _usage(row: dict[str, Any]) -> dict[str, Any]:
    same = ("step", "step_runs", "completed", "failed", "saved_by_retry", "median_seconds", "high_seconds")
    memory = ("median_memory", "high_memory", "most_memory")
    return {
        **{name: row[name] for name in same},
        **{f"{name}_gb": row[name] for name in memory},
        "cpu_hours": row["cpu_hours"],
        "mostly": row["mostly"],
    }
