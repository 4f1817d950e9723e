"""Runs on a real cluster, through every process of a deployment."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.backends.slurm.cluster import Cluster, cgroups
from tests.support.canary import prove_that_it_stays_secret
from tests.support.fixtures_service import Service, sh
from tests.support.waiting import wait_until

pytestmark = pytest.mark.needs("slurm")


def number(step: Mapping[str, Any]) -> str:
    """The number of the job, with its place in the array."""
    return str(step["job_id"]).partition(":")[0]


def reason_of(service: Service, run_id: str) -> tuple[str, str]:
    step = service.step(run_id, "only")
    return step["status"], step["reason"]


def test_a_secret_stays_secret(slurm_service: Service, slurm_cluster: Cluster) -> None:
    prove_that_it_stays_secret(slurm_service, slurm_cluster.directory)


@pytest.mark.slow
def test_a_fan_out_of_a_thousand_is_a_few_arrays(
    slurm_service: Service, slurm_calls: Callable[[], Counter[str]], tmp_path: Path
) -> None:
    keys = [str(n) for n in range(1000)]
    marks = tmp_path / "marks"
    marks.mkdir()
    once = f"echo >> '{marks}/'\"$WORKFLOW_KEY\""
    gather = 'cat "$WORKFLOW_UPSTREAM_DIR"/many/*/key | wc -l > "$WORKFLOW_OUTPUT_DIR/n"'
    run_id = slurm_service.submit(
        sh(f'{once}; echo "$WORKFLOW_KEY" > "$WORKFLOW_OUTPUT_DIR/key"', "many", foreach=keys,
           resources={"memory_gb": 0.1}),
        sh(gather, "gather", depends_on=["many"]),
    )  # fmt: skip
    run = slurm_service.wait(run_id, 110)
    assert run["status"] == "COMPLETED", run["counts"]
    assert (slurm_service.attempt_dir(run_id, "gather") / "output" / "n").read_text().strip() == "1000"
    for key in ("0", "77", "999"):
        text = (slurm_service.attempt_dir(run_id, "many", key) / "output" / "key").read_text()
        assert text == f"{key}\n"
    steps = [step for step in run["step_runs"] if step["step"] == "many"]
    assert all(step["attempt"] == 1 for step in steps)
    assert {mark.name: mark.read_text() for mark in marks.iterdir()} == dict.fromkeys(keys, "\n")
    assert sum("_" in number(step) for step in steps) >= 950
    assert 1 <= slurm_calls()["sbatch"] <= 50


def test_the_numbers_of_a_step(slurm_service: Service) -> None:
    program = (
        "import time; b = bytearray(b'x' * (100 << 20)); end = time.process_time() + 3\n"
        "while time.process_time() < end: pass"
    )
    run_id = slurm_service.submit(
        {"name": "only", "command": [sys.executable, "-S", "-c", program], "resources": {"cpu": 2}}
    )
    assert slurm_service.wait(run_id)["status"] == "COMPLETED"
    step = slurm_service.step(run_id, "only")
    assert step["exit_code"] == 0
    assert 3 <= step["wall_time_seconds"] < 600
    assert 3 <= step["cpu_hours"] * 3600 < 60
    assert 0.09 <= step["peak_memory_gb"] < 0.3
    [attempt] = slurm_service.attempts(step)
    assert 2 * 3 <= attempt["cpu_hours_allocated"] * 3600 < 2 * 600, "of both CPUs, used or not"


CASES: list[tuple[dict[str, Any], str, str]] = [
    (sh("exit 200"), "program_failed", "exit code 200"),
    (sh("true", resources={"partition": "nowhere"}), "rejected", "partition"),
    (sh("true", resources={"gpu": 1}), "rejected", "gres"),
    (sh("true", resources={"extra": {"export": "ALL"}}), "rejected", "extra.export"),
    (sh("true", resources={"memory_gb": 100000}), "rejected", "memory"),
]


@pytest.mark.parametrize(("step", "reason", "words"), CASES, ids=[f"{n}-{case[1]}" for n, case in enumerate(CASES)])
def test_every_end_has_a_name_and_words(slurm_service: Service, step: dict[str, Any], reason: str, words: str) -> None:
    run_id = slurm_service.submit({"retry": {"max_attempts": 1}, **step})
    slurm_service.wait(run_id)
    found = slurm_service.step(run_id, "only")
    assert (found["status"], found["reason"]) == ("FAILED", reason), found
    assert words.lower() in found["reason_text"].lower()


def test_out_of_memory(slurm_service: Service) -> None:
    program = "b = bytearray(b'x' * (400 << 20)); import time; time.sleep(60)"
    run_id = slurm_service.submit(
        {"name": "only", "command": [sys.executable, "-S", "-c", program], "resources": {"memory_gb": 0.1},
         "retry": {"max_attempts": 1}},
    )  # fmt: skip
    slurm_service.wait(run_id)
    assert reason_of(slurm_service, run_id) == ("FAILED", "out_of_memory"), cgroups()


def test_time_limit(slurm_service: Service, slurm_cluster: Cluster) -> None:
    run_id = slurm_service.submit(sh("exec sleep 1000", retry={"max_attempts": 1}))
    step = slurm_service.wait_running(run_id)
    slurm_cluster.end_time_limit(number(step))
    slurm_service.wait(run_id, 60)
    assert reason_of(slurm_service, run_id) == ("FAILED", "time_limit")


def test_a_node_fails_and_the_step_is_tried_again(slurm_service: Service, slurm_cluster: Cluster) -> None:
    run_id = slurm_service.submit(
        sh('test "$WORKFLOW_ATTEMPT" = 2 || exec sleep 1000', retry={"max_attempts": 2, "backoff_seconds": 0})
    )
    step = slurm_service.wait_running(run_id)
    node = slurm_cluster.ask("squeue", "-h", "-j", number(step), "-o", "%N")
    slurm_cluster.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    assert slurm_service.wait(run_id)["status"] == "COMPLETED"
    first, second = slurm_service.attempts(step)
    assert (first["reason"], second["reason"]) == ("node_failure", None)


def test_preempted(slurm_service: Service, slurm_cluster: Cluster) -> None:
    extra = {"nodelist": slurm_cluster.nodes[1], "exclusive": True}
    run_id = slurm_service.submit(
        sh("exec sleep 1000", resources={"partition": "low", "extra": extra}, retry={"max_attempts": 1})
    )
    slurm_service.wait_running(run_id)
    slurm_cluster.ask("sbatch", "-p", "high", "-w", slurm_cluster.nodes[1], "-o", "/dev/null", "--wrap", "true")
    slurm_service.wait(run_id)
    assert reason_of(slurm_service, run_id) == ("FAILED", "preempted")


def test_stopped_by_another_user(slurm_service: Service, slurm_cluster: Cluster) -> None:
    run_id = slurm_service.submit(sh("exec sleep 1000"))
    slurm_cluster.ask("scancel", number(slurm_service.wait_running(run_id)))
    slurm_service.wait(run_id)
    assert reason_of(slurm_service, run_id) == ("FAILED", "stopped_outside")
    assert "cancelled at slurm by" in slurm_service.step(run_id, "only")["reason_text"].lower()


def test_held_and_released(slurm_service: Service, slurm_cluster: Cluster) -> None:
    everything = ("-N", str(len(slurm_cluster.nodes)), "--exclusive")
    blocker = slurm_cluster.ask("sbatch", "--parsable", *everything, "-o", "/dev/null", "--wrap", "sleep 1000")
    wait_until(lambda: slurm_cluster.ask("squeue", "-h", "-j", blocker, "-o", "%T") == "RUNNING", 30, "the blocker")
    run_id = slurm_service.submit(sh("true"))
    step = slurm_service.wait_step(run_id, "only", lambda s: "Resources" in (s["waiting_for"] or ""))
    slurm_cluster.ask("scontrol", "hold", number(step))
    slurm_service.wait_step(run_id, "only", lambda s: "held at Slurm" in (s["waiting_for"] or ""))
    (wanted,) = slurm_service.call("GET", "/attention")["items"]
    assert (wanted["id"], wanted["job_id"]) == (step["id"], step["job_id"])
    assert "JobHeld" in wanted["text"]
    slurm_cluster.ask("scontrol", "release", number(step))
    slurm_cluster.ask("scancel", blocker)
    assert slurm_service.wait(run_id)["status"] == "COMPLETED"
    assert slurm_service.call("GET", "/attention")["items"] == []


def test_drained_nodes_are_a_wait_with_a_reason(slurm_service: Service, slurm_cluster: Cluster) -> None:
    nodes = ",".join(slurm_cluster.nodes)
    slurm_cluster.ask("scontrol", "update", f"nodename={nodes}", "state=drain", "reason=new-disks")
    try:
        run_id = slurm_service.submit(sh("true"))
        step = slurm_service.wait_step(run_id, "only", lambda s: "DRAINED" in (s["waiting_for"] or ""))
        assert step["status"] == "SUBMITTED"
    finally:
        slurm_cluster.ask("scontrol", "update", f"nodename={nodes}", "state=resume")
    assert slurm_service.wait(run_id)["status"] == "COMPLETED"
    assert slurm_service.step(run_id, "only")["attempt"] == 1


def test_a_pipeline_that_asks_for_too_much_is_applied_with_a_warning(slurm_service: Service) -> None:
    def warnings(**resources: Any) -> list[str]:
        body = {"name": "large", "steps": [sh("true", resources=resources)]}
        found: list[str] = slurm_service.call("PUT", "/pipelines/large", json=body)["warnings"]
        return [text for text in found if "names no image" not in text]

    wait_until(lambda: warnings(partition="nowhere"), 30, "the queues to be known")
    assert "there is main, short, one, low, high" in warnings(partition="nowhere")[0]
    assert warnings(cpu=4, memory_gb=2.9) == []
    assert "asks for 5 CPUs, but the default partition main of slurm gives at most 4" in warnings(cpu=5)[0]
    assert "GB of memory" in warnings(memory_gb=4)[0]
    assert "1 GPU," in warnings(gpu=1)[0]
    assert "gives at most 0.0333" in warnings(partition="short")[0]


def test_requeued(slurm_service: Service, slurm_cluster: Cluster, tmp_path: Path) -> None:
    """An administrator may requeue what was submitted with --no-requeue; both lives are one attempt."""
    starts = tmp_path / "starts"
    run_id = slurm_service.submit(sh(f"echo once >> '{starts}'; test $(wc -l < '{starts}') -gt 1 || exec sleep 1000"))
    step = slurm_service.wait_running(run_id)
    wait_until(starts.exists, 10, "the first life")
    slurm_cluster.ask("scontrol", "update", f"jobid={number(step)}", "Requeue=1")
    slurm_cluster.ask("scontrol", "requeue", number(step))
    assert slurm_service.wait(run_id, 90)["status"] == "COMPLETED"
    assert starts.read_text() == "once\nonce\n"
    assert slurm_service.step(run_id, "only")["attempt"] == 1


def test_cancel_single_tasks_of_an_array(slurm_service: Service, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    text = f"while ! test -e '{gate}'; do sleep 0.1; done"
    run_id = slurm_service.submit(sh(text, "many", foreach=["a", "b", "c"], resources={"memory_gb": 0.1}))
    wait_until(lambda: all(step["status"] == "RUNNING" for step in slurm_service.run(run_id)["step_runs"]), 30, "all")
    victim = slurm_service.step(run_id, "many", "b")
    slurm_service.call("POST", f"/step-runs/{victim['id']}/cancel")
    wait_until(lambda: slurm_service.step(run_id, "many", "b")["status"] == "CANCELLED", 30, "the cancel")
    gate.touch()
    slurm_service.wait(run_id)
    ends = [slurm_service.step(run_id, "many", key)["status"] for key in "abc"]
    assert ends == ["COMPLETED", "CANCELLED", "COMPLETED"]


def test_logs_of_a_running_job(slurm_service: Service) -> None:
    run_id = slurm_service.submit(sh("echo early; exec sleep 1000"))
    step = slurm_service.wait_running(run_id)
    wait_until(lambda: slurm_service.stream(step) == "early\n", 10, "the first line")
    slurm_service.cancel(run_id)


def test_a_job_that_writes_too_much_log_is_stopped(slurm_service: Service) -> None:
    run_id = slurm_service.submit(sh("head -c 3000000 /dev/zero | tr '\\0' x; exec sleep 1000"))
    assert slurm_service.wait(run_id)["status"] == "FAILED"
    assert reason_of(slurm_service, run_id) == ("FAILED", "log_limit")
    assert "LOG_LIMIT_MB allows 2" in slurm_service.step(run_id, "only")["reason_text"]
