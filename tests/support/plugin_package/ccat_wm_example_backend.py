"""A backend in some seventy lines, as a stranger would write it: each job is a child process with a directory of notes.

It knows nothing of the service beyond the interface. The exit-record script that the service puts around the command is
just a command here.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ccat_workflow_manager.errors import BackendRejected
from ccat_workflow_manager.hpc.base import Capabilities, HPCBackend, HPCJobInfo, JobStatus

_MARK = "EXAMPLE_JOB"


class ExampleBackend(HPCBackend):
    """Jobs are children of this process; the id of a job is the path of its directory of notes."""

    capabilities = Capabilities(time_limit=False, memory_limit=False, survives_worker=False)

    def __init__(self, *, greeting: str = "hello") -> None:
        self.greeting = greeting
        self._jobs: dict[str, subprocess.Popen[bytes]] = {}
        self._cancelled: set[str] = set()

    def submit(
        self,
        *,
        execution_command: Sequence[str],
        workspace_dir: str,
        resource_requirements: Any,
        environment_variables: Mapping[str, str],
        job_name: str,
        **_: Any,
    ) -> str:
        if resource_requirements.gpu or resource_requirements.extra:
            raise BackendRejected("the example backend has neither GPUs nor extra resources", backend="example")
        notes = Path(workspace_dir).parent / f"{job_name}.example"
        notes.mkdir()
        defaults = {"PATH": os.defpath, "HOME": "/", "LANG": "C.UTF-8", _MARK: str(notes)}
        try:
            with open(notes / "log", "wb") as log:
                self._jobs[str(notes)] = subprocess.Popen(
                    execution_command,
                    env={**defaults, **environment_variables},
                    cwd=workspace_dir,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except FileNotFoundError as error:
            raise BackendRejected(f"cannot start {execution_command[0]}: {error}", backend="example") from error
        return str(notes)

    def get_status(self, job_id: str) -> HPCJobInfo:
        process = self._jobs.get(job_id)
        if process is None:
            return HPCJobInfo(JobStatus.UNKNOWN)
        code = process.poll()
        if code is None:
            return HPCJobInfo(JobStatus.RUNNING)
        if job_id in self._cancelled:
            return HPCJobInfo(JobStatus.CANCELLED)
        if code < 0:
            return HPCJobInfo(JobStatus.FAILED, signal=-code)
        return HPCJobInfo(JobStatus.FAILED if code else JobStatus.COMPLETED, exit_code=code)

    def cancel(self, job_id: str) -> None:
        process = self._jobs.get(job_id)
        if process is not None and process.poll() is None:
            self._cancelled.add(job_id)
            # A process that has only just been started does not show its mark yet: the first is killed by its number.
            while (pids := _processes(job_id)) or process.poll() is None:
                process.kill()
                for pid in pids:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    def get_logs(self, job_id: str) -> str:
        return (Path(job_id) / "log").read_text(errors="replace") if job_id in self._jobs else ""


def _processes(job_id: str) -> list[int]:
    """The processes of a job, also those that have left its session: all have inherited its mark."""
    wanted = f"{_MARK}={job_id}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if wanted in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found
