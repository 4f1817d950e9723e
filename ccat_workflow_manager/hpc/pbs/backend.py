"""PBS, through its commands: `qsub`, `qstat`, `qdel`, `qselect`. OpenPBS and PBS Pro, and Torque.

One `qstat` answers for all jobs of a poll. A `qsub` takes milliseconds, so jobs go one by one, four at a
time, rather than as arrays: every job keeps a name, a status and an end of its own.
"""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ccat_workflow_manager.hpc.attempt.files import write_new
from ccat_workflow_manager.hpc.base import Availability, Capabilities, JobRequest, QueueLimits, QueueStatus
from ccat_workflow_manager.hpc.batch.command_backend import CommandBackend
from ccat_workflow_manager.hpc.batch.refusals import Refusal
from ccat_workflow_manager.hpc.batch.scheduler_backend import JobKey
from ccat_workflow_manager.hpc.batch.script import render_batch_script
from ccat_workflow_manager.hpc.batch.store import Submission
from ccat_workflow_manager.hpc.pbs.client import AT_A_TIME, PbsClient
from ccat_workflow_manager.hpc.pbs.listing import (
    CLOCK,
    NUMBER,
    Queue,
    Seen,
    parse_number,
    sequence,
)
from ccat_workflow_manager.hpc.pbs.refusals import only_gone, refusal
from ccat_workflow_manager.hpc.pbs.script import (
    limit_scope,
    output_path,
    render_options,
    render_qsub,
)
from ccat_workflow_manager.hpc.pbs.settings import PbsSettings
from ccat_workflow_manager.hpc.pbs.status import Evidence, over, resolve_status
from ccat_workflow_manager.hpc.waits import waited, waiting
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo
from ccat_workflow_manager.settings import settings_of

_PROGRAMS = ("qsub", "qstat", "qdel")
_WAITING = {"Q": "queued", "H": "held", "W": "waiting", "T": "transit"}
_PASSED_ON = ("PBS_DEFAULT", "PBS_SERVER", "PBS_CONF_FILE", "PERL5LIB", "LD_LIBRARY_PATH", "SLURM_CONF")


