"""A whole deployment as an operator starts it: `ccat-wm up` in a directory of its own, asked over REST."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from ccat_workflow_manager.embedded import EmbeddedPostgres, EmbeddedValkey
from tests.support import leftovers
from tests.support.reaper import Reaper
from tests.support.waiting import wait_for, wait_until

PROGRAM = str(Path(sys.executable).with_name("ccat-wm"))
FINISHED = ("COMPLETED", "FAILED", "CANCELLED")


class Service:
    """One deployment and its client."""

    def __init__(self, directory: Path, reaper: Reaper, environment: Mapping[str, str]) -> None:
        self.directory = directory
        self.log_file = directory / "up.log"
        self._reaper = reaper
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CCAT_")},
            "CCAT_WORKFLOW_MANAGER_CONTAINER_RUNTIME": "none",
            "CCAT_WORKFLOW_MANAGER_KILL_GRACE_SECONDS": "1",
            "CCAT_WORKFLOW_MANAGER_LEASE_SECONDS": "5",
            "CCAT_WORKFLOW_MANAGER_SWEEP_SECONDS": "1",
            "CCAT_WORKFLOW_MANAGER_FOLLOW_SECONDS": "2",
            **environment,
        }
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}/api/v1", timeout=30)
        self.process: subprocess.Popen[bytes] | None = None

    # --- the process --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [PROGRAM, "up", "--port", str(self.port), "--data-dir", str(self.directory / "data")],
                env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._reaper.watch(self.process.pid)
        wait_until(self.is_ready, 60, f"the service to come up; its log is {self.log_file}")
        for server in (EmbeddedPostgres, EmbeddedValkey):
            if (pid := server(self.directory / "data").pid) is not None:
                self._reaper.watch(pid)

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> int:
        """Ask it to end, as Ctrl-C does."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)

    def kill(self) -> None:
        """End it as a power failure would, all but what it has started in other sessions."""
        assert self.process is not None
        family = [self.process.pid, *(child.pid for child in self.children())]
        for pid in family:
            os.kill(pid, signal.SIGKILL)
        self.process.wait(10)

    def children(self) -> list[psutil.Process]:
        """Manager and workers."""
        assert self.process is not None
        ours = psutil.Process(self.process.pid)
        return [child for child in ours.children() if PROGRAM in " ".join(child.cmdline())]

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")[-5000:] if self.log_file.exists() else ""

    def close(self) -> None:
        self.client.close()
        if self.process is not None and self.process.poll() is None:
            self.stop()
        leftovers.clear(self.directory, self.directory / "data")

    # --- the client ---------------------------------------------------------------------------------------------------

    def call(self, method: str, path: str, **more: Any) -> Any:
        answer = self.client.request(method, path, **more)
        assert answer.status_code < 300, answer.text
        return answer.json()

    def submit(self, *steps: Mapping[str, Any], parameters: Mapping[str, Any] | None = None, **more: Any) -> str:
        """A run of an inline pipeline with these steps."""
        spec = {"name": "flow", "steps": [{"resources": {"cpu": 0.1, "memory_gb": 0.5}, **step} for step in steps]}
        body = {"spec": spec, "parameters": parameters or {}, **more}
        run_id: str = self.call("POST", "/runs", json=body)["id"]
        return run_id

    def run(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"/runs/{run_id}")
        return found

    def wait(self, run_id: str, timeout: float = 60) -> dict[str, Any]:
        """The run when it is finished."""

        def finished() -> dict[str, Any] | None:
            run = self.run(run_id)
            return run if run["status"] in FINISHED else None

        return wait_for(finished, timeout, f"the run {run_id} to finish; the log: {self.log()}", interval=0.05)

    def step(self, run_id: str, name: str, key: str = "main") -> dict[str, Any]:
        steps: list[dict[str, Any]] = self.run(run_id)["step_runs"]
        return next(step for step in steps if (step["step"], step["key"]) == (name, key))

    def wait_step(
        self, run_id: str, name: str, condition: Callable[[dict[str, Any]], object], key: str = "main"
    ) -> dict[str, Any]:
        """The step run when it fulfils the condition."""

        def look() -> dict[str, Any] | None:
            step = self.step(run_id, name, key)
            return step if condition(step) else None

        return wait_for(look, 60, f"{name} of {run_id}; the log: {self.log()}", interval=0.05)

    def attempt_dir(self, run_id: str, step: str, key: str = "main", attempt: int = 1) -> Path:
        return self.directory / "data" / "pipelines" / "flow" / run_id / step / key / f"attempt-{attempt}"


ServiceMaker = Callable[..., Service]


def _make(reaper: Reaper, **environment: str) -> Service:
    directory = Path(tempfile.mkdtemp(prefix="ccat-wm-service-"))
    reaper.remove(directory)
    service = Service(directory, reaper, {f"CCAT_WORKFLOW_MANAGER_{k}": v for k, v in environment.items()})
    service.start()
    return service


@pytest.fixture(scope="session")
def service(reaper: Reaper) -> Iterator[Service]:
    """One deployment for all tests that do not break it."""
    service = _make(reaper)
    yield service
    service.close()


@pytest.fixture
def make_service(reaper: Reaper) -> Iterator[ServiceMaker]:
    """Deployments to be broken."""
    made: list[Service] = []

    def make(**environment: str) -> Service:
        made.append(_make(reaper, **environment))
        return made[-1]

    yield make
    for service in made:
        service.close()
