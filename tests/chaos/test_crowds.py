"""Many at once: one key from fifty threads, every message three times, three managers and many workers."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any
from uuid import UUID, uuid4

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.doorbell import Bell
from ccat_workflow_manager.errors import RequestError
from ccat_workflow_manager.managers.loops import LeaseSweep, RequeueSweep, Workloads
from ccat_workflow_manager.services.run_request import RunRequest
from tests.chaos.judging import require_all_is_well
from tests.support import invariants
from tests.support.fixtures_service import ServiceMaker
from tests.support.fixtures_store import ContextMaker
from tests.support.step_runs import cancel_wanted, poll
from tests.support.waiting import PATIENCE, wait_until

SPEC: dict[str, Any] = {
    "name": "crowd",
    "parameters": {"type": "object", "properties": {"items": {"type": "array"}}},
    "steps": [
        {"name": "first", "command": ["a"], "foreach": "${parameters.items}"},
        {"name": "second", "command": ["b"], "foreach": "${parameters.items}", "depends_on": ["first"]},
        {"name": "third", "command": ["c"], "depends_on": ["second"]},
    ],
}
_ITEMS = 20
_RUNS, _LONG = 40, 50
"""Together 4,040 step runs."""


def request() -> RunRequest:
    return RunRequest(spec=SPEC, parameters={"items": list(range(_ITEMS))})


def wrong(context: Context) -> list[str]:
    with context.database.read() as unit:
        return list(invariants.while_working(unit))


def deadlocks(context: Context) -> int:
    """How often PostgreSQL had to choose somebody to give way; those that were tried again count as well."""
    with context.database.read() as unit:
        statement = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        return int(unit.execute(statement).scalar_one())


def unfinished(context: Context) -> int:
    with context.database.read() as unit:
        return int(unit.execute("SELECT count(*) FROM runs WHERE finished_at IS NULL").scalar_one())


def test_fifty_threads_with_one_key_make_one_run(make_context: ContextMaker) -> None:
    contexts = [make_context("noop") for _ in range(3)]
    barrier, key = Barrier(50), uuid4().hex

    def ask(number: int) -> tuple[UUID, bool]:
        barrier.wait(PATIENCE)
        return contexts[number % 3].submitter.submit(request(), actor="test", idempotency_key=key)[:2]

    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(ask, range(50)))
    assert len({run_id for run_id, _ in answers}) == 1
    assert sum(new for _, new in answers) == 1
    assert wrong(contexts[0]) == []


class Deaf:
    """Notes the calls for work instead of making them."""

    def __init__(self) -> None:
        self.calls: list[tuple[Bell, str]] = []

    def ring(self, bell: Bell, backend: str, rows: int = 1) -> None:
        self.calls.append((bell, backend))

    def ring_all(self, bell: Bell, ready: Mapping[str, int]) -> None:
        self.calls += [(bell, backend) for backend in ready]


def answer(context: Context, bell: Bell, backend: str) -> None:
    """What a worker does for such a message."""
    match bell:
        case Bell.LAUNCH:
            context.launcher.launch(backend, 7)
        case Bell.CANCEL:
            context.canceller.cancel_wanted(backend)
        case _:
            context.poller.poll_all(backend)


def test_every_message_three_times_and_in_any_order(make_context: ContextMaker) -> None:
    contexts = [make_context("noop") for _ in range(3)]
    heard = Deaf()
    for context in contexts:
        context.__dict__["doorbell"] = heard
    chance = random.Random(1)
    for _ in range(6):
        contexts[0].submitter.submit(request(), actor="test")
    with ThreadPoolExecutor(3) as workers:
        for _ in range(200):
            calls, heard.calls = [*heard.calls, (Bell.LAUNCH, "noop"), (Bell.FOLLOW, "noop")] * 3, []
            chance.shuffle(calls)
            for done in [workers.submit(answer, chance.choice(contexts), *call) for call in calls]:
                done.result(PATIENCE)
            if not unfinished(contexts[0]):
                break
    assert unfinished(contexts[0]) == 0
    assert wrong(contexts[0]) == []
    with contexts[0].database.read() as unit:
        found = unit.execute("SELECT DISTINCT status, attempt, claims FROM step_runs")
        assert [tuple(row) for row in found] == [("COMPLETED", 1, 1)]


def test_all_buttons_are_pressed_at_once_while_everything_runs(make_context: ContextMaker) -> None:
    """Cancel against retry against pause against launch against every end, from many sides, without a deadlock.

    And whatever they have done to each other: once nobody presses any more, everything comes to an end.
    """
    settings = {"CANCEL_CONFIRM_SECONDS": 0.01, "NOOP_FAILURE_RATE": 0.15, "BREAKER_FAILURES": 0}
    contexts = [make_context("noop", **settings) for _ in range(4)]
    run_ids = [contexts[0].submitter.submit(request(), actor="test")[0] for _ in range(8)]

    def repeat(seed: int, *actions: Callable[[Context, list[UUID]], object]) -> None:
        chance = random.Random(seed)
        for _ in range(40):
            some = chance.sample(run_ids, 3)
            try:
                chance.choice(actions)(contexts[seed % 4], some)
            except RequestError:
                continue

    def launch(context: Context, _: list[UUID]) -> None:
        context.launcher.launch("noop", 15)

    def follow(context: Context, _: list[UUID]) -> None:
        poll(context)

    def cancel(context: Context, some: list[UUID]) -> None:
        context.requests.cancel(some, actor="anna")
        cancel_wanted(context)

    def retry(context: Context, some: list[UUID]) -> None:
        context.requests.retry(some, actor="otto")

    def pause(context: Context, some: list[UUID]) -> None:
        context.requests.pause(some, paused=True)
        context.requests.pause(some, paused=False)

    def sweep(context: Context, _: list[UUID]) -> None:
        LeaseSweep(context.database, context.doorbell).tick()
        RequeueSweep(context.database, context.doorbell, Workloads(context.database, 0)).tick()

    roles = [(launch,), (launch, follow), (follow,), (cancel, retry), (retry, pause), (pause, cancel, sweep)]
    with ThreadPoolExecutor(len(roles)) as threads:
        for done in [threads.submit(repeat, seed, *role) for seed, role in enumerate(roles)]:
            done.result(4 * PATIENCE)
    context = contexts[0]
    assert wrong(context) == []
    assert deadlocks(context) == 0
    context.requests.pause(run_ids, paused=False)
    come_to_an_end(context, steps=len(run_ids) * (2 * _ITEMS + 1))


def come_to_an_end(context: Context, steps: int) -> None:
    """Nobody asks for anything any more: everything ends, after so many rounds at the latest."""
    for _ in range(steps):
        if not unfinished(context):
            break
        context.launcher.launch("noop", 1000)
        poll(context)
        cancel_wanted(context)
        LeaseSweep(context.database, context.doorbell).tick()
    with context.database.read() as unit:
        assert [*invariants.while_working(unit), *invariants.at_rest(unit)] == []
    assert unfinished(context) == 0


@pytest.mark.slow
def test_three_managers_and_eight_workers_claim_nothing_twice(make_service: ServiceMaker) -> None:
    """In processes of their own. PostgreSQL reports deadlocks in its log.

    No lease ends meanwhile: after that, a second claim would be right.
    """
    service = make_service(HPC_BACKEND="noop", WORKERS="8", LOG_LEVEL="WARNING", LEASE_SECONDS="200")
    managers = [service.start_another("manager", "--no-api") for _ in range(2)]
    bulk = {"runs": [{"spec": SPEC, "parameters": {"items": list(range(_LONG))}, "backend": "noop"}] * _RUNS}
    run_ids = service.call("POST", "/runs/bulk", json=bulk)["ids"]
    unfinished = "SELECT count(*) FROM runs WHERE finished_at IS NULL"
    wait_until(lambda: service.query(unfinished) == [(0,)], 150, "all runs to end")
    counted = service.query("SELECT status, attempt, claims, count(*) FROM step_runs GROUP BY 1, 2, 3")
    assert counted == [("COMPLETED", 1, 1, _RUNS * (2 * _LONG + 1))]
    assert all(manager.poll() is None for manager in managers)
    assert "deadlock" not in service.postgres.log_file.read_text(errors="replace")
    require_all_is_well(service, run_ids)
