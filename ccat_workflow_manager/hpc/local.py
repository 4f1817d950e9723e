"""Jobs on this machine, under a small supervisor process that outlives the worker.

Without the service:

    backend = LocalBackend()
    job_id = backend.submit(execution_command=["sha256sum", "map.fits"], ...)

The supervisor (see `supervisor/start.py`) is started when first needed; one for each `state_dir`, which has to be on a
disk of this machine. It admits jobs by CPU and memory, keeps their limits and writes their exit records. A gigabyte is
2**30 bytes.

Job ids are made here. The supervisor keeps them in its index, and a hash in Redis, where there is one, names the files
of each job as well: either may be lost.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from pydantic import Field

from ccat_workflow_manager.errors import BackendError, BackendRejected, BackendUnavailable
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.disk import GIB
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.record import read_record, utc
from ccat_workflow_manager.hpc.base import (
    Availability,
    Capabilities,
    JobRequest,
    JobSeen,
    QueueStatus,
    ResourceUsage,
)
from ccat_workflow_manager.hpc.exit_info import info_of
from ccat_workflow_manager.hpc.file_backend import NO_SPACE, FileBackend, one_machine_lacks, state_directory
from ccat_workflow_manager.hpc.supervisor.link import ANSWER_SECONDS, Listener, SupervisorLink, unusable
from ccat_workflow_manager.lifecycle.job_info import UNKNOWN, HPCJobInfo, JobStatus
from ccat_workflow_manager.settings import BackendSettings, settings_of

if TYPE_CHECKING:
    import redis

_CHUNK = 500
"""Jobs in one request: the first ones start while the others are still being prepared."""
_JOB_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


class LocalSettings(BackendSettings):
    """`LOCAL_...`: what all local jobs together may use."""

    max_cpu: float = Field(default=0, ge=0, description="Cores for all local jobs together; 0: all.")
    max_memory_gb: float = Field(default=0, ge=0, description="Memory for all local jobs together; 0: 90 % of it.")
    state_dir: str = Field(
        default="", description="Directory of the supervisor, on a disk of the machine; empty: under `DATA_DIR`."
    )


class LocalBackend(FileBackend):
    """Runs jobs on this machine."""

    name = "local"
    capabilities = Capabilities(
        bulk_status=True,
        bulk_submit=True,
        find=True,
        exit_record=True,
        survives_worker=True,
        notifies=True,
        lists=True,
        secrets="files",
    )
    settings = LocalSettings
    submit_seconds = ANSWER_SECONDS

    def __init__(
        self,
        *,
        redis_url: str | None = None,
        kill_grace_seconds: float = 5,
        log_limit_mb: float = 512,
        disk_limit_gb: float = 0,
        **settings: Any,
    ) -> None:
        site = settings_of(LocalSettings, self.name, settings)
        limits = {
            "cpu": site.max_cpu,
            "memory": int(site.max_memory_gb * GIB),
            "kill_grace": kill_grace_seconds,
            "log_limit": int(log_limit_mb * 1024**2),
            "disk_limit": int(disk_limit_gb * GIB),
        }
        self._link = SupervisorLink(str(state_directory(self.name, site.state_dir)), limits)
        self._table = _JobTable(redis_url, self._link.state_dir) if redis_url else None
        self._node = socket.gethostname()

    @classmethod
    def is_available(cls) -> Availability:
        if not sys.platform.startswith("linux") or not os.path.exists("/proc/self/stat"):
            return Availability(False, "it needs Linux with /proc mounted")
        if not os.access("/bin/sh", os.X_OK):
            return Availability(False, "there is no /bin/sh")
        return Availability(True)

    # --- submitting --------------------------------------------------------------------------------------------------

    def submit_many(self, requests: Sequence[JobRequest]) -> list[str | BackendError]:
        return self.submit_chunks(requests, _CHUNK, self._submit_chunk)

    def _submit_chunk(self, requests: Sequence[JobRequest]) -> list[str | BackendError]:
        results: list[str | BackendError] = []
        items = []
        for request in requests:
            try:
                items.append(self._described(request))
                results.append("")
            except BackendRejected as error:
                results.append(error)
        answers = iter(self._ask(list, do="submit", jobs=items) if items else ())
        taken: dict[str, tuple[str, str]] = {}
        for index, request in enumerate(requests):
            if results[index] == "":
                results[index] = outcome = self._outcome(next(answers, None))
                if isinstance(outcome, str):
                    taken[outcome] = (request.workspace_dir, request.job_name)
        if self._table is not None and taken:
            self._table.add(taken)
        return results

    def _described(self, request: JobRequest) -> dict[str, Any]:
        """Write the job script and describe the job for the supervisor. Raises BackendRejected."""
        resources = request.resource_requirements
        self.refuse(one_machine_lacks(resources))
        self.prepare(request)
        return {
            "id": str(uuid4()),
            "name": request.job_name,
            "workspace": request.workspace_dir,
            "cpu": resources.cpu,
            "memory": int(resources.memory_gb * GIB),
            "time_limit": resources.time_hours * 3600,
            "priority": request.priority,
        }

    def _outcome(self, answer: Any) -> str | BackendError:
        match answer:
            case {"id": str(job_id)}:
                return job_id
            case {"refused": str(why)}:
                return self.rejected(why)
            case {"failed": str(why), "errno": int(number)}:
                if number in NO_SPACE:
                    return self.rejected(f"the supervisor cannot record it: {why}", FailureReason.DISK_FULL)
                return BackendUnavailable(f"the supervisor cannot record the job: {why}", backend=self.name)
            case _:
                raise unusable(answer)

    # --- polling -----------------------------------------------------------------------------------------------------

    def get_statuses(self, job_ids: Sequence[str]) -> dict[str, HPCJobInfo]:
        known = [job_id for job_id in job_ids if _JOB_ID.fullmatch(job_id)]
        rows = self._ask(list, do="statuses", ids=known)
        if len(rows) != len(known):
            raise unusable(rows)
        infos = dict.fromkeys(job_ids, UNKNOWN)
        missing = []
        for job_id, row in zip(known, rows, strict=True):
            if row is None:
                missing.append(job_id)
            else:
                infos[job_id] = self._info(row)
        if missing and self._table is not None:
            infos.update({job_id: _recorded(files) for job_id, files in self._table.get(missing).items()})
        return infos

    def await_ends(self, job_ids: Sequence[str], seconds: float) -> None:
        self._ask(object, do="await", ids=list(job_ids), seconds=seconds)

    def _info(self, row: Any) -> HPCJobInfo:
        try:
            submitted = utc(row["submitted"])
            match row["state"]:
                case "pending":
                    return HPCJobInfo(JobStatus.PENDING, message=row["message"], submitted_at=submitted)
                case "running":
                    started = utc(row["started"])
                    return HPCJobInfo(JobStatus.RUNNING, submitted_at=submitted, started_at=started, node=self._node)
                case "finished":
                    info = info_of(row["record"], None) if row["record"] else HPCJobInfo(JobStatus.FAILED)
                    info = replace(info, submitted_at=submitted)
                    if row["lost"] is None:
                        return info
                    reason, text = row["lost"]
                    return replace(info, status=JobStatus.FAILED, reason=FailureReason(reason), message=text)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise unusable(row) from error
        raise unusable(row)

    def find(self, job_name: str) -> str | None:
        found = self._ask(object, do="find", name=job_name)
        if found is not None and not isinstance(found, str):
            raise unusable(found)
        return found

    def list_jobs(self) -> list[JobSeen]:
        jobs = self._ask(list, do="list")
        try:
            return [JobSeen(str(job_id), str(name), utc(taken)) for job_id, name, taken in jobs]
        except (TypeError, ValueError, OverflowError) as error:
            raise unusable(jobs) from error

    def listen(self, on_change: Callable[[Sequence[str]], None]) -> Callable[[], None]:
        return Listener(self._link, on_change).stop

    def get_resource_usage(self, job_id: str) -> ResourceUsage | None:
        usage = self._ask(object, do="usage", id=job_id)
        if usage is None:
            return None
        try:
            return ResourceUsage(
                cpu_seconds=float(usage["cpu_seconds"]),
                memory_gb=usage["memory"] / GIB,
                peak_memory_gb=None if usage["peak"] is None else usage["peak"] / GIB,
                processes=int(usage["processes"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise unusable(usage) from error

    def queue_status(self) -> list[QueueStatus]:
        queue = self._ask(dict, do="queue")
        try:
            return [QueueStatus(self._node, **queue)]
        except TypeError as error:
            raise unusable(queue) from error

    # --- stopping and forgetting -------------------------------------------------------------------------------------

    def cancel_many(self, job_ids: Sequence[str]) -> None:
        """Ask for the stop. The status is `cancelled` once all processes are gone."""
        self._ask(object, do="cancel", ids=list(job_ids))

    def cleanup_many(self, job_ids: Sequence[str]) -> None:
        self._ask(object, do="cleanup", ids=list(job_ids))
        if self._table is not None:
            self._table.remove(job_ids)

    def close(self) -> None:
        self._link.close()
        if self._table is not None:
            self._table.close()

    def attempt_files(self, job_id: str) -> AttemptFiles | None:
        if not _JOB_ID.fullmatch(job_id):
            return None
        match self._ask(object, do="files", id=job_id):
            case [str(workspace), str(job_name)]:
                return AttemptFiles.of(workspace, job_name)
            case None:
                return self._table.get([job_id]).get(job_id) if self._table is not None else None
            case answer:
                raise unusable(answer)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _ask(self, kind: type, **request: Any) -> Any:
        """An answer of this kind."""
        answer = self._link.ask(request)
        if not isinstance(answer, kind):
            raise unusable(answer)
        return answer


class _JobTable:
    """Which job id belongs to which files, in a hash in Redis. It may be empty or away at any time."""

    def __init__(self, redis_url: str, state_dir: str) -> None:
        import redis

        self._client: redis.Redis = redis.Redis.from_url(redis_url, socket_timeout=2, socket_connect_timeout=2)
        self._away = partial(suppress, redis.RedisError)
        self._key = f"ccat:local:{sha256(state_dir.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}:jobs"

    def add(self, jobs: Mapping[str, tuple[str, str]]) -> None:
        """One round trip for all of them."""
        with self._away():
            self._client.hset(self._key, mapping={job_id: json.dumps(paths) for job_id, paths in jobs.items()})

    def get(self, job_ids: Sequence[str]) -> dict[str, AttemptFiles]:
        """The files of the jobs that are known."""
        found: dict[str, AttemptFiles] = {}
        with self._away():
            values: Any = self._client.hmget(self._key, list(job_ids))
            for job_id, value in zip(job_ids, values, strict=True):
                with suppress(TypeError, ValueError):
                    found[job_id] = AttemptFiles.of(*json.loads(value))
        return found

    def remove(self, job_ids: Sequence[str]) -> None:
        if job_ids:
            with self._away():
                self._client.hdel(self._key, *job_ids)

    def close(self) -> None:
        self._client.close()


def _recorded(files: AttemptFiles) -> HPCJobInfo:
    """The status according to the exit record alone, of a job that the supervisor does not know."""
    try:
        text = read_record(files)
    except OSError:
        return UNKNOWN
    return UNKNOWN if text is None else info_of(text, None)
