"""The reason of a wait, and which of several is given."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from ccat_workflow_manager.lifecycle.waiting import WaitFacts, explain

NOW = datetime(2025, 3, 4, 5, 6, 7, tzinfo=UTC)
FREE = WaitFacts(backend="local")
EVERYTHING = WaitFacts(
    backend="slurm",
    cancel_requested=True,
    paused="the run is paused",
    unmet=2,
    upstream=("calibrate", "baseline"),
    not_before=NOW + timedelta(seconds=30),
    now=NOW,
    stored_reason="attempt 2 of 3 in 30 s",
    backend_problem="sinfo does not answer",
    workers_serving=0,
)


def test_the_first_applicable_reason_is_given() -> None:
    facts = EVERYTHING
    assert explain(facts) == "is being cancelled: attempt 2 of 3 in 30 s"
    assert explain(replace(facts, stored_reason=None)) == "is being cancelled"
    facts = replace(facts, cancel_requested=False)
    assert explain(facts) == "the run is paused"
    facts = replace(facts, paused=None)
    assert explain(facts) == "waits for calibrate, baseline"
    facts = replace(facts, unmet=0)
    assert explain(replace(facts, on_hold="the service is paused")) == "the service is paused"
    assert explain(replace(FREE, at_limit="the project is at its limit")) == "the project is at its limit"
    assert explain(facts) == "not before 2025-03-04T05:06:37Z: attempt 2 of 3 in 30 s"
    facts = replace(facts, now=NOW + timedelta(seconds=30))
    assert explain(facts) == "the backend slurm is not available: sinfo does not answer"
    facts = replace(facts, backend_problem=None)
    assert explain(facts) == "no worker serves the backend slurm"
    facts = replace(facts, workers_serving=1)
    assert explain(facts) == "queued for a worker of backend slurm"


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        (FREE, "queued for a worker of backend local"),
        (replace(FREE, unmet=1), "waits for 1 step that it depends on"),
        (replace(FREE, unmet=3), "waits for 3 steps that it depends on"),
        (replace(FREE, unmet=1, upstream=("calibrate",)), "waits for calibrate"),
        (replace(FREE, unmet=7, upstream=tuple("abcdefg")), "waits for a, b, c, d, e and 2 more"),
        (replace(FREE, not_before=NOW), "not before 2025-03-04T05:06:07Z"),
        (
            replace(FREE, not_before=NOW.astimezone(timezone(timedelta(hours=1)))),
            "not before 2025-03-04T05:06:07Z",
        ),
        (replace(FREE, stored_reason="attempt 2 of 3"), "queued for a worker of backend local"),
    ],
)
def test_the_text_of_each_reason(facts: WaitFacts, text: str) -> None:
    assert explain(facts) == text
