"""Requests that were not meant well cost no more than others."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.types import Message

from ccat_workflow_manager.api.dependencies import LARGE_AT_ONCE
from ccat_workflow_manager.api.paging import json_response
from ccat_workflow_manager.app import create_app
from ccat_workflow_manager.bounded_cache import BoundedCache
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.definition.text import load_text
from ccat_workflow_manager.errors import MAX_FAULTS, Invalid
from ccat_workflow_manager.json_values import duplicate_name
from ccat_workflow_manager.limits import enforce, limits
from ccat_workflow_manager.local_api import SECRET_FILE
from tests.api.rest import BASE_URL, Rest
from tests.support.fixtures_service import Service, ServiceMaker
from tests.support.fixtures_store import ContextMaker
from tests.support.waiting import PATIENCE


def test_a_body_without_a_type_is_refused(service: Service) -> None:
    """Any web page can make a browser send one, without a question to the server before."""
    body = json.dumps({"spec": {"name": "x", "steps": [{"name": "s", "command": ["true"]}]}}).encode()
    for headers in ({}, {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}):
        response = service.client.post("/runs", content=body, headers=headers)
        assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
@pytest.mark.parametrize("path", ["/runs/{}/cancel", "/runs/{}/pause", "/runs/{}/retry", "/service/resume"])
def test_an_empty_form_changes_nothing(service: Service, path: str, kind: str) -> None:
    run = service.client.post("/runs", json={"spec": {"name": "x", "steps": [{"name": "s", "command": ["true"]}]}})
    response = service.client.post(path.format(run.json()["id"]), content=b"", headers={"Content-Type": kind})
    assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")


def test_a_duplicate_name_is_found_in_one_pass() -> None:
    class Counted(str):
        __slots__ = ()
        compared = 0

        def __eq__(self, other: object) -> bool:
            Counted.compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    names = [Counted(number) for number in range(10_000)]
    assert duplicate_name((name, None) for name in [*names, Counted("9999")]) == "9999"
    assert Counted.compared < 2 * len(names)


def test_a_definition_with_a_duplicate_name_is_refused() -> None:
    names = ",".join(f'"k{number}":1' for number in range(50_000))
    with pytest.raises(Invalid, match="z"):
        load_text(f'{{{names},"z":1,"z":1}}')


# --- how much one request may cost ----------------------------------------------------------------------------------


@pytest.fixture
def small_limits(make_context: ContextMaker) -> Iterator[Context]:
    before = limits()
    yield make_context("noop", REQUEST_STEP_RUNS="100", JSON_VALUES="1000", BODY_LIMIT_MB="2")
    enforce(before)


def fan(count: int) -> dict[str, Any]:
    return {"spec": {"name": "fan", "steps": [{"name": "s", "command": ["true"], "foreach": list(range(count))}]}}


def refusal(context: Context, body: Any) -> dict[str, Any]:
    with TestClient(create_app(context), base_url=BASE_URL) as client:
        rest = Rest(client)
        path = "/runs/bulk" if "runs" in body else "/runs"
        return rest.refused(rest.send("POST", path, json=body), 422, "invalid")


def test_all_runs_of_a_request_share_the_limit_of_step_runs(small_limits: Context) -> None:
    problem = refusal(small_limits, {"runs": [fan(60), fan(39), fan(2)]})
    assert [(fault["path"], "REQUEST_STEP_RUNS" in fault["message"]) for fault in problem["faults"]] == [
        ("runs[2]", True)
    ]
    assert "REQUEST_STEP_RUNS" in refusal(small_limits, fan(101))["detail"]


def test_steps_without_step_runs_count_too(small_limits: Context) -> None:
    steps = [{"name": f"s{n}", "command": ["true"], "foreach": "${parameters.none}"} for n in range(60)]
    schema = {"properties": {"none": {"type": "array", "default": []}}}
    spec = {"name": "empty", "parameters": schema, "steps": [*steps, {"name": "one", "command": ["true"]}]}
    assert "REQUEST_STEP_RUNS" in refusal(small_limits, {"runs": [{"spec": spec}] * 2})["detail"]


def test_defaults_that_are_copied_into_each_run_count(small_limits: Context) -> None:
    schema = {"properties": {"many": {"default": [0] * 400}}}
    spec = {"name": "copied", "parameters": schema, "steps": [{"name": "one", "command": ["true"]}]}
    problem = refusal(small_limits, {"runs": [{"spec": spec}] * 3})
    assert [fault["path"] for fault in problem["faults"]] == ["runs[2].parameters"]
    assert "JSON_VALUES" in problem["detail"]


@pytest.mark.parametrize(
    "body",
    [
        {"pipeline": "x", "labels": {f"k{n}": 1 for n in range(10_000)}},
        {"pipeline": "x", **{f"k{n}": 1 for n in range(10_000)}},
        {"runs": [{"pipeline": "x", **{f"k{n}": 1 for n in range(1000)}}] * 20},
        {"runs": [{"pipeline": 1}] * 4000},
        {"pipeline": "x", "p" * 100_000: 1, "q" * 100_000: 1},
    ],
)
def test_an_answer_is_small(service: Service, body: Any) -> None:
    response = service.client.post("/runs/bulk" if "runs" in body else "/runs", json=body)
    assert response.status_code == 422
    assert len(response.json()["faults"]) <= MAX_FAULTS + 1
    assert len(response.content) < 400_000


def test_a_body_is_limited_in_size(small_limits: Context) -> None:
    json_type = {"Content-Type": "application/json"}
    with TestClient(create_app(small_limits), base_url=BASE_URL) as client:
        rest = Rest(client)
        large = rest.send("POST", "/runs", content=b" " * (2 * 1024**2 + 1), headers=json_type)
        assert "BODY_LIMIT_MB" in rest.refused(large, 413, "body_too_large")["detail"]


def test_a_slow_client_is_cut_off(make_service: ServiceMaker) -> None:
    service = make_service(API_HEADER_SECONDS="3", API_BODY_SECONDS="3", API_CONNECTIONS="10")
    address = ("127.0.0.1", service.port)
    secret = (service.data_dir / SECRET_FILE).read_text().strip()
    begun = f"POST /api/v1/runs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {secret}\r\n"
    with (
        socket.create_connection(address, timeout=PATIENCE) as idle,
        socket.create_connection(address, timeout=PATIENCE) as slow,
    ):
        idle.sendall(begun.encode())
        slow.sendall(f"{begun}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode())
        assert cut_off(idle) == b""
        assert cut_off(slow).startswith(b"HTTP/1.1 408")
    with ExitStack() as open_ones:
        crowd = [open_ones.enter_context(socket.create_connection(address, timeout=PATIENCE)) for _ in range(30)]
        assert [cut_off(each) for each in crowd] == [b""] * 30
    assert service.client.get("/runs").status_code == 200


def test_few_large_answers_are_sent_at_once(make_context: ContextMaker) -> None:
    app = create_app(make_context("noop"))
    may_go, sent, count = asyncio.Event(), list[int](), LARGE_AT_ONCE + 3
    scope = {"type": "http", "method": "GET", "app": app}

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            sent.append(message["status"])
            if len(sent) == count:
                may_go.set()
        await may_go.wait()

    async def ask_for_all() -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(count):
                tasks.create_task(json_response("x" * 2_000_000)(scope, receive, send))

    asyncio.run(asyncio.wait_for(ask_for_all(), PATIENCE))
    assert sorted(sent) == [200] * LARGE_AT_ONCE + [503] * 3


def cut_off(connection: socket.socket) -> bytes:
    """What the server sends before it closes the connection."""
    received = b""
    try:
        while data := connection.recv(10_000):
            received += data
    except ConnectionResetError:
        pass
    return received


def test_a_cache_keeps_what_was_used_last() -> None:
    by_number: BoundedCache[int, str] = BoundedCache(4)
    for number in range(10):
        by_number.put(number, "value")
        assert by_number.get(0) == "value"
    assert [number for number in range(10) if number in by_number] == [0, 7, 8, 9]
    by_number.pop(0)
    by_number.pop(0)
    assert by_number.get(0) is None
    by_size: BoundedCache[int, str] = BoundedCache(100)
    for number in range(10):
        by_size.put(number, "value", 20)
    by_size.get(5)
    by_size.put(10, "value", 25)
    assert [number for number in range(12) if by_size.get(number)] == [5, 8, 9, 10]
    by_size.put(11, "value", 26)
    assert by_size.get(11) is None
