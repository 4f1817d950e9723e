"""A Dask cluster as a site has one: a scheduler and workers as programs, which know nothing of this project."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from uuid import uuid4

import distributed
import psutil

from tests.support.reaper import Reaper, kill_marked
from tests.support.waiting import PATIENCE, wait_for, wait_until

_ADDRESS = re.compile(r'"address": "tcp://127\.0\.0\.1:(\d+)"')
_PACKAGES = str(Path(distributed.__file__).parents[1])
RESOURCES = {"cpu": 4, "memory_gb": 8, "scratch": 1}


class DaskCluster:
    """One scheduler at an address that stays the same, and its workers."""

    def __init__(self, reaper: Reaper) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="ccat-wm-dask-"))
        reaper.remove(self.directory)
        self.mark = f"CCAT_WM_TEST_DASK={uuid4().hex}"
        reaper.kill_marked(self.mark)
        self.port = 0
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.start_scheduler()
        self.start_worker()
        with distributed.Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(1)

    def start_scheduler(self) -> None:
        file = self.directory / "scheduler.json"
        file.unlink(missing_ok=True)
        here = ["--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard"]
        self.scheduler = self._run("scheduler", *here, "--scheduler-file", str(file))
        told = wait_for(lambda: _ADDRESS.search(file.read_text()) if file.exists() else None, 60, "the scheduler")
        self.port = int(told[1])

    def start_worker(self) -> subprocess.Popen[bytes]:
        resources = " ".join(f"{name}={amount}" for name, amount in RESOURCES.items())
        options = ["--nthreads", "8", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1", "--resources", resources]
        worker = self._run(
            "worker", self.address, *options, "--memory-limit", "0", "--local-directory", str(self.directory)
        )
        self.workers.append(worker)
        return worker

    def _run(self, kind: str, *arguments: str) -> subprocess.Popen[bytes]:
        name, _, value = self.mark.partition("=")
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.directory), "PYTHONPATH": _PACKAGES, name: value}
        with (self.directory / f"{kind}.log").open("ab") as log:
            # -S: what is installed beside Dask by links, as this project is for development, is not there.
            return subprocess.Popen(
                [sys.executable, "-S", "-m", f"distributed.cli.dask_{kind}", *arguments],
                env=environment,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill_scheduler(self) -> None:
        assert self.scheduler is not None
        self.scheduler.kill()
        self.scheduler.wait(PATIENCE)

    def restart(self) -> None:
        """Whatever state it is in, let there be one scheduler and one worker."""
        alive = self.scheduler is not None and self.scheduler.poll() is None
        if alive and [worker.poll() for worker in self.workers] == [None]:
            return
        self.close_processes()
        self.start()

    def close_processes(self) -> None:
        for process in [*self.workers, *([self.scheduler] if self.scheduler is not None else [])]:
            process.kill()
            process.wait(PATIENCE)
        self.workers.clear()

    def close(self) -> None:
        self.close_processes()
        wait_until(lambda: not self.family(), 20, "the end of every process of the cluster")
        kill_marked(self.mark)
        shutil.rmtree(self.directory, ignore_errors=True)

    def family(self) -> list[psutil.Process]:
        """The processes of the cluster, watchers of jobs included."""
        name, _, value = self.mark.partition("=")
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(name) == value or str(self.directory) in " ".join(process.cmdline()):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
                continue
        return found

    def log(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-3000:] for path in self.directory.glob("*.log"))
