"""Steps in real containers, through every process of a deployment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ccat_workflow_manager.demo.sandbox import Sandbox, which_all
from ccat_workflow_manager.execution import runtime as runtimes
from tests.support.fixtures_service import Service, _make
from tests.support.reaper import Reaper

pytestmark = pytest.mark.needs("apptainer")

TOOLS = ("sh", "cat", "ls", "true", "mkdir", "sleep", "env")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sandbox = Sandbox(tmp_path_factory.mktemp("sandbox"))
    for tool in which_all(TOOLS):
        sandbox.add_program(tool)
    path = tmp_path_factory.mktemp("images") / "tools.sif"
    sandbox.build(runtimes.detect("auto"), path)
    return path


@pytest.fixture(scope="module")
def contained(reaper: Reaper) -> Iterator[Service]:
    service = _make(reaper, CONTAINER_RUNTIME="apptainer")
    yield service
    service.close()


def sh(image: Path | str, text: str, name: str = "only", **more: Any) -> dict[str, Any]:
    return {"name": name, "image": str(image), "command": ["/bin/sh", "-c", text], **more}


def test_the_contract_holds_in_a_container(contained: Service, image: Path) -> None:
    run_id = contained.submit(
        sh(image, "mkdir -p /workflow/output/science && echo data > /workflow/output/science/d.txt", "make"),
        sh(image, "cat /workflow/upstream/make/main/science/d.txt /workflow/workspace/make/science/d.txt"
                  " > $WORKFLOW_OUTPUT_DIR/both.txt; cat /workflow/config/manifest.json; " + "env",
           "use", depends_on=["make"]),
    )  # fmt: skip
    run = contained.wait(run_id)
    assert run["status"] == "COMPLETED", [contained.step(run_id, s) for s in ("make", "use")]
    assert (contained.attempt_dir(run_id, "use") / "output" / "both.txt").read_text() == "data\ndata\n"
    use = contained.step(run_id, "use")
    log = contained.client.get(f"/step-runs/{use['id']}/log?stream=stdout").text
    assert "WORKFLOW_STEP=use" in log
    assert "CCAT_WORKFLOW_MANAGER" not in log
    assert '"step"' in log


def test_upstream_products_cannot_be_changed(contained: Service, image: Path) -> None:
    run_id = contained.submit(
        sh(image, "echo 1 > $WORKFLOW_OUTPUT_DIR/x", "make"),
        sh(image, "echo 2 > $WORKFLOW_UPSTREAM_DIR/make/main/x", "spoil", depends_on=["make"]),
    )
    assert contained.wait(run_id)["status"] == "FAILED"
    assert (contained.attempt_dir(run_id, "make") / "output" / "x").read_text() == "1\n"


def test_what_is_wrong_with_an_image_has_a_name(contained: Service, image: Path, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.sif"
    garbage.write_bytes(b"not an image" * 1000)
    cut = tmp_path / "cut.sif"
    cut.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    wanted = {
        str(tmp_path / "missing.sif"): "image_missing",
        "no-such-image.sif": "image_missing",
        str(garbage): "image_invalid",
        str(cut): "image_invalid",
    }
    runs = {name: contained.submit(sh(name, "true", retry={"max_attempts": 1})) for name in wanted}
    for name, run_id in runs.items():
        assert contained.wait(run_id)["status"] == "FAILED"
        step = contained.step(run_id, "only")
        assert step["reason"] == wanted[name], (name, step)
        assert step["reason_text"]


def test_the_runtimes_own_failure_is_told_from_the_programs(contained: Service, image: Path) -> None:
    own = contained.submit(sh(image, "exit 255"))
    missing = contained.submit({"name": "only", "image": str(image), "command": ["/no/such/program"]})
    assert contained.wait(own)["status"] == "FAILED"
    assert contained.step(own, "only")["reason"] == "program_failed"
    assert contained.wait(missing)["status"] == "FAILED"
    assert contained.step(missing, "only")["reason"] == "command_not_found"


def test_cancel_ends_a_container(contained: Service, image: Path) -> None:
    run_id = contained.submit(sh(image, "trap '' TERM; while :; do sleep 1; done"))
    contained.wait_step(run_id, "only", lambda step: step["status"] == "RUNNING")
    contained.call("POST", f"/runs/{run_id}/cancel")
    assert contained.wait(run_id)["status"] == "CANCELLED"
