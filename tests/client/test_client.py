"""The client against the real API, against an API that fails, and against the description of the API."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi.testclient import TestClient

from ccat_workflow_manager.app import create_app
from ccat_workflow_manager.client import ApiRefused, AsyncClient, Client, Damaged, Occupied, Run, WrongAddress
from ccat_workflow_manager.client.both import one_by_one
from ccat_workflow_manager.client.follow import Log
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.errors import ServiceUnavailable
from tests.api.rest import BASE_URL, CHAIN, ONE, Hand
from tests.api.test_events import serving
from tests.support.waiting import PATIENCE

URL = "http://localhost"


class Through(httpx.BaseTransport):
    """Calls the application in this process, which can answer but not stream."""

    def __init__(self, client: TestClient) -> None:
        self.client = client

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if "event-stream" in request.headers.get("Accept", ""):
            return httpx.Response(406, json={"code": "not_acceptable", "detail": "no streams here"})
        answer = self.client.request(
            request.method, str(request.url), content=request.read(), headers=dict(request.headers)
        )
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


@pytest.fixture
def client(context: Context) -> Iterator[Client]:
    with TestClient(create_app(context), base_url=BASE_URL) as app:
        yield Client(URL, "", transport=Through(app))


@pytest.fixture
def hand(context: Context) -> Hand:
    return Hand(context)


def test_pipelines_and_runs(client: Client) -> None:
    assert client.pipelines.apply(CHAIN)["version"] == 1
    assert client.pipelines.apply(CHAIN)["version"] == 1
    assert [each["name"] for each in client.pipelines.list()] == ["chain"]
    run = client.runs.submit("chain", parameters={"scans": ["a", "b"]}, labels={"night": "7"})
    assert (run.status, run.pipeline, len(run.step_runs)) == ("PENDING", "chain", 5)
    assert run.step_run("second", "b").status == "PENDING"
    assert client.runs.get(UUID(run.id)).id == run.id
    for found in ({}, {"project": "default"}, {"caveats": False}, {"created_before": "2999-01-01T00:00:00Z"}):
        assert [each.id for each in client.runs.list(label="night:7", limit=10, **found)] == [run.id]
        assert not list(client.runs.list(created_after="2999-01-01T00:00:00Z", **found))
    assert client.step_runs.get(run.step_run("last")).step == "last"
    assert [each.key for each in client.runs.step_runs(run, step="second", status="PENDING")] == ["a", "b"]
    first = Run(run | {"step_runs": run["step_runs"][:1], "step_runs_next": "more"})
    with pytest.raises(LookupError, match=r"client\.runs\.step_runs"):
        first.step_run("last")
    for asked, known in ((("frist",), "'second'"), (("second",), "'a', 'b'"), (("second", "c"), "'a', 'b'")):
        with pytest.raises(LookupError, match=known):
            run.step_run(*asked)
    with pytest.raises(ValueError, match=r"client\.runs\.list"):
        client.runs.get("latest")
    assert "and 4 more" in first._repr_html_()
    client.runs.cancel(run)
    assert client.runs.wait(run, timeout=PATIENCE).status == "CANCELLED"
    assert client.runs.retry(run).status != "CANCELLED"
    with pytest.raises(TimeoutError, match=run.id):
        client.runs.wait(run, timeout=0.01)
    with pytest.raises(ApiRefused) as caught:
        client.runs.submit("chain", parameters={"scans": "none"})
    assert (caught.value.status, caught.value.faults[0].path) == (422, "parameters.scans")
    with pytest.raises(ApiRefused, match="name: is required"):
        client.pipelines.apply({"steps": CHAIN["steps"]})
    assert {each["name"] for each in client.backends.list()} >= {"local", "noop"}


def test_many_runs_are_created_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ccat_workflow_manager.client.groups._AT_ONCE", 2)
    requests: list[dict[str, Any]] = [{"spec": ONE, "labels": {"number": str(number)}} for number in range(5)]
    seen: list[int] = []
    ids = client.runs.submit_many(iter(requests), idempotency_key="night-7", progress=seen.append)
    assert (len(set(ids)), seen) == (5, [2, 4, 5])
    assert client.runs.submit_many(requests, idempotency_key="night-7") == ids
    assert set(client.runs.submit_many(requests)) & set(ids) == set()
    for run in ids:
        client.runs.cancel(run)
    finished: list[Run] = []
    found = client.runs.wait_many([each.upper() for each in ids], timeout=PATIENCE, progress=finished.append)
    assert [each.id for each in found] == ids
    assert found == finished


def test_a_download_goes_on_and_checks(client: Client, tmp_path: Path) -> None:
    content = b"map" * 1000
    about = {"size": len(content), "is_directory": False, "sha256": sha256(content).hexdigest()}
    product = {"id": "1", "step": "grid", "key": "all", "path": "a/map.fits", **about}
    asked: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        wanted = request.headers.get("Range")
        asked.append(wanted)
        start = int(wanted[6:-1]) if wanted else 0
        return httpx.Response(206 if wanted else 200, content=content[start:])

    partial = tmp_path / "grid/all/a/.map.fits.part"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(content[:500])
    with served(answer) as service:
        fetched = service.products.download(product, tmp_path)
        assert fetched.path.read_bytes() == content
        assert asked == ["bytes=500-"]
        assert service.products.download(product, tmp_path).was_there
        with pytest.raises(Occupied):
            service.products.download({**product, "sha256": "0" * 64}, tmp_path)
        fetched.path.unlink()
        with pytest.raises(Damaged):
            service.products.download({**product, "sha256": "0" * 64}, tmp_path)


def test_what_cannot_be_an_address_is_refused() -> None:
    for url, token in (("ftp://x", ""), (URL, "\u00e9")):
        with pytest.raises(WrongAddress):
            Client(url, token)


def served(answer: Callable[[httpx.Request], httpx.Response], patience: float = 60) -> Client:
    return Client(URL, "token", patience=patience, transport=httpx.MockTransport(answer))


def test_a_lost_answer_is_asked_for_again_with_the_same_key() -> None:
    keys: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["Idempotency-Key"])
        if len(keys) == 1:
            raise httpx.ReadError("broken", request=request)
        if len(keys) == 2:
            problem = {"code": "service_unavailable", "detail": "later"}
            return httpx.Response(503, json=problem, headers={"Retry-After": "0"})
        return httpx.Response(202, json={"id": "r", "status": "PENDING", "pipeline": "one"})

    assert served(answer).runs.submit(spec=ONE).id == "r"
    assert len(keys) == 3
    assert len(set(keys)) == 1


def test_retry_after_is_honoured_and_patience_ends() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(429, json={"code": "too_many", "detail": "slowly"}, headers={"Retry-After": "3600"})

    with pytest.raises(ApiRefused) as caught:
        served(answer).runs.get("r")
    assert caught.value.status == 429
    with pytest.raises(ServiceUnavailable):
        Client("http://127.0.0.1:9", "", patience=0).runs.get("r")


def test_a_retry_whose_answer_was_lost_is_not_an_error() -> None:
    calls: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        calls.append(request.method)
        if len(calls) == 1:
            raise httpx.ReadTimeout("slow", request=request)
        if request.method == "POST":
            return httpx.Response(409, json={"code": "conflict", "detail": "nothing to retry"})
        return httpx.Response(200, json={"id": "r", "status": "RUNNING", "pipeline": "one"})

    assert served(answer).runs.retry("r").status == "RUNNING"
    assert calls == ["POST", "POST", "GET"]


def stream_of(*events: str) -> httpx.Response:
    text = ": events\n" + "".join(f"{each}\n\n" for each in events)
    return httpx.Response(200, text=text, headers={"Content-Type": "text/event-stream"})


def test_a_log_is_followed_over_a_broken_connection() -> None:
    asked: list[tuple[str | None, str | None]] = []
    answers = iter([
        stream_of("event: attempt\ndata: 1", "id: 1-4\ndata: one\ndata: "),
        httpx.Response(503, json={"code": "service_unavailable", "detail": "starting"}),
        stream_of("event: attempt\ndata: 1", "id: 1-8\ndata: two\ndata: ", "event: attempt\ndata: 2",
                          "id: 2-2\ndata: x\ndata: ", 'event: end\ndata: {"status": "COMPLETED"}'),
    ])  # fmt: skip

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((request.url.params.get("tail"), request.headers.get("Last-Event-ID")))
        return next(answers)

    service = served(answer)
    assert list(service.step_runs.logs("s", follow=True, tail=1)) == ["one\n", "two\n", "x\n"]
    assert asked == [("1", None), ("1", "1-4"), ("1", "1-4")]


def test_a_log_without_offsets_begins_again_and_says_so() -> None:
    answers = iter([
        stream_of("data: from afar"),
        stream_of("data: from afar", "data: more", 'event: end\ndata: {"status": null, "problem": "deleted"}'),
    ])  # fmt: skip
    log = Log(served(lambda _: next(answers)).api, "s")
    pieces = one_by_one(log.follow())
    assert [next(pieces) for _ in range(4)] == [
        ("stdout", "from afar"), ("gap", ""), ("stdout", "from afar"), ("stdout", "more")
    ]  # fmt: skip
    with pytest.raises(ApiRefused, match="deleted"):
        next(pieces)


def test_a_log_is_read_piece_by_piece_to_half_a_character() -> None:
    text, asked = "0123456789\n" * 20, []

    def answer(request: httpx.Request) -> httpx.Response:
        offset = int(request.url.params["offset"])
        asked.append(offset)
        headers = {"X-Log-Next-Offset": str(min(offset + 100, len(text))), "X-Log-Size": str(len(text) + 1)}
        return httpx.Response(200, text=text[offset : offset + 100], headers=headers)

    assert "".join(served(answer).step_runs.logs("s")) == text
    assert asked == [0, 100, 200, 220]


def test_a_followed_log_survives_a_restart_of_the_manager(context: Context, hand: Hand) -> None:
    """Nothing is lost or repeated, and what was written meanwhile comes."""
    with serving(context) as http:
        port = http.base_url.port or 0
        service = Client(f"http://127.0.0.1:{port}", "")
        run = service.runs.submit(spec=ONE)
        (item,) = hand.claim()
        logs = (
            Path(context.settings.pipeline_base_dir)
            / run.pipeline
            / run.id
            / run.step_runs[0]["step"]
            / "main"
            / "attempt-1"
            / "logs"
        )
        logs.mkdir(parents=True)
        (logs / "stdout.log").write_text("one\n")
        pieces = service.step_runs.logs(run.step_runs[0], follow=True)
        assert next(pieces) == "one\n"
    with (logs / "stdout.log").open("a") as file:
        file.write("two\n")
    hand.complete(item)
    with serving(context, port):
        assert list(pieces) == ["two\n"]


def test_events_are_followed_over_a_broken_connection() -> None:
    asked: list[str | None] = []
    runs = set[str]()

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("Last-Event-ID"))
        runs.add(request.url.params["run"])
        first = 1 if len(asked) == 1 else 3
        lines = "".join(f'id: {n}\ndata: {{"id": "{n}"}}\n\n' for n in (first, first + 1))
        return httpx.Response(200, text=lines, headers={"Content-Type": "text/event-stream"})

    events = served(answer).events.follow(run=Run(id="00000000-0000-0000-0000-00000000000A"))
    assert [next(events).id for _ in range(3)] == ["1", "2", "3"]
    assert runs == {"00000000-0000-0000-0000-00000000000a"}
    assert asked == [None, "2"]


def test_events_of_a_service_that_is_gone_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that follows them would wait for ever, and say nothing."""
    asked = 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise httpx.ConnectError("refused", request=request)
        return httpx.Response(200, text='id: 1\ndata: {"id": "1"}\n\n', headers={"Content-Type": "text/event-stream"})

    clock = itertools.count(0, 25)
    monkeypatch.setattr("ccat_workflow_manager.client.follow.time", SimpleNamespace(monotonic=lambda: next(clock)))
    events = served(answer).events.follow()
    assert next(events).id == "1"
    with pytest.raises(ServiceUnavailable):
        next(events)
    assert asked > 2


