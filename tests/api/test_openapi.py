"""Every response matches its schema in OpenAPI."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from jsonschema import Draft202012Validator

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.hpc.base import QueueStatus
from ccat_workflow_manager.lifecycle.models import NewProduct
from tests.api.rest import CHAIN, ONE, Hand, Rest


def description(rest: Rest) -> dict[str, Any]:
    found: dict[str, Any] = rest.client.get("/openapi.json").json()
    return found


def test_every_reference_leads_somewhere_and_every_example_is_valid(rest: Rest) -> None:
    api = description(rest)
    references: list[str] = []
    waiting: list[Any] = [api]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            references += [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            waiting += [value for name, value in node.items() if name not in ("example", "examples")]
        elif isinstance(node, list):
            waiting += node
    schemas = api["components"]["schemas"]
    inside = [each.removeprefix("#/components/schemas/") for each in references if each.startswith("#/components/")]
    assert set(inside) <= set(schemas)
    examples = 0
    for calls in api["paths"].values():
        for call in calls.values():
            parts = [*call.get("requestBody", {}).get("content", {}).values()]
            parts += [part for answer in call["responses"].values() for part in answer.get("content", {}).values()]
            for part in parts:
                given = [each["value"] for each in part.get("examples", {}).values()]
                given += [part["example"]] if "example" in part else []
                for example in given:
                    Draft202012Validator({**part["schema"], "components": api["components"]}).validate(example)
                    examples += 1
    assert examples > 50


def test_generators_of_clients_can_use_every_call(rest: Rest) -> None:
    """Short names, one type of content, local references, typed lists; `test_generated_client.py` makes a client."""
    api = description(rest)
    nodes, waiting = list[dict[str, Any]](), list[Any]([api])
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            nodes.append(node)
            waiting += [value for name, value in node.items() if name not in ("example", "examples", "default")]
        elif isinstance(node, list):
            waiting += node
    assert [node["$ref"] for node in nodes if isinstance(node.get("$ref"), str) and node["$ref"][0] != "#"] == []
    assert [node for node in nodes if node.get("type") == "array" and not {"items", "prefixItems"} & node.keys()] == []
    # Two models of one name get long ones, and the generator takes none of both.
    assert [name for name in api["components"]["schemas"] if not name.isidentifier() or "__" in name] == []
    names = []
    for path, calls in api["paths"].items():
        for call in calls.values():
            names.append(call["operationId"])
            assert list(call.get("requestBody", {}).get("content", {"application/json": {}})) == ["application/json"]
            given = {each["name"] for each in call.get("parameters", ()) if each["in"] == "path"}
            assert given == set(re.findall(r"{(\w+)}", path))
            assert all(each["schema"] for each in call.get("parameters", ()))
            assert [status for status in call["responses"] if status.startswith("2")]
            assert call["tags"]
    assert len(names) == len(set(names))
    assert [name for name in names if not re.fullmatch(r"[a-z][a-z_]{2,29}", name)] == []


def test_a_body_where_none_is_known_is_refused(rest: Rest) -> None:
    run_id = rest.run()["id"]
    for path in (f"/runs/{run_id}/resume", f"/runs/{run_id}/cancel"):
        rest.refused(rest.send("POST", path, json={"memory_gb": 4}), 422, "invalid", "")
    rest.post(f"/runs/{run_id}/pause", {})
    rest.post(f"/runs/{run_id}/resume")


def test_every_response_has_the_fields_of_its_schema(rest: Rest, hand: Hand, context: Context) -> None:
    """The SQL of the responses selects exactly the fields of their models: each schema requires them and no others."""
    api = description(rest)
    called = set()

    def call(method: str, template: str, body: Any = None, **names: Any) -> Any:
        response = rest.send(method, template.removeprefix("/api/v1").format(**names), json=body)
        assert response.is_success, response.text
        promised = api["paths"][template][method.lower()]["responses"][str(response.status_code)]
        schema = promised["content"]["application/json"]["schema"]
        Draft202012Validator({**schema, "components": api["components"]}).validate(response.json())
        called.add((method, template))
        answer = response.json()
        assert answer.get("items") != [], f"{template} has no item to compare"
        return answer

    v1 = "/api/v1"
    call("PUT", f"{v1}/pipelines/{{name}}", CHAIN, name="chain")
    call("POST", f"{v1}/pipelines", ONE)
    call("POST", f"{v1}/pipelines", ONE)
    call("PATCH", f"{v1}/pipelines/{{name}}", {"priority": 3}, name="one")
    for path in ("/pipelines", "/pipelines/{name}", "/pipelines/{name}/versions"):
        call("GET", v1 + path, name="one")
    run = call("POST", f"{v1}/runs", {"pipeline": "chain", "parameters": {"scans": [1]}, "priority": 9})
    (item,) = hand.claim()
    hand.complete(item, NewProduct("a", "PLOT", "a", 1, "0" * 64, metadata={"x": [1]}))
    (item,) = hand.claim()
    hand.fail(item)
    ids = call("POST", f"{v1}/runs/bulk", {"runs": [{"pipeline": "one"}] * 3})["ids"]
    context.doorbell.remember("queues:noop", json.dumps([asdict(QueueStatus("all", True, 1, 2))]))
    hand.execute("INSERT INTO workers (id, host, pid, backends) VALUES ('w', 'h', 1, '{noop}')")
    for verb in ("pause", "resume", "cancel", "retry"):
        call("POST", f"{v1}/runs/{{run_id}}/{verb}", run_id=ids[0])
    for verb in ("cancel", "retry"):
        call("POST", f"{v1}/runs/{verb}", {"ids": [ids[1]]})
    (item,) = hand.claim()
    hand.submit(item)
    hand.execute(
        "UPDATE step_runs SET cancel_requested_at = now() - interval '1 hour' WHERE id = :id", id=item.step_run_id
    )
    for path in ("/events", "/runs", "/runs/{run_id}", "/backends", "/workers", "/attention", "/dashboard/summary"):
        call("GET", v1 + path, run_id=run["id"])
    for path in ("/dashboard/timeseries", "/dashboard/attention", "/pipelines/{name}/stats"):
        call("GET", v1 + path, name="chain")
    first, second, _ = (step["id"] for step in run["step_runs"])
    for path in ("/runs/{run_id}/explain", "/explain"):
        call("GET", v1 + path, run_id=run["id"])
    for path in ("", "/attempts", "/events", "/products", "/explain"):
        call("GET", f"{v1}/step-runs/{{step_run_id}}{path}", step_run_id=first)
    call("POST", f"{v1}/step-runs/{{step_run_id}}/retry", step_run_id=second)
    call("POST", f"{v1}/step-runs/{{step_run_id}}/cancel", step_run_id=second)
    outcome = {"outcome": "skipped", "reason": "x"}
    call("POST", f"{v1}/step-runs/{{step_run_id}}/outcome", outcome, step_run_id=rest.run()["step_runs"][0]["id"])
    call("GET", f"{v1}/step-runs/{{step_run_id}}/why-not-reused", step_run_id=second)
    call("POST", f"{v1}/runs/{{run_id}}/priority", {"priority": 1}, run_id=ids[2])
    call("POST", f"{v1}/runs/{{run_id}}/cancel", run_id=ids[2])
    call("POST", f"{v1}/runs/replay", {"ids": [ids[2]], "dry_run": True})
    call("POST", f"{v1}/runs/replay", {"ids": [ids[2]]})
    call("GET", f"{v1}/runs/{{run_id}}/step-runs", run_id=run["id"])
    call("GET", f"{v1}/runs/{{run_id}}/products", run_id=run["id"])
    call("GET", f"{v1}/pipelines/{{name}}/ledger", name="chain")
    product = rest.get(f"/step-runs/{first}/products")["items"][0]["id"]
    for path in ("", "/lineage"):
        call("GET", f"{v1}/products/{{product_id}}{path}", product_id=product)
    call("DELETE", f"{v1}/runs/{{run_id}}", run_id=hand.finished_run())
    _call_webhooks(call, hand)
    _call_holds(call)
    _call_workers(call)
    breaker_id = hand.open_breaker()
    call("GET", f"{v1}/breakers")
    for method, verb in (("GET", "events"), ("POST", "release")):
        call(method, f"{v1}/breakers/{{breaker_id}}/{verb}", breaker_id=breaker_id)
    task = call("POST", "/ga4gh/tes/v1/tasks", {"executors": [{"image": "a", "command": ["b"]}]})
    for path in ("/service-info", "/tasks", "/tasks/{run_id}"):
        call("GET", f"/ga4gh/tes/v1{path}", run_id=task["id"])
    call("POST", "/ga4gh/tes/v1/tasks/{run_id}:cancel", run_id=task["id"])
    token = call("POST", f"{v1}/tokens", {"name": "a", "role": "viewer"})
    call("GET", f"{v1}/tokens")
    call("DELETE", f"{v1}/tokens/{{token_id}}", token_id=token["id"])
    call("GET", f"{v1}/audit")
    call("POST", "/login", {"token": call("POST", f"{v1}/tokens", {"name": "b", "role": "viewer"})["token"]})
    call("GET", "/healthz")
    call("GET", "/readyz")
    promised = {(method.upper(), path) for path, calls in api["paths"].items() for method in calls}
    assert {path for _, path in promised - called} == {
        f"{v1}/step-runs/{{step_run_id}}/log", f"{v1}/products/{{product_id}}/content", "/metrics", "/logout",
    }  # fmt: skip


def _call_holds(call: Callable[..., Any]) -> None:
    hold = {"why": "x", "mode": "drain", "until": "2999-01-31T12:00:00Z"}
    held = {"pipelines/{name}": "one", "projects/{project}": "default", "backends/{name}": "noop"}
    for path, name in held.items():
        call("POST", f"/api/v1/{path}/pause", hold, name=name, project=name)
    call("POST", "/api/v1/service/pause", {"why": "x"})
    call("GET", "/api/v1/holds")
    for path, name in held.items():
        call("POST", f"/api/v1/{path}/resume", name=name, project=name)
    call("POST", "/api/v1/service/resume")
    call("PUT", "/api/v1/projects/{project}", {"weight": 2}, project="default")
    call("PATCH", "/api/v1/projects/{project}", {"max_live": 9, "until": hold["until"]}, project="default")
    override = call("GET", "/api/v1/overrides")["items"][0]
    call("DELETE", "/api/v1/overrides/{override_id}", override_id=override["id"])
    call("GET", "/api/v1/projects/{project}", project="default")
    call("GET", "/api/v1/projects")


def _call_workers(call: Callable[..., Any]) -> None:
    call("GET", "/api/v1/workers")
    for verb in ("drain", "resume"):
        call("POST", f"/api/v1/workers/{{worker}}/{verb}", worker="w")


def _call_webhooks(call: Callable[..., Any], hand: Hand) -> None:
    webhook = call("POST", "/api/v1/webhooks", {"url": "https://example.org/hook"})["id"]
    hand.execute(
        "INSERT INTO webhook_deliveries (id, webhook_id, event, type, body, give_up_at)"
        " VALUES (:id, :id, 'e', 't', 'b', now())",
        id=webhook,
    )
    for method, path in (("GET", ""), ("GET", "/{webhook_id}"), ("GET", "/{webhook_id}/deliveries")):
        call(method, f"/api/v1/webhooks{path}", webhook_id=webhook)
    redeliver = "/api/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver"
    call("POST", redeliver, webhook_id=webhook, delivery_id=webhook)
    for verb in ("redeliver", "test"):
        call("POST", f"/api/v1/webhooks/{{webhook_id}}/{verb}", webhook_id=webhook)
    call("DELETE", "/api/v1/webhooks/{webhook_id}", webhook_id=webhook)


def test_there_are_no_pages_that_load_scripts_from_the_internet(rest: Rest) -> None:
    for path in ("/docs", "/redoc"):
        rest.refused(rest.client.get(path), 404, "not_found")
