"""Slurm, through its commands: `sbatch`, `squeue`, `sacct`, `scancel`, `sinfo`.

One `squeue` answers for all jobs of the service, however many, and at most one `sacct` for those that have ended; how
often is bounded by `calls_per_minute`. Alike step runs that are ready together become one job array.
"""

from __future__ import annotations

import math
import os
import pwd
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ccat_workflow_manager import shell
from ccat_workflow_manager.core.errors import BackendConfused, BackendUnavailable, ConfigurationError
from ccat_workflow_manager.core.jobs import HPCJobInfo
from ccat_workflow_manager.hpc.base import Availability, Capabilities, JobRequest, QueueStatus
from ccat_workflow_manager.hpc.batch.calls import Refusal
from ccat_workflow_manager.hpc.batch.command_line import CommandBackend
from ccat_workflow_manager.hpc.batch.doer import JobKey
from ccat_workflow_manager.hpc.batch.files import claimed
from ccat_workflow_manager.hpc.batch.remote import SubmitNode
from ccat_workflow_manager.hpc.batch.script import render_batch_script
from ccat_workflow_manager.hpc.batch.store import ARRAY_PREFIX, Member, Submission
from ccat_workflow_manager.hpc.slurm.listing import (
    SACCT,
    SINFO,
    SQUEUE,
    TIME_FORMAT,
    Place,
    Seen,
    parse_config,
    parse_sacct,
    parse_sbatch,
    parse_sinfo,
    parse_squeue,
)
from ccat_workflow_manager.hpc.slurm.queues import queue_of
from ccat_workflow_manager.hpc.slurm.refusals import refusal
from ccat_workflow_manager.hpc.slurm.script import SiteDefaults, output_pattern, render_options, render_sbatch
from ccat_workflow_manager.hpc.slurm.states import FINAL, Evidence, held, merge, told_by_record