def test_nothing_is_passed_over_before_the_first_event() -> None:
    asked: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("Last-Event-ID"))
        text = ": events\n\n" if len(asked) == 1 else 'id: 8\ndata: {"id": "8"}\n\n'
        return httpx.Response(200, text=text, headers={"Content-Type": "text/event-stream", "X-Event-Cursor": "7"})

    assert next(served(answer).events.follow()).id == "8"
    assert asked == [None, "7"]


def test_many_runs_are_awaited_by_one_stream_that_breaks() -> None:
    finished = {"r1"}
    streams: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/events"):
            run = request.url.path.rpartition("/")[2]
            status = "COMPLETED" if run in finished else "RUNNING"
            return httpx.Response(200, json={"id": run, "status": status, "pipeline": "one"})
        streams.append(request.url.params.get("after"))
        if len(streams) == 3:
            raise httpx.ReadError("broken", request=request)
        ended = {2: ["r2", "other"], 4: ["r2", "r3"]}.get(len(streams), [])
        finished.update(ended)
        lines = [f'id: {len(streams)}-{n}\ndata: {{"data": {{"run_id": "{run}"}}}}\n\n' for n, run in enumerate(ended)]
        return httpx.Response(200, text=": events\n" + "".join(lines), headers={"X-Event-Cursor": "now"})

    client = served(answer)
    seen: list[str] = []
    found = client.runs.wait_many(["r3", "r1", "r2"], progress=lambda run: seen.append(run.id))
    assert [run.id for run in found] == ["r3", "r1", "r2"]
    assert seen == ["r1", "r2", "r3"]
    assert streams == [None, "now", "2-1", "2-1"]
    with pytest.raises(TimeoutError, match="1 runs are not finished"):
        client.runs.wait_many(["r1", "later"], timeout=0.01)


