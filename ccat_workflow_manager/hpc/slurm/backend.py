"""Slurm, through its commands: `sbatch`, `squeue`, `sacct`, `scancel`, `sinfo`.

One `squeue` answers for all jobs of the service, however many, and at most one `sacct` for those that have ended; how
often is bounded by `calls_per_minute`. Alike step runs that are ready together become one job array.
"""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ccat_workflow_manager import shell
from ccat_workflow_manager.errors import BackendUnavailable
from ccat_workflow_manager.hpc.base import Availability, Capabilities, JobRequest, QueueStatus
from ccat_workflow_manager.hpc.batch.calls import Refusal
from ccat_workflow_manager.hpc.batch.command_line import CommandBackend
from ccat_workflow_manager.hpc.batch.files import claimed
from ccat_workflow_manager.hpc.batch.remote import SubmitNode
from ccat_workflow_manager.hpc.batch.scheduler_backend import JobKey
from ccat_workflow_manager.hpc.batch.script import render_batch_script
from ccat_workflow_manager.hpc.batch.store import ARRAY_PREFIX, ArrayTask, Submission
from ccat_workflow_manager.hpc.slurm.accounting import AccountingNote
from ccat_workflow_manager.hpc.slurm.answers import SlurmAnswers
from ccat_workflow_manager.hpc.slurm.listing import (
    TIME_FORMAT,
    Place,
    Seen,
    parse_sbatch,
)
from ccat_workflow_manager.hpc.slurm.queues import queue_of
from ccat_workflow_manager.hpc.slurm.refusals import TRIES_AGAIN, is_of_size, refusal
from ccat_workflow_manager.hpc.slurm.script import (
    output_pattern,
    place_of,
    render_options,
    render_sbatch,
)
from ccat_workflow_manager.hpc.slurm.settings import SlurmSettings
from ccat_workflow_manager.hpc.slurm.states import FINAL, Evidence, held, merge, told_by_record
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo
from ccat_workflow_manager.settings import settings_of

_PROGRAMS = ("sbatch", "squeue", "sacct", "scancel", "sinfo", "scontrol")
_PASSED_ON = ("SLURM_CONF", "SLURM_JWT", "LD_LIBRARY_PATH")
_LARGEST_SCRIPT_TASKS = 5000
_REMEMBERED = 20_000
_CLOCKS_APART = 3600
"""The accounting is asked about so many seconds before a job was tried: not all clocks agree."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known here about a job that has ended."""

    member: ArrayTask | None
    record: HPCJobInfo | None
    sampling_seconds: float
    asked: bool
    """The accounting was asked for it."""


