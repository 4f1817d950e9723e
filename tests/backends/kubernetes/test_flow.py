"""Runs on a cluster, through every process of a deployment."""

from __future__ import annotations

from typing import Any

import pytest

from tests.stand_ins.kubernetes import ApiServer
from tests.support.canary import prove_that_it_stays_secret
from tests.support.fixtures_service import Service, sh
from tests.support.waiting import wait_until


def test_native_steps_hand_products_on(native_service: Service) -> None:
    image = {"image": "docker://ccat/shell:1"}
    run_id = native_service.submit(
        sh('echo "$WORKFLOW_KEY" > "$WORKFLOW_OUTPUT_DIR/key"', "many", foreach=["a", "b"], **image),
        sh('cat "$WORKFLOW_UPSTREAM_DIR"/many/*/key', "gather", depends_on=["many"], **image),
    )
    run = native_service.wait(run_id, 90)
    assert run["status"] == "COMPLETED", (run, native_service.log())
    assert native_service.stream(native_service.step(run_id, "gather")) == "a\nb\n"
    assert native_service.step(run_id, "many", "b")["job_id"].startswith("default/ccat-")


def test_a_secret_of_the_cluster_stays_secret(kubernetes_service: Service, native_service: Service) -> None:
    prove_that_it_stays_secret(kubernetes_service)
    prove_that_it_stays_secret(native_service, image="ccat/shell:1")


def test_a_secret_that_the_cluster_does_not_have(kubernetes_service: Service) -> None:
    run_id = kubernetes_service.submit(sh("true", environment={"TOKEN": {"secret": "unknown"}}))
    kubernetes_service.wait(run_id)
    step = kubernetes_service.step(run_id, "only")
    assert (step["status"], step["reason"]) == ("FAILED", "secret_missing"), step
    assert "unknown" in step["reason_text"]


def test_native_keeps_the_container_contract(native_service: Service) -> None:
    """Paths, modes and environment are those of the container contract."""
    look = (
        "pwd; printenv OF_THE_IMAGE WORKFLOW_OUTPUT_DIR; env | grep -c ^KUBERNETES_; "
        'test -s "$WORKFLOW_MANIFEST" && echo manifest; '
        "touch /workflow/input/x 2>/dev/null || echo input is read-only; "
        "touch /workflow/config/x 2>/dev/null || echo config is read-only; "
        "touch /workflow/workspace/x /workflow/output/x && echo writable"
    )
    run_id = native_service.submit(sh(look, image="ccat/shell:1"))
    assert native_service.wait(run_id)["status"] == "COMPLETED"
    step = native_service.step(run_id, "only")
    seen = native_service.stream(step).splitlines()
    assert seen == [
        "/workflow/workspace", "yes", "/workflow/output", "0", "manifest", "input is read-only", "config is read-only",
        "writable",
    ]  # fmt: skip


def test_native_refuses_what_is_no_oci_image(native_service: Service) -> None:
    run_id = native_service.submit(sh("true", image="grid.sif"))
    native_service.wait(run_id)
    step = native_service.step(run_id, "only")
    assert (step["status"], step["reason"]) == ("FAILED", "image_invalid"), step


def test_the_last_words_of_a_pod_harm_no_other_job(native_service: Service) -> None:
    words = "printf 'last \\000\\355\\240\\200 words' > /dev/termination-log; kill -9 $PPID; exec sleep 5"
    bad = native_service.submit(sh(words, image="ccat/shell:1", retry={"max_attempts": 1}))
    good = native_service.submit(sh("true", image="ccat/shell:1"))
    assert native_service.wait(good)["status"] == "COMPLETED"
    native_service.wait(bad)
    assert native_service.step(bad, "only")["reason"] == "killed_by_signal"


ENDS = [
    (sh("true", resources={"partition": "science"}), "rejected", "no partitions"),
    (sh("exec sleep 1000", resources={"time_hours": 0.005}), "time_limit", "deadline"),
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
    kubernetes_service.cancel(run_id)


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
