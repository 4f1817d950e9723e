"""Runs at the stand-in, through every process of a deployment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.stand_ins.aws_batch.jobs import HOST_GONE
from tests.stand_ins.aws_batch.server import StandIn
from tests.support.fixtures_aws_batch import aws_batch_environment, mend
from tests.support.fixtures_service import Service, running_service, sh, variables
from tests.support.reaper import Reaper
from tests.support.s3_server import S3Server, rclone_s3
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The buckets of the observatory, in a store that is not Amazon's."""
    with rclone_s3(tmp_path_factory.mktemp("buckets")) as server:
        (server.directory / "night").mkdir()
        (server.directory / "night" / "scan_1.fits").write_text("scan 1\n")
        (server.directory / "night" / "flat.fits").write_text("flat\n")
        yield server


@pytest.fixture(scope="module")
def deployment(reaper: Reaper, aws_batch_stand_in: StandIn, store: S3Server) -> Iterator[Service]:
    """One deployment for all tests; its jobs see what the machine sees."""
    environment = aws_batch_environment(aws_batch_stand_in)
    settings = {"HPC_BACKEND": "aws_batch", "FOLLOW_SECONDS": "1", "S3_ENDPOINT_URL": store.url}
    with running_service(reaper, environment, **settings) as service:
        yield service


@pytest.fixture(autouse=True)
def _whole_stand_in(aws_batch_stand_in: StandIn) -> Iterator[None]:
    yield
    mend(aws_batch_stand_in)


def test_a_fan_out_is_an_array(deployment: Service, aws_batch_stand_in: StandIn) -> None:
    keys = [str(n) for n in range(50)]
    run_id = deployment.submit(
        sh('echo "$WORKFLOW_KEY" > "$WORKFLOW_OUTPUT_DIR/key"', "many", foreach=keys, resources={"memory_gb": 0.1}),
        sh('cat "$WORKFLOW_UPSTREAM_DIR"/many/*/key | wc -l > "$WORKFLOW_OUTPUT_DIR/n"', "gather", depends_on=["many"]),
    )  # fmt: skip
    run = deployment.wait(run_id, 110)
    assert run["status"] == "COMPLETED", run
    assert (deployment.attempt_dir(run_id, "gather") / "output" / "n").read_text().strip() == "50"
    for key in ("0", "27", "49"):
        assert (deployment.attempt_dir(run_id, "many", key) / "output" / "key").read_text() == f"{key}\n"
    ids = [str(step["job_id"]).partition(":")[0] for step in run["step_runs"] if step["step"] == "many"]
    arrays = {job_id.partition("_")[0] for job_id in ids if "_" in job_id}
    assert sum("_" in job_id for job_id in ids) >= 40, "alike step runs should be arrays"
    assert len(arrays) <= 20
    assert all(aws_batch_stand_in.site.jobs[number].over for number in arrays)
    assert all(step["attempt"] == 1 for step in run["step_runs"])


CASES: list[tuple[dict[str, Any], str, str]] = [
    (sh("true", resources={"partition": "nowhere"}), "rejected", "nowhere"),
    (sh("true", resources={"extra": {"privileged": True}}), "rejected", "extra.privileged"),
    (sh("exec sleep 1000", resources={"time_hours": 0.001}), "time_limit", "time limit"),
]


@pytest.mark.parametrize(("step", "reason", "words"), CASES, ids=[case[1] for case in CASES])
def test_every_end_has_a_name_and_words(deployment: Service, step: dict[str, Any], reason: str, words: str) -> None:
    run_id = deployment.submit({"retry": {"max_attempts": 1}, **step})
    deployment.wait(run_id)
    found = deployment.step(run_id, "only")
    assert (found["status"], found["reason"]) == ("FAILED", reason), found
    assert words.lower() in found["reason_text"].lower()


COPY = 'cat "$WORKFLOW_INPUT_DIR"/* > "$WORKFLOW_OUTPUT_DIR/copy"; ls "$1" > "$WORKFLOW_OUTPUT_DIR/seen"'


