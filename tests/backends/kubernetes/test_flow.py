"""Runs on a cluster, through every process of a deployment."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.backends.kubernetes.conftest import settings
from tests.stand_ins.kubernetes import ApiServer
from tests.support.fixtures_service import PROGRAM, Service
from tests.support.reaper import Reaper
from tests.support.waiting import wait_until

SH = ["/bin/sh", "-c"]


def sh(text: str, name: str = "only", **more: Any) -> dict[str, Any]:
    return {"name": name, "command": [*SH, text], **more}


def running(service: Service, run_id: str, name: str = "only") -> dict[str, Any]:
    return service.wait_step(run_id, name, lambda step: step["status"] == "RUNNING")


FAN = [
    sh('echo "$WORKFLOW_KEY" > "$WORKFLOW_OUTPUT_DIR/key"; echo told', "many", foreach=["a", "b", "c", "d"]),
    sh('cat "$WORKFLOW_UPSTREAM_DIR"/many/*/key > "$WORKFLOW_OUTPUT_DIR/all"', "gather", depends_on=["many"]),
]


@pytest.mark.parametrize("mode", ["apptainer", "native"])
def test_fan_out_and_fan_in(mode: str, request: pytest.FixtureRequest) -> None:
    service: Service = request.getfixturevalue("native_service" if mode == "native" else "kubernetes_service")
    image = {"image": "docker://ccat/shell:1"} if mode == "native" else {}
    run_id = service.submit(*({**step, **image} for step in FAN))
    run = service.wait(run_id, 90)
    assert run["status"] == "COMPLETED", (run["counts"], [s["reason_text"] for s in run["step_runs"]], service.log())
    gathered = (service.attempt_dir(run_id, "gather") / "output" / "all").read_text()
    assert gathered == "a\nb\nc\nd\n"
    step = service.step(run_id, "many", "b")
    assert (step["attempt"], step["exit_code"], step["backend"]) == (1, 0, "kubernetes")
    assert step["job_id"].startswith("default/ccat-")
    assert step["cpu_hours"] is not None
    log = service.client.get(f"/step-runs/{step['id']}/log?stream=stdout").text
    assert log == "told\n"


def test_native_keeps_the_container_contract(native_service: Service) -> None:
    """Paths, modes and environment are those of the container contract."""
    look = (
        "pwd; printenv OF_THE_IMAGE WORKFLOW_OUTPUT_DIR; "
        'test -s "$WORKFLOW_MANIFEST" && echo manifest; '
        "touch /workflow/input/x 2>/dev/null || echo input is read-only; "
        "touch /workflow/config/x 2>/dev/null || echo config is read-only; "
        "touch /workflow/workspace/x /workflow/output/x && echo writable"
    )
    run_id = native_service.submit(sh(look, image="ccat/shell:1"))
    assert native_service.wait(run_id)["status"] == "COMPLETED"
    step = native_service.step(run_id, "only")
    seen = native_service.client.get(f"/step-runs/{step['id']}/log?stream=stdout").text.splitlines()
    assert seen == [
        "/workflow/workspace", "yes", "/workflow/output", "manifest", "input is read-only", "config is read-only",
        "writable",
    ]  # fmt: skip


def test_native_refuses_what_is_no_oci_image(native_service: Service) -> None:
    run_id = native_service.submit(sh("true", image="grid.sif"))
    native_service.wait(run_id)
    step = native_service.step(run_id, "only")
    assert (step["status"], step["reason"]) == ("FAILED", "image_invalid"), step


def test_failure_and_retry(kubernetes_service: Service) -> None:
    once = {"max_attempts": 2, "backoff_seconds": 0, "on": ["program_failed"]}
    run_id = kubernetes_service.submit(sh('echo words; test "$WORKFLOW_ATTEMPT" = 2 || exit 3', retry=once))
    assert kubernetes_service.wait(run_id)["status"] == "COMPLETED"
    step = kubernetes_service.step(run_id, "only")
    first, second = kubernetes_service.call("GET", f"/step-runs/{step['id']}/attempts")["items"]
    assert (first["reason"], first["exit_code"], second["exit_code"]) == ("program_failed", 3, 0)


def test_cancel(kubernetes_service: Service, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    run_id = kubernetes_service.submit(sh(f"trap '' TERM; touch '{pid}'; while :; do sleep 0.1; done"))
    wait_until(pid.exists, 30, "the program")
    kubernetes_service.call("POST", f"/runs/{run_id}/cancel")
    assert kubernetes_service.wait(run_id)["status"] == "CANCELLED"
    assert kubernetes_service.step(run_id, "only")["reason"] == "cancelled"


ENDS = [
    (sh("kill -SEGV $$"), "killed_by_signal", "signal 11"),
    ({"command": ["/nonexistent/program"]}, "command_not_found", ""),
    (sh("exit 5"), "program_failed", "exit code 5"),
    (sh("true", resources={"partition": "science"}), "rejected", "no partitions"),
    (sh("exec sleep 1000", resources={"time_hours": 0.0003}), "time_limit", "deadline"),
]


@pytest.mark.parametrize(("step", "reason", "words"), ENDS, ids=[end[1] for end in ENDS])
def test_every_end_has_a_name_and_words(
    kubernetes_service: Service, step: dict[str, Any], reason: str, words: str
) -> None:
    run_id = kubernetes_service.submit({"name": "only", "retry": {"max_attempts": 1}, **step})
    kubernetes_service.wait(run_id)
    found = kubernetes_service.step(run_id, "only")
    assert (found["status"], found["reason"]) == ("FAILED", reason), found
    assert words in found["reason_text"].lower()


def test_a_wait_has_the_words_of_the_scheduler(kubernetes_service: Service) -> None:
    run_id = kubernetes_service.submit(sh("true", resources={"cpu": 500}))
    kubernetes_service.wait_step(run_id, "only", lambda step: "Insufficient cpu" in (step["waiting_for"] or ""))
    kubernetes_service.call("POST", f"/runs/{run_id}/cancel")
    assert kubernetes_service.wait(run_id)["status"] == "CANCELLED"


def test_an_image_that_does_not_come(native_service: Service) -> None:
    run_id = native_service.submit(sh("true", image="registry.example.org/none:1", retry={"max_attempts": 1}))
    native_service.wait_step(run_id, "only", lambda step: "ImagePull" in f"{step['waiting_for']} {step['reason_text']}")
    native_service.wait(run_id)
    step = native_service.step(run_id, "only")
    assert (step["status"], step["reason"]) == ("FAILED", "image_pull"), step
    assert "registry.example.org/none:1" in step["reason_text"]


def test_nothing_is_left_in_the_cluster(kubernetes_service: Service, cluster: ApiServer) -> None:
    run_id = kubernetes_service.submit(sh("true"))
    kubernetes_service.wait(run_id)
    notes = kubernetes_service.directory / "data" / "pipelines" / ".kubernetes"
    wait_until(lambda: not list(notes.iterdir()), 20, "the last job to be cleaned up")


def test_the_demo(cluster: ApiServer, reaper: Reaper, tmp_path: Path) -> None:
    ours = {f"CCAT_WORKFLOW_MANAGER_{name}": value for name, value in settings().items()}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CCAT_")}
    process = subprocess.Popen(
        [PROGRAM, "demo", "--data-dir", str(tmp_path / "data"), "--port", "0", "--scans", "2"],
        env={**environment, **ours, "CCAT_WORKFLOW_MANAGER_CONTAINER_RUNTIME": "none"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True, text=True,
    )  # fmt: skip
    reaper.watch(process.pid)
    output, _ = process.communicate(timeout=110)
    assert process.returncode == 0, output[-3000:]
