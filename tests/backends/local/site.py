"""A local backend under test, with its supervisor, and short ways to say what a test is about."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from ccat_workflow_manager.errors import BackendError
from ccat_workflow_manager.hpc.attempt import process_tree
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.base import JobRequest
from ccat_workflow_manager.hpc.local import LocalBackend
from ccat_workflow_manager.hpc.supervisor.link import SupervisorLink
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from ccat_workflow_manager.lifecycle.models import Resources
from tests.support.waiting import wait_for, wait_until

ALIVE = (JobStatus.PENDING, JobStatus.RUNNING)


class Site:
    """A directory with attempts, and a backend whose limits are small."""

    def __init__(
        self,
        root: Path,
        *,
        cpu: float = 2,
        memory_gb: float = 2,
        grace: float = 0.5,
        log_mb: float = 1,
        disk_gb: float = 0,
        idle_exit: float = 60,
        cgroups: bool = True,
        redis_url: str | None = None,
    ) -> None:
        self.root = root
        self.state_dir = root / "state"
        self._idle_exit, self._cgroups = idle_exit, cgroups
        self._config = {
            "max_cpu": cpu,
            "max_memory_gb": memory_gb,
            "kill_grace_seconds": grace,
            "log_limit_mb": log_mb,
            "disk_limit_gb": disk_gb,
        }
        self._redis_url = redis_url
        self.backend = self.another()
        self.ids: list[str] = []

    def another(self) -> LocalBackend:
        """A fresh backend object on the same state directory."""
        backend = LocalBackend(state_dir=str(self.state_dir), redis_url=self._redis_url, **self._config)
        backend._link = SupervisorLink(
            str(self.state_dir), backend._link._limits, idle_exit=self._idle_exit, cgroups=self._cgroups
        )
        return backend

    # --- jobs --------------------------------------------------------------------------------------------------------

    def request(
        self,
        *command: str,
        name: str = "",
        priority: int = 0,
        environment: Mapping[str, str] | None = None,
        resources: Resources | None = None,
        cpu: float = 0.25,
        memory_gb: float = 0.1,
        seconds: float = 3600,
        directory: str = "attempts",
    ) -> JobRequest:
        name = name or f"job-{uuid4().hex}"
        attempt = self.root / directory / name
        (attempt / "workspace").mkdir(parents=True, exist_ok=True)
        return JobRequest(
            execution_command=command,
            image_ref=None,
            sif_path=None,
            input_dir="",
            output_dir="",
            workspace_dir=str(attempt / "workspace"),
            manifest_path="",
            resource_requirements=resources or Resources(cpu=cpu, memory_gb=memory_gb, time_hours=seconds / 3600),
            environment_variables=environment or {},
            job_name=name,
            priority=priority,
        )

    def submit(self, *requests: JobRequest) -> list[str]:
        results = self.backend.submit_many(requests)
        for result in results:
            if isinstance(result, BackendError):
                raise result
        ids = [str(result) for result in results]
        self.ids += ids
        return ids

    def run(self, *command: str, **options: object) -> str:
        [job_id] = self.submit(self.request(*command, **options))  # type: ignore[arg-type]
        return job_id

    def sh(self, script: str, *arguments: str, **options: object) -> str:
        return self.run("/bin/sh", "-c", script, "sh", *arguments, **options)

    def ended(self, job_id: str, timeout: float = 20) -> HPCJobInfo:
        def look() -> HPCJobInfo | None:
            info = self.backend.get_status(job_id)
            assert info.status is not JobStatus.UNKNOWN, "the job became unknown"
            return info if info.finished else None

        return wait_for(look, timeout, f"the end of {job_id}")

    def all_ended(self, job_ids: Sequence[str], timeout: float = 30) -> list[HPCJobInfo]:
        def look() -> list[HPCJobInfo] | None:
            infos = self.backend.get_statuses(job_ids)
            return [infos[job_id] for job_id in job_ids] if all(info.finished for info in infos.values()) else None

        return wait_for(look, timeout, f"the end of {len(job_ids)} jobs")

    def until(self, job_id: str, status: JobStatus) -> HPCJobInfo:
        def look() -> HPCJobInfo | None:
            info = self.backend.get_status(job_id)
            return info if info.status is status else None

        return wait_for(look, 20, f"{job_id} to become {status}")

    def files(self, request: JobRequest) -> AttemptFiles:
        return AttemptFiles.of(request.workspace_dir, request.job_name)

    # --- the supervisor ----------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The supervisor's process id, or 0."""
        try:
            return int((self.state_dir / "supervisor.lock").read_text().split()[2])
        except (OSError, IndexError, ValueError):
            return 0

    def kill_supervisor(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(self.pid), what="the supervisor to be gone")

    def close(self) -> None:
        """Nothing of the test goes on: neither jobs nor supervisor."""
        if not self.state_dir.is_dir():
            return
        with suppress(BackendError):
            self.backend.cancel_many(self.ids)
            wait_until(
                lambda: not any(info.status in ALIVE for info in self.backend.get_statuses(self.ids).values()),
                what="all jobs to end",
            )
            self.backend._link.ask({"do": "leave"})
        self.backend.close()
        if is_alive(self.pid):
            with suppress(AssertionError):
                wait_until(lambda: not is_alive(self.pid), 5, "the supervisor to leave")
        if is_alive(self.pid):
            os.kill(self.pid, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    process = process_tree.look(pid) if pid else None
    return process is not None and process.alive
