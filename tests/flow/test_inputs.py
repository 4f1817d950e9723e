"""Inputs over REST: read by the program, in manifest and lineage, and what goes wrong with them."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.support.fixtures_service import Service, sh

COPY = 'cat "$WORKFLOW_INPUT_DIR"/* > "$WORKFLOW_OUTPUT_DIR/copy"'


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for number in (1, 2):
        (tmp_path / f"scan_{number}.fits").write_text(f"scan {number}\n")
    return tmp_path


def failed(service: Service, run_id: str) -> dict[str, Any]:
    assert service.wait(run_id)["status"] == "FAILED"
    return service.step(run_id, "only")


def test_from_the_host_to_the_lineage_of_the_product(service: Service, raw: Path) -> None:
    flat = {"from": f"{raw}/scan_2.fits", "to": "flat.fits"}
    last = sh('cp "$WORKFLOW_UPSTREAM_DIR"/only/*/copy "$WORKFLOW_OUTPUT_DIR/last"', "last", depends_on=["only"])
    first = sh(COPY, inputs=[f"{raw}/${{item}}.fits", flat], foreach=["scan_1"])
    run_id = service.submit(first, last)
    assert service.wait(run_id)["status"] == "COMPLETED", service.run(run_id)
    products = service.call("GET", f"/runs/{run_id}/products")["items"]
    [product] = [each for each in products if each["name"] == "last"]
    assert service.client.get(f"/products/{product['id']}/content").text == "scan 2\nscan 1\n"
    found = service.call("GET", f"/products/{product['id']}/lineage")["inputs"]
    assert [(each["name"], each["source"]) for each in found] == [
        ("flat.fits", f"{raw}/scan_2.fits"), ("scan_1.fits", f"{raw}/scan_1.fits"),
    ]  # fmt: skip
    assert found[0]["sha256"] == sha256(b"scan 2\n").hexdigest()
    assert found[0]["size"] == 7


def test_a_missing_input_fails_its_step_run_and_is_not_retried(service: Service, raw: Path) -> None:
    step = failed(service, service.submit(sh("true", inputs=[f"{raw}/none"], retry={"max_attempts": 3})))
    assert (step["reason"], step["attempt"]) == ("input_missing", 1)
    assert f"{raw}/none" in step["reason_text"]


def test_an_input_that_changes_between_two_attempts(service: Service, raw: Path) -> None:
    source = raw / "scan_1.fits"
    run_id = service.submit(sh(f"{COPY}; exit 1", inputs=[str(source)]))
    step = failed(service, run_id)
    assert step["reason"] == "program_failed"
    source.write_text("another\n")
    service.call("POST", f"/step-runs/{step['id']}/retry")
    step = failed(service, run_id)
    assert step["reason"] == "input_changed"
    assert str(source) in step["reason_text"]


def test_a_preview_of_a_definition_and_a_request_name_the_path_of_a_fault(service: Service) -> None:
    spec = {"name": "bad-inputs", "steps": [sh("true", inputs=["raw/a"])]}
    for method, path, body in (("POST", "/pipelines", spec), ("POST", "/runs", {"spec": spec})):
        answer = service.client.request(method, path, json=body)
        assert answer.status_code == 422
        assert "steps[0].inputs[0]" in answer.text