class PbsBackend(CommandBackend):
    """Jobs at a PBS server; see docs/backends/pbs.md."""

    name = "pbs"
    capabilities = Capabilities(bulk_status=True, find=True, exit_record=True, gpu=True, lists=True, secrets="files")
    settings = PbsSettings
    number_pattern = NUMBER

    def __init__(self, *, log_limit_mb: float = 512, disk_limit_gb: float = 0, **settings: Any) -> None:
        site = settings_of(PbsSettings, self.name, settings)
        super().__init__(
            state_dir=site.state_dir or None,
            calls_per_minute=site.calls_per_minute,
            environment={name: value for name in _PASSED_ON if (value := os.environ.get(name))},
            looking_environment=CLOCK,
            log_limit_mb=log_limit_mb,
            disk_limit_gb=disk_limit_gb,
        )
        self._site = site
        self._client = PbsClient(self._commands, self.name)

    @classmethod
    def is_available(cls) -> Availability:
        missing = [program for program in _PROGRAMS if shutil.which(program) is None]
        if not missing:
            return Availability(True)
        hint = "run the worker on a submit host of PBS, with its commands on the search path (often /opt/pbs/bin)"
        return Availability(False, f"not on the search path: {', '.join(missing)}", hint)

    # --- submitting --------------------------------------------------------------------------------------------------

    def _options(self, request: JobRequest) -> tuple[str, ...]:
        return render_options(request.resource_requirements, request.priority, self._site, self._client.dialect)

    def _submit_command(
        self, submission: Submission, options: Sequence[str], output: str
    ) -> tuple[Sequence[str], bytes]:
        script = render_batch_script(
            submission.members,
            number='"$PBS_JOBID"',
            index=None,
            home=pwd.getpwuid(os.geteuid()).pw_dir,
        )
        # The wrappers around Slurm read no script from their input, and every `qsub` copies a file when it is called.
        file = submission.members[0].files.base + ".qsub"
        write_new(file, script.encode("utf-8", "surrogateescape"))
        return render_qsub(options, name=submission.name, output=output_path(output), script=file), b""

    def _number(self, printed: str) -> str:
        return parse_number(printed)

    def _refusal(self, returncode: int, words: str) -> Refusal:
        return refusal(returncode, words)

    def _limit_scope(self, options: Sequence[str], words: str) -> Sequence[str]:
        return options if "limit of resource" in words else limit_scope(options)

    def _largest_array(self) -> int:
        return 1

    def _numbers_of(self, name: str, tried_at: float | None) -> Sequence[str]:
        return self._client.numbers(name)

    def _listing(self) -> Iterable[tuple[JobKey, datetime | None]]:
        live = {number: seen for number, seen in self._client.ours().items() if not over(seen)}
        return [(JobKey(number, None, seen.name), seen.submitted_at) for number, seen in live.items()]

    # --- polling and stopping ----------------------------------------------------------------------------------------

    def _observe(self, jobs: Sequence[JobKey]) -> Mapping[JobKey, HPCJobInfo]:
        listed = self._own(jobs)
        now = datetime.now(UTC)
        return {key: self._info(key, listed.get(key), now) for key in jobs}

    def _info(self, key: JobKey, seen: Seen | None, now: datetime) -> HPCJobInfo:
        if seen is not None and not over(seen):
            return resolve_status(Evidence(seen, None, now))
        member = self._member(key)
        record = self._record_info(member) if member is not None else None
        failed = seen is not None and seen.exit_status != 0
        log = self._scheduler_words(key) if failed else ""
        return resolve_status(Evidence(seen, record, now, self._client.dialect, log))

    def _own(self, jobs: Sequence[JobKey]) -> dict[JobKey, Seen]:
        """These jobs at the server, without jobs of another name: numbers are reused."""
        listed = self._client.listed(sorted({key.number for key in jobs}, key=sequence))
        return {key: seen for key in jobs if (seen := listed.get(key.number)) and seen.name == key.job_name}

    def _stop(self, jobs: Sequence[JobKey]) -> None:
        live = self._live(jobs)
        live |= self._live([twin for key in jobs if key not in live and (twin := self._twin(key))])
        numbers = sorted({key.number for key in live}, key=sequence)
        for start in range(0, len(numbers), AT_A_TIME):
            done = self._commands.ask(["qdel", *numbers[start : start + AT_A_TIME]], looking=False)
            if done.returncode != 0 and not only_gone(done.returncode, done.stderr):
                raise self._commands.failed(done)

    def _live(self, jobs: Sequence[JobKey]) -> set[JobKey]:
        return {key for key, seen in self._own(jobs).items() if not over(seen)} if jobs else set()

    # --- for operators -----------------------------------------------------------------------------------------------

    def ping(self) -> str:
        return f"{len(self._client.queues())} queues"

    def queue_status(self) -> list[QueueStatus]:
        queues = self._client.queues()
        ours = self._client.ours_lately().values() if any(queue.jobs for queue in queues) else ()
        return [self._queue(queue, [seen for seen in ours if seen.queue == queue.name]) for queue in queues]

    def _queue(self, queue: Queue, ours: Sequence[Seen]) -> QueueStatus:
        budget, now = self._commands.budget, datetime.now(UTC)
        queued = [seen for seen in ours if seen.state in _WAITING]
        every = sum(queue.counts.get(state, 0) for state in _WAITING.values())
        return QueueStatus(
            queue.name,
            available=queue.enabled and queue.started,
            running=sum(seen.state == "R" for seen in ours),
            pending=len(queued),
            limits=QueueLimits(queue.name, hours=queue.most_hours),
            others_pending=max(0, every - len(queued)) if queue.counts and self._client.knows_ours else None,
            waited_seconds=waited(((seen.submitted_at, seen.started_at) for seen in ours), now),
            waiting_seconds=waiting((seen.submitted_at for seen in queued if seen.state == "Q"), now),
            details={
                "held": sum(seen.state == "H" for seen in queued),
                "enabled": queue.enabled,
                "started": queue.started,
                "jobs": queue.jobs,
                "time_limit": queue.limit,
                "calls_per_minute": budget.per_minute,
                "calls_in_the_last_minute": budget.used(),
                "history": "ok" if self._client.has_history else "none",
            },
        )
