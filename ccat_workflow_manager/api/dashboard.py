"""Figures for other dashboards: each is computed once a second for all readers, and has an ETag."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import Path, Request
from pydantic import Field
from starlette.responses import Response

from ccat_workflow_manager.api import openapi
from ccat_workflow_manager.api.dependencies import Who
from ccat_workflow_manager.api.openapi import Shape, Time
from ccat_workflow_manager.api.paging import ProjectName, etag_of, matches, not_modified, tagged
from ccat_workflow_manager.api.route import api_router
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.views import attention, pipelines
from ccat_workflow_manager.definition.spec import PIPELINE_NAME
from ccat_workflow_manager.errors import NotFound
from ccat_workflow_manager.services import figures

router = api_router(tags=["service"])

Span = Literal["1h", "24h", "7d", "30d", "90d"]
Name = Annotated[str, Path(pattern=PIPELINE_NAME)]
Counts = dict[str, int]
Parts = dict[str, list[int]]
Rates = list[float | None]


class Figures(Shape):
    """Figures of equal parts of a span. The last part is the present one."""

    first: Time
    last: Time
    seconds: float = Field(description="Length of one part.")
    complete_until: Time = Field(description="What happened before this moment is counted.")


class Totals(Shape):
    runs: Counts
    attempts: Counts
    failure_rate: float | None


class Timeseries(Figures):
    """What happened to runs and attempts, by the time at which it happened."""

    runs: Parts = Field(description="By outcome (CREATED, COMPLETED, FAILED, CANCELLED), how many in each part.")
    attempts: Parts = Field(description="By outcome (STARTED, COMPLETED, FAILED, RETRIED, CANCELLED, SKIPPED).")
    failure_rate: Rates = Field(description="Of the runs that completed or failed in each part; null: none did.")
    failed_by: Parts = Field(description="By whose doing it was (user, site, us), how many attempts failed.")
    totals: Totals
    reasons: Counts = Field(description="Failed attempts of the span by reason.")


class Pressing(Shape):
    """One thing that needs a person, with what it holds up."""

    kind: Literal["breaker", "backend", "worker", "action", "cancel", "stray", "disk", "space"]
    id: str
    text: str | None = Field(description="In the words of what caused it.")
    since: Time | None
    held_up: int = Field(description="Step runs or jobs, counted up to 10,000.")
    example: str | None = Field(description="The id of one step run.")
    backend: str | None
    pipeline: str | None
    step: str | None


class Causes(Shape):
    items: list[Pressing]


class Usage(Shape):
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


class Outcomes(Shape):
    """How many there were of each outcome in a span, and how long those took that completed."""

    totals: Counts
    success_rate: float | None = Field(description="Of those that completed or failed; null: none did.")
    median_seconds: float | None = Field(description="Durations are right to within a factor of 1.2.")
    high_seconds: float | None = Field(description="95 % took at most this long.")
    reasons: Counts
    over_time: dict[str, list[int] | list[float | None]] = Field(
        description="The same in each part of the span: each outcome, success_rate, median_seconds, high_seconds."
    )


class PipelineStats(Figures):
    name: str
    runs: Outcomes
    steps: dict[str, Outcomes] = Field(description="The attempts of each step.")
    last_runs: Counts = Field(description="The last runs by status.")
    usage: list[Usage]


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


@router.get("/dashboard/timeseries", response_model=Timeseries, responses={304: openapi.not_modified})
def get_timeseries(request: Request, who: Who, span: Span = "24h") -> Response:
    """Throughput and failures of runs and attempts over time."""

    def compute(context: Context) -> dict[str, Any]:
        return dict(_read(context, lambda unit: figures.timeseries(unit, span, datetime.now(UTC), who.projects)))

    return _answer(request, ("timeseries", span, who.projects), compute)


@router.get("/dashboard/attention", response_model=Causes, responses={304: openapi.not_modified})
def get_causes(request: Request, who: Who, project: ProjectName = None) -> Response:
    """What needs a person, grouped by its cause, what holds up most first.

    With `project` also what concerns all projects.
    """
    projects = who.within(project)

    def compute(context: Context) -> dict[str, Any]:
        found = [*_read(context, lambda unit: attention.causes(unit, projects)), *context.disks.causes()]
        names = ("kind", "id", "text", "since", "example", "backend", "pipeline", "step")
        return {
            "items": [
                {**{name: each.get(name) for name in names}, "held_up": attention.held_by(each)} for each in found
            ]
        }

    return _answer(request, ("attention", projects), compute)


@router.get("/dashboard/pipelines/{name}/stats", response_model=PipelineStats, include_in_schema=False)
@router.get("/pipelines/{name}/stats", response_model=PipelineStats, responses={304: openapi.not_modified})
def get_pipeline_stats(request: Request, who: Who, name: Name, span: Span = "30d") -> Response:
    """Success rate and durations of a pipeline and its steps over time, and what the steps of the last runs used."""

    def compute(context: Context) -> dict[str, Any]:
        with context.database.read() as unit:
            last, usage = pipelines.last_runs(unit, name, who.projects), pipelines.step_usage(unit, name, who.projects)
            if not last and not pipelines.exists(unit, name, who.projects):
                raise NotFound(f"there is no pipeline {name}")
            found = figures.pipeline_stats(unit, name, span, datetime.now(UTC), who.projects)
        counts: dict[str, int] = {}
        for each in last:
            counts[each["status"]] = counts.get(each["status"], 0) + 1
        return {**found, "last_runs": counts, "usage": [_usage(each) for each in usage.values()]}

    return _answer(request, ("stats", name, span, who.projects), compute)


def _usage(row: dict[str, Any]) -> dict[str, Any]:
    same = ("step", "step_runs", "completed", "failed", "saved_by_retry", "median_seconds", "high_seconds")
    memory = ("median_memory", "high_memory", "most_memory")
    return {
        **{name: row[name] for name in same},
        **{f"{name}_gb": row[name] for name in memory},
        "cpu_hours": row["cpu_hours"],
        "mostly": row["mostly"],
    }
