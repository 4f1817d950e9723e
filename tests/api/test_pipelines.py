"""Pipelines: registering, versions, changing."""

from __future__ import annotations

import json
from dataclasses import asdict
from hashlib import sha256
from typing import Any

import pytest
import yaml

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.doorbell import connect
from ccat_workflow_manager.hpc.queue_hints import QueueLimits
from tests.api.rest import CHAIN, ONE, Rest


def test_put_makes_a_version_only_of_changed_content(rest: Rest) -> None:
    first = rest.put("/pipelines/chain", CHAIN)
    assert (first["version"], first["enabled"], first["description"]) == (1, True, "Three steps")
    assert first["definition"]["steps"][0]["command"] == ["a", "${item}"]
    spelled_out = {**CHAIN, "defaults": {"backend": None, "resources": {}, "retry": {}}}
    assert rest.put("/pipelines/chain", spelled_out, status=200) == first
    assert rest.put("/pipelines/chain", {**CHAIN, "description": "new"})["version"] == 2
    assert rest.put("/pipelines/chain", CHAIN)["version"] == 3
    assert rest.get("/pipelines/chain")["content_hash"] == first["content_hash"]
    assert [each["version"] for each in rest.get("/pipelines/chain/versions")["items"]] == [3, 2, 1]


def test_post_registers_once(rest: Rest) -> None:
    made = rest.post("/pipelines", ONE, status=201)
    assert rest.post("/pipelines", ONE, status=200) == made
    rest.refused(rest.send("POST", "/pipelines", json={**ONE, "description": "other"}), 409, "conflict")
    assert rest.get("/pipelines/one")["version"] == 1


@pytest.mark.parametrize("kind", ["application/yaml", "text/yaml; charset=utf-8", "application/x-yaml"])
def test_yaml_is_accepted(rest: Rest, kind: str) -> None:
    text = yaml.safe_dump({**CHAIN, "description": "für Örion ✨"}, allow_unicode=True)
    response = rest.send("PUT", "/pipelines/chain", content=text.encode(), headers={"Content-Type": kind})
    assert response.status_code == 201, response.text
    assert response.headers["location"] == "/api/v1/pipelines/chain"
    assert response.json()["description"] == "für Örion ✨"
    rest.put("/pipelines/chain", {**CHAIN, "description": "für Örion ✨"}, status=200)


WITH_IMAGE = {**ONE, "steps": [{**ONE["steps"][0], "image": "one.sif"}]}


def test_a_step_without_an_image_gives_a_warning(rest: Rest) -> None:
    assert ["localdev" in each for each in rest.put("/pipelines/one", ONE)["warnings"]] == [True]
    assert rest.put("/pipelines/one", WITH_IMAGE)["warnings"] == []


def test_a_backend_that_there_is_not_gives_a_warning(rest: Rest) -> None:
    step = WITH_IMAGE["steps"][0]
    definition = {
        **WITH_IMAGE,
        "defaults": {"backend": "slrum"},
        "steps": [{**step, "name": "a"}, {**step, "name": "b", "backend": "slurm"}],
    }
    [warning] = rest.put("/pipelines/one", definition)["warnings"]
    assert "'slrum'" in warning
    assert "slurm" in warning.partition("known")[2]
    rest.refused(rest.send("POST", "/runs", json={"pipeline": "one"}), 422, "invalid")


