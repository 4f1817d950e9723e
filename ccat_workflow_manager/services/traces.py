"""The spans of a step run, from queue to collect, in the trace of the request that made its run."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager

from ccat_workflow_manager import tracing
from ccat_workflow_manager.lifecycle.models import WorkItem
from ccat_workflow_manager.lifecycle.verdict import Verdict


def span(name: str, item: WorkItem) -> AbstractContextManager[tracing.Span]:
    """The span of what the block does for the step run."""
    return tracing.span(name, item.run.trace, _about(item))


def queued(item: WorkItem) -> None:
    """The span from the creation of a step run, which its id tells, to the first claim."""
    if item.claims == 1 and item.attempt == 1:
        tracing.past("queue", item.run.trace, (item.step_run_id.int >> 80) / 1000, time.time(), _about(item))


def submitted(item: WorkItem, began: float) -> None:
    tracing.past("submit", item.run.trace, began, time.time(), _about(item))


def followed(item: WorkItem, verdict: Verdict, began: float) -> None:
    """The span of the report, and that of the job if it has ended."""
    about = {**_about(item), "ccat_wm.event": verdict.events[-1].event.value}
    tracing.past("follow", item.run.trace, began, time.time(), about)
    facts = verdict.facts
    if facts is not None and facts.started_at is not None and facts.finished_at is not None:
        times = facts.started_at.timestamp(), facts.finished_at.timestamp()
        tracing.past("job", item.run.trace, *times, about, item.job_name)


def _about(item: WorkItem) -> dict[str, str | int]:
    """The attributes of the spans of a step run."""
    return {
        "ccat_wm.run": str(item.run.run_id),
        "ccat_wm.step_run": str(item.step_run_id),
        "ccat_wm.pipeline": item.run.pipeline,
        "ccat_wm.step": item.step,
        "ccat_wm.key": item.key,
        "ccat_wm.attempt": item.attempt,
        "ccat_wm.backend": item.backend,
    }
