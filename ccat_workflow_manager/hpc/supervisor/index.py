"""The jobs of a supervisor, in one file: a line is appended for each job that is accepted, stopped or forgotten.

The line of a job is written before the client is answered. There is one file for all jobs, because to make and remove
thousands of small files costs more than to run thousands of small jobs: ext4, for one, does not use an inode again for
minutes after its file was removed, and searches past all of those for each new file.

Nothing is flushed to the disk by force: jobs do not outlive the machine, and the boot id shows that they are gone.
"""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from typing import Any

from ccat_workflow_manager.hpc.supervisor.jobs import Job, Stop, new_job

INDEX_NAME = "jobs.index"
_HISTORY = 1000
"""Lines about forgotten jobs, before the file is written anew without them."""


class Index:
    """The jobs on disk. Only the process that holds the lock of the state directory uses it."""

    def __init__(self, state_dir: str) -> None:
        """Raises OSError."""
        self._path = os.path.join(state_dir, INDEX_NAME)
        self._entries: dict[str, dict[str, Any]] = {}
        self._open()

    def _open(self) -> None:
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._size = os.fstat(self._file).st_size
        self._lines = 0

    # --- writing -----------------------------------------------------------------------------------------------------

    def add(self, job: Job) -> None:
        """Raises OSError."""
        entry = {
            "id": job.id,
            "name": job.name,
            "workspace": job.workspace,
            "cpu": job.cpu_milli / 1000,
            "memory": job.memory,
            "time_limit": job.time_limit,
            "priority": job.priority,
            "submitted": job.submitted,
            "boot": job.boot,
            "stop": None if job.stop is None else [job.stop.by, job.stop.text],
        }
        self._append(entry)
        self._entries[job.id] = entry

    def add_stop(self, job_id: str, stop: Stop) -> None:
        """Raises OSError."""
        words = [stop.by, stop.text]
        self._append({"id": job_id, "stop": words})
        if job_id in self._entries:
            self._entries[job_id]["stop"] = words

    def remove(self, job_id: str) -> None:
        self._entries.pop(job_id, None)
        with suppress(OSError):  # the next supervisor then knows it as a finished job
            self._append({"id": job_id, "gone": True})
        if self._lines > _HISTORY + 2 * len(self._entries):
            with suppress(OSError):
                self._write_anew()

    def _append(self, line: dict[str, Any]) -> None:
        data = json.dumps(line).encode("ascii") + b"\n"
        if os.write(self._file, data) != len(data):
            os.ftruncate(self._file, self._size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._path)
        self._size += len(data)
        self._lines += 1

    def _write_anew(self) -> None:
        """Replace the file by one without history."""
        part = f"{self._path}.part"
        with open(part, "w", encoding="ascii", opener=_private) as file:
            file.writelines(json.dumps(entry) + "\n" for entry in self._entries.values())
        os.rename(part, self._path)
        os.close(self._file)
        self._open()
        self._lines = len(self._entries)

    # --- reading -----------------------------------------------------------------------------------------------------

    def load(self, boot: str) -> list[Job]:
        """All jobs, oldest first. A line that is cut short was not yet confirmed to a client."""
        jobs = []
        self._entries = self._read()
        for job_id, entry in list(self._entries.items()):
            try:
                job = new_job(entry, boot)
                job.stop = None if entry.get("stop") is None else Stop(*map(str, entry["stop"]))
            except (KeyError, TypeError, ValueError):
                del self._entries[job_id]
            else:
                jobs.append(job)
        with suppress(OSError):
            self._write_anew()
        return sorted(jobs, key=lambda job: job.submitted)

    def _read(self) -> dict[str, dict[str, Any]]:
        entries: dict[str, dict[str, Any]] = {}
        with open(self._path, "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    # Cut short: the next line must not become part of it.
                    self._size -= len(line)
                    os.ftruncate(self._file, self._size)
                    break
                try:
                    line_data = json.loads(line)
                    job_id = str(line_data["id"])
                except (ValueError, KeyError, TypeError):
                    continue
                if "gone" in line_data:
                    entries.pop(job_id, None)
                else:
                    entries.setdefault(job_id, {}).update(line_data)
        return entries


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
