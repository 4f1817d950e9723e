"""The job script for backends that do not write one, and the exit record as a source of missing metrics."""

from __future__ import annotations

import os
from dataclasses import replace
from shlex import quote

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.errors import OutputError, StagingError
from ccat_workflow_manager.execution.command_builder import fatal_line, interpret_exit
from ccat_workflow_manager.execution.exit_check import check_exit_record
from ccat_workflow_manager.execution.last_words import full_disk, last_line, not_started
from ccat_workflow_manager.execution.launch_spec import Launch
from ccat_workflow_manager.execution.layout import AttemptDirs
from ccat_workflow_manager.execution.logs import tail_text
from ccat_workflow_manager.execution.runtime import Runtime
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.claim import NOT_STARTED, sh_take
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.script import CLEAN_PATH, render_job_script, write_script
from ccat_workflow_manager.hpc.exit_info import info_of
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus

_CLAIMED = "another job had claimed the attempt, and left no exit record"
_MAY_BE_DISK = frozenset({None, FailureReason.PROGRAM_FAILED, FailureReason.KILLED_BY_SIGNAL, FailureReason.DISK_FULL})
_OPEN_REASONS = frozenset({None, FailureReason.PROGRAM_FAILED, FailureReason.COMMAND_NOT_FOUND})


# A job that finds the attempt claimed stands for the one that has claimed it, and ends as that one does. On the host of
# that one it waits no longer than for the process.
_STAND_IN = """\
while ! read -r record 2>/dev/null <{record}; do
      {{ read -r _; read -r where; }} <{claim}
      [ "$where" != "$host" ] || [ -e "/proc/$first" ] || [ -e {record} ] || break
      PATH={path} sleep 1
    done
    case $record in
    *'"exit_code":'[0-9]*) code=${{record##*'"exit_code":'}}; exit "${{code%%[!0-9]*}}" ;;
    esac"""


def wrapped(launch: Launch, dirs: AttemptDirs, job_name: str) -> list[str]:
    """Write the job script of this attempt. Returns the argument vector that runs it."""
    files = AttemptFiles.of(dirs.workspace, job_name)
    stand_in = _STAND_IN.format(record=quote(files.record), claim=quote(files.claim), path=CLEAN_PATH)
    script = render_job_script(
        launch.vector,
        environment=launch.environment,
        cwd=dirs.workspace,
        files=files,
        secrets=launch.secrets,
        first="me=$$ start= record=\n" + sh_take(quote(files.claim), refused=stand_in),
    )
    try:
        failpoints.around("files.script", lambda: write_script(files, script))
    except OSError as error:
        raise StagingError(
            FailureReason.STAGING_FAILED, f"{files.script} cannot be written: {error.strerror}"
        ) from error
    return ["/bin/sh", files.script]


def read_end(info: HPCJobInfo, dirs: AttemptDirs, job_name: str, runtime: Runtime) -> HPCJobInfo:
    """Complete the state of a finished job from its exit record and from the last words of the container runtime."""
    failpoints.point("files.end")
    if info.wall_time_seconds is None or info.exit_code is None:
        info = _with_record(info, dirs, job_name)
    if info.status is JobStatus.FAILED and info.exit_code == NOT_STARTED and not _has_record(dirs, job_name):
        return replace(info, reason=FailureReason.BACKEND_FAILED, message=_CLAIMED)
    if info.status is not JobStatus.FAILED:
        return info
    stderr = tail_text(dirs)
    words = last_line(stderr)
    if info.reason in _OPEN_REASONS:
        reason = interpret_exit(runtime, info.exit_code, stderr)
        if reason is not None:
            info = replace(info, reason=reason, message=fatal_line(stderr) or info.message)
        if reason is FailureReason.COMMAND_NOT_FOUND or info.reason is FailureReason.COMMAND_NOT_FOUND:
            return replace(info, message=not_started(info.exit_code, fatal_line(stderr) or stderr) or info.message)
    if info.reason in _MAY_BE_DISK and (full := full_disk(dirs.root, stderr)) is not None:
        return replace(info, reason=FailureReason.DISK_FULL, message=full)
    return replace(info, last_words=words or None)


def recorded_end(dirs: AttemptDirs, job_name: str) -> HPCJobInfo | None:
    """The end of a job that its backend has forgotten. Returns None if there is no valid exit record."""
    if not _has_record(dirs, job_name):
        return None
    try:
        return info_of(check_exit_record(dirs.workspace, job_name).to_json(), None)
    except OutputError:
        return None


def _has_record(dirs: AttemptDirs, job_name: str) -> bool:
    return os.path.lexists(AttemptFiles.of(dirs.workspace, job_name).record)


def _with_record(info: HPCJobInfo, dirs: AttemptDirs, job_name: str) -> HPCJobInfo:
    try:
        record = check_exit_record(dirs.workspace, job_name)
    except OutputError:
        # Without a record the state from the backend stands; for a success the collector insists on the record.
        return info
    gigabytes = None if record.peak_memory_bytes is None else record.peak_memory_bytes / 2**30
    hours = None if record.cpu_seconds is None else record.cpu_seconds / 3600
    return replace(
        info,
        exit_code=info.exit_code if info.exit_code is not None else record.exit_code,
        signal=info.signal if info.signal is not None else record.signal,
        wall_time_seconds=info.wall_time_seconds if info.wall_time_seconds is not None else record.wall_time_seconds,
        cpu_hours=info.cpu_hours if info.cpu_hours is not None else hours,
        peak_memory_gb=info.peak_memory_gb if info.peak_memory_gb is not None else gigabytes,
    )