def test_resources_that_no_queue_offers_give_a_warning(rest: Rest, context: Context) -> None:
    assert rest.put("/pipelines/one", WITH_IMAGE)["warnings"] == []
    queues = [{"name": "pool", "limits": None}, {"name": "main", "limits": asdict(QueueLimits("main", True, cpus=4))}]
    context.doorbell.remember(f"queues:{context.settings.hpc_backend}", json.dumps(queues))
    large = {**WITH_IMAGE, "defaults": {"resources": {"cpu": 5}}}
    words = "asks for 5 CPUs, but the default partition main of"
    planned = rest.send("PUT", "/pipelines/one", json=large, params={"dry_run": "true"}).json()
    assert words in planned["warnings"][0]
    assert words in rest.put("/pipelines/one", large)["warnings"][0]
    assert words in rest.put("/pipelines/one", large, status=200)["warnings"][0]
    assert "warnings" not in rest.get("/pipelines/one")
    shown = next(each for each in rest.get("/backends")["items"] if each["name"] == context.settings.hpc_backend)
    assert [queue["name"] for queue in shown["queues"]] == ["pool", "main"]
    assert rest.put("/pipelines/one", WITH_IMAGE)["warnings"] == []


def test_without_redis_there_are_no_hints_and_no_waits(rest: Rest, context: Context) -> None:
    context.doorbell.redis = connect("redis://127.0.0.1:1", answer_seconds=1)
    assert rest.put("/pipelines/one", WITH_IMAGE)["warnings"] == []


def test_a_dry_run_says_what_would_change(rest: Rest) -> None:
    def plan(definition: dict[str, Any]) -> dict[str, Any]:
        response = rest.send("PUT", "/pipelines/one", json=definition, params={"dry_run": "true"})
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    assert plan(WITH_IMAGE) | {"diff": ""} == {"name": "one", "version": 1, "changed": True, "diff": "", "warnings": []}
    rest.refused(rest.send("GET", "/pipelines/one"), 404, "not_found")
    rest.put("/pipelines/one", WITH_IMAGE)
    assert plan(WITH_IMAGE) == {"name": "one", "version": 1, "changed": False, "diff": "", "warnings": []}
    assert "+description: new" in plan({**WITH_IMAGE, "description": "new"})["diff"]
    assert rest.get("/pipelines/one")["version"] == 1


def test_patch_disables_and_sets_the_priority(rest: Rest) -> None:
    rest.put("/pipelines/one", ONE)
    changed = rest.send("PATCH", "/pipelines/one", json={"enabled": False, "priority": 12}).json()
    assert (changed["enabled"], changed["priority"], changed["version"]) == (False, 12, 1)
    rest.refused(rest.send("POST", "/runs", json={"pipeline": "one"}), 409, "conflict", "pipeline")
    rest.refused(
        rest.send("POST", "/runs/bulk", json={"runs": [{"pipeline": "one"}]}), 409, "conflict", "runs[0].pipeline"
    )
    assert rest.run(ONE)["status"] == "PENDING"
    assert rest.send("PATCH", "/pipelines/one", json={"enabled": True}).json()["priority"] == 12
    assert rest.post("/runs", {"pipeline": "one"})["priority"] == 12


def test_files_are_stored_once_and_named_by_their_checksum(rest: Rest) -> None:
    script = {"text": "print(1)\n"}
    first = rest.put("/pipelines/one", {**ONE, "files": {"reduce.py": script}})
    stored = first["definition"]["files"]["reduce.py"]
    assert stored == {"sha256": sha256(b"print(1)\n").hexdigest(), "size": 9}
    assert rest.put("/pipelines/one", {**ONE, "files": {"reduce.py": stored}}, status=200)["version"] == 1
    assert rest.put("/pipelines/one", {**ONE, "files": {"reduce.py": {"text": "print(2)\n"}}})["version"] == 2
    plan = rest.send("PUT", "/pipelines/one", json={**ONE, "files": {"reduce.py": stored}}, params={"dry_run": "true"})
    assert plan.json()["changed"]


@pytest.mark.parametrize("path", ["", "spec."])
def test_a_file_that_is_only_named_must_be_stored(rest: Rest, path: str) -> None:
    definition = {**ONE, "files": {"reduce.py": {"sha256": "0" * 64, "size": 1}}}
    if path:
        answer = rest.send("POST", "/runs", json={"spec": definition})
    else:
        answer = rest.send("PUT", "/pipelines/one", json=definition)
    rest.refused(answer, 422, "invalid", f'{path}files["reduce.py"]')