def test_many_runs_are_awaited_by_polls_of_a_service_without_streams() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/events"):
            return httpx.Response(404, json={"code": "not_found", "detail": "no such route"})
        return httpx.Response(200, json={"id": request.url.path[-2:], "status": "FAILED", "pipeline": "one"})

    assert [run.status for run in served(answer).runs.wait_many(["r1", "r2"])] == ["FAILED"] * 2


def test_the_asynchronous_client_has_the_same_methods() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/runs") and request.method == "GET":
            page = {"items": [{"id": "r1", "status": "RUNNING"}], "next_cursor": None}
            return httpx.Response(200, json=page)
        return httpx.Response(200, json={"id": "r1", "status": "COMPLETED", "pipeline": "one"})

    async def program() -> None:
        async with AsyncClient(URL, "token", transport=httpx.MockTransport(answer)) as client:
            assert (await client.runs.submit(spec=ONE)).id == "r1"
            assert [run.id async for run in client.runs.list()] == ["r1"]
            assert [run.status for run in await client.runs.wait_many(["r1", "r1"])] == ["COMPLETED"] * 2

    asyncio.run(program())


def test_a_run_shows_itself_in_a_notebook() -> None:
    run = Run(
        id="<r>", pipeline="one", status="FAILED", counts={"COMPLETED": 1, "FAILED": 3},
        step_runs=[{"step": "only", "key": "k", "status": "FAILED", "wall_time_seconds": 1.25, "reason_text": "<bad>"}],
    )  # fmt: skip
    html = run._repr_html_()
    assert "&lt;r&gt;" in html
    assert "&lt;bad&gt;" in html
    assert "width:75.00%" in html


