"""Parts of a deployment die in the middle of work: nothing is lost, nothing runs twice, nobody has to come."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, cast

import psutil
from redis import Redis

from ccat_workflow_manager.embedded import EmbeddedPostgres, EmbeddedValkey
from tests.support.fixtures_service import Service, ServiceMaker
from tests.support.waiting import wait_for, wait_until

SH = ["/bin/sh", "-c"]


def gated(gate: Path, marks: Path) -> dict[str, Any]:
    """Steps that note each start, and go on once the gate is open."""
    text = (
        f"echo started >> '{marks}/'\"$WORKFLOW_KEY\"; while ! test -e '{gate}'; do sleep 0.05; done;"
        ' echo done > "$WORKFLOW_OUTPUT_DIR/x"'
    )
    return {"name": "many", "foreach": [str(n) for n in range(6)], "command": [*SH, text]}


def started(marks: Path) -> int:
    return len(list(marks.iterdir()))


def check_once(marks: Path) -> None:
    assert {path.name: path.read_text() for path in marks.iterdir()} == {str(n): "started\n" for n in range(6)}


def worker_pids(service: Service) -> list[int]:
    items = service.call("GET", "/workers")["items"]
    return [item["pid"] for item in items]


def test_workers_die_while_jobs_run(make_service: ServiceMaker, tmp_path: Path) -> None:
    service = make_service()
    gate, marks = tmp_path / "gate", tmp_path / "marks"
    marks.mkdir()
    run_id = service.submit(gated(gate, marks), {"name": "after", "command": ["/bin/true"], "depends_on": ["many"]})
    wait_until(lambda: started(marks) == 6, 30, "all to start")
    before = wait_for(lambda: worker_pids(service) if len(worker_pids(service)) == 2 else None, 20, "two workers")
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    gate.touch()
    assert service.wait(run_id)["status"] == "COMPLETED"
    check_once(marks)
    assert all(step["attempt"] == 1 for step in service.run(run_id)["step_runs"])


def test_valkey_dies_and_forgets_everything(make_service: ServiceMaker, tmp_path: Path) -> None:
    service = make_service()
    gate, marks = tmp_path / "gate", tmp_path / "marks"
    marks.mkdir()
    run_id = service.submit(gated(gate, marks))
    wait_until(lambda: started(marks) > 0, 30, "the first to start")
    valkey = EmbeddedValkey(service.directory / "data")
    assert valkey.pid is not None
    os.kill(valkey.pid, signal.SIGKILL)
    second = service.submit({"name": "only", "command": ["/bin/true"]})
    gate.touch()
    assert service.wait(run_id)["status"] == "COMPLETED"
    assert service.wait(second)["status"] == "COMPLETED"
    check_once(marks)


def test_postgresql_dies_while_jobs_run(make_service: ServiceMaker, tmp_path: Path) -> None:
    service = make_service()
    gate, marks = tmp_path / "gate", tmp_path / "marks"
    marks.mkdir()
    run_id = service.submit(gated(gate, marks))
    wait_until(lambda: started(marks) == 6, 30, "all to start")
    postgres = EmbeddedPostgres(service.directory / "data")
    assert postgres.pid is not None
    os.kill(postgres.pid, signal.SIGQUIT)
    gate.touch()
    wait_until(service.is_ready, 60, "the service to be ready again")
    assert service.wait(run_id)["status"] == "COMPLETED"
    check_once(marks)


def test_everything_is_killed_and_started_again(make_service: ServiceMaker, tmp_path: Path) -> None:
    service = make_service()
    gate, marks = tmp_path / "gate", tmp_path / "marks"
    marks.mkdir()
    run_id = service.submit(gated(gate, marks), {"name": "after", "command": ["/bin/true"], "depends_on": ["many"]})
    wait_until(lambda: started(marks) == 6, 30, "all to start")
    service.kill()
    service.start()
    assert service.step(run_id, "after")["status"] == "PENDING"
    gate.touch()
    assert service.wait(run_id)["status"] == "COMPLETED"
    check_once(marks)


def test_workers_that_died_are_forgotten_by_redis(make_service: ServiceMaker) -> None:
    service = make_service()
    with Redis.from_url(EmbeddedValkey(service.directory / "data").url) as client:

        def registered() -> set[str]:
            return {key.decode() for key in cast("set[bytes]", client.smembers("rq:workers"))}

        before = wait_for(lambda: registered() or None, 20, "workers")
        service.kill()
        # As happens by itself after a while.
        client.delete(*before)
        service.start()
        wait_until(lambda: registered() and not registered() & before, 20, "the dead to be forgotten")


def test_the_supervisor_of_local_jobs_is_killed(make_service: ServiceMaker, tmp_path: Path) -> None:
    service = make_service()
    gate, marks = tmp_path / "gate", tmp_path / "marks"
    marks.mkdir()
    run_id = service.submit(gated(gate, marks))
    wait_until(lambda: started(marks) == 6, 30, "all to start")
    home = str(service.directory)
    supervisors = [
        p for p in psutil.process_iter(["cmdline"])
        if "supervisor/start.py" in " ".join(p.info["cmdline"] or ()) and home in " ".join(p.info["cmdline"] or ())
    ]  # fmt: skip
    assert len(supervisors) == 1
    supervisors[0].kill()
    gate.touch()
    assert service.wait(run_id)["status"] == "COMPLETED"
    check_once(marks)


def test_an_orderly_stop_leaves_jobs_running_and_the_next_start_finds_them(
    make_service: ServiceMaker, tmp_path: Path
) -> None:
    service = make_service()
    gate, marks = tmp_path / "gate", tmp_path / "marks"
    marks.mkdir()
    run_id = service.submit(gated(gate, marks))
    wait_until(lambda: started(marks) == 6, 30, "all to start")
    assert service.stop() == 0
    gate.touch()
    service.start()
    assert service.wait(run_id)["status"] == "COMPLETED"
    check_once(marks)
