"""Parts of a deployment die in the middle of work: nothing is lost, and nothing runs twice."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
from redis import Redis

from tests.support.fixtures_service import Service, ServiceMaker, running_service, sh
from tests.support.reaper import Reaper
from tests.support.waiting import PATIENCE, wait_for, wait_until


@pytest.fixture(scope="module")
def service(reaper: Reaper) -> Iterator[Service]:
    """One deployment, which every test breaks and leaves whole."""
    with running_service(reaper) as service:
        yield service


class Fan:
    """Six programs that note each start and wait for a gate, and one step behind them."""

    def __init__(self, service: Service, directory: Path) -> None:
        self.service = service
        self.gate, self.marks = directory / "gate", directory / "marks"
        self.marks.mkdir()
        text = (
            f"echo started >> '{self.marks}/'\"$WORKFLOW_KEY\"; while ! test -e '{self.gate}'; do sleep 0.05; done;"
            ' echo done > "$WORKFLOW_OUTPUT_DIR/x"'
        )
        many = sh(text, "many", foreach=[str(n) for n in range(6)])
        self.run_id = service.submit(many, sh("true", "after", depends_on=["many"]))
        wait_until(lambda: len(list(self.marks.iterdir())) == 6, 30, "all to start")

    def finish(self) -> dict[str, Any]:
        """Open the gate. Every program has started once and the run completes."""
        self.gate.touch()
        run = self.service.wait(self.run_id)
        assert run["status"] == "COMPLETED"
        assert {path.name: path.read_text() for path in self.marks.iterdir()} == {str(n): "started\n" for n in range(6)}
        assert all(step["attempt"] == 1 for step in run["step_runs"])
        return run


def test_a_second_signal_ends_what_the_first_waits_for(make_service: ServiceMaker) -> None:
    service = make_service()
    assert service.process is not None
    hangs = service.worker_pids()[0]
    os.kill(hangs, signal.SIGSTOP)
    service.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "a second signal" in service.log(), 20, "what it waits for")
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(PATIENCE) == 0
    assert not psutil.pid_exists(hangs)
    assert service.postgres.pid is service.valkey.pid is None


def test_what_a_killed_deployment_leaves(make_service: ServiceMaker) -> None:
    service = make_service()
    doctor = partial(service.start_another, "doctor")
    assert doctor().wait(PATIENCE) == 0
    assert "the last one was killed" not in service.log()
    assert service.start_another("up", "--stop").wait(PATIENCE) == 3
    service.kill()
    wait_until(service.postgres.is_abandoned, 30, "the last process that uses it to end")
    doctor().wait(PATIENCE)
    assert service.log().count("the last one was killed") == 2
    assert service.start_another("up", "--stop").wait(PATIENCE) == 0
    assert f"postgres in {service.data_dir}: stopped" in service.log()
    assert service.postgres.pid is service.valkey.pid is None


@pytest.fixture
def fan(service: Service, tmp_path: Path) -> Fan:
    return Fan(service, tmp_path)


def local_supervisors(service: Service) -> list[psutil.Process]:
    def is_one(line: str) -> bool:
        return "supervisor/start.py" in line and str(service.directory) in line

    return [p for p in psutil.process_iter(["cmdline"]) if is_one(" ".join(p.info["cmdline"] or ()))]


def test_workers_die_while_jobs_run(service: Service, fan: Fan) -> None:
    for pid in wait_for(lambda: pids if len(pids := service.worker_pids()) == 2 else None, 20, "two workers"):
        os.kill(pid, signal.SIGKILL)
    fan.finish()


def test_postgresql_dies_while_jobs_run(service: Service, fan: Fan) -> None:
    pid = service.postgres.pid
    assert pid is not None
    os.kill(pid, signal.SIGQUIT)
    wait_until(lambda: service.postgres.pid not in (None, pid) and service.is_ready(), 60, "the service to be ready")
    fan.finish()


def test_valkey_dies_and_forgets_everything_while_jobs_run(service: Service, fan: Fan) -> None:
    assert service.valkey.pid is not None
    os.kill(service.valkey.pid, signal.SIGKILL)
    fan.finish()


def test_the_supervisor_of_local_jobs_is_killed(service: Service, fan: Fan) -> None:
    [supervisor] = local_supervisors(service)
    supervisor.kill()
    fan.finish()


def test_everything_is_killed_and_started_again(service: Service, fan: Fan) -> None:
    service.kill()
    for supervisor in local_supervisors(service):
        supervisor.kill()
    service.start()
    assert service.step(fan.run_id, "after")["status"] == "PENDING"
    fan.finish()


def test_an_orderly_stop_leaves_jobs_running_and_the_next_start_finds_them(service: Service, fan: Fan) -> None:
    assert service.stop() == 0
    fan.gate.touch()
    service.start()
    fan.finish()


def test_redis_forgets_workers_that_died(service: Service) -> None:
    with Redis.from_url(service.valkey.url) as client:

        def registered() -> set[str]:
            return {key.decode() for key in cast("set[bytes]", client.smembers("rq:workers"))}

        before = wait_for(lambda: registered() or None, 20, "workers")
        service.kill()
        # As happens by itself after a while.
        client.delete(*before)
        service.start()
        wait_until(lambda: registered() and not registered() & before, 20, "the dead to be forgotten")
