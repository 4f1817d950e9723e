"""Pipelines with their form, products, backends, events, the audit, tokens, the search field."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from html import unescape
from itertools import product
from pathlib import Path

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.hpc.base import QueueLimits, QueueStatus
from ccat_workflow_manager.lifecycle.event_types import BackendEvent
from ccat_workflow_manager.lifecycle.models import NewProduct
from ccat_workflow_manager.services import presence
from ccat_workflow_manager.services.disks import Disk
from tests.api.rest import CHAIN, ONE, Hand, Rest
from tests.dashboard.test_actions import NO_NUMBERS, send
from tests.dashboard.test_fits import image

BEFORE = {
    "name", "available", "running", "pending", "cpus_total", "cpus_used", "memory_total_gb", "memory_used_gb", "limits",
    "details",
}  # fmt: skip
"""What a worker of version 0.1 stores about a queue."""
ASKS = {
    "name": "asks",
    "parameters": {
        "type": "object",
        "required": ["scans"],
        "properties": {
            "scans": {"type": "array", "items": {"type": "string"}, "minItems": 1},
            "line": {"type": "string", "enum": ["CO43", "CO76"]},
            "spacing": {"type": "number", "maximum": 60},
            "deep": {"type": "boolean"},
            "more": {"type": "object"},
        },
    },
    "steps": [{"name": "only", "foreach": "${parameters.scans}", "command": ["a", "${item}"]}],
}
FULL = [("p.scans", "a%0Ab"), ("p.line", "CO76"), ("p.spacing", "7.5"), ("p.deep", "on"), ("p.more", "%7B%22x%22:1%7D")]


def test_a_form_starts_a_run_with_what_it_says(rest: Rest) -> None:
    rest.post("/pipelines", ASKS, 201)
    page = rest.client.get("/pipelines/asks").text
    assert re.findall(r'name="p\.(\w+)"', page) == ["scans", "line", "spacing", "deep", "more"]
    checked = send(rest, "/ui/pipelines/asks/check", FULL).json()
    assert checked["faults"] == []
    assert "2 step runs" in checked["says"]
    answer = send(rest, "/pipelines/asks/start", [*FULL, ("labels", "source:%20Orion"), ("priority", "5")])
    assert answer.status_code == 303, answer.text
    run = rest.get(answer.headers["location"])
    assert run["parameters"] == {"scans": ["a", "b"], "line": "CO76", "spacing": 7.5, "deep": True, "more": {"x": 1}}
    assert (run["labels"], run["priority"]) == ({"source": "Orion"}, 5)
    again = rest.client.get(f"/pipelines/asks?from={run['id']}").text
    assert ">a\nb</textarea>" in again


def test_a_form_with_faults_keeps_what_was_typed_and_marks_each_field(rest: Rest) -> None:
    rest.post("/pipelines", ASKS, 201)
    fields = [("p.spacing", "75"), ("p.more", "%7B"), ("labels", "nonsense")]
    answer = send(rest, "/pipelines/asks/start", fields)
    assert answer.status_code == 422
    assert 'value="75"' in answer.text
    assert answer.text.count('aria-invalid="true"') == 1
    answer = send(rest, "/pipelines/asks/start", [("p.scans", "a"), ("p.spacing", "75")])
    assert 'aria-invalid="true"' in answer.text
    paths = [fault["path"] for fault in send(rest, "/ui/pipelines/asks/check", [("p.spacing", "75")]).json()["faults"]]
    assert any("spacing" in path for path in paths)
    for name, text in product(("priority", "version"), NO_NUMBERS):
        assert send(rest, "/pipelines/asks/start", [("p.scans", "a"), (name, text)]).status_code == 422
    assert rest.get("/runs")["items"] == []


def test_a_form_says_what_a_field_takes_and_where_in_it_a_fault_is(rest: Rest) -> None:
    inner = {"type": "object", "properties": {"size": {"type": "integer"}, "axis": {"type": "string"}}}
    fields = {"grid": inner, "n": {"type": "integer", "minimum": 1, "maximum": 9}, "any": {"description": "Any."}}
    rest.post("/pipelines", {**ONE, "parameters": {"type": "object", "properties": fields}}, 201)
    page = rest.client.get("/pipelines/one").text
    for text in ("In JSON, with size, axis.", "Whole number, at least 1, at most 9.", "Any. In JSON."):
        assert text in page
    answer = send(rest, "/pipelines/one/start", [("p.grid", "%7B%22size%22:%22big%22%7D")])
    assert ">size: must be a whole number" in answer.text


def test_versions_are_compared_and_pipelines_switched(rest: Rest) -> None:
    rest.post("/pipelines", ONE, 201)
    changed = {**ONE, "steps": [{"name": "only", "command": ["false"]}]}
    assert rest.send("PUT", "/pipelines/one", json=changed).status_code == 201
    page = rest.client.get("/pipelines/one").text
    assert 'class="del"' in page
    assert 'class="add"' in page
    assert rest.client.get("/pipelines/one/start").headers["location"] == "/pipelines/one#start"
    for name in ("version", "against"):
        assert rest.client.get(f"/pipelines/one?{name}=7").status_code == 404
    assert rest.client.get("/pipelines/none").status_code == 404
    assert "one" in rest.client.get("/pipelines").text
    assert send(rest, "/pipelines/one/switch", [("enabled", "0")]).status_code == 303
    assert rest.get("/pipelines/one")["enabled"] is False


def test_products_are_previewed_as_text_and_pictures_and_never_run(rest: Rest, hand: Hand, context: Context) -> None:
    run = rest.post("/runs", {"spec": CHAIN, "parameters": {"scans": ["a"]}})
    (item,) = hand.claim()
    output = Path(context.settings.pipeline_base_dir) / "chain" / run["id"] / "first" / "a" / "attempt-1" / "output"
    (output / "cube.zarr" / "0" / "a #?%" / "b").mkdir(parents=True)
    (output / "report.html").write_text("<script>alert(1)</script>", encoding="utf-8")
    (output / "map.png").write_bytes(b"\x89PNG")
    (output / "map.fits").write_bytes(image(-32, 3, 2, [0, 1, 2, 3, 4, 5]))
    (output / "qa.json").write_text('{"rms": {"K": 0.1}}', encoding="utf-8")
    names = ("report.html", "map.png", "map.fits", "qa.json", "cube.zarr")
    products = [
        (name, 0 if name == "cube.zarr" else (output / name).stat().st_size, name == "cube.zarr") for name in names
    ]
    hand.complete(
        item, *(NewProduct(n, "DATA_PRODUCT", n, size, "0" * 64, is_directory=d) for n, size, d in products)
    )  # fmt: skip
    found = {each["path"]: each["id"] for each in rest.get(f"/runs/{run['id']}/products")["items"]}
    text = rest.client.get(f"/products/{found['report.html']}").text
    assert "&lt;script&gt;alert(1)" in text
    assert "<script>alert" not in text
    assert "<img src=" in rest.client.get(f"/products/{found['map.png']}").text
    sky = rest.client.get(f"/products/{found['map.fits']}").text
    assert "NAXIS1  =                    3" in sky
    assert f"/ui/products/{found['map.fits']}/picture" in sky
    drawn = rest.client.get(f"/ui/products/{found['map.fits']}/picture")
    assert (drawn.status_code, drawn.headers["content-type"]) == (200, "image/png")
    again = {"if-none-match": drawn.headers["etag"]}
    assert rest.client.get(f"/ui/products/{found['map.fits']}/picture", headers=again).status_code == 304
    assert rest.client.get(f"/ui/products/{found['map.png']}/picture").status_code == 404
    assert "&#34;K&#34;: 0.1" in rest.client.get(f"/products/{found['qa.json']}").text.split("<pre", 1)[1]
    assert "/tree/0" in rest.client.get(f"/products/{found['cube.zarr']}").text
    here = f"/products/{found['cube.zarr']}"
    for depth in range(1, 4):
        (below,) = re.findall(rf'href="(/products/{found["cube.zarr"]}/tree/[^"]*)"', rest.client.get(here).text)
        here = unescape(below)
        assert (rest.client.get(here).status_code, here.count("/")) == (200, 3 + depth)
    assert rest.client.get(f"/products/{found['cube.zarr']}/tree/..%2f..").status_code == 404
    assert found["map.png"] in rest.client.get(f"/products?run={run['id']}").text
    assert found["map.png"] in rest.client.get("/products").text
    assert rest.client.get("/products/00000000-0000-7000-8000-000000000000").status_code == 404


def test_service_pages_and_the_search_field(rest: Rest, hand: Hand) -> None:
    rest.post("/pipelines", ONE, 201)
    run_id = rest.post("/runs", {"pipeline": "one", "labels": {"source": "Orion"}})["id"]
    hand.execute("INSERT INTO workers (id, host, pid, backends) VALUES ('w<1>', 'h', 1, '{noop}')")
    hand.execute("INSERT INTO backends (name, problem, problem_since) VALUES ('noop', 'no answer', now())")
    for path in ("/backends", "/ui/backends", "/workers", "/ui/workers", "/events", "/ui/events", "/audit"):
        assert rest.client.get(path).status_code == 200, path
    assert "no answer" in rest.client.get("/backends").text
    assert "w&lt;1&gt;" in rest.client.get("/workers").text
    assert 'action="/workers/w%3C1%3E/drain"' in rest.client.get("/workers").text
    assert send(rest, "/workers/w%3C1%3E/drain").status_code == 303
    assert ">nothing</span>" in rest.client.get("/workers").text
    assert "drained</span> by <bdi>anonymous" in rest.client.get("/workers").text
    assert send(rest, "/workers/w%3C1%3E/resume").status_code == 303
    assert run_id in rest.client.get("/events").text
    assert rest.client.get("/events?cursor=x").status_code == 422
    assert rest.client.get("/audit?since=soon").status_code == 422
    addresses = [(text, f"/runs/{run_id}") for text in (run_id, run_id[:13], run_id[-12:], run_id[-6:].upper())]
    for text, address in (*addresses, ("one", "/pipelines/one")):
        assert rest.client.get("/go", params={"q": text}).headers["location"] == address
    assert rest.client.get("/go?q=source:Orion").headers["location"] == "/runs?label=source%3AOrion"
    assert rest.client.get("/go?q=anything+else").headers["location"] == "/runs?q=anything+else"


def test_the_page_of_backends_says_how_long_each_was_away(rest: Rest, hand: Hand) -> None:
    statement = """INSERT INTO events (backend, event, to_status, attempt, actor, at)
    VALUES ('noop', :event, 'x', 0, 'worker', now() - :ago * interval '1 minute')"""
    hand.execute(f"{statement} RETURNING 1", event=BackendEvent.AWAY, ago=90)
    hand.execute(f"{statement} RETURNING 1", event=BackendEvent.BACK, ago=60)
    hand.execute("INSERT INTO backends (name) VALUES ('noop')")
    page = rest.client.get("/backends").text
    assert "away 30 min" in page
    assert page.count('class="uptime"') == 1, "of those in use"


def test_calls_of_a_scheduler_are_shown_beside_their_budget(rest: Rest, context: Context, hand: Hand) -> None:
    details = {"calls_per_minute": 60, "calls_in_the_last_minute": 12}
    context.doorbell.remember("queues:slurm", json.dumps([asdict(QueueStatus("science", running=1, details=details))]))
    page = rest.client.get("/backends").text
    assert "<b>12</b> of 60 calls a minute" in page
    assert page.count("calls a minute") == 1
    hand.execute("INSERT INTO backends (name) VALUES ('slurm'), ('noop')")
    assert rest.client.get("/").text.count("<dt>calls/min</dt><dd>12 of 60</dd>") == 1


def test_queues_show_nodes_the_jobs_of_others_and_how_long_ours_wait(rest: Rest, context: Context) -> None:
    limits = QueueLimits("science", default=True, cpus=64, memory_gb=128, gpus=4, hours=24)
    nodes = {"full": 38, "mixed": 6, "idle": 2, "down": 2, "other": 0}
    details = {"held": 12, "calls_per_minute": 60, "calls_in_the_last_minute": 12}
    known = [
        QueueStatus("science", True, 612, 431, limits=limits, nodes=nodes, others_pending=118, waited_seconds=241.0),
        QueueStatus("<b>", False, 0, 12, nodes={"full": 1}, waiting_seconds=4000.0, details=details),
    ]
    of_before = {key: value for key, value in asdict(QueueStatus("old", True, 1, 2)).items() if key in BEFORE}
    context.doorbell.remember("queues:slurm", json.dumps([asdict(each) for each in known]))
    context.doorbell.remember("queues:pbs", json.dumps([of_before]))
    page = rest.client.get("/backends").text
    said = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    assert "38 full, 6 mixed, 2 idle, 2 down 612 431 118 24 h · 128 GB · 4 GPUs about 4 min" in said
    assert "1 full, 0 mixed, 0 idle 0 12, 12 held over 1 h 06 min" in said
    assert 'aria-label="38 full, 6 mixed, 2 idle, 2 down"' in page
    assert "&lt;b&gt;" in page
    assert "old 1 2" in said


def test_workers_show_how_much_they_ended_in_the_last_hour(rest: Rest, hand: Hand) -> None:
    row = "INSERT INTO workers (id, host, pid, backends, ended_by_minute)"
    hand.execute(f"{row} VALUES ('a', 'h', 1, '{{noop}}', '{{1200, 30, 4}}'), ('b', 'h', 2, '{{noop}}', DEFAULT)")
    for path in ("/workers", "/backends"):
        page = rest.client.get(path).text
        assert re.findall(r'<td class="num strong">([\d,]+)</td><td class="w-spark">', page) == ["1,234", "0"]
        assert "1,234 step runs ended" in page


def test_the_rail_shows_the_managers_that_live_and_the_fullest_disk(
    rest: Rest, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def row(name: str) -> tuple[str, str] | None:
        rest.client.app.state.answers.forget()  # type: ignore[attr-defined]
        found = re.search(rf'>{name}</span><b class="(\w*)">([^<]*)</b>', rest.client.get("/ui/rail").text)
        return found and (found[1], found[2])

    assert row("Managers") == ("warn", "none")
    assert row("Disk") is None, "nobody has looked"
    presence.report(context.doorbell, "one")
    presence.report(context.doorbell, "two")
    assert row("Managers") == ("", "2")
    presence.forget(context.doorbell, "two")
    monkeypatch.setattr(type(context.disks), "seen", [Disk(("A", "B"), 100 * 10**9, 9 * 10**9), Disk(("C",), 9, 9)])
    assert (row("Managers"), row("Disk")) == (("", "1"), ("warn", "91 %"))
    assert 'title="A and B: 9 GB of 100 GB free; C: 9 B of 9 B free"' in rest.client.get("/ui/rail").text
    cause = {
        "kind": "space",
        "id": "A B",
        "text": "the disk of A and B is 91 % full",
        "since": None,
        "disk": context.disks.seen[0],
    }
    monkeypatch.setattr(type(context.disks), "causes", lambda self: [cause])
    page = rest.client.get("/").text
    assert "The disk of A and B is 91 % full" in page
    assert "<b>9 GB</b><span>of 100 GB free</span>" in page
    assert re.search(r"<span>Overview</span><span[^>]*>1</span>", page), "the mark in the rail"
    assert [each["kind"] for each in rest.get("/dashboard/attention")["items"]] == ["space"]
    monkeypatch.setattr(type(context.disks), "problem", "A: <gone>")
    assert row("Disk") == ("bad", "no answer")
    assert 'title="A: &lt;gone&gt;"' in rest.client.get("/ui/rail").text


def test_a_token_is_shown_once_and_revoked(rest: Rest) -> None:
    made = send(rest, "/tokens", [("name", "nightly"), ("role", "viewer"), ("days", "30")])
    assert "ccatwm_" in made.text
    assert made.headers["cache-control"] == "no-store"
    page = rest.client.get("/tokens").text
    (token_id,) = re.findall(r'action="/tokens/([0-9a-f-]{36})/revoke"', page)
    assert send(rest, f"/tokens/{token_id}/revoke").status_code == 303
    assert "revoked" in rest.client.get("/tokens").text
    for days in ("x", *NO_NUMBERS):
        assert send(rest, "/tokens", [("name", ""), ("role", "king"), ("days", days)]).status_code == 422
