"""A job that ends at once is recorded once: its launch, its end and its results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.managers.loops import LeaseSweep
from ccat_workflow_manager.services import launch
from tests.backends.local.site import Site
from tests.support.armed import Injected, Plan
from tests.support.fixtures_store import ContextMaker
from tests.support.step_runs import expire_leases, one_step, row, start
from tests.support.waiting import PATIENCE

EVENTS = ["created", "claimed", "job_submitted", "job_succeeded", "results_collected"]


@pytest.fixture
def worker(make_context: ContextMaker, site: Site) -> Callable[[], Context]:
    """Makes workers that share one supervisor."""

    def make() -> Context:
        context = make_context("local")
        context.use_backend("local", site.another())
        return context

    return make


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch waits until its jobs have ended, however long a short job takes on this machine."""
    monkeypatch.setattr(launch, "_SHORT_JOB_SECONDS", PATIENCE)


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm(None)


def shell(text: str) -> dict[str, object]:
    return one_step(command=["/bin/sh", "-c", text], resources={"cpu": 0.5, "memory_gb": 0.1})


def events(context: Context) -> list[str]:
    with context.database.read() as unit:
        found = unit.execute("SELECT event FROM events WHERE step_run_id IS NOT NULL ORDER BY id")
        return [each.event for each in found]


@pytest.mark.usefixtures("patient")
def test_the_launch_of_a_short_job_records_its_results(worker: Callable[[], Context]) -> None:
    context = worker()
    start(context, shell('echo data > "$WORKFLOW_OUTPUT_DIR/table.csv"'))
    context.launcher.launch("local", 10)
    assert events(context) == EVENTS
    found = row(context, "status, exit_code, lease_owner, submitted_at <= started_at AS in_order")
    assert (found.status, found.exit_code, found.lease_owner, found.in_order) == ("COMPLETED", 0, None, True)
    assert row(context, "name", "products").name == "table.csv"
    assert row(context, "job_state, finished_at IS NOT NULL AS ended", "attempts") == ("completed", True)


@pytest.mark.usefixtures("patient")
def test_a_short_job_that_fails_is_recorded_as_failed(worker: Callable[[], Context]) -> None:
    context = worker()
    start(context, shell("exit 3"))
    context.launcher.launch("local", 10)
    assert events(context)[2:] == ["job_submitted", "failed"]
    assert row(context, "exit_code").exit_code == 3


def test_a_longer_job_is_followed_as_ever(worker: Callable[[], Context], tmp_path: Path) -> None:
    context, gate = worker(), tmp_path / "gate"
    start(context, shell(f"while [ ! -e {gate} ]; do sleep 0.05; done"))
    context.launcher.launch("local", 10)
    assert events(context)[2:] == ["job_submitted", "job_started"]
    gate.touch()
    while row(context, "status").status != "COMPLETED":
        context.backend("local").await_ends([row(context, "job_id").job_id], 5)
        context.poller.poll_all("local")
    assert events(context) == [*EVENTS[:3], "job_started", *EVENTS[3:]]


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("point", ["commit.launched before", "commit.launched after"])
def test_a_worker_that_dies_with_a_short_job_loses_nothing(worker: Callable[[], Context], point: str) -> None:
    first, second = worker(), worker()
    start(first, shell('echo $$ >> "$WORKFLOW_OUTPUT_DIR/ran"; echo $$ >> "$WORKFLOW_WORKSPACE_DIR/ran"'))
    failpoints.arm(Plan(f"* {point} raise"))
    with pytest.raises(Injected):
        first.launcher.launch("local", 10)
    failpoints.arm(None)
    expire_leases(second)
    LeaseSweep(second.database, second.doorbell).tick()
    second.launcher.launch("local", 10)
    assert row(second, "status, attempt") == ("COMPLETED", 1)
    assert row(second, "size", "products").size > 0
    attempt = second.worker_context.host.base_dir
    [ran] = Path(attempt).glob("*/*/*/*/attempt-1/workspace/ran")
    assert len(ran.read_text().splitlines()) == 1
