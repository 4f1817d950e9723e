"""A whole deployment as users have it: `ccat-wm up` with embedded servers, one manager and two workers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psycopg

from ccat_workflow_manager.embedded import EmbeddedPostgres, EmbeddedValkey
from tests.bench.client import Connection, message
from tests.support.waiting import wait_for

PREFIX = "CCAT_WORKFLOW_MANAGER_"
UP = """
import ctypes, signal
ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)
from ccat_workflow_manager.cli import main
main()
"""
"""`ccat-wm`, but it stops in good order (PR_SET_PDEATHSIG) when the benches are killed."""
_LOOK_SECONDS = 0.05
TRUE = {"name": "bench", "steps": [{"name": "only", "command": ["/bin/true"], "resources": {"cpu": 0.5}}]}
"""The pipeline of most benches. Half a core each lets one job start while another ends."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@dataclass
class Deployment:
    """A running deployment and the few things that benches do with one."""

    data_dir: Path
    port: int
    process: subprocess.Popen[bytes]
    kept: list[Connection] = field(default_factory=list)

    @cached_property
    def api(self) -> Connection:
        connection = Connection(self.port)
        self.kept.append(connection)
        return connection

    @cached_property
    def sql(self) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(self.database_url.replace("+psycopg", ""), autocommit=True)

    @property
    def database_url(self) -> str:
        return EmbeddedPostgres(self.data_dir).url

    @property
    def redis_url(self) -> str:
        return EmbeddedValkey(self.data_dir).url

    def call(self, method: str, path: str, body: object = None) -> Any:
        return self.api.call(method, f"/api/v1{path}", body)

    def add_pipeline(self, definition: Mapping[str, Any] = TRUE) -> str:
        """Register a pipeline: its name. The workers have it in memory after its first run."""
        self.call("POST", "/pipelines", definition)
        return str(definition["name"])

    def bulk(self, pipeline: str, count: int, **more: object) -> list[str]:
        """Create runs, in as few calls as are allowed."""
        ids: list[str] = []
        while len(ids) < count:
            runs = [{"pipeline": pipeline, **more}] * min(5000, count - len(ids))
            ids += self.call("POST", "/runs/bulk", {"runs": runs})["ids"]
        return ids

    def wait_idle(self, timeout: float = 110) -> None:
        """Until no run is PENDING or RUNNING, as a client sees it."""
        looks = [message("GET", f"/api/v1/runs?status={status}&limit=1") for status in ("PENDING", "RUNNING")]
        wait_for(
            lambda: all(not self.api.exchange(look).json()["items"] for look in looks),
            timeout,
            "all runs to end",
            _LOOK_SECONDS,
        )

    def require_completed(self, count: int) -> None:
        """A figure counts only when everything was really done."""
        row = self.sql.execute("SELECT count(*) FROM runs WHERE status = 'COMPLETED'").fetchone()
        others = self.sql.execute(
            "SELECT status, status_reason FROM runs WHERE status <> 'COMPLETED' LIMIT 3"
        ).fetchall()
        if others or row is None or row[0] < count:
            raise RuntimeError(f"{row} of {count} runs are COMPLETED; others: {others}")

    def warm_up(self, pipeline: str, **more: object) -> None:
        """Let every worker have done something, so that imports and connections are not in the figures."""
        self.bulk(pipeline, 20, **more)
        self.wait_idle()

    def pids(self) -> dict[int, str]:
        """Every process of the deployment, and what it is."""
        return _family(self.process.pid, str(self.data_dir))

    @contextmanager
    def workers_stopped(self) -> Iterator[None]:
        """Keep the workers from taking part for a while."""
        workers = [pid for pid, name in self.pids().items() if name == "worker"]
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in workers:
                os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        for connection in self.kept:
            connection.socket.close()
        if "sql" in self.__dict__:
            self.sql.close()
        local = [pid for pid, name in self.pids().items() if name == "supervisor of local jobs"]
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        for pid in local:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


@contextmanager
def directory_for_all() -> Iterator[Path]:
    """Where deployments keep their data until all benches are over.

    A file system that has just removed many files is slow to make new ones: ext4 does not use their inodes again for
    some minutes, and searches past them. So nothing is removed between two benches.
    """
    with tempfile.TemporaryDirectory(prefix="ccat-bench-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@contextmanager
def deployment(parent: Path, **settings: object) -> Iterator[Deployment]:
    """Start one in a new directory, and end it with everything that belongs to it."""
    home = Path(tempfile.mkdtemp(dir=parent, prefix=""))
    data_dir, port = home / "d", free_port()
    chosen = {"HPC_BACKEND": "noop", "CONTAINER_RUNTIME": "none", "LOG_LEVEL": "WARNING", **settings}
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    environment |= {PREFIX + name: str(value) for name, value in chosen.items()}
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", UP, "up", "--port", str(port), "--data-dir", str(data_dir)],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    running = Deployment(data_dir, port, process)
    try:
        wait_for(lambda: _answers(running), 60, "the API", 0.05)
        yield running
    finally:
        running.close()
        lines = (home / "log").read_text(errors="replace").splitlines()
        for line in [line for line in lines if "WARNING" in line or "ERROR" in line][:10]:
            print(f"  log of the deployment: {line}", file=sys.stderr)


def _answers(running: Deployment) -> bool:
    if running.process.poll() is not None:
        raise RuntimeError("the deployment did not start")
    try:
        return len(running.call("GET", "/workers")["items"]) == 2
    except OSError:
        return False


# --- its processes ---------------------------------------------------------------------------------------------------


def _family(root: int, directory: str) -> dict[int, str]:
    """All descendants of a process, and whatever names its directory on the command line."""
    parents: dict[int, int] = {}
    lines: dict[int, str] = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with suppress(OSError):
                stat = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                parents[int(entry)] = int(stat[1])
                lines[int(entry)] = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    found = {root: "up"}
    for pid in sorted(lines):
        if parents[pid] in found or directory in lines[pid]:
            found.setdefault(pid, _name(lines[pid], parents[pid] == root))
    workers = sorted(pid for pid, name in found.items() if name == "fork of up")
    if workers:
        found[workers[0]] = "manager"
        found |= dict.fromkeys(workers[1:], "worker")
    return found


def _name(line: str, is_child: bool) -> str:
    marks: dict[str, Callable[[], bool]] = {
        "valkey": lambda: "valkey" in line,
        "supervisor of local jobs": lambda: "supervisor" in line,
        "fork of up": lambda: is_child and " up --port" in line,
    }
    return next((name for name, fits in marks.items() if fits()), "postgres")
