"""Slurm, through its commands: `sbatch`, `squeue`, `sacct`, `scancel`, `sinfo`.

One `squeue` answers for all jobs of the service, however many, and at most one `sacct` for those that have ended; how
often is bounded by `calls_per_minute`. Alike step runs that are ready together become one job array.
"""

from __future__ import annotations

import logging
import os
import pwd
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ccat_workflow_manager.bounded_cache import BoundedCache
from ccat_workflow_manager.errors import BackendError
from ccat_workflow_manager.hpc.attempt import claim as claims
from ccat_workflow_manager.hpc.attempt.claim import Claim
from ccat_workflow_manager.hpc.attempt.record import utc
from ccat_workflow_manager.hpc.base import Availability, Capabilities, JobRequest, QueueStatus
from ccat_workflow_manager.hpc.batch.command_backend import CommandBackend
from ccat_workflow_manager.hpc.batch.refusals import Refusal
from ccat_workflow_manager.hpc.batch.remote import SubmitNode
from ccat_workflow_manager.hpc.batch.scheduler_backend import JobKey
from ccat_workflow_manager.hpc.batch.script import read_starts, render_batch_script
from ccat_workflow_manager.hpc.batch.store import ARRAY_PREFIX, ArrayTask, Submission
from ccat_workflow_manager.hpc.log_watch import Turns
from ccat_workflow_manager.hpc.note_store import REMEMBERED
from ccat_workflow_manager.hpc.slurm.client import AccountingState, SlurmClient
from ccat_workflow_manager.hpc.slurm.listing import PLAIN, Seen, TaskId, parse_sbatch
from ccat_workflow_manager.hpc.slurm.refusals import TRIES_AGAIN, is_of_size, refusal
from ccat_workflow_manager.hpc.slurm.script import (
    limit_scope,
    output_pattern,
    render_options,
    render_sbatch,
)
from ccat_workflow_manager.hpc.slurm.settings import SlurmSettings
from ccat_workflow_manager.hpc.slurm.status import (
    FINAL,
    Evidence,
    forgotten_start,
    held,
    needs_no_accounting,
    resolve_status,
)
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo
from ccat_workflow_manager.settings import settings_of

log = logging.getLogger(__name__)

_PROGRAMS = ("sbatch", "squeue", "sacct", "scancel", "sinfo", "scontrol")
_PASSED_ON = ("SLURM_CONF", "SLURM_JWT", "LD_LIBRARY_PATH")
_LARGEST_SCRIPT_TASKS = 5000
_WITH_WORDS = frozenset({"FAILED", "CANCELLED", "PENDING"})
"""States that the log of the scheduler may explain."""
_CLOCKS_APART = 3600
"""The accounting is asked from so many seconds before a job was tried: not all clocks agree."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What the files show about a job that is over."""

    member: ArrayTask | None
    record: HPCJobInfo | None
    sampling_seconds: float
    asked: bool
    """The accounting was asked about it."""


