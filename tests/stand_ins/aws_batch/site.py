"""What is behind the API: queues, definitions, images, and machines that run the jobs."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ccat_workflow_manager.hpc.attempt.script import CLEAN_PATH
from ccat_workflow_manager.hpc.supervisor import cgroups
from tests.stand_ins.aws_batch.container import Container
from tests.stand_ins.aws_batch.jobs import (
    EXITED,
    HOST_GONE,
    NO_IMAGE,
    NO_INSTANCE,
    OUT_OF_MEMORY,
    TIMED_OUT,
    Job,
    now_ms,
)

MARK = "CCAT_WM_STAND_IN"
_TICK_SECONDS = 0.02
_GRACE_SECONDS = 30.0
_NEXT = {"SUBMITTED": "RUNNABLE", "RUNNABLE": "STARTING"}


@dataclass
class Site:
    """The machines. `scale`: a minute of the service takes so many minutes here."""

    directory: Path
    scale: float = 1.0
    queues: set[str] = field(default_factory=lambda: {"main"})
    missing_images: set[str] = field(default_factory=set)
    vcpus: float = 64
    largest_memory_mb: int = 1_000_000
    hidden: Path | None = None
    """A directory that the containers see empty, as on another machine; needs root."""
    role_url: str = ""
    held: bool = False
    """Nothing gets beyond RUNNABLE."""
    jobs: dict[str, Job] = field(default_factory=dict)
    definitions: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)
    _live: dict[str, Job] = field(default_factory=dict)
    _ended: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        self._groups = cgroups.detect(f"ccat-wm-stand-in-{os.getpid()}-{secrets.token_hex(4)}")
        (self.directory / "logs").mkdir(parents=True, exist_ok=True)
        thread = threading.Thread(target=self._schedule, name="stand-in", daemon=True)
        thread.start()
        self._threads.append(thread)

    def close(self) -> None:
        """End all jobs and wait for them."""
        self._ended.set()
        with self.lock:
            for job in self.jobs.values():
                if job.running is not None:
                    job.running.kill()
        for thread in self._threads:
            thread.join()
        if self._groups is not None:
            self._groups.close()

    # --- what the API does -------------------------------------------------------------------------------------------

    def add(self, job: Job) -> None:
        with self.lock:
            self.jobs[job.job_id] = job
            self._live[job.job_id] = job
            for child in job.children:
                self.jobs[child.job_id] = self._live[child.job_id] = child

    def terminate(self, job: Job, reason: str, *, started_too: bool) -> None:
        """`started_too`: by TerminateJob; CancelJob ends only jobs that have not started."""
        with self.lock:
            if job.over:
                return
            for each in job.children:
                self.terminate(each, reason, started_too=started_too)
            started = job.status in ("STARTING", "RUNNING")
            if started and not started_too:
                return
            job.stop_reason = reason
            job.terminated |= started_too
            job.cancelled |= not started_too
            if job.running is not None:
                job.running.stop()
            elif not job.children:
                job.end("FAILED", reason)

    def lose_host(self, job: Job) -> None:
        """The machine under a job goes away, as when a spot instance is reclaimed."""
        with self.lock:
            job.stop_reason = HOST_GONE
            if job.running is not None:
                job.running.kill()

    # --- the machines ------------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        while not self._ended.wait(_TICK_SECONDS):
            with self.lock:
                self._live = {job.job_id: job for job in self._live.values() if not job.over}
                live = self._live.values()
                used = sum(_vcpus(job) for job in live if job.status in ("STARTING", "RUNNING"))
                for job in live:
                    used += self._advance(job, used)

    def _advance(self, job: Job, used: float) -> float:
        """One step of a job. Returns how many cores it takes by that."""
        if job.children:
            job.follow_children()
            return 0
        if job.status not in _NEXT:
            return 0
        if job.status == "RUNNABLE":
            if _requirement(job, "MEMORY", 0) > self.largest_memory_mb:
                job.status_reason = NO_INSTANCE
                return 0
            if self.held or used + _vcpus(job) > self.vcpus:
                return 0
        job.status = _NEXT[job.status]
        if job.status != "STARTING":
            return 0
        job.status_reason = ""
        thread = threading.Thread(target=self._run, args=(job,), daemon=True)
        thread.start()
        self._threads.append(thread)
        return _vcpus(job)

    def _run(self, job: Job) -> None:
        image = str(job.container.get("image", ""))
        if image in self.missing_images:
            with self.lock:
                job.container_reason = NO_IMAGE.format(image=image)
                job.end("FAILED", "Task failed to start")
            return
        memory_mb = int(_requirement(job, "MEMORY", 512))
        with self.lock:
            group = self._groups.acquire(memory_mb * 1024 * 1024) if self._groups is not None else None
        container = Container(
            job.job_id,
            self._command(job),
            self._environment(job),
            log=self.log_file(job.log_stream),
            memory_mb=memory_mb,
            group=group,
            seconds=(job.timeout_seconds or 1_000_000) * self.scale,
            grace_seconds=_GRACE_SECONDS * self.scale,
        )
        with self.lock:
            job.running = container
            if job.stop_reason:
                container.stop()
        ended = container.run(lambda: self._started(job))
        with self.lock:
            if self._groups is not None and group is not None:
                self._groups.release(group)
            job.running = None
            job.exit_code = ended.exit_code
            job.container_reason = OUT_OF_MEMORY if ended.out_of_memory else ""
            reason = job.stop_reason or (TIMED_OUT if ended.timed_out else EXITED)
            good = ended.exit_code == 0 and not (job.stop_reason or ended.timed_out)
            job.attempts.append(self._attempt(job, reason))
            job.end("SUCCEEDED" if good else "FAILED", reason)

    def _command(self, job: Job) -> list[str]:
        command = list(job.container.get("command", ()))
        if self.hidden is None:
            return command
        script = 'mount -t tmpfs none "$1" || exit; shift; exec "$@"'
        return ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", script, "sh", str(self.hidden), *command]

    def _started(self, job: Job) -> None:
        with self.lock:
            job.status, job.started_at = "RUNNING", now_ms()

    @staticmethod
    def _attempt(job: Job, reason: str) -> dict[str, Any]:
        container: dict[str, Any] = {"exitCode": job.exit_code, "logStreamName": job.log_stream}
        if job.container_reason:
            container["reason"] = job.container_reason
        times = {"startedAt": job.started_at or 0, "stoppedAt": now_ms()}
        return {"container": container, **times, "statusReason": reason}

    def _environment(self, job: Job) -> Mapping[str, str]:
        index = {"AWS_BATCH_JOB_ARRAY_INDEX": str(job.index)} if job.index is not None else {}
        return {
            "PATH": CLEAN_PATH,
            "HOSTNAME": "ip-10-0-0-1",
            "AWS_BATCH_JOB_ID": job.job_id,
            "AWS_BATCH_JOB_ATTEMPT": "1",
            "AWS_BATCH_JQ_NAME": job.queue,
            "AWS_BATCH_CE_NAME": "stand-in",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": self.role_url,
            MARK: str(self.directory),
            **index,
            **{each["name"]: each["value"] for each in job.container.get("environment", ())},
        }

    def log_file(self, stream: str) -> Path:
        return self.directory / "logs" / stream.replace("/", "_")


def _requirement(job: Job, kind: str, default: float) -> float:
    found: Iterable[Mapping[str, str]] = job.container.get("resourceRequirements", ())
    return next((float(each["value"]) for each in found if each["type"] == kind), default)


def _vcpus(job: Job) -> float:
    return _requirement(job, "VCPU", 1) if not job.children else 0
