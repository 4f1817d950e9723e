"""The base of backends whose jobs leave logs, claims and exit records in files that this process sees."""

from __future__ import annotations

import errno
import os
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.errors import BackendConfused, BackendError, BackendRejected, BackendUnavailable
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt import claim as claims
from ccat_workflow_manager.hpc.attempt.claim import Claim
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.logs import read_logs, tail_log
from ccat_workflow_manager.hpc.attempt.record import read_record
from ccat_workflow_manager.hpc.attempt.script import render_job_script, write_script
from ccat_workflow_manager.hpc.base import Availability, BulkBackend, JobRequest, LogStream
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo
from ccat_workflow_manager.lifecycle.models import Resources

T = TypeVar("T")
Results: TypeAlias = "list[str | BackendError]"

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class FileBackend(BulkBackend):
    """One job is a batch of one; logs and exit records are read from the files of the attempt."""

    # --- what a backend adds -----------------------------------------------------------------------------------------

    @abstractmethod
    def attempt_files(self, job_id: str) -> AttemptFiles | None:
        """The files of a job; None if it is not known."""

    @abstractmethod
    def get_statuses(self, job_ids: Sequence[str]) -> dict[str, HPCJobInfo]:
        """As in HPCBackend."""

    @abstractmethod
    def cancel_many(self, job_ids: Sequence[str]) -> None:
        """As in HPCBackend."""

    @abstractmethod
    def cleanup_many(self, job_ids: Sequence[str]) -> None:
        """As in HPCBackend."""

    # --- one job -----------------------------------------------------------------------------------------------------

    def get_status(self, job_id: str) -> HPCJobInfo:
        return self.get_statuses([job_id])[job_id]

    def cancel(self, job_id: str) -> None:
        self.cancel_many([job_id])

    def cleanup(self, job_id: str) -> None:
        self.cleanup_many([job_id])

    def get_logs(self, job_id: str) -> str:
        files = self.attempt_files(job_id)
        return "" if files is None else read_logs(files)

    def tail_logs(self, job_id: str, *, stream: LogStream = "stdout", lines: int = 200) -> str:
        files = self.attempt_files(job_id)
        return "" if files is None else tail_log(files, stream, lines)

    # --- submitting --------------------------------------------------------------------------------------------------

    def submit_chunks(
        self, requests: Sequence[JobRequest], size: int, submit: Callable[[Sequence[JobRequest]], Results]
    ) -> Results:
        """Submit `size` jobs at a time. An error of a chunk stands for its jobs and for all after it."""
        results: Results = []
        for start in range(0, len(requests), size):
            try:
                results += submit(requests[start : start + size])
            except (BackendUnavailable, BackendConfused) as error:
                return results + [error] * (len(requests) - start)
        return results

    def prepare(self, request: JobRequest) -> AttemptFiles:
        """Write the supervised job script of `attempt.script`. Raises BackendRejected."""
        return self.prepare_script(
            request,
            lambda files: render_job_script(
                request.execution_command,
                environment=request.environment_variables,
                cwd=request.workspace_dir,
                files=files,
                supervised=True,
                secrets=request.secrets,
            ),
        )

    def prepare_script(self, request: JobRequest, render: Callable[[AttemptFiles], str]) -> AttemptFiles:
        """Write what `render` gives as the job script. Raises BackendRejected, also for a ValueError of `render`."""
        try:
            files = AttemptFiles.of(request.workspace_dir, request.job_name)
            script = render(files)
        except ValueError as error:
            raise self.rejected(str(error)) from error
        try:
            failpoints.around("files.job-script", lambda: write_script(files, script))
        except OSError as error:
            reason = FailureReason.DISK_FULL if error.errno in NO_SPACE else FailureReason.STAGING_FAILED
            text = f"its job script cannot be written: {error.strerror}: {error.filename or files.script}"
            raise self.rejected(text, reason) from error
        return files

    def refuse(self, wrong: Mapping[str, bool]) -> None:
        """Refuse a job for every text whose condition holds, in one error. Raises BackendRejected."""
        if texts := [text for text, holds in wrong.items() if holds]:
            raise self.rejected("; ".join(texts))

    def rejected(self, why: str, reason: FailureReason = FailureReason.REJECTED) -> BackendRejected:
        return BackendRejected(f"the {self.name} backend cannot take this job: {why}", backend=self.name, reason=reason)

    # --- the files of an attempt -------------------------------------------------------------------------------------

    def on_files(self, what: Callable[[], T]) -> T:
        """Do something with the files of an attempt. Raises BackendUnavailable if the filesystem does not let it."""
        try:
            return what()
        except OSError as error:
            text = f"the files of the attempt cannot be used: {error.strerror}: {error.filename}"
            raise BackendUnavailable(text, backend=self.name) from error

    def claim_of(self, files: AttemptFiles) -> Claim | None:
        """The claim of an attempt; None if it is free. Raises BackendUnavailable."""
        return self.on_files(lambda: claims.read(files))

    def record_of(self, files: AttemptFiles) -> str | None:
        """The text of the exit record; None if there is none. Raises BackendUnavailable."""
        return self.on_files(lambda: read_record(files))


def one_machine_lacks(resources: Resources) -> dict[str, bool]:
    """For `refuse`: what a backend without a scheduler cannot give, so that no request is dropped silently."""
    return {
        "it has no GPUs to give": resources.gpu > 0,
        f"it has no partitions, so not {resources.partition!r} either": resources.partition is not None,
        f"it has no accounts, so not {resources.account!r} either": resources.account is not None,
        f"it knows no extra resources, so not {', '.join(resources.extra)} either": bool(resources.extra),
    }


def linux_availability() -> Availability:
    """For `is_available` of backends that watch processes."""
    if hasattr(os, "pidfd_open") and Path("/proc/self/stat").exists():
        return Availability(True)
    return Availability(False, "it needs Linux 5.3 or later with /proc mounted")


def state_directory(backend: str, configured: str | os.PathLike[str] | None) -> Path:
    """The directory of the files of a backend. The service configures one."""
    return Path(configured or os.path.join(tempfile.gettempdir(), f"ccat-wm-{os.geteuid()}", backend))
