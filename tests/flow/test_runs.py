"""Runs from the request to the products, through every process of a deployment."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import Result

from tests.cli.commands import invoke
from tests.support.fixtures_service import Service, sh
from tests.support.waiting import wait_until

SH = ["/bin/sh", "-c"]


def test_a_dag_runs_and_its_products_are_there(service: Service) -> None:
    save = (
        'mkdir -p "$WORKFLOW_OUTPUT_DIR/science"; printf %s "$0" > "$WORKFLOW_OUTPUT_DIR/science/value.txt"; echo made'
    )
    own = 'cat "$WORKFLOW_UPSTREAM_DIR/make/$WORKFLOW_KEY/science/value.txt" make/science/value.txt'
    run_id = service.submit(
        {"name": "make", "foreach": ["a", "b"], "command": [*SH, save, "${item}"]},
        sh(f'{own} > "$WORKFLOW_OUTPUT_DIR/twice.txt"', "twice", foreach=["a", "b"], depends_on=["make"]),
        sh('cat "$WORKFLOW_UPSTREAM_DIR"/twice/*/* > "$WORKFLOW_OUTPUT_DIR/all.txt"', "gather", depends_on=["twice"]),
    )
    run = service.wait(run_id)
    assert run["status"] == "COMPLETED", run
    assert run["counts"]["COMPLETED"] == 5
    gathered = service.step(run_id, "gather")
    assert (service.attempt_dir(run_id, "gather") / "output" / "all.txt").read_text() == "aabb"
    (product,) = service.call("GET", f"/step-runs/{gathered['id']}/products")["items"]
    assert (product["name"], product["type"], product["size"]) == ("all.txt", "INTERMEDIATE", 4)
    content = service.client.get(f"/products/{product['id']}/content")
    assert content.content == b"aabb"
    made = service.step(run_id, "make", "a")
    assert service.client.get(f"/step-runs/{made['id']}/log?stream=stdout").text == "made\n"
    assert made["exit_code"] == 0
    assert made["wall_time_seconds"] >= 0
    assert made["cpu_hours"] is not None
    assert made["peak_memory_gb"] > 0
    events = [event["event"] for event in service.call("GET", f"/step-runs/{made['id']}/events")["items"]]
    assert events[0] == "created"
    assert events[-1] == "results_collected"
    manifest = json.loads((service.attempt_dir(run_id, "gather") / "config" / "manifest.json").read_text())
    assert manifest["step"] == "gather"


def test_the_products_of_a_run_are_downloaded(service: Service, tmp_path: Path) -> None:
    make = 'cd "$WORKFLOW_OUTPUT_DIR"; mkdir -p science/m.zarr/0 plots; head -c 3000000 /dev/zero > science/big; '
    make += 'echo "$WORKFLOW_KEY" > science/m.zarr/0/0; ln -s 0/0 science/m.zarr/first; echo p > "plots/a b.png"'
    run_id = service.submit(sh(make, "make", foreach=["a", "b"]))
    assert service.wait(run_id)["status"] == "COMPLETED"
    target = tmp_path / "results"

    def download(*options: str, code: int = 0) -> Result:
        done = invoke(
            "run", "download", run_id, str(target), *options, env={"CCAT_WM_URL": f"http://127.0.0.1:{service.port}"}
        )
        assert done.exit_code == code, done.output
        return done

    download("--type", "plot", "--key", "a")
    assert [path.relative_to(target) for path in target.rglob("*.png")] == [Path("make/a/plots/a b.png")]
    partial = target / "make" / "b" / "science" / ".big.part"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(bytes(1_000_000))
    assert "6 products, 1 of them were there" in download().stdout
    assert not partial.exists()
    assert (target / "make/b/science/big").stat().st_size == 3_000_000
    for key in "ab":
        assert (target / "make" / key / "science/m.zarr/first").read_text() == f"{key}\n"
    assert "6 of them" in download().stdout
    (target / "make/a/science/m.zarr/0/0").write_text("changed")
    assert "make/a/science/m.zarr" in download(code=2).stderr


def test_strings_arrive_intact(service: Service) -> None:
    strings = [
        "a b",
        "'\"",
        "$(echo no)",
        "`no`",
        "new\nline",
        "x:y,z",
        "größe→",
        "*",
        "",
        "-n",
        "\\",
        "${HOME}".replace("$", "$$"),
    ]
    program = (
        "import json, os, sys\n"
        "with open(os.environ['WORKFLOW_OUTPUT_DIR'] + '/x.json', 'w') as file:\n"
        "    json.dump([sys.argv[1:], os.environ['ODD']], file)\n"
    )
    run_id = service.submit(
        {
            "name": "only",
            "command": [sys.executable, "-S", "-c", program, *strings],
            "environment": {"ODD": "\n".join(strings)},
        }
    )
    assert service.wait(run_id)["status"] == "COMPLETED"
    seen = json.loads((service.attempt_dir(run_id, "only") / "output" / "x.json").read_text())
    expected = [text.replace("$${", "${") for text in strings]
    assert seen == [expected, "\n".join(strings).replace("$${", "${")]


CASES: list[tuple[dict[str, Any], str, str]] = [
    (sh("echo broken >&2; exit 3"), "program_failed", "exit code 3"),
    (sh("kill -9 $$"), "killed_by_signal", "signal 9"),
    ({"name": "only", "command": ["/no/such/program"]}, "command_not_found", "command"),
    (sh("exec sleep 60", resources={"cpu": 0.1, "memory_gb": 0.1, "time_hours": 1 / 3600}), "time_limit", "time limit"),
    (sh('ln -s /etc/passwd "$WORKFLOW_OUTPUT_DIR/passwd"'), "output_invalid", "passwd"),
    (sh('mkfifo "$WORKFLOW_OUTPUT_DIR/pipe"'), "output_invalid", "pipe"),
    (sh('echo "{" > "$WORKFLOW_OUTPUT_DIR/products.json"'), "output_invalid", "products.json"),
    (sh("true", resources={"cpu": 4000}), "rejected", "4000"),
    (sh("true", resources={"gpu": 1}), "rejected", "GPU"),
    (sh("true", resources={"extra": {"licence": 1}}), "rejected", "licence"),
    (sh('rm -f "$WORKFLOW_OUTPUT_DIR/../"*.exit.part "$WORKFLOW_OUTPUT_DIR/../"*.sh; rmdir "$WORKFLOW_OUTPUT_DIR"'),
     "output_unreadable", "output"),
]  # fmt: skip


@pytest.mark.parametrize(("step", "reason", "words"), CASES, ids=[case[1] + str(n) for n, case in enumerate(CASES)])
def test_every_end_has_a_name_and_words(service: Service, step: dict[str, Any], reason: str, words: str) -> None:
    run_id = service.submit({"retry": {"max_attempts": 1}, **step})
    run = service.wait(run_id)
    found = service.step(run_id, "only")
    assert (run["status"], found["status"], found["reason"]) == ("FAILED", "FAILED", reason), found
    assert words.lower() in found["reason_text"].lower()
    assert found["reason"] in run["status_reason"]


def test_a_memory_limit_is_told_from_other_kills_and_raised(service: Service) -> None:
    program = (
        "import os; b = bytearray(300 << 20)\n"
        "for i in range(0, len(b), 4096): b[i] = 1\n"
        "open(os.environ['WORKFLOW_OUTPUT_DIR'] + '/ok', 'w').close()"
    )
    run_id = service.submit(
        {
            "name": "only",
            "command": [sys.executable, "-S", "-c", program],
            "resources": {"cpu": 0.1, "memory_gb": 0.12},
            "retry": {"max_attempts": 3, "backoff_seconds": 0, "memory_factor": 4},
        }
    )
    assert service.wait(run_id)["status"] == "COMPLETED"
    step = service.step(run_id, "only")
    first, second = service.call("GET", f"/step-runs/{step['id']}/attempts")["items"]
    assert first["reason"] == "out_of_memory"
    assert second["resources"]["memory_gb"] == pytest.approx(0.48)
    assert (service.attempt_dir(run_id, "only", attempt=2) / "output" / "ok").exists()


def test_a_program_that_writes_too_much_log_is_stopped(service: Service) -> None:
    run_id = service.submit(sh("while :; do echo 0123456789012345678901234567890123456789; done"))
    service.wait(run_id)
    step = service.step(run_id, "only")
    assert (step["status"], step["reason"]) == ("FAILED", "log_limit")


def test_retry_repeats_only_what_did_not_complete(service: Service, tmp_path: Path) -> None:
    marker = tmp_path / "now it works"
    run_id = service.submit(sh("true", "fine"), sh(f"test -e '{marker}'", "bad", depends_on=["fine"]))
    assert service.wait(run_id)["status"] == "FAILED"
    marker.touch()
    service.call("POST", f"/runs/{run_id}/retry")
    assert service.wait(run_id)["status"] == "COMPLETED"
    assert service.step(run_id, "fine")["attempt"] == 1
    assert service.step(run_id, "bad")["attempt"] == 2


def living(marker: str) -> list[int]:
    return [p.pid for p in psutil.process_iter(["cmdline"]) if marker in " ".join(p.info["cmdline"] or ())]


def test_cancel_ends_the_whole_tree_also_a_child_in_its_own_session(service: Service, tmp_path: Path) -> None:
    marker = f"86399.{tmp_path.name}"
    ready = tmp_path / "ready"
    stubborn = f"trap '' TERM; touch {ready}; while :; do sleep 1; done"
    text = f'sleep 86399 & trap "" TERM; setsid sh -c "{stubborn}" {marker} & wait'
    run_id = service.submit(sh(text))
    wait_until(ready.exists, 30, "the program to be up")
    assert living(marker)
    service.call("POST", f"/runs/{run_id}/cancel")
    assert service.wait(run_id)["status"] == "CANCELLED"
    assert service.step(run_id, "only")["status"] == "CANCELLED"
    wait_until(lambda: not living(marker), 10, "every process to be gone")


def test_cancel_while_waiting_for_capacity(service: Service) -> None:
    blocker = service.submit(sh("exec sleep 1000", resources={"cpu": 0.1, "memory_gb": 0.1}))
    service.wait_running(blocker)
    waiting = service.submit(sh("true", resources={"cpu": psutil.cpu_count(), "memory_gb": 0.1}))
    step = service.wait_step(waiting, "only", lambda s: "cpu" in (s["waiting_for"] or "").lower())
    assert step["status"] == "SUBMITTED"
    service.call("POST", f"/runs/{waiting}/cancel")
    assert service.wait(waiting)["status"] == "CANCELLED"
    service.call("POST", f"/runs/{blocker}/cancel")
    assert service.wait(blocker)["status"] == "CANCELLED"


def test_a_paused_run_waits_and_says_so(service: Service, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    run_id = service.submit(
        sh(f"while ! test -e '{gate}'; do sleep 0.05; done", "first"), sh("true", "second", depends_on=["first"])
    )
    service.wait_step(run_id, "first", lambda s: s["status"] == "RUNNING")
    service.call("POST", f"/runs/{run_id}/pause")
    gate.touch()
    service.wait_step(run_id, "first", lambda s: s["status"] == "COMPLETED")
    assert "paused" in service.step(run_id, "second")["waiting_for"]
    service.call("POST", f"/runs/{run_id}/resume")
    assert service.wait(run_id)["status"] == "COMPLETED"
