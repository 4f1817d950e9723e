"""The jobs of the stand-in and their states: submitted, runnable, starting, running, over."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.stand_ins.aws_batch.container import Container

ORDER = ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING", "SUCCEEDED", "FAILED")
OVER = ("SUCCEEDED", "FAILED")
ACCOUNT = "arn:aws:batch:eu-central-1:123456789012"

# From documentation and reports, not measured.
EXITED = "Essential container in task exited"
TIMED_OUT = "Job attempt duration exceeded timeout"
OUT_OF_MEMORY = "OutOfMemoryError: Container killed due to memory usage"
HOST_GONE = "Host EC2 (instance i-0123456789abcdef0) terminated."
NO_IMAGE = "CannotPullContainerError: Error response from daemon: manifest for {image} not found"
NO_INSTANCE = "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - no instance of the compute environments is large enough"


def now_ms() -> int:
    return int(time.time() * 1000)


@dataclass
class Job:
    """A job, the parent of an array, or one of its children."""

    job_id: str
    name: str
    queue: str
    definition: str
    container: Mapping[str, Any]
    timeout_seconds: int | None
    index: int | None = None
    size: int | None = None
    status: str = "SUBMITTED"
    status_reason: str = ""
    created_at: int = field(default_factory=now_ms)
    started_at: int | None = None
    stopped_at: int | None = None
    exit_code: int | None = None
    container_reason: str = ""
    attempts: list[dict[str, Any]] = field(default_factory=list)
    terminated: bool = False
    cancelled: bool = False
    stop_reason: str = ""
    running: Container | None = None
    children: list[Job] = field(default_factory=list)
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        return self.status in OVER

    @property
    def log_stream(self) -> str:
        return f"ccat/default/{self.job_id.replace(':', '-')}"

    def end(self, status: str, reason: str) -> None:
        self.status, self.status_reason, self.stopped_at = status, reason, now_ms()

    def summary_of_children(self) -> dict[str, int]:
        return {status: sum(child.status == status for child in self.children) for status in ORDER}

    def follow_children(self) -> None:
        """The state of a parent is that of its children."""
        if self.over:
            return
        if all(child.over for child in self.children):
            failed = any(child.status == "FAILED" for child in self.children)
            reason = self.stop_reason or ("Array Child Job FAILED" if failed else "Array Child Job SUCCEEDED")
            self.end("FAILED" if failed else "SUCCEEDED", reason)
        elif any(child.status != "SUBMITTED" for child in self.children):
            self.status = "PENDING"

    # --- as the API shows it -----------------------------------------------------------------------------------------

    def detail(self) -> dict[str, Any]:
        container = {
            **self.container,
            **({"exitCode": self.exit_code} if self.exit_code is not None else {}),
            **({"reason": self.container_reason} if self.container_reason else {}),
            **({"logStreamName": self.log_stream} if self.started_at is not None else {}),
        }
        timeout = {"timeout": {"attemptDurationSeconds": self.timeout_seconds}} if self.timeout_seconds else {}
        return {
            **self._common(),
            "jobQueue": f"{ACCOUNT}:job-queue/{self.queue}",
            "jobDefinition": self.definition,
            "startedAt": self.started_at or 0,
            "attempts": list(self.attempts),
            "retryStrategy": {"attempts": 1, "evaluateOnExit": []},
            "dependsOn": [],
            "parameters": {},
            "platformCapabilities": ["EC2"],
            "container": container,
            **timeout,
            **self.extra,
            "isCancelled": self.cancelled,
            "isTerminated": self.terminated,
        }

    def summary(self) -> dict[str, Any]:
        flags = {"isCancelled": self.cancelled, "isTerminated": self.terminated}
        container: dict[str, Any] = {"exitCode": self.exit_code} if self.exit_code is not None else {}
        if self.container_reason:
            container["reason"] = self.container_reason
        return {
            **self._common(),
            "jobDefinition": self.definition,
            **({"startedAt": self.started_at} if self.started_at else {}),
            **({"container": container} if container else {}),
            **{name: value for name, value in flags.items() if value},
        }

    def _common(self) -> dict[str, Any]:
        array: dict[str, Any] = {}
        if self.size is not None:
            array = {"size": self.size, "statusSummary": self.summary_of_children()}
        elif self.index is not None:
            array = {"index": self.index}
        return {
            "jobArn": f"{ACCOUNT}:job/{self.job_id}",
            "jobId": self.job_id,
            "jobName": self.name,
            "status": self.status,
            "createdAt": self.created_at,
            **({"statusReason": self.status_reason} if self.status_reason else {}),
            **({"stoppedAt": self.stopped_at} if self.stopped_at else {}),
            **({"arrayProperties": array} if array else {}),
        }
