"""Waiting is free: while a backend is full, its step runs cost no claims and no events."""

from __future__ import annotations

import json

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.queries.step_runs import step_run_detail
from ccat_workflow_manager.errors import JobDeferred
from ccat_workflow_manager.hpc.base import JobRequest
from ccat_workflow_manager.testing.fake_backend import FakeBackend
from tests.support.step_runs import end_delays, launch, one_step, rows, start


class SiteLimit(JobDeferred):
    concerns_all_alike = True


class FullBackend(FakeBackend):
    """Takes so many jobs."""

    room = 0

    def accept(self, request: JobRequest) -> str:
        if len(self.jobs) >= self.room and request.resource_requirements.cpu == 1:
            raise SiteLimit("QOSMaxSubmitJobPerUserLimit")
        return super().accept(request)


@pytest.fixture
def full(context: Context) -> FullBackend:
    backend = FullBackend()
    context.use_backend("noop", backend)
    return backend


def events(context: Context) -> int:
    return len(rows(context, table="events"))


def probe(context: Context) -> int:
    """Launch when the place is due."""
    end_delays(context)
    with context.database.begin() as unit:
        unit.execute("UPDATE full_places SET retry_at = now() - interval '1 second'")
    return context.launcher.launch("noop", 100)


def waits(context: Context) -> set[str]:
    with context.database.read() as unit:
        texts = [step_run_detail(unit, row[0]) for row in unit.execute("SELECT id FROM step_runs").all()]
    return {str(json.loads(text)["waiting_for"]) for text in texts if text is not None}


def test_a_full_backend_is_a_wait_of_the_place(context: Context, full: FullBackend) -> None:
    context.heartbeat.beat()
    start(context, count=40)
    assert launch(context, 10) == 10
    before = events(context)
    for _ in range(20):
        assert launch(context, 100) == 0
    assert events(context) == before
    assert "noop takes no more such jobs now: QOSMaxSubmitJobPerUserLimit" in waits(context)
    [place] = rows(context, "text, refusals, allowed, 0 AS id", "full_places")
    assert (place.refusals, place.allowed) == (1, 1)
    start(context, one_step(resources={"cpu": 2}))
    assert launch(context, 100) == 1


def test_probes_find_out_that_there_is_room_again(context: Context, full: FullBackend) -> None:
    start(context, count=40)
    launch(context, 100)
    before = events(context)
    assert probe(context) == 1
    assert events(context) == before + 2
    full.room = 5
    assert [probe(context) for _ in range(4)] == [1, 2, 4, 1]
    assert len(full.jobs) == 5
    full.room = 1000
    claimed = [probe(context) for _ in range(6)]
    assert claimed == [1, 2, 4, 8, 16, 4]
    assert len(full.jobs) == 40
    probe(context)
    assert rows(context, "0 AS id", "full_places") == []
