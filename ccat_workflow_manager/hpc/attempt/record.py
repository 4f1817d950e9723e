"""The exit record: how a job ended, as its script, its runner or its supervisor wrote it."""

from __future__ import annotations

import errno
import json
import os
import stat
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from ccat_workflow_manager.hpc.attempt.files import AttemptFiles, replace_file
from ccat_workflow_manager.hpc.attempt.opener import UnsafeFile, read_small

VERSION = 1
STOPPED_BY = ("cancel", "time_limit", "memory_limit", "log_limit", "disk_limit", "carrier_lost")
"""Why a backend stops a job. `carrier_lost`: the Dask worker or the pilot that carried the job ended."""

_LAST_SIGNAL = 64
_TICKS_PER_SECOND = 100  # the kernel's unit for programs, on every architecture that we run on
_PADDED = 511
_LARGEST = 2**53
"""A job may have replaced its record. PostgreSQL refuses numbers beyond its columns, and with them a whole batch."""
_CODES = range(-(2**31), 2**31)


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """How a job ended. None: not measured; without an exit code the command was never started, or was lost."""

    job_name: str
    exit_code: int | None
    signal: int | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    wall_time_seconds: float | None = None
    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None
    oom_killed: bool = False
    stopped_by: str | None = None
    """One of STOPPED_BY if the backend itself stopped the job."""
    stopped_text: str | None = None
    memory_source: str | None = None
    """The source of the peak: `cgroup2`, `cgroup1`, or `wait4` (the largest single process)."""
    host: str | None = None
    left_text: str | None = None
    """Processes of the job that survived SIGKILL."""
    version: int = VERSION

    def to_json(self) -> str:
        times = {"started_at": _format_time(self.started_at), "finished_at": _format_time(self.finished_at)}
        return json.dumps({"version": self.version, **asdict(self), **times})


def utc(seconds: float) -> datetime:
    """A time in seconds since the epoch."""
    return datetime.fromtimestamp(seconds, UTC)


def signal_in(exit_code: int | None) -> int | None:
    """The signal that an exit code of a shell or a container runtime stands for."""
    if exit_code is None or not 128 < exit_code <= 128 + _LAST_SIGNAL:
        return None
    return exit_code - 128


# --- files -----------------------------------------------------------------------------------------------------------


def read_record(files: AttemptFiles) -> str | None:
    """The text of the exit record; None if there is none. Raises OSError.

    For a file that must not be read (a link, too large) the text is one that `parse_exit_record` refuses with the
    reason.
    """
    try:
        found = read_small(files.record, root=files.directory)
    except UnsafeFile as error:
        return json.dumps({"unsafe": f"{error.filename}: {error.strerror}"})
    return None if found is None else found.text


def read_script_record(files: AttemptFiles) -> ExitRecord | None:
    """What the job script has written, published or not; None if it has not come to its end. Raises OSError."""
    for path in (files.record_part, files.record):
        try:
            found = read_small(path, root=files.directory)
            if found is not None:
                return parse_exit_record(found.text)
        except (UnsafeFile, ValueError):
            continue
    return None


def publish(files: AttemptFiles, record: ExitRecord) -> None:
    """Make the record visible, whole and at once. Raises OSError.

    The part is overwritten, not replaced: a single write, which works on a full disk, where a new file would not.
    """
    # Blanks, lest anything of a longer part remains.
    data = record.to_json().encode("utf-8").ljust(_PADDED) + b"\n"
    try:
        _overwrite(files.record_part, data)
    except OSError:
        # The job has put something else there.
        replace_file(files.record, data)
    else:
        os.rename(files.record_part, files.record)


def _overwrite(path: str, data: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode) or os.write(file, data) != len(data):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
    finally:
        os.close(file)


# --- parsing ---------------------------------------------------------------------------------------------------------


def parse_exit_record(text: str) -> ExitRecord:
    """Parse the text of an exit record. Raises ValueError if it is cut short or not a record."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not an exit record: {error}") from None
    if not isinstance(data, dict):
        raise ValueError("not an exit record: not a JSON object")
    if "unsafe" in data:
        raise ValueError(f"not an exit record: {data['unsafe']}")
    if data.get("version") != VERSION:
        raise ValueError(f"an exit record of version {data.get('version')!r}, where {VERSION} is known")
    if "exit_code" not in data:
        raise ValueError("the exit record has no exit code")
    exit_code, signal = _code(data, "exit_code"), _code(data, "signal")
    stopped_by = _text(data, "stopped_by")
    if stopped_by is not None and stopped_by not in STOPPED_BY:
        raise ValueError(f"stopped_by is {stopped_by!r}")
    oom_killed = data.get("oom_killed", False)
    if not isinstance(oom_killed, bool):
        raise ValueError(f"oom_killed is {oom_killed!r}")
    job_name = _text(data, "job_name")
    if job_name is None:
        raise ValueError("the exit record has no job name")
    return ExitRecord(
        job_name=job_name,
        exit_code=exit_code,
        signal=signal if signal is not None else signal_in(exit_code),
        started_at=_time(data, "started_at"),
        finished_at=_time(data, "finished_at"),
        wall_time_seconds=_wall_time(data),
        cpu_seconds=_cpu_seconds(data),
        peak_memory_bytes=_whole(data, "peak_memory_bytes"),
        oom_killed=oom_killed,
        stopped_by=stopped_by,
        stopped_text=_text(data, "stopped_text"),
        memory_source=_text(data, "memory_source"),
        host=_text(data, "host"),
        left_text=_text(data, "left_text"),
    )


def _wall_time(data: dict[str, Any]) -> float | None:
    """As recorded, or, in the record of a script alone, from the machine's uptime at the start and at the end."""
    recorded = _number(data, "wall_time_seconds")
    began, ended = _number(data, "began"), _number(data, "ended")
    if recorded is None and began is not None and ended is not None:
        return round(max(0.0, ended - began), 2)
    return recorded


def _cpu_seconds(data: dict[str, Any]) -> float | None:
    recorded, ticks = _number(data, "cpu_seconds"), _whole(data, "ticks")
    return ticks / _TICKS_PER_SECOND if recorded is None and ticks is not None else recorded


def _number(data: dict[str, Any], key: str) -> float | None:
    value = data.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{key} is {value!r}")
    if not abs(value) < _LARGEST:  # also for what is not a number
        raise ValueError(f"{key} is out of range")
    return float(value)


def _whole(data: dict[str, Any], key: str) -> int | None:
    value = data.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{key} is {value!r}")
    if not abs(value) < _LARGEST:
        raise ValueError(f"{key} is out of range")
    return value


def _code(data: dict[str, Any], key: str) -> int | None:
    value = _whole(data, key)
    if value is not None and value not in _CODES:
        raise ValueError(f"{key} is out of range")
    return value


def _text(data: dict[str, Any], key: str) -> str | None:
    value = data.get(key)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{key} is {value!r}")
    return value


def _time(data: dict[str, Any], key: str) -> datetime | None:
    text = _text(data, key)
    if text is None:
        return None
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{key} has no time zone: {text!r}")
    return time.astimezone(UTC)


def _format_time(time: datetime | None) -> str | None:
    return None if time is None else time.astimezone(UTC).isoformat().replace("+00:00", "Z")
