"""What is made although something is missing: tolerated losses, outcomes of programs, what must not be repeated."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.flow.test_switching import World, world  # noqa: F401
from tests.support.fixtures_service import Service, sh

DETECTOR = 'case " $DEAD " in *" $WORKFLOW_KEY "*) exit 3;; esac; echo "$WORKFLOW_KEY" > "$WORKFLOW_OUTPUT_DIR/value"'
MAP = 'cat "$WORKFLOW_UPSTREAM_DIR"/calibrate/*/value > "$WORKFLOW_OUTPUT_DIR/map"'
PARTIAL = """echo '{"outcome": "partial", "text": "no pointing for 3 s"}' > "$WORKFLOW_OUTPUT_DIR/outcome.json"; """


def visit(keys: int, dead: list[str]) -> list[dict[str, Any]]:
    return [
        sh(DETECTOR, "calibrate", foreach=list(range(keys)), environment={"DEAD": " ".join(dead)}),
        sh(PARTIAL + MAP, "map", depends_on=[{"step": "calibrate", "tolerate": "50%"}]),
    ]


def check_visit(service: Service, run_id: str, keys: int, dead: list[str]) -> None:
    """The map is made of what is there, and says what is not."""
    run = service.call("GET", f"/runs/{run_id}")
    assert run["status"] == "COMPLETED", run
    assert {each["kind"] for each in run["caveats"]} == {"tolerated_loss", "partial"}
    directory = service.attempt_dir(run_id, "map")
    made = (directory / "output" / "map").read_text().split()
    upstream = json.loads((directory / "config" / "manifest.json").read_text())["upstream"]
    assert len(upstream) == keys
    assert {each["key"] for each in upstream if each["outcome"] == "present"} == set(made)
    missing = [each for each in upstream if each["outcome"] == "failed"]
    assert sorted(each["key"] for each in missing) == sorted(dead)
    assert {each["reason"] for each in missing} == {"program_failed"}


def test_a_map_is_made_of_what_is_there(service: Service) -> None:
    steps = visit(4, ["1", "2"])
    steps.append(
        sh('mkdir state; touch state/sent; exit 4', "send", irreversible_after="state/sent",
           retry={"max_attempts": 3, "backoff_seconds": 0, "on": ["program_failed"]})
    )  # fmt: skip
    steps.append(sh("true", "report", depends_on=[{"step": "send", "weak": True}]))
    run_id = service.submit(*steps)
    service.wait(run_id)
    check_visit_with_send(service, run_id)
    made = service.step(run_id, "map")
    [product] = service.call("GET", f"/step-runs/{made['id']}/products")["items"]
    assert product["caveats"] == made["caveats"]
    [listed] = [each for each in service.call("GET", "/runs?caveats=true")["items"] if each["id"] == run_id]
    assert listed["caveat_count"] == 3
    assert run_id not in [each["id"] for each in service.call("GET", "/runs?caveats=false")["items"]]


def check_visit_with_send(service: Service, run_id: str) -> None:
    check_visit(service, run_id, 4, ["1", "2"])
    sent = service.step(run_id, "send")
    assert (sent["status"], sent["attempt"], sent["max_attempts"]) == ("FAILED", 1, 3)
    assert "irreversible_after" in sent["reason_text"]
    service.call("POST", f"/step-runs/{sent['id']}/retry")
    service.wait(run_id)
    assert service.step(run_id, "send")["attempt"] == 2


@pytest.mark.slow
@pytest.mark.needs("slurm")
def test_189_detectors_of_which_7_die_on_slurm(world: World) -> None:  # noqa: F811
    world.worker("slurm")
    dead = [str(key) for key in range(3, 189, 27)]
    assert len(dead) == 7
    steps = visit(189, dead)
    steps[1]["depends_on"] = [{"step": "calibrate", "tolerate": "5%"}]
    run_id = world.service.submit(*steps, backend="slurm")
    world.service.wait(run_id, 400)
    check_visit(world.service, run_id, 189, dead)


def test_what_follows_a_step_that_was_done_by_hand_finds_an_empty_directory(service: Service) -> None:
    once = {"retry": {"max_attempts": 1}}
    looks = sh('cd "$WORKFLOW_UPSTREAM_DIR/reduce/main" && [ -z "$(ls -A)" ]', "map", depends_on=["reduce"], **once)
    run_id = service.submit(sh("exit 3", "reduce", **once), looks)
    service.wait(run_id)
    failed = service.step(run_id, "reduce")["id"]
    service.call("POST", f"/step-runs/{failed}/outcome", json={"outcome": "completed", "reason": "done elsewhere"})
    assert service.wait(run_id)["status"] == "COMPLETED"