def test_the_client_needs_none_of_the_libraries_of_the_server() -> None:
    blocked = ["sqlalchemy", "fastapi", "starlette", "psycopg", "redis", "rq", "alembic", "pydantic", "dynaconf",
               "uvicorn", "yaml", "spython", "typer", "rich", "jsonschema", "jinja2"]  # fmt: skip
    program = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
from ccat_workflow_manager.client import AsyncClient, Client
Client("http://localhost:1", "token").close()
"""
    completed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE)
    assert completed.returncode == 0, completed.stderr


LATER = ("/api/v1/events", "/api/v1/explain", "/explain")
"""Calls that the client knows and a service may not have."""


def test_every_call_is_one_of_the_description(context: Context, tmp_path: Path) -> None:
    with TestClient(create_app(context), base_url=BASE_URL) as app:
        paths = app.get("/openapi.json").json()["paths"]
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        thing = {"id": "x", "status": "COMPLETED", "attempt": 1, "step": "s", "key": "k", "path": "p", "size": 0}
        more: dict[str, Any] = {
            "ids": [],
            "items": [],
            "next_cursor": None,
            "is_directory": False,
            "sha256": sha256().hexdigest(),
        }
        return httpx.Response(200, text=json.dumps({**thing, **more}), headers={"X-Log-Size": "0"})

    service = served(answer)
    for run in (service.runs.get, service.runs.wait, service.runs.cancel, service.runs.retry, service.runs.pause,
                service.runs.resume, service.step_runs.get, service.step_runs.cancel, service.step_runs.retry,
                service.products.get, service.products.lineage, service.pipelines.get, service.explain.run,
                service.explain.step_run):  # fmt: skip
        run("x")
    service.runs.submit("p", parameters={}, labels={}, version=1, priority=1, backend="noop", project="default")
    service.runs.submit_many([{"pipeline": "p"}])
    service.runs.download("x", tmp_path, step="s", type="PLOT", key="k")
    service.products.download("x", tmp_path)
    service.pipelines.apply({"name": "p"})
    service.pipelines.set("p", enabled=False, priority=1)
    service.backends.list()
    service.explain.causes()
    for many in (service.runs.list(status="FAILED", pipeline="p", label="a:b", created_after="2026-01-01", q="x"),
                 service.runs.products("x", step="s", type="PLOT", key="k"), service.pipelines.list(limit=1),
                 service.pipelines.versions("p"), service.step_runs.logs("x"), service.step_runs.attempts("x"),
                 service.step_runs.events("x"), service.step_runs.products("x"), service.events.list()):  # fmt: skip
        list(many)
    for request in sent:
        check(request, paths)


def check(request: httpx.Request, paths: dict[str, Any]) -> None:
    """The call, its query and the fields of its body are described."""
    path = request.url.path
    found = [known for known in paths if re.fullmatch(re.sub(r"\{[^}]+\}", "[^/]+", known), path)]
    calls = [paths[known][request.method.lower()] for known in found if request.method.lower() in paths[known]]
    if not calls and path.endswith(LATER):
        return
    assert calls, f"{request.method} {path} is not described"
    names = {each["name"] for call in calls for each in call.get("parameters", ())}
    assert set(request.url.params) <= names, path
