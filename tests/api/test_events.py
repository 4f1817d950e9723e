"""GET /events: CloudEvents in pages and as a stream."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn

from ccat_workflow_manager.app import create_app
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.backends import BackendStore
from tests.api.rest import CHAIN, Hand, Rest, Secured
from tests.support.waiting import PATIENCE, wait_until


def types(page: dict[str, object]) -> list[str]:
    return [item["type"].removeprefix("ccat.wm.") for item in page["items"]]  # type: ignore[attr-defined]


def test_the_life_of_a_run_in_cloud_events(rest: Rest, hand: Hand) -> None:
    run = rest.run()
    (item,) = hand.claim()
    hand.complete(item)
    page = rest.get("/events")
    assert types(page) == [
        *("step_run.created", "step_run.claimed", "step_run.submitted", "step_run.collecting", "step_run.completed"),
        "run.finished",
    ]
    assert page["next_cursor"] is None
    *_, completed, finished = page["items"]
    assert completed["specversion"] == "1.0"
    assert completed["source"] == "/ccat-wm/localdev"
    assert completed["subject"] == f"runs/{run['id']}/step-runs/{item.step_run_id}"
    assert completed["data"]["pipeline"] == "one"
    assert (completed["data"]["from_status"], completed["data"]["status"]) == ("COLLECTING_RESULTS", "COMPLETED")
    assert finished["subject"] == f"runs/{run['id']}"
    assert (finished["data"]["status"], finished["data"]["step_run_id"]) == ("COMPLETED", None)
    assert len({each["id"] for each in page["items"]}) == 6


def test_pages_go_on_behind_an_event_or_a_cursor(rest: Rest, hand: Hand) -> None:
    rest.run()
    rest.run()
    first = rest.get("/events", limit=1)
    assert first["next_cursor"] == first["cursor"] == first["items"][0]["id"]
    second = rest.get("/events", after=first["next_cursor"])
    assert (types(second), second["next_cursor"]) == (["step_run.created"], None)
    assert rest.get("/events", after=second["cursor"])["items"] == []
    hand.fail(hand.claim()[0])
    assert types(rest.get("/events", after=second["cursor"]))[-2:] == ["step_run.failed", "run.finished"]


def test_filters(rest: Rest, hand: Hand) -> None:
    run = rest.run()
    hand.fail(hand.claim()[0])
    rest.run(CHAIN, parameters={"scans": [1, 2]})
    assert types(rest.get("/events", type="ccat.wm.run.finished")) == ["run.finished"]
    assert types(rest.get("/events", type=["ccat.wm.run.*", "ccat.wm.step_run.failed"])) == [
        "step_run.failed",
        "run.finished",
    ]
    assert types(rest.get("/events", pipeline="chain")) == ["step_run.created"] * 5
    assert len(rest.get("/events", run=run["id"])["items"]) == 5
    assert rest.get("/events", pipeline="nothing")["items"] == []
    assert len(rest.get("/events", project="default", type="ccat.wm.run.*")["items"]) == 1
    assert rest.get("/events", project="nothing")["items"] == []


def test_a_retried_run_finishes_again(rest: Rest, hand: Hand) -> None:
    run = rest.run()
    hand.fail(hand.claim()[0])
    rest.post(f"/runs/{run['id']}/retry")
    hand.complete(hand.claim()[0])
    found = rest.get("/events", type="ccat.wm.run.finished")["items"]
    assert [each["data"]["status"] for each in found] == ["FAILED", "COMPLETED"]


def test_a_backend_goes_away_once_and_comes_back(rest: Rest, context: Context) -> None:
    with context.database.begin("commit.test") as unit:
        store = BackendStore(unit)
        store.report_problem("slurm", "it is down", 10)
        store.report_problem("slurm", "it is still down", 10)
        store.mark_healthy("slurm", "it is still down")
        store.mark_healthy("slurm", "it is still down")
    page = rest.get("/events", type="ccat.wm.backend.*")
    assert types(page) == ["backend.away", "backend.back"]
    assert page["items"][0]["subject"] == "backends/slurm"
    assert page["items"][0]["data"]["text"] == "it is down"


def test_bad_requests(rest: Rest) -> None:
    rest.run()
    cursor = rest.get("/events")["cursor"]
    forged = ("A" if cursor[3] != "A" else "B").join([cursor[:3], cursor[4:]])
    for after in (forged, "x", cursor + cursor):
        rest.refused(rest.send("GET", "/events", params={"after": after}), 400, "bad_cursor")
    stream = {"Accept": "text/event-stream", "Last-Event-ID": forged}
    rest.refused(rest.send("GET", "/events", headers=stream), 400, "bad_cursor")
    rest.refused(rest.send("GET", "/events", params={"type": "ccat.wm.run.eaten"}), 422, "invalid", "type")
    rest.refused(rest.send("GET", "/events", params={"run": "x"}), 422, "invalid", "run")
    rest.refused(rest.send("GET", "/events", params={"limit": 0}), 422, "invalid", "limit")


# --- streams ---------------------------------------------------------------------------------------------------------


@contextmanager
def serving(context: Context, port: int = 0) -> Iterator[httpx.Client]:
    """The API on a port: a test client would wait for the end of a stream."""
    server = uvicorn.Server(
        uvicorn.Config(create_app(context), port=port, log_config=None, timeout_graceful_shutdown=5)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started, 30, "the server to start")
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=PATIENCE) as client:
        yield client
    server.should_exit = True
    thread.join(PATIENCE)


def read(client: httpx.Client, count: int, started: threading.Event | None = None, **headers: str) -> list[str]:
    """The next events of a stream: its ids."""
    found: list[str] = []
    given = {"Accept": "text/event-stream", **headers}
    with client.stream("GET", "/events", headers=given) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers.get("content-encoding", "identity") == headers.get("Accept-Encoding", "gzip")
        lines = response.iter_lines()
        next(lines)
        if started is not None:
            started.set()
        while len(found) < count:
            line = next(lines)
            if line.startswith("id: "):
                found.append(line[4:])
            elif line.startswith("data: "):
                assert json.loads(line[6:])["id"] == found[-1]
    return found


def test_the_stream_of_a_revoked_token_ends(secured: Secured) -> None:
    token = secured.token("viewer")
    headers = {"Accept": "text/event-stream", "Authorization": f"Bearer {token.secret}"}
    with serving(secured.context) as client, client.stream("GET", "/events", headers=headers) as response:
        lines = response.iter_lines()
        assert next(lines) == ": events"
        secured.caller().send("DELETE", f"/tokens/{json.loads(token.json)['id']}")
        assert [line for line in lines if line and not line.startswith(":")] == []
        assert client.get("/events", headers=headers).status_code == 401


def test_a_stream_shows_the_projects_of_its_token_only(secured: Secured) -> None:
    headers = {"Authorization": f"Bearer {secured.token('viewer', 'night').secret}"}
    with serving(secured.context) as client:
        started, seen = threading.Event(), list[str]()
        reader = threading.Thread(target=lambda: seen.extend(read(client, 1, started, **headers)))
        reader.start()
        assert started.wait(PATIENCE)
        admin = secured.caller()
        admin.run()
        admin.run(project="night")
        reader.join(PATIENCE)
        (event,) = client.get("/events", headers=headers).json()["items"]
        assert ([event["id"]], event["data"]["project"]) == (seen, "night")


def test_a_stream_sends_what_happens_and_resumes_behind_the_last_id(context: Context, hand: Hand) -> None:
    with serving(context) as client:
        run = {"spec": {"name": "one", "steps": [{"name": "only", "command": ["true"]}]}}
        assert client.post("/runs", json=run).status_code == 202
        started, live = threading.Event(), list[str]()
        reader = threading.Thread(target=lambda: live.extend(read(client, 5, started)))
        reader.start()
        assert started.wait(PATIENCE)
        hand.complete(hand.claim()[0])
        reader.join(PATIENCE)
        everything = [item["id"] for item in client.get("/events").json()["items"]]
        assert live == everything[1:]
        for encoding in ("gzip", "identity"):
            assert read(client, 3, **{"Last-Event-ID": everything[2], "Accept-Encoding": encoding}) == everything[3:]
        wait_until(lambda: context.feed.streams == 0, 30, "the streams to end with their clients")


def test_all_faults_of_a_webhook_are_named(rest: Rest) -> None:
    wrong = {"url": "http://127.0.0.1/", "types": ["ccat.wm.run.*", "ccat.wm.run.ended"], "filter": {"pipline": "x"}}
    said = rest.refused(rest.send("POST", "/webhooks", json=wrong), 422, "invalid", "url", "types[1]", "filter.pipline")
    assert "ccat.wm.run.finished?" in str(said)


def test_a_webhook_for_what_there_is_not_is_refused(secured: Secured) -> None:
    admin, mine = secured.caller(), secured.caller("operator", "night")
    hook: dict[str, object] = {"url": "https://example.org/hook"}
    run = admin.run(CHAIN, parameters={"scans": [1]})
    for wanted in ({"pipeline": "registered-later"}, {"run": run["id"]}):
        admin.post("/webhooks", {**hook, "filter": wanted}, 201)
    open_to_all = admin.post("/webhooks", {**hook, "filter": None, "types": None, "project": None}, 201)
    assert (open_to_all["types"], open_to_all["filter"]) == ([], {"pipeline": None, "run": None})
    for_night = {**hook, "filter": {"run": run["id"]}, "project": "night"}
    mine.refused(mine.send("POST", "/webhooks", json=for_night), 404, "not_found", "filter.run")
    unknown = {"run": "00000000-0000-7000-8000-000000000000"}
    refusal = admin.send("POST", "/webhooks", json={**hook, "filter": unknown})
    admin.refused(refusal, 404, "not_found", "filter.run")
    no_names = {**hook, "filter": {"pipeline": "No Name"}, "project": "No Name"}
    admin.refused(admin.send("POST", "/webhooks", json=no_names), 422, "invalid", "filter.pipeline", "project")
    assert len(admin.get("/webhooks")["items"]) == 3
