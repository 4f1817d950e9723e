"""A whole deployment as an operator starts it: `ccat-wm up` in a directory of its own, asked over REST."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import httpx
import psutil
import psycopg
import pytest

from ccat_workflow_manager.embedded import EmbeddedPostgres, EmbeddedValkey
from tests.support import armed, leftovers
from tests.support.prepared import give_database
from tests.support.reaper import Reaper
from tests.support.waiting import PATIENCE, wait_for, wait_until
from tests.support.zygote import Forked, starts_alike, zygote

REPOSITORY = Path(__file__).parents[2]
PROGRAM = str(Path(sys.executable).with_name("ccat-wm"))
"""The real command. Without a program, deployments are forked from a process that has imported everything."""
Process: TypeAlias = subprocess.Popen[bytes] | Forked
FINISHED = ("COMPLETED", "FAILED", "CANCELLED")
_STANDARD = {
    "CONTAINER_RUNTIME": "none",
    "KILL_GRACE_SECONDS": "1",
    "LEASE_SECONDS": "5",
    "MAX_WORKER_DEATHS": "100",
    "SWEEP_SECONDS": "1",
    "FOLLOW_SECONDS": "2",
    "LOG_LIMIT_MB": "2",
}


def variables(**settings: str) -> dict[str, str]:
    """The environment variables of these settings."""
    return {f"CCAT_WORKFLOW_MANAGER_{name}": value for name, value in settings.items()}


def sh(text: str, name: str = "only", **more: Any) -> dict[str, Any]:
    """A step that runs this text in a shell."""
    return {"name": name, "command": ["/bin/sh", "-c", text], **more}


def _command(process: psutil.Process) -> list[str] | None:
    """The command line of a process; None if it has ended."""
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return None


class Service:
    """One deployment and its client."""

    def __init__(self, directory: Path, reaper: Reaper, environment: Mapping[str, str], program: str = "") -> None:
        self.directory = directory
        self.data_dir = directory / "data"
        self.log_file = directory / "up.log"
        self._reaper = reaper
        self._program: tuple[str, ...] = (program or PROGRAM,)
        self._forked = not program
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CCAT_")},
            **variables(**_STANDARD, SECRETS_DIR=str(directory / "secrets")),
            **environment,
        }
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        socket_path = environment.get("CCAT_WORKFLOW_MANAGER_API_SOCKET")
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}/api/v1",
            timeout=PATIENCE,
            transport=httpx.HTTPTransport(uds=socket_path) if socket_path else None,
        )
        self.process: Process | None = None
        self._others: list[Process] = []

    def inject(self, plan: str) -> None:
        """Start the next processes with failpoints armed by this plan (see `tests/support/armed.py`)."""
        self._program = armed.PROGRAM
        self._environment |= {armed.VARIABLE: plan, "PYTHONPATH": str(REPOSITORY)}

    # --- the processes ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        give_database(self.data_dir)
        self.process = self._spawn("up", "--port", str(self.port), "--data-dir", str(self.data_dir))
        wait_until(self.is_ready, 60, f"the service to come up; its log is {self.log_file}")
        for server in (self.postgres, self.valkey):
            if server.pid is not None:
                self._reaper.watch(server.pid)

    def start_another(self, *arguments: str, **environment: str) -> Process:
        """Start one more manager or worker of this deployment. It uses the servers of `up` and ends before them."""
        return self.start_within((), *arguments, **environment)

    def start_within(self, wrapper: Sequence[str], *arguments: str, **environment: str) -> Process:
        """The same, started by the command `wrapper`, which makes another world for it."""
        process = self._spawn(*arguments, wrapper=wrapper, **variables(DATA_DIR=str(self.data_dir)), **environment)
        self._others.append(process)
        return process

    def _spawn(self, *arguments: str, wrapper: Sequence[str] = (), **environment: str) -> Process:
        argv, env = [*wrapper, *self._program, *arguments], {**self._environment, **environment}
        process: Process
        with self.log_file.open("ab") as log:
            if self._forked and not wrapper and starts_alike(env):
                process = zygote().start(argv, env=env, cwd=self.directory, log=log.fileno())
            else:
                process = subprocess.Popen(
                    argv, env=env, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    start_new_session=True,
                )  # fmt: skip
        self._reaper.watch(process.pid)
        return process

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        try:
            return self.client.get(f"http://127.0.0.1:{self.port}/readyz", timeout=PATIENCE).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> int:
        """Ask it to end, as Ctrl-C does."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """End it as a power failure would, all but the processes that it has started in other sessions."""
        assert self.process is not None
        family = [self.process.pid, *(child.pid for child in self.children())]
        for pid in family:
            os.kill(pid, signal.SIGKILL)
        self.process.wait(PATIENCE)

    def children(self) -> list[psutil.Process]:
        """Manager and workers: they are forked, so their command lines are that of `up`."""
        assert self.process is not None
        ours = psutil.Process(self.process.pid)
        return [child for child in ours.children() if _command(child) == ours.cmdline()]

    def worker_pids(self) -> list[int]:
        return [item["pid"] for item in self.call("GET", "/workers")["items"]]

    @property
    def postgres(self) -> EmbeddedPostgres:
        return EmbeddedPostgres(self.data_dir)

    @property
    def valkey(self) -> EmbeddedValkey:
        return EmbeddedValkey(self.data_dir)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Ask the database itself."""
        with psycopg.connect(self.postgres.url.replace("+psycopg", "")) as connection:
            return connection.execute(statement.encode()).fetchall()

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")[-5000:] if self.log_file.exists() else ""

    def close(self) -> None:
        self.client.close()
        for process in self._others:
            process.terminate()
        for process in self._others:
            process.wait(PATIENCE)
        if self.process is not None and self.process.poll() is None:
            self.stop()
        leftovers.clear(self.directory, self.data_dir)

    def give_secret(self, name: str, value: str, project: str = "default") -> None:
        file = self.directory / "secrets" / project / name
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.write_text(value)

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

        def what() -> str:
            return f"the run {run_id} to finish; it is {self.run(run_id)}; the log: {self.log()}"

        return wait_for(finished, timeout, what, interval=0.05)

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

        def what() -> str:
            return f"{name} of {run_id}; it is {self.step(run_id, name, key)}; the log: {self.log()}"

        return wait_for(look, 60, what, interval=0.05)

    def wait_running(self, run_id: str, name: str = "only", key: str = "main") -> dict[str, Any]:
        return self.wait_step(run_id, name, lambda step: step["status"] == "RUNNING", key)

    def attempts(self, step: Mapping[str, Any]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.call("GET", f"/step-runs/{step['id']}/attempts?limit=100")["items"]
        return found

    def stream(self, step: Mapping[str, Any], stream: str = "stdout", attempt: int | None = None) -> str:
        """The log of a step run."""
        wanted = f"stream={stream}" if attempt is None else f"stream={stream}&attempt={attempt}"
        return self.client.get(f"/step-runs/{step['id']}/log?{wanted}").text

    def cancel(self, run_id: str) -> None:
        """Cancel the run. Returns when it is cancelled."""
        self.call("POST", f"/runs/{run_id}/cancel")
        assert self.wait(run_id)["status"] == "CANCELLED"

    def attempt_dir(self, run_id: str, step: str, key: str = "main", attempt: int = 1) -> Path:
        return self.data_dir / "pipelines" / "flow" / run_id / step / key / f"attempt-{attempt}"


ServiceMaker = Callable[..., Service]


def new_service(
    reaper: Reaper, environment: Mapping[str, str] = MappingProxyType({}), /, program: str = "", **settings: str
) -> Service:
    """A deployment in a directory of its own, not yet started."""
    directory = Path(tempfile.mkdtemp(prefix="ccat-wm-service-"))
    reaper.remove(directory)
    return Service(directory, reaper, {**variables(**settings), **environment}, program)


@contextmanager
def running_service(
    reaper: Reaper, environment: Mapping[str, str] = MappingProxyType({}), /, **settings: str
) -> Iterator[Service]:
    service = new_service(reaper, environment, **settings)
    try:
        service.start()
        yield service
    finally:
        service.close()


@pytest.fixture(scope="session")
def service(reaper: Reaper) -> Iterator[Service]:
    """One deployment for all tests that do not break it, by the real command."""
    with running_service(reaper, program=PROGRAM) as service:
        yield service


@pytest.fixture
def make_service(reaper: Reaper) -> Iterator[ServiceMaker]:
    """Deployments to be broken."""
    with ExitStack() as made:
        yield lambda **settings: made.enter_context(running_service(reaper, **settings))
