"""The service: health, backends, workers, the summary, and missing dependencies."""

from __future__ import annotations

import logging

import pytest
from fastapi.testclient import TestClient

from ccat_workflow_manager import __version__
from ccat_workflow_manager.app import create_app
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.backends import BackendStore
from ccat_workflow_manager.db.workers import WorkerStore
from ccat_workflow_manager.lifecycle.waiting import action_required
from tests.api.rest import BASE_URL, ONE, Hand, Rest
from tests.support.fixtures_store import ContextMaker


def test_alive_and_ready(rest: Rest) -> None:
    assert rest.get("/healthz") == {"status": "ok", "version": __version__}
    ready = rest.get("/readyz")
    assert ready["ready"] is True
    assert set(ready["dependencies"]) == {"postgres", "redis", "migrations"}
    assert all(each["ok"] and each["latency"] >= 0 for each in ready["dependencies"].values())


def test_without_redis_it_is_not_ready_but_accepts_runs(make_context: ContextMaker) -> None:
    with TestClient(
        create_app(make_context("noop", REDIS_URL="unix:///nowhere/at/all.sock?db=0")), base_url=BASE_URL
    ) as client:
        rest = Rest(client)
        response = rest.send("GET", "/readyz")
        problem = rest.refused(response, 503, "not_ready")
        assert problem["dependencies"]["postgres"]["ok"] is True
        assert problem["dependencies"]["redis"]["ok"] is False
        assert "Redis" in problem["dependencies"]["redis"]["message"]
        assert int(response.headers["retry-after"]) > 0
        assert rest.run()["status"] == "PENDING"


def test_without_postgres_every_call_gives_503(make_context: ContextMaker) -> None:
    away = make_context("noop", DATABASE_URL="postgresql://ccat@127.0.0.1:1/ccat")
    with TestClient(create_app(away), base_url=BASE_URL) as client:
        rest = Rest(client)
        problem = rest.refused(rest.send("GET", "/readyz"), 503, "not_ready")
        assert problem["dependencies"]["migrations"]["ok"] is False
        for response in (rest.send("GET", "/runs"), rest.send("POST", "/runs", json={"spec": ONE})):
            rest.refused(response, 503, "service_unavailable")
            assert int(response.headers["retry-after"]) > 0
        assert rest.get("/healthz")["status"] == "ok"


def test_a_database_of_another_version_is_not_ready(rest: Rest, hand: Hand) -> None:
    [(current,)] = hand.execute("SELECT version_num FROM alembic_version")
    version = "UPDATE alembic_version SET version_num = :version"
    hand.execute(version, version="0003")
    problem = rest.refused(rest.send("GET", "/readyz"), 503, "not_ready")
    hand.execute(version, version=current)  # other tests use this database after this one
    assert "ccat-wm db upgrade" in problem["dependencies"]["migrations"]["message"]


