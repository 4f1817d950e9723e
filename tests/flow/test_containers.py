"""Steps in real containers, through every process of a deployment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.canary import prove_that_it_stays_secret
from tests.support.fixtures_service import Service, running_service, sh
from tests.support.reaper import Reaper

pytestmark = pytest.mark.needs("apptainer")


@pytest.fixture(scope="module")
def contained(reaper: Reaper) -> Iterator[Service]:
    with running_service(reaper, CONTAINER_RUNTIME="apptainer") as service:
        yield service


def sh_in(image: Path | str, text: str, name: str = "only", **more: Any) -> dict[str, Any]:
    return sh(text, name, image=str(image), **more)


def test_the_contract_holds_in_a_container(contained: Service, tools_image: Path) -> None:
    run_id = contained.submit(
        sh_in(tools_image, "mkdir -p /workflow/output/science && echo data > /workflow/output/science/d.txt", "make"),
        sh_in(tools_image, "cat /workflow/upstream/make/main/science/d.txt /workflow/workspace/make/science/d.txt"
                  " > $WORKFLOW_OUTPUT_DIR/both.txt; cat /workflow/config/manifest.json; " + "env",
           "use", depends_on=["make"]),
    )  # fmt: skip
    run = contained.wait(run_id)
    assert run["status"] == "COMPLETED", [contained.step(run_id, s) for s in ("make", "use")]
    assert (contained.attempt_dir(run_id, "use") / "output" / "both.txt").read_text() == "data\ndata\n"
    use = contained.step(run_id, "use")
    log = contained.stream(use)
    assert "WORKFLOW_STEP=use" in log
    assert "CCAT_WORKFLOW_MANAGER" not in log
    assert '"step"' in log


def test_a_secret_stays_secret(contained: Service, tools_image: Path) -> None:
    prove_that_it_stays_secret(contained, image=str(tools_image))


def test_upstream_products_cannot_be_changed(contained: Service, tools_image: Path) -> None:
    run_id = contained.submit(
        sh_in(tools_image, "echo 1 > $WORKFLOW_OUTPUT_DIR/x", "make"),
        sh_in(tools_image, "echo 2 > $WORKFLOW_UPSTREAM_DIR/make/main/x", "spoil", depends_on=["make"]),
    )
    assert contained.wait(run_id)["status"] == "FAILED"
    assert (contained.attempt_dir(run_id, "make") / "output" / "x").read_text() == "1\n"


def test_what_is_wrong_with_an_image_has_a_name(contained: Service, tools_image: Path, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.sif"
    garbage.write_bytes(b"not an image" * 1000)
    cut = tmp_path / "cut.sif"
    cut.write_bytes(tools_image.read_bytes()[: tools_image.stat().st_size // 2])
    wanted = {
        str(tmp_path / "missing.sif"): "image_missing",
        "no-such-image.sif": "image_missing",
        str(garbage): "image_invalid",
        str(cut): "image_invalid",
    }
    runs = {name: contained.submit(sh_in(name, "true", retry={"max_attempts": 1})) for name in wanted}
    for name, run_id in runs.items():
        assert contained.wait(run_id)["status"] == "FAILED"
        step = contained.step(run_id, "only")
        assert step["reason"] == wanted[name], (name, step)
        assert step["reason_text"]


def test_the_runtimes_own_failure_is_told_from_the_programs(contained: Service, tools_image: Path) -> None:
    own = contained.submit(sh_in(tools_image, "exit 255"))
    missing = contained.submit({"name": "only", "image": str(tools_image), "command": ["/no/such/program"]})
    assert contained.wait(own)["status"] == "FAILED"
    assert contained.step(own, "only")["reason"] == "program_failed"
    assert contained.wait(missing)["status"] == "FAILED"
    assert contained.step(missing, "only")["reason"] == "command_not_found"


def test_cancel_ends_a_container(contained: Service, tools_image: Path) -> None:
    run_id = contained.submit(sh_in(tools_image, "trap '' TERM; while :; do sleep 1; done"))
    contained.wait_running(run_id)
    contained.cancel(run_id)
