"""A backend of the four methods: each job is a child process with a directory for its log.

The service puts its exit-record script around the command; here that script is a command like any other.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ccat_wm_sample_backend.settings import SampleSettings
from ccat_workflow_manager.errors import BackendRejected, JobDeferred
from ccat_workflow_manager.hpc.base import Capabilities, HPCBackend, HPCJobInfo, JobStatus
from ccat_workflow_manager.settings import settings_of

_MARK = "SAMPLE_JOB"


class SampleBackend(HPCBackend):
    """Jobs are children of this process; the id of a job is the path of its directory."""

    name = "sample"
    capabilities = Capabilities(time_limit=False, memory_limit=False, survives_worker=False)
    settings = SampleSettings

    def __init__(self, **settings: Any) -> None:
        self.max_jobs = settings_of(SampleSettings, self.name, settings).max_jobs
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
            raise BackendRejected("the sample backend has neither GPUs nor extra resources", backend=self.name)
        if self.max_jobs and sum(job.poll() is None for job in self._jobs.values()) >= self.max_jobs:
            raise JobDeferred(f"{self.max_jobs} jobs run already (SAMPLE_MAX_JOBS)", backend=self.name)
        directory = Path(workspace_dir).parent / f"{job_name}.sample"
        directory.mkdir()
        defaults = {"PATH": os.defpath, "HOME": "/", "LANG": "C.UTF-8", _MARK: str(directory)}
        try:
            with open(directory / "log", "wb") as log:
                self._jobs[str(directory)] = subprocess.Popen(
                    execution_command,
                    env={**defaults, **environment_variables},
                    cwd=workspace_dir,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except FileNotFoundError as error:
            raise BackendRejected(f"cannot start {execution_command[0]}: {error}", backend=self.name) from error
        return str(directory)

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
