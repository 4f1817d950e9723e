"""Inputs over REST: read by the program, in manifest and lineage, and what goes wrong with them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

from tests.support.fixtures_service import PROGRAM, Service, sh, variables
from tests.support.waiting import PATIENCE, wait_until

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


def test_an_object_of_a_web_server(service: Service, raw: Path) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=str(raw))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        step = sh(
            COPY, foreach=[1, 2], inputs=[f"{url}/scan_${{item}}.fits", {"from": f"{url}/scan_1.fits", "to": "x"}]
        )
        run_id = service.submit(step)
        assert service.wait(run_id)["status"] == "COMPLETED", service.run(run_id)
        missing = failed(service, service.submit(sh("true", inputs=[f"{url}/none"])))
        server.shutdown()
    assert missing["reason"] == "input_missing"
    output = service.attempt_dir(run_id, "only", "2") / "output" / "copy"
    assert output.read_text() == "scan 2\nscan 1\n"


def test_a_missing_input_fails_its_step_run_and_is_not_retried(service: Service, raw: Path) -> None:
    run_id = service.submit(sh("true", inputs=[f"{raw}/none"], retry={"max_attempts": 3}))
    step = failed(service, run_id)
    assert (step["reason"], step["attempt"]) == ("input_missing", 1)
    assert not service.attempt_dir(run_id, "only").exists()
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


def test_one_step_run_for_each_file_that_matches(service: Service, raw: Path) -> None:
    glob = {"glob": f"{raw}/${{parameters.night}}*.fits"}
    step = sh(COPY, foreach=glob, inputs=["${item}"])
    spec = {"name": "flow", "parameters": {"type": "object", "properties": {"night": {"type": "string"}}}}
    body = {"spec": {**spec, "steps": [step]}, "parameters": {"night": "scan"}}
    run_id = service.call("POST", "/runs", json=body)["id"]
    (raw / "scan_3.fits").write_text("too late")
    assert service.wait(run_id)["status"] == "COMPLETED", service.run(run_id)
    assert sorted(each["key"] for each in service.run(run_id)["step_runs"]) == ["scan_1", "scan_2"]
    answer = service.client.post("/runs", json={**body, "parameters": {"night": "none"}})
    assert answer.status_code == 422
    assert "spec.steps[0].foreach.glob" in answer.text


@pytest.mark.needs("root")
def test_a_worker_expands_a_pattern_where_the_manager_sees_nothing(service: Service, tmp_path: Path) -> None:
    """An empty filesystem hides the files from a second manager, as the files of a cluster are hidden from one."""
    far = tmp_path / "far"
    (far / "raw").mkdir(parents=True)
    for number in (1, 2):
        (far / "raw" / f"scan_{number}.fits").write_text(f"scan {number}\n")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    wrapper = ("unshare", "--mount", "sh", "-ec", f'mount -t tmpfs none {far}; exec "$@"', "sh")
    manager = service.start_within(wrapper, "manager", "--no-loops", **variables(API_PORT=str(port)))
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", auth=service.client.auth, timeout=PATIENCE) as client:

        def submit(pattern: str, **more: Any) -> httpx.Response:
            step = sh(COPY, foreach={"glob": f"{far}/raw/{pattern}"}, inputs=["${item}"])
            return client.post("/runs", json={"spec": {"name": "flow", "steps": [step]}, **more})

        def answers() -> bool:
            assert manager.poll() is None, service.log()
            try:
                return client.get("/backends").is_success
            except httpx.TransportError:
                return False

        wait_until(answers, 60, "the manager that sees no files")
        assert list(Path(f"/proc/{manager.pid}/root{far}").iterdir()) == []
        run = service.wait(submit("*.fits").raise_for_status().json()["id"])
        assert (run["status"], [each["key"] for each in run["step_runs"]]) == ("COMPLETED", ["scan_1", "scan_2"]), run
        refused = {pattern: submit(pattern) for pattern in ("*.none", "../raw/*")}
        for answer in refused.values():
            assert (answer.status_code, answer.json()["faults"][0]["path"]) == (422, "spec.steps[0].foreach.glob")
        unserved = submit("*.fits", backend="slurm")
        assert (unserved.status_code, unserved.json()["code"]) == (503, "service_unavailable")
        assert "no worker serves slurm" in unserved.text
    manager.terminate()
    assert manager.wait(PATIENCE) == 0


def test_the_command_line_expands_a_pattern(service: Service, raw: Path) -> None:
    spec = raw / "flow.yaml"
    schema = {"type": "object", "properties": {"scans": {"type": "array"}}}
    step = sh(COPY, foreach="${parameters.scans}", inputs=["${item}"])
    spec.write_text(json.dumps({"name": "flow", "parameters": schema, "steps": [step]}))
    environment = {**os.environ, "CCAT_WM_URL": str(service.client.base_url).removesuffix("/api/v1/")}

    def submit(pattern: str) -> subprocess.CompletedProcess[str]:
        command = [PROGRAM, "run", "submit", "--spec", str(spec), "-p", f"scans=@{pattern}", "--json"]
        return subprocess.run(command, env=environment, cwd=raw, capture_output=True, text=True, timeout=PATIENCE)

    made = submit("*.fits")
    assert made.returncode == 0, made.stderr
    run = service.wait(json.loads(made.stdout)["id"])
    assert run["parameters"]["scans"] == [f"{raw}/scan_1.fits", f"{raw}/scan_2.fits"]
    assert (run["status"], [each["key"] for each in run["step_runs"]]) == ("COMPLETED", ["scan_1", "scan_2"])
    assert submit("*.none").returncode == 2