class SlurmBackend(CommandBackend):
    """Jobs on a Slurm cluster; see docs/backends/slurm.md."""

    name = "slurm"
    capabilities = Capabilities(bulk_status=True, bulk_submit=True, find=True, exit_record=True, gpu=True, lists=True)
    settings = SlurmSettings

    def __init__(self, *, log_limit_mb: float = 512, **settings: Any) -> None:
        site = settings_of(SlurmSettings, self.name, settings)
        passed_on = {} if site.ssh_host else {name: value for name in _PASSED_ON if (value := os.environ.get(name))}
        super().__init__(
            state_dir=site.state_dir or None,
            calls_per_minute=site.calls_per_minute,
            environment={**passed_on, **({"SLURM_CONF": site.conf} if site.conf else {})},
            looking_environment=TIME_FORMAT,
            log_limit_mb=log_limit_mb,
            node=SubmitNode(site.ssh_host, site.ssh_config) if site.ssh_host else None,
        )
        self._site = site
        accounting = AccountingNote(self._store.directory, self.name)
        self._answers = SlurmAnswers(self._commands, accounting, self.name, site.poll_seconds)
        self._arrays: dict[JobKey, str] = {}
        self._over: dict[JobKey, HPCJobInfo] = {}
        self._leftover: set[JobKey] = set()

    @classmethod
    def is_available(cls, ssh_host: str | None = None) -> Availability:
        if ssh_host:
            return SubmitNode.is_available()
        missing = [program for program in _PROGRAMS if shutil.which(program) is None]
        if not missing:
            return Availability(True)
        hint = "run the worker on a submit node (on Debian: apt install slurm-client), or name one in SLURM_SSH_HOST"
        return Availability(False, f"not on the search path: {', '.join(missing)}", hint)

    # --- submitting --------------------------------------------------------------------------------------------------

    def _options(self, request: JobRequest) -> tuple[str, ...]:
        return render_options(request.resource_requirements, request.priority, self._site)

    def _submit_command(
        self, submission: Submission, options: Sequence[str], output: str
    ) -> tuple[Sequence[str], bytes]:
        pattern = output_pattern(output)
        if submission.array and pattern != os.devnull:
            pattern += "/%a"
        tasks = len(submission.members) if submission.array else None
        argv = render_sbatch(options, name=submission.name, output=pattern, tasks=tasks, limit=self._site.array_limit)
        script = render_batch_script(
            submission.members,
            number="${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}",
            index='"$SLURM_ARRAY_TASK_ID"' if submission.array else None,
            home=pwd.getpwuid(os.geteuid()).pw_dir,
        )
        return argv, script.encode("utf-8", "surrogateescape")

    def _number(self, printed: str) -> str:
        return parse_sbatch(printed)

    def _refusal(self, returncode: int, words: str) -> Refusal:
        return refusal(returncode, words)

    def _goes_on_trying(self, complaints: str) -> object:
        return TRIES_AGAIN.search(complaints)

    def _place(self, options: Sequence[str], words: str) -> Sequence[str]:
        return options if is_of_size(words) else place_of(options)

    def _largest_array(self) -> int:
        return max(1, min(self._answers.largest_array(), _LARGEST_SCRIPT_TASKS))

    def _numbers_of(self, name: str, tried_at: float | None) -> Sequence[str]:
        if tried_at is None:
            found = {place[0] for place, seen in self._answers.jobs().items() if seen.name == name}
        else:
            found = self._answers.numbers(name) or self._answers.accounted_numbers(name, tried_at - _CLOCKS_APART)
        return sorted(found, key=int)

    def _listing(self) -> Iterable[tuple[JobKey, datetime | None]]:
        listed = self._answers.jobs()
        return [(JobKey(*place, seen.name), seen.submitted_at) for place, seen in listed.items() if _live(seen)]

    # --- following ---------------------------------------------------------------------------------------------------

    def _observe(self, jobs: Sequence[JobKey]) -> Mapping[JobKey, HPCJobInfo]:
        listed = self._answers.jobs([(key.number, key.index) for key in jobs])
        infos: dict[JobKey, HPCJobInfo] = {}
        ended: list[JobKey] = []
        for key in jobs:
            seen = self._own(listed.get((key.number, key.index)), key)
            if key in self._over and (seen is None or seen.state in FINAL):
                infos[key] = self._over[key]
            elif seen is None or seen.state in FINAL or held(seen):
                ended.append(key)
            else:
                infos[key] = merge(Evidence(seen, None, None, _now()))
        return infos | self._ended(ended, listed) if ended else infos

    def _ended(self, jobs: Sequence[JobKey], listed: Mapping[Place, Seen]) -> dict[JobKey, HPCJobInfo]:
        """Jobs that are over, or that nobody knows, or that are held."""
        seen = {key: self._own(listed.get((key.number, key.index)), key) for key in jobs}
        members = {key: member for key in jobs if (member := self._member(key)) is not None}
        records = {key: self._recorded(member) for key, member in members.items()}
        sampling = self._answers.sampling_seconds() if any(records.values()) else 0
        told = {
            key
            for key, each in seen.items()
            if each is not None and (held(each) or told_by_record(each, records.get(key), sampling))
        }
        over = [key for key in jobs if key not in told]
        accounted = self._answers.accounted(key.number for key in over) if over else {}
        # Of an array without any task left one row remains, that of the array itself.
        arrays = {number: each for (number, _), each in listed.items()}
        return {
            key: self._judge(
                key,
                seen[key],
                _Known(members.get(key), records.get(key), sampling, asked=key not in told),
                accounted,
                in_array=key.index is not None and self._own(arrays.get(key.number), key) is not None,
            )
            for key in jobs
        }

    def _judge(
        self,
        key: JobKey,
        seen: Seen | None,
        known: _Known,
        accounted: Mapping[Place, Seen] | None,
        *,
        in_array: bool,
    ) -> HPCJobInfo:
        member = known.member
        accounting = self._own(accounted.get((key.number, key.index)), key) if accounted is not None else None
        states = [witness.state for witness in (seen, accounting) if witness is not None]
        info = merge(
            Evidence(
                controller=seen,
                accounting=accounting,
                record=known.record,
                now=_now(),
                accounting_away=self._answers.accounting_away if accounted is None else "",
                accounting_expected=accounted is not None and known.asked,
                taken_out=in_array and seen is None and member is not None and not claimed(member),
                scheduler_log=self._scheduler_words(key) if not states or "FAILED" in states else "",
                signal_seconds=self._site.signal_seconds,
                sampling_seconds=known.sampling_seconds,
            )
        )
        if info.finished:
            if len(self._over) >= _REMEMBERED:
                self._over.clear()
            self._over[key] = info
            if seen is not None and held(seen):
                self._leftover.add(key)
        return info

    def _own(self, seen: Seen | None, key: JobKey) -> Seen | None:
        """What was seen under a number, if it is the job that is meant."""
        # Accounting calls a job "allocation" until it is told the name.
        if seen is None or seen.name in (key.job_name, "allocation"):
            return seen
        if key.index is None:
            return None
        array = self._array_of(key)
        mine = seen.name == array if array is not None else seen.name.startswith(ARRAY_PREFIX)
        return seen if mine else None

    def _array_of(self, key: JobKey) -> str | None:
        """The name of the array that a task is in, if it is written down."""
        name = self._arrays.get(key)
        if name is None and (known := self._known(key.job_name)) is not None and known[0].array:
            name = known[0].name
            if known[0].number == key.number:
                if len(self._arrays) >= _REMEMBERED:
                    self._arrays.clear()
                self._arrays[key] = name
        return name

    # --- stopping, forgetting ----------------------------------------------------------------------------------------

    def _stop(self, jobs: Sequence[JobKey]) -> None:
        """Only what still bears the right name: a number may have been given to somebody else's job."""
        live = self._still_live(jobs)
        self._cancel(live | self._still_live([twin for key in jobs if key not in live and (twin := self._twin(key))]))

    def _still_live(self, jobs: Sequence[JobKey]) -> set[JobKey]:
        listed = self._answers.jobs([(key.number, key.index) for key in jobs]) if jobs else {}
        return {key for key in jobs if (seen := self._own(listed.get((key.number, key.index)), key)) and _live(seen)}

    def _cancel(self, jobs: Iterable[JobKey]) -> None:
        places = sorted(f"{key.number}_{key.index}" if key.index is not None else key.number for key in jobs)
        if not places:
            return
        self._answers.outdated()
        argv = ["scancel", *places]
        try:
            done = self._commands.run(argv, looking=False)
        except shell.CommandError as error:
            raise BackendUnavailable(error.message, backend=self.name, command=argv) from error
        if done.returncode != 0 and not ("Invalid job id" in done.stderr or "already complet" in done.stderr):
            raise self._commands.failed(done)

    def cleanup_many(self, job_ids: Sequence[str]) -> None:
        keys = {key for job_id in job_ids if (key := self._key(job_id)) is not None}
        # What Slurm holds after it has run would run again when somebody releases it.
        leftover = keys & self._leftover
        self._cancel(leftover)
        self._leftover -= leftover
        for key in keys:
            self._over.pop(key, None)
            self._arrays.pop(key, None)
        super().cleanup_many(job_ids)

    # --- for operators -----------------------------------------------------------------------------------------------

    def queue_status(self) -> list[QueueStatus]:
        partitions = self._answers.partitions()
        states = self._answers.jobs().values()
        facts = {
            "calls_per_minute": self._commands.budget.per_minute,
            "calls_in_the_last_minute": self._commands.budget.used(),
            **self._answers.accounting.facts(),
        }
        return [queue_of(partition, states, self._site.partition, facts) for partition in partitions]


def _live(seen: Seen) -> bool:
    return seen.state not in FINAL


def _now() -> datetime:
    return datetime.now(UTC)
