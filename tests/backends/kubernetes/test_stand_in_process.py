"""The stand-in as a process of its own, and what is left of it when it goes."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccat_workflow_manager.hpc.attempt import process_tree
from tests.backends.kubernetes.stand_in_client import JOBS, Client
from tests.stand_ins.kubernetes import RemoteServer
from tests.support.reaper import Reaper
from tests.support.waiting import wait_until

MODULE = "tests.stand_ins.kubernetes"


@pytest.fixture
def process(tmp_path: Path, reaper: Reaper) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-m", MODULE, "--directory", str(tmp_path), "--image", "bb:1", "--clock-scale", "10"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    reaper.watch(process.pid)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == str(tmp_path / "kubeconfig")
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def started(client: Client, directory: Path) -> list[int]:
    """The processes of two containers, one of which is deaf to everything and has a child."""
    marks = [directory / "first", directory / "second"]
    client.create("first", f"echo $$$$ > {marks[0]}; exec sleep 1000")
    client.create("second", f"trap '' TERM; setsid sh -c 'echo $$$$ > {marks[1]}; sleep 1000' & wait")
    wait_until(lambda: all(mark.exists() and mark.read_text().strip() for mark in marks), what="both to run")
    return [int(mark.read_text()) for mark in marks]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["ended", "killed"])
def test_nothing_outlives_it(process: subprocess.Popen[str], tmp_path: Path, number: signal.Signals) -> None:
    client = Client(RemoteServer(tmp_path))
    pids = started(client, tmp_path)
    process.send_signal(number)
    process.wait(20)
    wait_until(lambda: not any(process_tree.look(pid) for pid in pids), what="the containers to be gone")
    client.close()


def test_faults_from_outside(process: subprocess.Popen[str], tmp_path: Path) -> None:
    server = RemoteServer(tmp_path)
    client = Client(server)
    server.faults.server_error(status=503)
    assert client.http.get(JOBS).status_code == 503
    assert client.http.get(JOBS).status_code == 200
    client.create("run", "sleep 1000")
    pod = client.running("run")
    server.faults.evict(pod["metadata"]["name"])
    client.finished("run")
    server.faults.expire_tokens()
    assert client.http.get(JOBS).status_code == 401
    assert [(one.method, one.path, one.status) for one in server.requests][:2] == [
        ("GET", JOBS, 503),
        ("GET", JOBS, 200),
    ]
    client.close()
