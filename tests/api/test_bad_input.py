"""Refusals: status, code and path of each fault. A refused request changes nothing."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest

from ccat_workflow_manager.api.paging import encode
from tests.api.rest import CHAIN, ONE, Rest

UNKNOWN = "0197c9a4-5b0e-7cc2-9f57-3f0d6c1a2b3c"
STEP = {"name": "s", "command": ["x"]}
_WORDS_OF_PYDANTIC = re.compile(r"Input should|Unable to|[0-9]e\+")
"""And the sign of a bound that is written like 1e+06."""

Case = tuple[str, str, dict[str, Any], int, str, str | None]


def steps(*given: object) -> dict[str, Any]:
    return {"name": "p", "steps": list(given)}


def run(**body: Any) -> dict[str, Any]:
    return {"json": body}


def raw(content: bytes, kind: str = "application/json", **headers: str) -> dict[str, Any]:
    return {"content": content, "headers": {"Content-Type": kind, **headers}}


def query(**given: Any) -> dict[str, Any]:
    return {"params": given}


def cursor(text: str) -> dict[str, Any]:
    return query(cursor=base64.urlsafe_b64encode(text.encode()).decode().rstrip("="))


RUNS: list[Case] = [
    ("POST", "/runs", raw(b""), 400, "malformed_body", None),
    ("POST", "/runs", raw(b"{"), 400, "malformed_body", None),
    ("POST", "/runs", raw(b'{"pipeline": "one",}'), 400, "malformed_body", None),
    ("POST", "/runs", raw(b'{"priority": NaN}'), 400, "malformed_body", None),
    ("POST", "/runs", raw(b'{"priority": -Infinity}'), 400, "malformed_body", None),
    ("POST", "/runs", raw(b'{"a": 1, "a": 2}'), 400, "malformed_body", None),
    ("POST", "/runs", raw(b'{"priority": ' + b"9" * 5000 + b"}"), 400, "malformed_body", None),
    ("POST", "/runs", raw(b"[" * 200_000), 400, "malformed_body", None),
    ("POST", "/runs", raw(b'{"pipeline": "\xff"}'), 400, "malformed_body", None),
    ("POST", "/runs", raw(b'{"pipeline": "one"}', "text/plain"), 415, "unsupported_media_type", None),
    ("POST", "/runs", raw(b"pipeline: one", "application/yaml"), 415, "unsupported_media_type", None),
    ("POST", "/runs", raw(b"{}", **{"Content-Encoding": "gzip"}), 415, "unsupported_media_type", None),
    ("POST", "/runs", {"data": {"pipeline": "one"}}, 415, "unsupported_media_type", None),
    ("POST", "/runs", raw(b"[]"), 422, "invalid", ""),
    ("POST", "/runs", raw(b"null"), 422, "invalid", ""),
    ("POST", "/runs", run(), 422, "invalid", "pipeline"),
    ("POST", "/runs", run(pipeline="one", spec=ONE), 422, "invalid", "pipeline"),
    ("POST", "/runs", run(pipeline=1), 422, "invalid", "pipeline"),
    ("POST", "/runs", run(pipeline="a\0b"), 422, "invalid", "pipeline"),
    ("POST", "/runs", run(pipeline="\ud800"), 422, "invalid", "pipeline"),
    ("POST", "/runs", run(pipeline="unknown"), 404, "not_found", "pipeline"),
    ("POST", "/runs", run(pipeline="one", version=99), 404, "not_found", "version"),
    ("POST", "/runs", run(pipeline="one", version=0), 422, "invalid", "version"),
    ("POST", "/runs", run(pipeline="one", version=10**30), 422, "invalid", "version"),
    ("POST", "/runs", run(pipeline="one", version="1"), 422, "invalid", "version"),
    ("POST", "/runs", run(pipeline="one", version=True), 422, "invalid", "version"),
    ("POST", "/runs", run(spec=ONE, version=1), 422, "invalid", "version"),
    ("POST", "/runs", run(pipeline="one", priority=1001), 422, "invalid", "priority"),
    ("POST", "/runs", run(pipeline="one", priority=1.5), 422, "invalid", "priority"),
    ("POST", "/runs", run(pipeline="one", priority=-(10**40)), 422, "invalid", "priority"),
    ("POST", "/runs", run(pipeline="one", labels=["a"]), 422, "invalid", "labels"),
    ("POST", "/runs", run(pipeline="one", labels={"a": 1}), 422, "invalid", "labels.a"),
    ("POST", "/runs", run(pipeline="one", labels={"": "x"}), 422, "invalid", 'labels[""]'),
    ("POST", "/runs", run(pipeline="one", labels={"a:b": "x"}), 422, "invalid", 'labels["a:b"]'),
    ("POST", "/runs", run(pipeline="one", labels={"a": "x\0"}), 422, "invalid", "labels.a"),
    ("POST", "/runs", run(pipeline="one", labels={"a": "\udfff"}), 422, "invalid", "labels.a"),
    ("POST", "/runs", run(pipeline="one", labels={"a": "x" * 501}), 422, "invalid", "labels.a"),
    ("POST", "/runs", run(pipeline="one", labels={str(n): "" for n in range(51)}), 422, "invalid", "labels"),
    ("POST", "/runs", run(pipeline="one", backend="nonesuch"), 422, "invalid", "backend"),
    ("POST", "/runs", run(pipeline="one", backend={}), 422, "invalid", "backend"),
    ("POST", "/runs", run(pipeline="one", parameter={}), 422, "invalid", "parameter"),
    ("POST", "/runs", run(pipeline="one", **{"\ud800": 1}), 422, "invalid", '["\\ud800"]'),
    ("POST", "/runs", run(**{f"field {n}": n for n in range(20_001)}), 422, "invalid", ""),
    ("POST", "/runs", run(pipeline="chain", parameters=[]), 422, "invalid", "parameters"),
    ("POST", "/runs", run(pipeline="chain"), 422, "invalid", "parameters.scans"),
    ("POST", "/runs", run(pipeline="chain", parameters={"scans": 1}), 422, "invalid", "parameters.scans"),
    ("POST", "/runs", run(pipeline="chain", parameters={"scans": [1, 1]}), 422, "invalid", "parameters.scans[1]"),
    ("POST", "/runs", run(pipeline="chain", parameters={"scans": ["\0"]}), 422, "invalid", "parameters.scans[0]"),
    ("POST", "/runs", run(pipeline="chain", parameters={"scans": [], "x": 1}), 422, "invalid", "parameters.x"),
    ("POST", "/runs", run(spec=7), 422, "invalid", "spec"),
    ("POST", "/runs", run(spec={}), 422, "invalid", "spec.name"),
    ("POST", "/runs", run(spec=steps(STEP, STEP)), 422, "invalid", "spec.steps[1].name"),
    ("POST", "/runs", run(spec=steps({**STEP, "backend": "nonesuch"})), 422, "invalid", "spec.steps[0].backend"),
    ("POST", "/runs", raw(b'{"pipeline": "one"}', **{"Idempotency-Key": ""}), 422, "invalid", "Idempotency-Key"),
    ("POST", "/runs", raw(b'{"pipeline": "one"}', **{"Idempotency-Key": "x" * 256}), 422, "invalid", "Idempotency-Key"),
    ("POST", "/runs", {**run(pipeline="one"), **query(dry=1)}, 422, "invalid", "dry"),
    ("POST", "/runs/bulk", run(), 422, "invalid", "runs"),
    ("POST", "/runs/bulk", run(runs={}), 422, "invalid", "runs"),
    ("POST", "/runs/bulk", run(runs=[]), 422, "invalid", "runs"),
    ("POST", "/runs/bulk", run(runs=[{"pipeline": "one"}] * 5001), 422, "invalid", "runs"),
    ("POST", "/runs/bulk", run(runs=[{"pipeline": "one"}, 1]), 422, "invalid", "runs[1]"),
    ("POST", "/runs/bulk", run(runs=[{"pipeline": "one", "labels": {"a": 1}}]), 422, "invalid", "runs[0].labels.a"),
    ("POST", "/runs/bulk", run(runs=[{"spec": steps()}]), 422, "invalid", "runs[0].spec.steps"),
    ("POST", "/runs/bulk", run(runs=[{"pipeline": "one"}, {"pipeline": "two"}]), 404, "not_found", "runs[1].pipeline"),
    ("POST", "/runs/cancel", run(), 422, "invalid", "ids"),
    ("POST", "/runs/cancel", run(ids=[], filter={"q": "x"}), 422, "invalid", "ids"),
    ("POST", "/runs/cancel", run(ids=[]), 422, "invalid", "ids"),
    ("POST", "/runs/cancel", run(ids="all"), 422, "invalid", "ids"),
    ("POST", "/runs/cancel", run(ids=[UNKNOWN, 1]), 422, "invalid", "ids[1]"),
    ("POST", "/runs/cancel", run(ids=[UNKNOWN]), 404, "not_found", "ids[0]"),
    ("POST", "/runs/cancel", run(filter={}), 422, "invalid", "filter"),
    ("POST", "/runs/cancel", run(filter={"status": None, "q": ""}), 422, "invalid", "filter"),
    ("POST", "/runs/cancel", run(filter=[]), 422, "invalid", "filter"),
    ("POST", "/runs/retry", run(filter={"status": "BROKEN"}), 422, "invalid", "filter.status"),
    ("POST", "/runs/retry", run(filter={"status": ["FAILED", 1]}), 422, "invalid", "filter.status[1]"),
    ("POST", "/runs/retry", run(filter={"stat": "FAILED"}), 422, "invalid", "filter.stat"),
    ("POST", "/runs/retry", run(filter={"label": {"a": "b"}}), 422, "invalid", "filter.label"),
    ("POST", "/runs/retry", run(filter={"created_after": 5}), 422, "invalid", "filter.created_after"),
    ("GET", "/runs", query(status="DONE"), 422, "invalid", "status"),
    ("GET", "/runs", query(label="nocolon"), 422, "invalid", "label"),
    ("GET", "/runs", query(label=["a:b", ":c"]), 422, "invalid", "label[1]"),
    ("GET", "/runs", query(label="a:\0"), 422, "invalid", "label"),
    ("GET", "/runs", query(pipeline="\0"), 422, "invalid", "pipeline"),
    ("GET", "/runs", query(q="\0"), 422, "invalid", "q"),
    ("GET", "/runs", query(q="x" * 201), 422, "invalid", "q"),
    ("GET", "/runs", query(created_after="yesterday"), 422, "invalid", "created_after"),
    ("GET", "/runs", query(created_after="0001-01-01T00:00:00+23:00"), 422, "invalid", "created_after"),
    ("GET", "/runs", query(limit=0), 422, "invalid", "limit"),
    ("GET", "/runs", query(limit=1001), 422, "invalid", "limit"),
    ("GET", "/runs", query(label=["a:1", "b:1", "a:2"]), 422, "invalid", "label"),
    ("POST", "/runs/cancel", run(filter={"label": ["a:1", "a:2"]}), 422, "invalid", "filter.label"),
    ("GET", "/runs", query(limit="many"), 422, "invalid", "limit"),
    ("GET", "/runs", query(limit=""), 422, "invalid", "limit"),
    ("GET", "/runs", query(caveats="maybe"), 422, "invalid", "caveats"),
    ("GET", "/runs", query(limit=[1, 2]), 422, "invalid", "limit"),
    ("GET", "/runs", query(page=2), 422, "invalid", "page"),
    ("GET", "/runs", query(cursor=""), 400, "bad_cursor", None),
    ("GET", "/runs", query(cursor="nonsense"), 400, "bad_cursor", None),
    ("GET", "/runs", query(cursor="é"), 400, "bad_cursor", None),
    ("GET", "/runs", query(cursor="A" * 1001), 422, "invalid", "cursor"),
    ("GET", "/runs", query(cursor=encode("pipelines", "one")), 400, "bad_cursor", None),
    ("GET", "/runs", cursor('["runs", 5]'), 400, "bad_cursor", None),
    ("GET", "/runs", cursor('["runs", "x"]'), 400, "bad_cursor", None),
    ("GET", "/runs", cursor('["runs"]'), 400, "bad_cursor", None),
    ("GET", "/runs", cursor('{"runs": 1}'), 400, "bad_cursor", None),
    ("GET", "/runs", cursor("[" * 700), 400, "bad_cursor", None),
    ("GET", "/runs/nothing", {}, 422, "invalid", "run_id"),
    ("GET", f"/runs/{UNKNOWN}", {}, 404, "not_found", None),
    ("GET", f"/runs/{UNKNOWN}", query(full=1), 422, "invalid", "full"),
    ("POST", f"/runs/{UNKNOWN}/cancel", {}, 404, "not_found", None),
    ("POST", f"/runs/{UNKNOWN}/retry", {}, 404, "not_found", None),
    ("POST", f"/runs/{UNKNOWN}/pause", {}, 404, "not_found", None),
    ("POST", f"/runs/{UNKNOWN}/resume", {}, 404, "not_found", None),
    ("PUT", f"/runs/{UNKNOWN}", {}, 405, "method_not_allowed", None),
    ("GET", "/rums", {}, 404, "not_found", None),
    ("GET", "/runs/", {}, 404, "not_found", None),
]

OTHERS: list[Case] = [
    ("GET", "/step-runs/1", {}, 422, "invalid", "step_run_id"),
    ("GET", f"/step-runs/{UNKNOWN}", {}, 404, "not_found", None),
    ("GET", f"/step-runs/{UNKNOWN}/attempts", {}, 404, "not_found", None),
    ("GET", f"/step-runs/{UNKNOWN}/events", {}, 404, "not_found", None),
    ("GET", f"/step-runs/{UNKNOWN}/products", {}, 404, "not_found", None),
    ("GET", f"/step-runs/{UNKNOWN}/log", {}, 404, "not_found", None),
    ("GET", f"/step-runs/{UNKNOWN}/log", query(stream="stdin"), 422, "invalid", "stream"),
    ("GET", f"/step-runs/{UNKNOWN}/log", query(tail=-1), 422, "invalid", "tail"),
    ("GET", f"/step-runs/{UNKNOWN}/log", query(attempt=10**9), 422, "invalid", "attempt"),
    ("GET", f"/step-runs/{UNKNOWN}/log", query(tail="9" * 5000), 422, "invalid", "tail"),
    ("POST", f"/step-runs/{UNKNOWN}/cancel", {}, 404, "not_found", None),
    ("POST", f"/step-runs/{UNKNOWN}/retry", {}, 404, "not_found", None),
    ("GET", f"/step-runs/{UNKNOWN}/events", cursor('["events", -1]'), 400, "bad_cursor", None),
    ("GET", f"/step-runs/{UNKNOWN}/events", cursor('["events", true]'), 400, "bad_cursor", None),
    ("GET", f"/step-runs/{UNKNOWN}/events", cursor(f'["events", {2**63}]'), 400, "bad_cursor", None),
    ("GET", f"/step-runs/{UNKNOWN}/products", cursor('["products", "\\u0000"]'), 400, "bad_cursor", None),
    ("GET", "/products/x", {}, 422, "invalid", "product_id"),
    ("GET", f"/products/{UNKNOWN}", {}, 404, "not_found", None),
    ("GET", f"/products/{UNKNOWN}/content", {}, 404, "not_found", None),
    ("GET", f"/products/{UNKNOWN}/lineage", {}, 404, "not_found", None),
    ("GET", "/pipelines/unknown", {}, 404, "not_found", None),
    ("GET", "/pipelines/unknown/versions", {}, 404, "not_found", None),
    ("GET", "/pipelines/NOT%20A%20NAME", {}, 422, "invalid", "name"),
    ("GET", "/pipelines/a%00b", {}, 422, "invalid", "name"),
    ("GET", "/pipelines", cursor('["pipelines", 1]'), 400, "bad_cursor", None),
    ("GET", "/pipelines/one/versions", cursor('["versions", "1"]'), 400, "bad_cursor", None),
    ("POST", "/pipelines", raw(b"{"), 400, "malformed_body", None),
    ("POST", "/pipelines", run(), 422, "invalid", "name"),
    ("POST", "/pipelines", raw(b"name: [", "application/yaml"), 422, "invalid", None),
    ("POST", "/pipelines", raw(b"\xff", "application/yaml"), 400, "malformed_body", None),
    ("POST", "/pipelines", raw(b"", "application/yaml"), 422, "invalid", ""),
    ("POST", "/pipelines", raw(b"name: a\nname: b\n", "application/yaml"), 422, "invalid", None),
    ("POST", "/pipelines", raw(b"&a [*a]", "application/yaml"), 422, "invalid", None),
    ("POST", "/pipelines", raw(b"!!python/name:os.system x", "application/yaml"), 422, "invalid", None),
    ("POST", "/pipelines", raw(b"<xml/>", "application/xml"), 415, "unsupported_media_type", None),
    ("PUT", "/pipelines/two", {"json": ONE}, 422, "invalid", "name"),
    ("PUT", "/pipelines/p", {"json": []}, 422, "invalid", ""),
    ("PUT", "/pipelines/p", {"json": steps()}, 422, "invalid", "steps"),
    ("PUT", "/pipelines/p", {"json": {**steps(STEP), "extra": 1}}, 422, "invalid", "extra"),
    ("PUT", "/pipelines/p", {"json": steps({**STEP, "depends_on": ["q"]})}, 422, "invalid", "steps[0].depends_on[0]"),
    (
        "PUT", "/pipelines/p",
        {"json": steps({**STEP, "depends_on": ["t"]}, {"name": "t", "command": ["x"], "depends_on": ["s"]})},
        422, "invalid", "steps[0].depends_on[0]",
    ),
    ("PUT", "/pipelines/p", {"json": steps({**STEP, "command": "sh -c x"})}, 422, "invalid", "steps[0].command"),
    ("PUT", "/pipelines/p", {"json": steps({**STEP, "command": ["${item}"]})}, 422, "invalid", "steps[0].command[0]"),
    ("PUT", "/pipelines/p", {"json": steps({**STEP, "command": ["a\0"]})}, 422, "invalid", "steps[0].command[0]"),
    ("PUT", "/pipelines/p", {"json": steps({**STEP, "image": "../x\0"})}, 422, "invalid", "steps[0].image"),
    ("PUT", "/pipelines/p", {"json": steps({**STEP, "image": "../x.sif"})}, 422, "invalid", "steps[0].image"),
    ("POST", "/runs", run(spec=steps({**STEP, "image": "ftp://x"})), 422, "invalid", "spec.steps[0].image"),
    (
        "POST", "/runs", run(spec=steps({**STEP, "image": "docker://${item}", "foreach": ["a", "b c"]})),
        422, "invalid", "spec.steps[0].foreach[1]",
    ),
    (
        "PUT", "/pipelines/p", {"json": steps({**STEP, "resources": {"cpu": -1}})},
        422, "invalid", "steps[0].resources.cpu",
    ),
    (
        "PUT", "/pipelines/p", {"json": steps({**STEP, "resources": {"memory": 1}})},
        422, "invalid", "steps[0].resources.memory",
    ),
    ("PUT", "/pipelines/p", {"json": {**steps(STEP), "parameters": {"type": "x"}}}, 422, "invalid", "parameters.type"),
    ("PUT", "/pipelines/p", {"json": steps(STEP), **query(dry_run="perhaps")}, 422, "invalid", "dry_run"),
    ("PATCH", "/pipelines/one", run(), 422, "invalid", ""),
    ("PATCH", "/pipelines/one", run(enabled="yes"), 422, "invalid", "enabled"),
    ("PATCH", "/pipelines/one", run(priority=5000), 422, "invalid", "priority"),
    ("PATCH", "/pipelines/one", run(name="two"), 422, "invalid", "name"),
    ("PATCH", "/pipelines/unknown", run(enabled=True), 404, "not_found", None),
    ("DELETE", "/pipelines/one", {}, 405, "method_not_allowed", None),
    ("GET", "/backends", query(all=1), 422, "invalid", "all"),
    ("GET", "/workers", query(cursor="x"), 400, "bad_cursor", None),
    ("GET", "/dashboard/summary", query(since=1), 422, "invalid", "since"),
    ("PUT", "/healthz", {}, 405, "method_not_allowed", None),
]  # fmt: skip


@pytest.mark.parametrize("cases", [RUNS, OTHERS], ids=["runs", "others"])
def test_each_fault_is_reported_at_its_path(rest: Rest, cases: list[Case]) -> None:
    rest.put("/pipelines/one", ONE)
    rest.put("/pipelines/chain", CHAIN)
    wrong = []
    for method, path, given, status, code, place in cases:
        more = dict(given)
        if "json" in more:  # httpx would not escape half of a surrogate pair
            more |= raw(json.dumps(more.pop("json")).encode())
        response = rest.send(method, path, **more)
        try:
            rest.refused(response, status, code, *([] if place is None else [place]))
            assert not _WORDS_OF_PYDANTIC.search(response.text)
        except AssertionError as error:
            wrong.append(f"{method} {path} {str(more)[:200]}: {response.status_code} {str(error)[:400]}")
    assert wrong == []
    assert rest.get("/runs")["items"] == []
    assert [each["version"] for each in rest.get("/pipelines")["items"]] == [1, 1]


def test_null_counts_as_not_given(rest: Rest) -> None:
    rest.post("/webhooks", {"url": "https://example.org/", "types": None, "filter": None, "project": None}, 201)
    assert rest.post("/service/pause", {"why": "storm", "mode": None, "until": None}, 200)["mode"] == "pause"
    assert rest.put("/projects/p", {"weight": None, "max_live": None}, 200)["weight"] == 1
    options = dict.fromkeys(("from", "version", "parameters", "reuse", "dry_run", "ids"))
    assert rest.post("/runs/replay", {**options, "filter": {"pipeline": "one"}}) == {"dry_run": False, "items": []}
    rest.refused(rest.send("POST", "/webhooks", json={"url": None}), 422, "invalid", "url")


def test_a_wrong_method_is_told_all_that_the_path_has(rest: Rest) -> None:
    for path, methods in (
        ("/pipelines", "GET, HEAD, POST"),
        ("/pipelines/one", "GET, HEAD, PATCH, PUT"),
        (f"/webhooks/{UNKNOWN}", "DELETE, GET, HEAD"),
        (f"/runs/{UNKNOWN}/cancel", "POST"),
        ("/healthz", "GET, HEAD"),
    ):
        for method in ("OPTIONS", "BREW"):
            answer = rest.send(method, path)
            rest.refused(answer, 405, "method_not_allowed")
            assert answer.headers["allow"] == methods, path


def test_all_faults_are_reported_together(rest: Rest) -> None:
    body = {"pipeline": 1, "labels": {"a": 1, "b": []}, "priority": "high", "extra": None, "parameters": 3}
    problem = rest.refused(rest.send("POST", "/runs", json=body), 422, "invalid")
    assert {fault["path"] for fault in problem["faults"]} == {
        "pipeline", "labels.a", "labels.b", "priority", "extra", "parameters",
    }  # fmt: skip


def test_an_oversized_body_is_refused_before_it_is_read(rest: Rest) -> None:
    kind = {"Content-Type": "application/json"}
    limit = 32 * 1024**2
    big = b" " * (limit + 1)
    rest.refused(rest.send("POST", "/runs", content=big, headers=kind), 413, "body_too_large")
    chunks = (b" " * 1024**2 for _ in range(limit // 1024**2 + 1))
    rest.refused(rest.send("POST", "/runs", content=chunks, headers=kind), 413, "body_too_large")
    rest.refused(rest.send("POST", "/runs", content=big[:-1], headers=kind), 400, "malformed_body")


def test_a_header_that_is_not_ascii_is_refused(rest: Rest) -> None:
    headers = {"Content-Type": "application/json", "Idempotency-Key": b"caf\xe9"}
    response = rest.client.post("/api/v1/runs", content=b'{"pipeline": "one"}', headers=headers)
    rest.refused(response, 422, "invalid", "Idempotency-Key")


def test_a_slash_at_the_end_is_named(rest: Rest) -> None:
    problem = rest.refused(rest.send("GET", "/runs/"), 404, "not_found")
    assert problem["detail"] == "there is nothing at /api/v1/runs/; addresses end without a slash"