def test_an_unexpected_error_is_logged_and_not_shown(
    rest: Rest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("the password is swordfish")

    monkeypatch.setattr("ccat_workflow_manager.db.queries.runs.runs_page", broken)
    with caplog.at_level(logging.ERROR):
        response = rest.send("GET", "/runs")
    problem = rest.refused(response, 500, "internal_error")
    assert "swordfish" not in response.text
    assert "ZeroDivisionError: the password is swordfish" in caplog.text
    assert problem["detail"].rpartition(" ")[2] in caplog.text


def test_backends_and_workers(rest: Rest, hand: Hand, context: Context) -> None:
    rest.post("/runs/bulk", {"runs": [{"spec": ONE}] * 3})
    (item,) = hand.claim()
    hand.submit(item)
    with context.database.begin() as unit:
        WorkerStore(unit).register("host:1", "host", 1, ["noop", "strange"])
        BackendStore(unit).report_problem("noop", "the scheduler sleeps", 60)
    found = {each["name"]: each for each in rest.get("/backends")["items"]}
    noop = found["noop"]
    assert (noop["default"], noop["available"], noop["ready"], noop["live"], noop["workers"]) == (True, True, 2, 1, 1)
    assert noop["problem"] == "the scheduler sleeps"
    assert noop["problem_since"].endswith("Z")
    assert noop["retry_at"] > noop["problem_since"]
    assert found["strange"]["available"] is False
    assert found["strange"]["workers"] == 1
    (worker,) = rest.get("/workers")["items"]
    assert (worker["id"], worker["backends"], worker["completed"]) == ("host:1", ["noop", "strange"], 0)


def test_a_drained_worker_claims_nothing_until_it_is_resumed(rest: Rest, hand: Hand, context: Context) -> None:
    rest.post("/runs", {"spec": ONE})
    with context.database.begin() as unit:
        WorkerStore(unit).register("by hand", "host", 1, ["noop"])
    drained = rest.post("/workers/by hand/drain", {"why": "new memory"}, 200)
    assert (drained["backends"], drained["drained"]["backends"]) == ([], ["noop"])
    assert (drained["drained"]["by"], drained["drained"]["why"]) == ("anonymous", "new memory")
    assert rest.get("/workers")["items"] == [drained]
    assert next(each["workers"] for each in rest.get("/backends")["items"] if each["name"] == "noop") == 0
    assert hand.claim() == []
    assert (drained["in_hand"], drained["working_on"]) == (0, [])
    with context.database.begin() as unit:
        assert WorkerStore(unit).heartbeat("by hand") is True
    rest.refused(rest.send("POST", "/workers/by hand/drain"), 409, "conflict")
    assert rest.post("/workers/by hand/resume", status=200)["backends"] == ["noop"]
    assert len(rest.get("/audit", object="workers/by hand")["items"]) == 2
    (item,) = hand.claim()
    (worker,) = rest.get("/workers")["items"]
    (held,) = worker["working_on"]
    assert (worker["in_hand"], held["step_run_id"]) == (1, str(item.step_run_id))
    assert (held["step"], held["key"], held["status"]) == ("only", "main", "STAGING_DATA")
    rest.refused(rest.send("POST", "/workers/by hand/resume"), 409, "conflict")
    for verb in ("drain", "resume"):
        rest.refused(rest.send("POST", f"/workers/other/{verb}"), 404, "not_found")
    rest.refused(rest.send("POST", "/workers/by hand/drain", json={"why": ""}), 422, "invalid", "why")
    assert [each["action"] for each in rest.get("/audit")["items"]][:2] == ["resume_worker", "drain_worker"]


def test_attention_lists_what_needs_an_operator(rest: Rest, hand: Hand) -> None:
    assert rest.get("/attention") == {"items": [], "next_cursor": None}
    rest.post("/runs/bulk", {"runs": [{"spec": ONE}] * 4})
    for _ in range(4):
        (item,) = hand.claim()
        hand.submit(item)
    hand.execute("UPDATE step_runs SET waiting_for = 'Priority'")
    hand.execute(
        "UPDATE step_runs SET waiting_for = :text WHERE id IN (SELECT id FROM step_runs ORDER BY id LIMIT 3)",
        text=action_required("held: JobHeldUser"),
    )
    first = rest.get("/attention", limit=2)
    rest_of_it = rest.get("/attention", limit=2, cursor=first["next_cursor"])
    assert (len(first["items"]), len(rest_of_it["items"]), rest_of_it["next_cursor"]) == (2, 1, None)
    assert {each["text"] for each in first["items"]} == {"held: JobHeldUser"}
    one = first["items"][0]
    assert rest.get(f"/step-runs/{one['id']}")["waiting_for"] == "action required: held: JobHeldUser"
    assert one["job_id"]
    assert rest.get("/dashboard/summary")["attention"] == 3


def test_the_summary(rest: Rest, hand: Hand) -> None:
    empty = rest.get("/dashboard/summary")
    assert empty["live"] == {"PENDING": 0, "RUNNING": 0}
    assert (empty["oldest_waiting"], empty["recent_failures"], empty["backends"]) == (None, [], [])
    rest.run(priority=3, backend="concurrent")
    oldest = rest.post("/runs/bulk", {"runs": [{"spec": ONE, "priority": n % 3} for n in range(6)]})["ids"]
    (item,) = hand.claim()
    hand.fail(item, "rain")
    (item,) = hand.claim()
    hand.submit(item)
    hand.count()
    found = rest.get("/dashboard/summary")
    assert found["last_24_hours"] == {"CREATED": 7, "COMPLETED": 0, "FAILED": 1, "CANCELLED": 0}
    assert (found["live_step_runs"]["PENDING"], found["live_step_runs"]["SUBMITTED"]) == (5, 1)
    assert found["live"] == {"PENDING": 5, "RUNNING": 1}
    assert [failure["status_reason"] for failure in found["recent_failures"]] == ["only/main: program_failed: rain"]
    assert found["oldest_waiting"]["backend"] == "concurrent"
    assert found["oldest_waiting"]["waiting_seconds"] >= 0
    assert {each["name"]: (each["ready"], each["live"]) for each in found["backends"]} == {
        "concurrent": (1, 0), "noop": (4, 1),
    }  # fmt: skip
    hand.execute("UPDATE step_runs SET held = true WHERE backend = 'concurrent'")
    assert rest.get("/dashboard/summary")["oldest_waiting"]["run_id"] == oldest[0]


def test_requests_are_measured_by_the_whole_template_of_their_route(rest: Rest) -> None:
    run_id = rest.run()["id"]
    rest.get(f"/runs/{run_id}")
    rest.client.get(f"/v1/tasks/{run_id}")
    rest.client.get("/nothing/here")
    rest.client.get("/static/no-version/none.css")
    rest.client.head("/api/v1/backends")
    rest.client.delete(f"/api/v1/runs/{run_id}/pause")
    text = rest.client.get("/metrics").text
    api = ("/api/v1/runs", "/api/v1/runs/{run_id}", "/v1/tasks/{run_id}", "/api/v1/backends")
    for route in (*api, "/static/{version}/{name:path}", "unmatched"):
        assert f'ccat_wm_http_seconds_count{{route="{route}"' in text
    assert 'ccat_wm_http_seconds_count{route="/api/v1/runs/{run_id}/pause",status="405"}' in text