class SlurmBackend(CommandBackend):
    """Jobs on a Slurm cluster; see docs/backends/slurm.md."""

    name = "slurm"
    capabilities = Capabilities(
        bulk_status=True, bulk_submit=True, find=True, exit_record=True, gpu=True, lists=True, secrets="files"
    )
    settings = SlurmSettings

    def __init__(self, *, log_limit_mb: float = 512, disk_limit_gb: float = 0, **settings: Any) -> None:
        site = settings_of(SlurmSettings, self.name, settings)
        passed_on = {} if site.ssh_host else {name: value for name in _PASSED_ON if (value := os.environ.get(name))}
        super().__init__(
            state_dir=site.state_dir or None,
            calls_per_minute=site.calls_per_minute,
            environment={**passed_on, **({"SLURM_CONF": site.conf} if site.conf else {})},
            looking_environment=PLAIN,
            log_limit_mb=log_limit_mb,
            disk_limit_gb=disk_limit_gb,
            node=SubmitNode(site.ssh_host, site.ssh_config) if site.ssh_host else None,
        )
        self._site = site
        accounting = AccountingState(self._store.directory, self.name)
        self._client = SlurmClient(self._commands, accounting, self.name, site.poll_seconds)
        self._arrays: BoundedCache[JobKey, str] = BoundedCache(REMEMBERED)
        self._over: BoundedCache[JobKey, HPCJobInfo] = BoundedCache(REMEMBERED)
        self._leftover: set[JobKey] = set()
        self._turns = Turns()

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
            start='"$SLURM_JOB_ID ${SLURM_RESTART_COUNT:-0}"',
            node="SLURMD_NODENAME",
            unset="SLURM_JWT",
        )
        return argv, script.encode("utf-8", "surrogateescape")

    def _number(self, printed: str) -> str:
        return parse_sbatch(printed)

    def _refusal(self, returncode: int, words: str) -> Refusal:
        return refusal(returncode, words)

    def _retries_itself(self, complaints: str) -> object:
        return TRIES_AGAIN.search(complaints)

    def _limit_scope(self, options: Sequence[str], words: str) -> Sequence[str]:
        return options if is_of_size(words) else limit_scope(options)

    def _largest_array(self) -> int:
        return max(1, min(self._client.largest_array(), _LARGEST_SCRIPT_TASKS))

    def _numbers_of(self, name: str, tried_at: float | None) -> Sequence[str]:
        if tried_at is None:
            found = {number for (number, _), seen in self._client.jobs().items() if seen.name == name}
        else:
            found = self._client.numbers(name) or self._client.accounted_numbers(name, tried_at - _CLOCKS_APART)
        return sorted(found, key=int)

    def _listing(self) -> Iterable[tuple[JobKey, datetime | None]]:
        listed = self._client.jobs()
        return [(JobKey(*task, seen.name), seen.submitted_at) for task, seen in listed.items() if _live(seen)]

    # --- following ---------------------------------------------------------------------------------------------------

    def _observe(self, jobs: Sequence[JobKey]) -> Mapping[JobKey, HPCJobInfo]:
        listed = self._client.jobs([(key.number, key.index) for key in jobs])
        infos: dict[JobKey, HPCJobInfo] = {}
        ended: list[JobKey] = []
        waiting = [key for key in jobs if (each := listed.get((key.number, key.index))) and each.state == "PENDING"]
        forgotten = {key for key in self._turns.take(waiting) if self._has_record(key)}
        for key in jobs:
            seen = self._own(listed.get((key.number, key.index)), key)
            if (over := self._over.get(key)) is not None and (seen is None or seen.state in FINAL):
                infos[key] = over
            elif seen is None or seen.state in FINAL or held(seen) or key in forgotten:
                ended.append(key)
            else:
                infos[key] = resolve_status(Evidence(seen, None, None, _now()))
        return infos | self._ended(ended, listed) if ended else infos

    def _ended(self, jobs: Sequence[JobKey], listed: Mapping[TaskId, Seen]) -> dict[JobKey, HPCJobInfo]:
        """Jobs that are over, not in the queue, held, or waiting although they have left a record."""
        seen = {key: self._own(listed.get((key.number, key.index)), key) for key in jobs}
        members = {key: member for key in jobs if (member := self._member(key)) is not None}
        records = {key: self._record_info(member) for key, member in members.items()}
        sampling = self._client.sampling_seconds() if any(records.values()) else 0
        without = {
            key
            for key, each in seen.items()
            if each is not None and (_live(each) or needs_no_accounting(each, records.get(key), sampling))
        }
        over = [key for key in jobs if key not in without]
        accounted = self._client.accounted(key.number for key in over) if over else {}
        # Of an array without any task left one row remains, that of the array itself.
        arrays = {number: each for (number, _), each in listed.items()}
        return {
            key: self._judge(
                key,
                seen[key],
                _Known(members.get(key), records.get(key), sampling, asked=key not in without),
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
        accounted: Mapping[TaskId, Seen] | None,
        *,
        in_array: bool,
    ) -> HPCJobInfo:
        member = known.member
        accounting = self._own(accounted.get((key.number, key.index)), key) if accounted is not None else None
        states = [witness.state for witness in (seen, accounting) if witness is not None]
        cancelled = "CANCELLED" in states
        claim = self.claim_of(member.files) if member is not None and (cancelled or known.record is None) else None
        starts = self.on_files(lambda: read_starts(member.files)) if member is not None else ()
        info = resolve_status(
            Evidence(
                controller=seen,
                accounting=accounting,
                record=known.record,
                now=_now(),
                accounting_error=self._client.accounting_error if accounted is None else "",
                accounting_expected=accounted is not None and known.asked,
                removed=in_array and seen is None and member is not None and claim is None,
                claimed=not cancelled or claim is not None,
                claimed_at=utc(claim.at) if claim is not None and claim.start else None,
                silent_node=self._silent_node(claim, seen, accounting, starts) if known.record is None else "",
                cancel_requested=cancelled and member is not None and self._cancel_requested(member),
                starts=starts,
                own_users=self._client.own_users() if cancelled else (),
                controller_started_at=self._client.controller_started_at() if cancelled else None,
                scheduler_log=self._scheduler_words(key) if not states or _WITH_WORDS.intersection(states) else "",
                signal_seconds=self._site.signal_seconds,
                sampling_seconds=known.sampling_seconds,
            )
        )
        if info.finished:
            self._over.put(key, info)
            if seen is not None and _live(seen):
                self._leftover.add(key)
        return info

    def _silent_node(
        self, claim: Claim | None, seen: Seen | None, accounting: Seen | None, starts: Sequence[str]
    ) -> str:
        """The node of a start that Slurm has forgotten, as long as the command may still run there."""
        if claim is None or not claim.start or (seen is not None and _live(seen)):
            return ""
        over = seen or (accounting if accounting is not None and not _live(accounting) else None)
        if over is not None and not forgotten_start(over, utc(claim.at), starts):
            return ""
        return claim.host if self._client.has_no_word_of(claim.host) else ""

    @staticmethod
    def _record_cancel(member: ArrayTask) -> None:
        """Record that the service cancels the job. The cancel goes on without the record if the disk is full."""
        try:
            claims.request_cancel(member.files, time.time())
        except OSError as error:
            log.warning("the cancel of %s is not recorded: %s", member.job_name, error)

    def _cancel_requested(self, member: ArrayTask) -> bool:
        return self.on_files(lambda: claims.cancel_requested_at(member.files)) is not None

    def _has_record(self, key: JobKey) -> bool:
        member = self._member(key)
        return member is not None and self._record_info(member) is not None

    def _own(self, seen: Seen | None, key: JobKey) -> Seen | None:
        """`seen` if it is this job: numbers are reused."""
        # The accounting calls a job "allocation" until it has got the name.
        if seen is None or seen.name in (key.job_name, "allocation"):
            return seen
        if key.index is None:
            return None
        array = self._array_of(key)
        mine = seen.name == array if array is not None else seen.name.startswith(ARRAY_PREFIX)
        return seen if mine else None

    def _array_of(self, key: JobKey) -> str | None:
        """The name of the array of a task, if it is recorded."""
        name = self._arrays.get(key)
        if name is None and (known := self._known(key.job_name)) is not None and known[0].array:
            name = known[0].name
            if known[0].number == key.number:
                self._arrays.put(key, name)
        return name

    # --- stopping, forgetting ----------------------------------------------------------------------------------------

    def _stop(self, jobs: Sequence[JobKey]) -> None:
        """Cancels only jobs that still have the right name: numbers are reused."""
        live = self._still_live(jobs)
        live |= self._still_live([twin for key in jobs if key not in live and (twin := self._twin(key))])
        for member in filter(None, map(self._member, live)):
            self._record_cancel(member)
        self._cancel(live)

    def _still_live(self, jobs: Sequence[JobKey]) -> set[JobKey]:
        listed = self._client.jobs([(key.number, key.index) for key in jobs]) if jobs else {}
        return {key for key in jobs if (seen := self._own(listed.get((key.number, key.index)), key)) and _live(seen)}

    def _cancel(self, jobs: Iterable[JobKey]) -> None:
        tasks = sorted(f"{key.number}_{key.index}" if key.index is not None else key.number for key in jobs)
        if not tasks:
            return
        self._client.outdated()
        done = self._commands.ask(["scancel", *tasks], looking=False)
        if done.returncode != 0 and not ("Invalid job id" in done.stderr or "already complet" in done.stderr):
            raise self._commands.failed(done)

    def cleanup_many(self, job_ids: Sequence[str]) -> None:
        keys = {key for job_id in job_ids if (key := self._key(job_id)) is not None}
        # A job that Slurm calls pending after it has run would start again.
        leftover = keys & self._leftover
        self._cancel(leftover)
        self._leftover -= leftover
        for key in keys:
            self._over.pop(key)
            self._arrays.pop(key)
        super().cleanup_many(job_ids)

    # --- for operators -----------------------------------------------------------------------------------------------

    def ping(self) -> str:
        return self._client.ping()

    def queue_status(self) -> list[QueueStatus]:
        partitions = self._client.partitions()
        states = self._client.jobs().values()
        details = {
            "calls_per_minute": self._commands.budget.per_minute,
            "calls_in_the_last_minute": self._commands.budget.used(),
            **self._client.accounting.details(),
        }
        others = self._others_pending()
        return [partition.status(states, self._site.partition, details, others) for partition in partitions]

    def _others_pending(self) -> Mapping[str, int] | None:
        """None if they cannot be known now: the rest of the answer is worth more."""
        try:
            return self._client.others_pending()
        except BackendError as error:
            log.info("the waiting jobs of others are not known: %s", error.message)
            return None


def _live(seen: Seen) -> bool:
    return seen.state not in FINAL


def _now() -> datetime:
    return datetime.now(UTC)
