"""What a manager reports to Prometheus."""

from __future__ import annotations

import urllib.request
from collections import Counter

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from ccat_workflow_manager import metrics
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.backends import BackendStore
from ccat_workflow_manager.db.workers import WorkerStore
from ccat_workflow_manager.doorbell import Bell, Doorbell
from ccat_workflow_manager.managers.schedule import Loop, Schedule
from ccat_workflow_manager.services import metrics as service
from ccat_workflow_manager.services.metrics import OTHER, DatabaseMetrics, DoorbellMetrics
from ccat_workflow_manager.services.outcomes import Outcome
from ccat_workflow_manager.services.run_request import RunRequest
from ccat_workflow_manager.services.verify_notes import remember_verification
from tests.api.rest import CHAIN, ONE, Hand
from tests.support.waiting import PATIENCE, wait_until


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(text: str, name: str, **labels: str) -> float | None:
    return samples(text).get((name, frozenset(labels.items())))


@pytest.fixture
def hand(context: Context) -> Hand:
    return Hand(context)


def scrape(collector: Collector) -> str:
    return metrics.exposition(collector).decode()


def test_ends_waits_and_backends_are_counted(context: Context, hand: Hand) -> None:
    collector = DatabaseMetrics(context.database, seconds=0)
    collector.start_counting()
    for _ in range(2):
        context.submitter.submit(RunRequest(spec=ONE), actor="test")
    context.submitter.submit(RunRequest(spec=CHAIN, parameters={"scans": [1]}), actor="test")
    first, second = hand.claim(2)
    hand.complete(first)
    hand.fail(second)
    with context.database.begin("commit.test") as unit:
        BackendStore(unit).report_problem("slurm", "it is down", 60)
    text = scrape(collector)
    of_one = {"pipeline": "one", "step": "only", "backend": "noop"}
    assert value(text, "ccat_wm_step_runs_total", outcome="COMPLETED", reason="", **of_one) == 1
    assert value(text, "ccat_wm_step_runs_total", outcome="FAILED", reason="program_failed", **of_one) == 1
    assert value(text, "ccat_wm_waiting", cause="no_worker", backend="noop") == 1
    assert (value(text, "ccat_wm_oldest_wait_seconds", cause="no_worker", backend="noop") or -1) >= 0
    assert value(text, "ccat_wm_backend_up", backend="slurm") == 0
    assert value(text, "ccat_wm_backend_up", backend="noop") is None
    assert value(text, "ccat_wm_step_run_seconds_count", status="PENDING", backend="noop") == 2
    assert value(text, "ccat_wm_events_lag_seconds") == 0
    context.outcomes.set(second.step_run_id, Outcome.COMPLETED, "by hand", actor="test")
    by_hand = {"outcome": "COMPLETED", "reason": "set_by_hand", **of_one}
    wait_until(lambda: value(scrape(collector), "ccat_wm_step_runs_total", **by_hand) == 1, what="the next look")
    with context.database.begin("commit.test") as unit:
        WorkerStore(unit).register("w", "h", 1, ["noop", "slurm"])
    wait_until(lambda: value(scrape(collector), "ccat_wm_backend_up", backend="noop") == 1, what="the next look")
    assert value(scrape(collector), "ccat_wm_backend_up", backend="slurm") == 0
    # Nothing is counted twice.
    assert value(scrape(collector), "ccat_wm_step_runs_total", outcome="COMPLETED", reason="", **of_one) == 1


def test_the_age_of_an_event_that_is_not_yet_readable(context: Context) -> None:
    collector = DatabaseMetrics(context.database, seconds=0)
    insert = (
        "INSERT INTO events (event, to_status, attempt, actor, at) VALUES ('x', 'x', 0, 'x', now() - interval '1 h')"
    )
    with context.database.begin("commit.test") as open_one:
        open_one.execute("SELECT pg_current_xact_id()")
        with context.database.begin("commit.test") as unit:
            unit.execute(insert)
        assert (value(scrape(collector), "ccat_wm_events_lag_seconds") or 0) >= 3600


def test_numbers_are_read_once_for_many_scrapes(context: Context, hand: Hand) -> None:
    collector = DatabaseMetrics(context.database, seconds=3600)
    scrape(collector)
    context.submitter.submit(RunRequest(spec=ONE), actor="test")
    assert value(scrape(collector), "ccat_wm_waiting", cause="no_worker", backend="noop") is None


def test_the_number_of_series_is_bounded(context: Context, hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_MOST_STEPS", 1)
    collector = DatabaseMetrics(context.database, seconds=0)
    collector.start_counting()
    for name in ("a", "b", "c"):
        context.submitter.submit(RunRequest(spec={**ONE, "name": name}), actor="test")
    for item in hand.claim(3):
        hand.complete(item)
    text = scrape(collector)
    others = {"pipeline": OTHER, "step": OTHER, "backend": "noop", "outcome": "COMPLETED", "reason": ""}
    assert value(text, "ccat_wm_step_runs_total", **others) == 2


def test_the_doorbell_and_the_last_verification_are_reported(context: Context) -> None:
    collector = DoorbellMetrics(context.doorbell)
    context.doorbell.ring(Bell.LAUNCH, "noop")
    text = scrape(collector)
    assert value(text, "ccat_wm_doorbell_up") == 1
    assert value(text, "ccat_wm_doorbell_messages", bell="launch", backend="noop") == 1
    assert value(text, "ccat_wm_verify_findings", kind="product") is None
    remember_verification(context.doorbell, 1_700_000_000, Counter({"product": 2}))
    text = scrape(collector)
    assert value(text, "ccat_wm_verify_findings", kind="product") == 2
    assert value(text, "ccat_wm_verify_findings", kind="move") == 0
    assert value(text, "ccat_wm_verify_end_seconds") == 1_700_000_000


def test_metrics_without_redis() -> None:
    collector = DoorbellMetrics(Doorbell("redis://127.0.0.1:1/0"))
    assert value(scrape(collector), "ccat_wm_doorbell_up") == 0


def test_pools_and_further_metrics_are_served_by_a_port(context: Context) -> None:
    pool = context.database.pool
    metrics.pool_opened("of a test", lambda: pool.used, lambda: pool.idle)
    stop = metrics.serve("127.0.0.1", 29_200, context.doorbell_metrics)
    with context.database.read() as unit:
        unit.ping()
        text = next(filter(None, map(_read, range(29_200, 29_210))))
    stop()
    assert value(text, "ccat_wm_pool_connections", pool="of a test", state="used") == 1
    assert value(text, "ccat_wm_doorbell_up") == 1


def test_loops_and_scheduler_calls_are_reported_by_a_port_of_their_own() -> None:
    schedule = Schedule([Loop("of a test", 3600, lambda: None)])
    schedule.start()
    metrics.scheduler_called("slurm", "squeue", 60)
    stops = [metrics.serve("127.0.0.1", 29_100) for _ in range(2)]
    text = next(filter(None, map(_read, range(29_100, 29_110))))
    for stop in stops:
        stop()
    schedule.stop()
    schedule.join(PATIENCE)
    assert value(text, "ccat_wm_loop_lag_seconds", loop="of a test") is not None
    assert (value(text, "ccat_wm_scheduler_calls_total", backend="slurm", command="squeue") or 0) >= 1
    assert value(text, "ccat_wm_scheduler_budget", backend="slurm") == 60


def _read(port: int) -> str:
    """The metrics at this port; empty without any."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""