_PROGRAMS = ("sbatch", "squeue", "sacct", "scancel", "sinfo", "scontrol")
_PASSED_ON = ("SLURM_CONF", "SLURM_JWT", "LD_LIBRARY_PATH")
_CONFIG_SECONDS = 3600.0
_NO_ACCOUNTING_SECONDS = 600.0
_LONGEST_POLL_SECONDS = 30.0
_SLOWNESS = 10
"""A look at the queue is good for this many times as long as it took: a slow controller is asked less often."""
_LARGEST_SCRIPT_TASKS = 5000
_REMEMBERED = 20_000
_ID_CHARACTERS = 100_000


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """What was said about our jobs, and for how long that need not be asked again."""

    taken: float
    good_for: float
    jobs: Mapping[Place, Seen]
    numbers: frozenset[str] = frozenset()
    """Which were asked for."""

    @property
    def recent(self) -> bool:
        return time.monotonic() - self.taken < self.good_for


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known here about a job that has ended."""

    member: Member | None
    record: HPCJobInfo | None
    sampling_seconds: float
    asked: bool
    """The accounting was asked for it."""


class SlurmBackend(CommandBackend):
    """Jobs on a Slurm cluster; see docs/backends/slurm.md."""

    name = "slurm"
    capabilities = Capabilities(bulk_status=True, bulk_submit=True, find=True, exit_record=True, gpu=True, lists=True)

    def __init__(
        self,
        *,
        partition: str | None = None,
        account: str | None = None,
        qos: str | None = None,
        conf: str | None = None,
        calls_per_minute: int = 240,
        poll_seconds: float = 1.0,
        array_limit: int = 0,
        signal_seconds: int = 60,
        ssh_host: str | None = None,
        ssh_config: str | None = None,
        state_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        if calls_per_minute < 1:
            raise ConfigurationError(f"SLURM_CALLS_PER_MINUTE must be 1 or more, not {calls_per_minute}")
        own = {} if ssh_host else {name: value for name in _PASSED_ON if (value := os.environ.get(name))}
        super().__init__(
            state_dir=state_dir,
            calls_per_minute=calls_per_minute,
            environment={**own, **({"SLURM_CONF": conf} if conf else {})},
            looking_environment=TIME_FORMAT,
            node=SubmitNode(ssh_host, ssh_config) if ssh_host else None,
        )
        self._site = SiteDefaults(partition, account, qos, signal_seconds, array_limit)
        self._poll_seconds = poll_seconds
        self._snapshot: _Snapshot | None = None
        self._accounted: _Snapshot | None = None
        self._over: dict[JobKey, HPCJobInfo] = {}
        self._leftover: set[JobKey] = set()
        self._config: tuple[float, dict[str, str]] | None = None
        self._no_accounting_until = 0.0
        self._accounting_words = ""

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

    def _largest_array(self) -> int:
        return max(1, min(int(self._configuration()["MaxArraySize"]), _LARGEST_SCRIPT_TASKS))

    def _numbers_of(self, name: str, tried_at: float | None) -> Sequence[str]:
        if tried_at is None:
            jobs = self._controller(())
            return sorted({place[0] for place, seen in jobs.items() if seen.name == name}, key=int)
        found = parse_places(self, self._commands.look([*SQUEUE, "--me", f"--name={name}"]))
        if not found and time.time() >= self._no_accounting_until:
            since = datetime.fromtimestamp(tried_at - 3600, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            text = self._ask_accounting([f"--name={name}", "--allocations", f"--starttime={since}"])
            if text is None and self._accounting_words:
                raise BackendUnavailable(self._accounting_words, backend=self.name)
            found = parse_places(self, text or "", accounting=True)
        return sorted(found, key=int)

    def _listing(self) -> Iterable[tuple[JobKey, datetime | None]]:
        listed = self._controller(())
        return [(JobKey(*place, seen.name), seen.submitted_at) for place, seen in listed.items() if _live(seen)]

    # --- following ---------------------------------------------------------------------------------------------------

    def _observe(self, jobs: Sequence[JobKey]) -> Mapping[JobKey, HPCJobInfo]:
        listed = self._controller([(key.number, key.index) for key in jobs])
        infos: dict[JobKey, HPCJobInfo] = {}
        ended: list[JobKey] = []
        for key in jobs:
            seen = _own(listed.get((key.number, key.index)), key)
            if key in self._over and (seen is None or seen.state in FINAL):
                infos[key] = self._over[key]
            elif seen is None or seen.state in FINAL or held(seen):
                ended.append(key)
            else:
                infos[key] = merge(Evidence(seen, None, None, _now()))
        return infos | self._ended(ended, listed) if ended else infos

    def _ended(self, jobs: Sequence[JobKey], listed: Mapping[Place, Seen]) -> dict[JobKey, HPCJobInfo]:
        """Jobs that are over, or that nobody knows, or that are held."""
        seen = {key: _own(listed.get((key.number, key.index)), key) for key in jobs}
        members = {key: member for key in jobs if (member := self._member(key)) is not None}
        records = {key: self._recorded(member) for key, member in members.items()}
        sampling = self._sampling_seconds() if any(records.values()) else 0
        told = {
            key
            for key, each in seen.items()
            if each is not None and (held(each) or told_by_record(each, records.get(key), sampling))
        }
        over = [key for key in jobs if key not in told]
        accounted = self._accounting(over) if over else {}
        arrays = {number for (number, _), each in listed.items() if each.name.startswith(ARRAY_PREFIX)}
        return {
            key: self._judge(
                key,
                seen[key],
                _Known(members.get(key), records.get(key), sampling, asked=key not in told),
                accounted,
                in_array=key.index is not None and key.number in arrays,
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
        accounting = _own(accounted.get((key.number, key.index)), key) if accounted is not None else None
        states = [witness.state for witness in (seen, accounting) if witness is not None]
        info = merge(
            Evidence(
                controller=seen,
                accounting=accounting,
                record=known.record,
                now=_now(),
                accounting_away=self._accounting_words if accounted is None else "",
                accounting_expected=accounted is not None and known.asked,
                taken_out=in_array and seen is None and member is not None and not claimed(member),
                scheduler_log=self._scheduler_words(member)
                if member is not None and (not states or "FAILED" in states)
                else "",
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

    def _controller(self, places: Iterable[Place]) -> Mapping[Place, Seen]:
        """All our jobs, by a look that is recent enough and knows these."""
        snapshot = self._snapshot
        if snapshot is not None and snapshot.recent and all(place in snapshot.jobs for place in places):
            return snapshot.jobs
        began = time.monotonic()
        text = self._commands.look([*SQUEUE, "--me"])
        try:
            jobs = parse_squeue(text)
        except ValueError as error:
            raise self._confused("squeue", error, text) from error
        self._snapshot = _Snapshot(time.monotonic(), self._good_for(began), jobs)
        return jobs

    def _accounting(self, jobs: Sequence[JobKey]) -> Mapping[Place, Seen] | None:
        """What the accounting knows of these; None if there is none, or if it does not answer."""
        if time.time() < self._no_accounting_until:
            return None
        numbers = frozenset(key.number for key in jobs)
        snapshot = self._accounted
        if snapshot is not None and snapshot.recent and numbers <= snapshot.numbers:
            return snapshot.jobs
        began = time.monotonic()
        known: dict[Place, Seen] = {}
        for some in _lists(sorted(numbers, key=int)):
            text = self._ask_accounting([f"--jobs={some}"])
            if text is None:
                return None
            try:
                known |= parse_sacct(text)
            except ValueError as error:
                raise self._confused("sacct", error, text) from error
        self._accounted = _Snapshot(time.monotonic(), self._good_for(began), known, numbers)
        return known

    def _good_for(self, began: float) -> float:
        """How long an answer may be used: slow services are asked less often."""
        took = time.monotonic() - began
        return min(max(self._poll_seconds, _SLOWNESS * took), _LONGEST_POLL_SECONDS) if self._poll_seconds else 0

    def _ask_accounting(self, options: Sequence[str]) -> str | None:
        """What `sacct` prints. An accounting that does not answer is noted: the other two witnesses may do without."""
        try:
            text = self._commands.look([*SACCT, *options])
        except BackendUnavailable as error:
            if "storage is disabled" in error.message:
                self._no_accounting_until = time.time() + _NO_ACCOUNTING_SECONDS
                self._accounting_words = ""
            else:
                self._accounting_words = error.message
            return None
        self._accounting_words = ""
        return text

    def _configuration(self) -> dict[str, str]:
        if self._config is None or time.monotonic() - self._config[0] > _CONFIG_SECONDS:
            text = self._commands.look(["scontrol", "show", "config"])
            try:
                self._config = (time.monotonic(), parse_config(text))
            except ValueError as error:
                raise self._confused("scontrol", error, text) from error
        return self._config[1]

    def _sampling_seconds(self) -> float:
        """How often the accounting looks at the memory of jobs."""
        try:
            frequency = self._configuration().get("JobAcctGatherFrequency", "")
        except BackendUnavailable:
            return 30
        digits = frequency.rpartition("task=")[2].partition(",")[0]
        return float(digits) if digits.isdecimal() and digits != "0" else math.inf

    def _confused(self, command: str, error: ValueError, text: str) -> BackendConfused:
        return BackendConfused(
            f"the answer of {command} cannot be read: {error}", backend=self.name, output_tail=text[-2000:]
        )

    # --- stopping, forgetting ----------------------------------------------------------------------------------------

    def _stop(self, jobs: Sequence[JobKey]) -> None:
        """Only what still bears the right name: a number may have been given to somebody else's job."""
        listed = self._controller([(key.number, key.index) for key in jobs])
        self._cancel(key for key in jobs if (seen := _own(listed.get((key.number, key.index)), key)) and _live(seen))

    def _cancel(self, jobs: Iterable[JobKey]) -> None:
        places = [f"{key.number}_{key.index}" if key.index is not None else key.number for key in jobs]
        if not places:
            return
        self._snapshot = None
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
        super().cleanup_many(job_ids)

    # --- for operators -----------------------------------------------------------------------------------------------

    def queue_status(self) -> list[QueueStatus]:
        text = self._commands.look(SINFO)
        try:
            partitions = parse_sinfo(text)
        except ValueError as error:
            raise self._confused("sinfo", error, text) from error
        states = self._controller(()).values()
        none = time.time() < self._no_accounting_until
        facts = {
            "calls_per_minute": self._commands.budget.per_minute,
            "calls_in_the_last_minute": self._commands.budget.used(),
            "accounting": "none" if none else self._accounting_words or "ok",
        }
        return [queue_of(partition, states, self._site.partition, facts) for partition in partitions]


def parse_places(backend: SlurmBackend, text: str, *, accounting: bool = False) -> set[str]:
    """The numbers in a listing of jobs."""
    try:
        return {number for number, _ in (parse_sacct(text) if accounting else parse_squeue(text))}
    except ValueError as error:
        command = "sacct" if accounting else "squeue"
        raise BackendConfused(f"the answer of {command} cannot be read: {error}", backend=backend.name) from error


def _own(seen: Seen | None, key: JobKey) -> Seen | None:
    """What was seen under a number, if it is the job that is meant."""
    if seen is None or seen.name == key.job_name:
        return seen
    # Accounting calls a job "allocation" until it is told the name.
    array = key.index is not None and seen.name.startswith(ARRAY_PREFIX)
    return seen if array or seen.name == "allocation" else None


def _live(seen: Seen) -> bool:
    return seen.state not in FINAL


def _lists(numbers: Sequence[str]) -> list[str]:
    """Comma-separated, each short enough for one argument of a command."""
    lists = [""]
    for number in numbers:
        if len(lists[-1]) + len(number) > _ID_CHARACTERS:
            lists.append("")
        lists[-1] += ("," if lists[-1] else "") + number
    return lists


def _now() -> datetime:
    return datetime.now(UTC)
