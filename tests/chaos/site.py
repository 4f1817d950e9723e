"""A deployment that may be broken anywhere: its servers, and a manager and workers that are started again at once."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import redis

from ccat_workflow_manager import context as context_module
from ccat_workflow_manager import supervise
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.migrate import upgrade
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.embedded import EmbeddedPostgres, EmbeddedValkey
from ccat_workflow_manager.forked import die_with_parent
from ccat_workflow_manager.hpc.batch import scheduler_backend
from ccat_workflow_manager.processes import run_manager, run_worker
from ccat_workflow_manager.settings import load_settings
from tests.backends.slurm.cluster import Cluster
from tests.model.traces import strangers
from tests.support import invariants, leftovers
from tests.support.armed import VARIABLE, Injection, arm_from_environment
from tests.support.prepared import give_database
from tests.support.reaper import Reaper
from tests.support.waiting import PATIENCE, wait_for, wait_until

FAST = {
    "MAX_WORKER_DEATHS": 100,
    "SWEEP_SECONDS": 0.3,
    "FOLLOW_SECONDS": 0.5,
    "DISPATCH_SECONDS": 0.2,
    "KILL_GRACE_SECONDS": 0.5,
    "UNKNOWN_GRACE_SECONDS": 2,
    "REAPER_SECONDS": 0.5,
    "REAPER_GRACE_SECONDS": 1,
    "BREAKER_FAILURES": 6,
    "BREAKER_WINDOW_MINUTES": 0.05,
    "BREAKER_PROBE_MINUTES": 0,
    "CANCEL_CONFIRM_SECONDS": 5,
    "LOG_LEVEL": "INFO",
}
_RETRY_BACKEND_SECONDS = 0.3
_SUBMIT_SECONDS = 1.0
_UNSETTLED_SECONDS = 3.0
"""How long a cluster on the same machine may need to show a job that it has taken."""
_SETTLE_SECONDS = 15
_GONE = -2
"""What Redis says of a key that is no more."""
_FINISHED = ("COMPLETED", "FAILED", "CANCELLED")


@dataclass(slots=True)
class _Process:
    name: str
    work: Callable[[], None]
    pid: int = 0


@dataclass
class Site:
    """One deployment of one backend."""

    backend: str
    runtime: str = "none"
    image: str | None = None
    workers: int = 2
    settings_more: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reaper = Reaper()
        self.cluster: Cluster | None = None
        self.strays: list[str] = []
        """The names of jobs that were given to the backend behind the back of the service."""
        if self.backend == "slurm":
            self.cluster = Cluster(self.reaper, nodes=1)
            self.cluster.start()
            conf = str(self.cluster.conf)
            slurm = {"SLURM_CONF": conf, "SLURM_CALLS_PER_MINUTE": 100_000, "SLURM_POLL_SECONDS": 0.1}
            self.settings_more = {**slurm, **self.settings_more}
        self.directory = Path(tempfile.mkdtemp(prefix="ccat-wm-chaos-"))
        self.reaper.remove(self.directory)
        self.injections = self.directory / "injections"
        self.temporary = self.directory / "tmp"
        for directory in (self.injections, self.temporary):
            directory.mkdir()
        self.log_file = self.directory / "log"
        self.acknowledged: list[UUID] = []
        self.restarts = 0
        self._processes: list[_Process] = []
        data_dir = self.directory / "data"
        give_database(data_dir)
        self.postgres = EmbeddedPostgres(data_dir, fsync=False)
        self.valkey = EmbeddedValkey(data_dir)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}/api/v1", timeout=PATIENCE)
        began = time.monotonic()
        database_url = self.postgres.start()
        # A second where a server starts in a moment; a slow machine gets longer ones, or workers lose those they hold.
        lease_seconds = min(max(1.0, 2 * (time.monotonic() - began)), 20.0)
        self.settings = load_settings(
            {
                "DATA_DIR": str(data_dir),
                "DATABASE_URL": database_url,
                "LEASE_SECONDS": str(lease_seconds),
                "REDIS_URL": self.valkey.start(),
                "API_PORT": str(self.port),
                "HPC_BACKEND": self.backend,
                "CONTAINER_RUNTIME": self.runtime,
                **{name: str(value) for name, value in {**FAST, **self.settings_more}.items()},
            }
        )
        for server in (self.postgres, self.valkey):
            assert server.pid is not None
            self.reaper.watch(server.pid)
        self.database = Database(self.settings.database_url)
        upgrade(self.database)
        self.redis = redis.Redis.from_url(self.settings.redis_url)
        self.context = Context(self.settings, backends=(self.backend,))
        # A backend answers soon, or is asked again soon: the many small cases must not take hours.
        context_module._RETRY_BACKEND_SECONDS = _RETRY_BACKEND_SECONDS  # type: ignore[assignment]
        scheduler_backend.COMMAND_SECONDS = scheduler_backend.SETTLE_SECONDS = _UNSETTLED_SECONDS
        backend = type(self.context.backend(self.backend))
        backend.submit_seconds = min(backend.submit_seconds, _SUBMIT_SECONDS)

    # --- processes ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        supervise.preload()
        settings, backend = self.settings, self.backend
        self._processes = [_Process("manager", lambda: run_manager(settings))]
        self._processes += [
            _Process(f"worker {n}", lambda: run_worker(settings, [backend])) for n in range(self.workers)
        ]
        self.tend()
        wait_until(self.is_ready, 30, f"the API; the log is {self.log_file}")

    def tend(self) -> None:
        """Start again what has died."""
        for process in self._processes:
            if process.pid and os.waitpid(process.pid, os.WNOHANG)[0] == process.pid:
                process.pid = 0
                self.restarts += 1
            if not process.pid:
                me = os.getpid()
                process.pid = os.fork()
                if process.pid == 0:
                    os._exit(self._live(process, me))

    def _live(self, process: _Process, parent: int) -> int:
        """The life of a child."""
        log = os.open(self.log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for number in (1, 2):
            os.dup2(log, number)
        die_with_parent(parent)
        os.environ.update({VARIABLE: f"@{self.injections}", "TMPDIR": str(self.temporary)})
        tempfile.tempdir = None
        logging.basicConfig(
            force=True, level=logging.INFO, format=f"%(asctime)s {process.name} {os.getpid()} %(levelname)s %(message)s"
        )
        arm_from_environment()
        try:
            process.work()
        except BaseException:
            # Nothing may get out of here: above is the parent's code, with the parent's clean-up.
            logging.getLogger(__name__).exception("%s failed", process.name)
            return 1
        finally:
            sys.stderr.flush()
        return 0

    def pids(self, name: str) -> list[int]:
        return [process.pid for process in self._processes if process.name.startswith(name) and process.pid]

    def is_ready(self) -> bool:
        self.tend()
        try:
            return self.client.get(f"http://127.0.0.1:{self.port}/readyz", timeout=PATIENCE).status_code == 200
        except httpx.TransportError:
            return False

    def log(self) -> str:
        """The last lines of all processes."""
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-40:])

    def close(self) -> None:
        for process in self._processes:
            if process.pid:
                os.kill(process.pid, signal.SIGTERM)
        for process in self._processes:
            if process.pid:
                os.waitpid(process.pid, 0)
        self.client.close()
        self.context.close()
        self.database.close()
        self.redis.close()
        self.valkey.stop()
        self.postgres.stop()
        if self.cluster is not None:
            self.cluster.close()
        leftovers.clear(self.directory, self.settings.data_dir)
        self.reaper.reap()

    # --- injections ------------------------------------------------------------------------------------------------

    def arm(self, *injections: Injection | str) -> None:
        """From now on these, and only these; each once."""
        self.disarm()
        part = self.injections / "part"
        part.write_text("\n".join(map(str, injections)))
        part.rename(self.injections / "plan")

    def disarm(self) -> None:
        (self.injections / "plan").unlink(missing_ok=True)
        for path in self.injections.iterdir():
            path.unlink()

    def fired(self) -> list[str]:
        return self._told("fired")

    def seen(self) -> set[str]:
        return set(self._told("seen"))

    def _told(self, name: str) -> list[str]:
        try:
            return (self.injections / name).read_text().splitlines()
        except FileNotFoundError:
            return []

    # --- client ------------------------------------------------------------------------------------------------------

    def call(self, method: str, path: str, *, accept: tuple[int, ...] = (), **more: Any) -> Any:
        """As a patient client: again and again until the service has answered."""

        def ask() -> httpx.Response | None:
            self.tend()
            try:
                answer = self.client.request(method, path, **more)
            except httpx.TransportError:
                return None
            assert answer.status_code < 300 or answer.status_code >= 500 or answer.status_code in accept, answer.text
            return answer if answer.status_code < 500 else None

        answer = wait_for(ask, 60, f"{method} {path}; the log is {self.log_file}", interval=0.05)
        return answer.json() if "json" in answer.headers.get("content-type", "") else answer.text

    def submit(self, *steps: Mapping[str, Any], name: str = "chaos") -> str:
        body = {"spec": {"name": name, "steps": list(steps)}}
        run = self.call("POST", "/runs", json=body, headers={"Idempotency-Key": uuid4().hex})
        return self.acknowledge(run["id"])

    def acknowledge(self, run_id: str) -> str:
        self.acknowledged.append(UUID(run_id))
        return run_id

    def run(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"/runs/{run_id}")
        return found

    def wait(self, run_id: str, timeout: float = 40) -> str:
        """The status of the run when it is over."""

        return wait_for(lambda: self.ended(run_id), timeout, f"the run {run_id} to end", interval=0.05)

    def ended(self, run_id: str) -> str | None:
        """How the run has ended, if it has."""
        found: str = self.run(run_id)["status"]
        return found if found in _FINISHED else None

    def wait_step(self, run_id: str, statuses: tuple[str, ...]) -> str:
        """The id of the only step run, when it has one of these statuses."""

        def look() -> str | None:
            [step] = self.run(run_id)["step_runs"]
            found: str = step["id"]
            return found if step["status"] in statuses else None

        return wait_for(look, 40, f"the step of {run_id} to be {' or '.join(statuses)}", interval=0.03)

    # --- judgement ---------------------------------------------------------------------------------------------------

    def violations(self) -> list[str]:
        """What is wrong when everything has had time to come to rest."""
        wrong: list[str] = []

        def settled() -> bool:
            self.tend()
            wrong[:] = invariants.violations(self._ground(), self.acknowledged)
            return not wrong

        try:
            wait_until(settled, _SETTLE_SECONDS)
        except AssertionError:
            return wrong
        with self.database.read() as unit:
            return [f"no path of the model: {each}" for each in strangers(unit, self.acknowledged)]

    def _ground(self) -> invariants.Ground:
        return invariants.Ground(
            database=self.database,
            data_dir=self.settings.data_dir,
            base_dir=Path(self.settings.pipeline_base_dir),
            backends={self.backend: self.context.backend(self.backend)},
            marks=True,
            own=lambda: [process.pid for process in self._processes],
            submitted=self._submitted,
            keys=self._keys,
            directories=(self.temporary,),
        )

    def _submitted(self) -> dict[str, int]:
        """From controller and accounting: an array counts as one."""
        if self.cluster is None:
            return {}
        numbers: dict[str, set[str]] = {}
        listed = self.cluster.ask("squeue", "-h", "-t", "all", "-o", "%F|%j")
        listed += "\n" + self.cluster.ask("sacct", "-n", "-X", "-P", "-S", "now-1days", "-o", "JobID,JobName")
        for line in listed.split():
            number, _, name = line.partition("|")
            if name not in self.strays:
                numbers.setdefault(name, set()).add(number.partition("_")[0])
        return {name: len(found) for name, found in numbers.items()}

    def _keys(self) -> dict[str, int]:
        keys = [key.decode() for key in self.redis.scan_iter()]
        lives = {key: int(str(self.redis.ttl(key))) for key in keys}
        return {key: seconds for key, seconds in lives.items() if seconds != _GONE}