@contextmanager
def web_server(directory: Path) -> Iterator[str]:
    handler = partial(SimpleHTTPRequestHandler, directory=str(directory))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def reads_both_stores(deployment: Service, tmp_path: Path) -> str:
    """A run whose step reads an object of S3 and one of a web server. Returns what its job saw of the host."""
    (tmp_path / "table.txt").write_text("a table\n")
    with web_server(tmp_path) as url:
        step = sh(COPY, inputs=["s3://night/${item}.fits", {"from": f"{url}/table.txt", "to": "z"}], foreach=["scan_1"])
        step["command"] += ["sh", str(deployment.data_dir)]
        run_id = deployment.submit(step)
        run = deployment.wait(run_id, 60)
    assert run["status"] == "COMPLETED", run
    products = {each["name"]: each["id"] for each in deployment.call("GET", f"/runs/{run_id}/products")["items"]}
    texts = {name: deployment.client.get(f"/products/{each}/content").text for name, each in products.items()}
    assert texts["copy"] == "scan 1\na table\n"
    lineage = deployment.call("GET", f"/products/{products['copy']}/lineage")["inputs"]
    assert [each["sha256"] for each in lineage] == [sha256(text).hexdigest() for text in (b"scan 1\n", b"a table\n")]
    missing = deployment.submit(sh("true", inputs=["s3://night/none.fits"], retry={"max_attempts": 1}))
    deployment.wait(missing)
    assert deployment.step(missing, "only")["reason"] == "input_missing"
    return texts["seen"]


def test_inputs_from_stores(deployment: Service, tmp_path: Path) -> None:
    assert "pipelines" in reads_both_stores(deployment, tmp_path)


@pytest.mark.slow
@pytest.mark.needs("root")
def test_inputs_from_stores_without_a_shared_filesystem(
    reaper: Reaper, aws_batch_stand_in: StandIn, store: S3Server, tmp_path: Path
) -> None:
    """The worker fetches the objects, and they travel to the job with its attempt, through S3."""
    environment = aws_batch_environment(aws_batch_stand_in)
    environment |= variables(AWS_BATCH_VOLUMES="", AWS_BATCH_S3_PREFIX="s3://bucket/attempts")
    settings = {"HPC_BACKEND": "aws_batch", "FOLLOW_SECONDS": "1", "S3_ENDPOINT_URL": store.url}
    with running_service(reaper, environment, **settings) as service:
        aws_batch_stand_in.site.hidden = service.data_dir
        seen = reads_both_stores(service, tmp_path).split()
    assert seen == ["pipelines"], "the job sees its attempt and nothing else of the directory of the service"


def test_a_reclaimed_machine_is_tried_again(deployment: Service, aws_batch_stand_in: StandIn) -> None:
    text = '[ "$WORKFLOW_ATTEMPT" = 2 ] || exec sleep 1000'
    run_id = deployment.submit(sh(text, retry={"max_attempts": 2, "backoff_seconds": 0}))
    number = deployment.wait_running(run_id)["job_id"].partition(":")[0]
    aws_batch_stand_in.site.lose_host(aws_batch_stand_in.site.jobs[number])
    assert deployment.wait(run_id)["status"] == "COMPLETED"
    first, _ = deployment.attempts(deployment.step(run_id, "only"))
    assert first["reason"] == "preempted"
    assert HOST_GONE in str(first)


def test_cancel_what_waits(deployment: Service, aws_batch_stand_in: StandIn) -> None:
    aws_batch_stand_in.site.held = True
    waiting = deployment.submit(sh("exec sleep 1000"))
    deployment.wait_step(waiting, "only", lambda step: "for a machine" in (step["waiting_for"] or ""))
    before = aws_batch_stand_in.calls["CancelJob"]
    deployment.cancel(waiting)
    assert aws_batch_stand_in.calls["CancelJob"] > before


def test_a_single_child_of_an_array_is_cancelled(deployment: Service, aws_batch_stand_in: StandIn) -> None:
    aws_batch_stand_in.site.held = True
    run_id = deployment.submit(sh("true", "many", foreach=["a", "b", "c"]))
    wait_until(lambda: all(step["job_id"] for step in deployment.run(run_id)["step_runs"]), 30, "three jobs")
    victim = deployment.step(run_id, "many", "b")
    deployment.call("POST", f"/step-runs/{victim['id']}/cancel")
    wait_until(lambda: deployment.step(run_id, "many", "b")["status"] == "CANCELLED", 30, "the cancel")
    aws_batch_stand_in.site.held = False
    deployment.wait(run_id)
    assert [deployment.step(run_id, "many", key)["status"] for key in "abc"] == ["COMPLETED", "CANCELLED", "COMPLETED"]


def test_stopped_at_aws(deployment: Service, aws_batch_stand_in: StandIn) -> None:
    run_id = deployment.submit(sh("exec sleep 1000"))
    number = deployment.wait_running(run_id)["job_id"].partition(":")[0]
    site = aws_batch_stand_in.site
    site.terminate(site.jobs[number], "the console", started_too=True)
    deployment.wait(run_id)
    step = deployment.step(run_id, "only")
    assert (step["status"], step["reason"]) == ("FAILED", "stopped_outside")
    assert "the console" in step["reason_text"]
