"""Steps in real containers on a real cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ccat_workflow_manager.demo import demo_pipeline, ensure_demo_image
from ccat_workflow_manager.execution import runtime as runtimes
from tests.backends.slurm.cluster import Cluster
from tests.backends.slurm.conftest import settings
from tests.support.fixtures_service import Service, running_service
from tests.support.reaper import Reaper

pytestmark = [pytest.mark.needs("slurm"), pytest.mark.needs("apptainer")]


@pytest.fixture(scope="module")
def contained(reaper: Reaper, slurm_cluster: Cluster) -> Iterator[Service]:
    with running_service(reaper, **settings(slurm_cluster), CONTAINER_RUNTIME="apptainer") as service:
        yield service


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("images")
    return str(directory / ensure_demo_image(str(directory), runtimes.detect("auto")))


@pytest.mark.slow
def test_the_demo(contained: Service, image: str) -> None:
    contained.call("PUT", "/pipelines/demo-galaxy", json=demo_pipeline(image))
    scans = [f"scan-{number}" for number in range(6)]
    run_id = contained.call("POST", "/runs", json={"pipeline": "demo-galaxy", "parameters": {"scans": scans}})["id"]
    run = contained.wait(run_id, 100)
    assert run["status"] == "COMPLETED", run
    assert len(run["step_runs"]) == 3 * len(scans) + 1
    assert all(step["attempt"] == 1 for step in run["step_runs"])
    products = products_of(contained, run_id, "grid")
    picture = next(product for product in products if product["path"].endswith("map.png"))
    content = contained.client.get(f"/products/{picture['id']}/content").content
    assert content.startswith(b"\x89PNG")


def products_of(service: Service, run_id: str, step: str) -> list[dict[str, Any]]:
    found = service.step(run_id, step)
    items: list[dict[str, Any]] = service.call("GET", f"/step-runs/{found['id']}/products")["items"]
    return items


def test_the_contract_of_containers(contained: Service, image: str) -> None:
    text = 'echo "$WORKFLOW_KEY" > /workflow/output/key; env'
    step = {"name": "only", "image": image, "command": ["/bin/sh", "-c", text], "foreach": ["a", "b", "c"]}
    run_id = contained.submit(step, {"name": "bad", "image": image, "command": ["/bin/sh", "-c", "exit 3"]})
    contained.wait(run_id, 100)
    for key in "abc":
        assert contained.step(run_id, "only", key)["status"] == "COMPLETED", contained.step(run_id, "only", key)
        product: Path = contained.attempt_dir(run_id, "only", key) / "output" / "key"
        assert product.read_text() == f"{key}\n"
    assert contained.step(run_id, "bad")["reason"] == "program_failed"
    found = contained.step(run_id, "only", "a")
    log = contained.client.get(f"/step-runs/{found['id']}/log?stream=stdout").text
    assert "SLURM_" not in log
    assert "CCAT_WORKFLOW_MANAGER" not in log
