"""One trace from the request to the collected results, over manager, worker and program."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.fixtures_service import Service, ServiceMaker, sh
from tests.support.hook_server import HookServer, hook_server
from tests.support.waiting import wait_for

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
QUIET = "c" * 32
SPANS = {"POST /api/v1/runs", "queue", "launch", "submit", "follow", "job", "collect"}


@pytest.fixture
def collector() -> Iterator[HookServer]:
    """A stand-in for a collector of OpenTelemetry."""
    with hook_server() as server:
        yield server


@pytest.fixture
def service(make_service: ServiceMaker, collector: HookServer) -> Service:
    """A deployment that traces."""
    return make_service(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url.removesuffix("/hook"))


def _spans(collector: HookServer) -> list[dict[str, Any]]:
    found = []
    for call in collector.calls:
        assert (call.path, call.headers["content-type"]) == ("/v1/traces", "application/json")
        for resource in json.loads(call.body)["resourceSpans"]:
            attributes = {each["key"]: each["value"]["stringValue"] for each in resource["resource"]["attributes"]}
            assert attributes["service.name"] == "ccat-workflow-manager"
            found += [span for scope in resource["scopeSpans"] for span in scope["spans"]]
    return found


def test_one_trace_from_the_request_to_the_results(service: Service, collector: HookServer) -> None:
    spec = {"name": "flow", "steps": [sh('echo "$TRACEPARENT"; echo x > "$WORKFLOW_OUTPUT_DIR/x"')]}
    run_id, quiet = (
        service.call("POST", "/runs", json={"spec": spec}, headers={"traceparent": traceparent})["id"]
        for traceparent in (f"00-{TRACE}-{PARENT}-01", f"00-{QUIET}-{PARENT}-00")
    )
    for each in (run_id, quiet):
        assert service.wait(each)["status"] == "COMPLETED"

    def complete() -> dict[str, dict[str, Any]] | None:
        found = {span["name"]: span for span in _spans(collector) if span["traceId"] == TRACE}
        return found if found.keys() >= SPANS else None

    spans = wait_for(complete, 30, "all spans of the trace")
    request = spans["POST /api/v1/runs"]
    assert request["parentSpanId"] == PARENT
    assert {spans[name]["parentSpanId"] for name in SPANS - {"POST /api/v1/runs"}} == {request["spanId"]}
    assert all(int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"]) for span in spans.values())
    version, trace_id, span_id, flags = service.stream(service.step(run_id, "only")).strip().split("-")
    assert (version, trace_id, span_id, flags) == ("00", TRACE, spans["job"]["spanId"], "01")
    assert not [span for span in _spans(collector) if span["traceId"] == QUIET], "a trace that is not sampled"
    assert service.stream(service.step(quiet, "only")).startswith(f"00-{QUIET}-")
