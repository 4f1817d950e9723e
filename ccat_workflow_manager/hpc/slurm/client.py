"""Asks Slurm's commands, and no more often than needed: one answer serves all jobs for a while."""

from __future__ import annotations

import math
import os
import pwd
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ccat_workflow_manager.errors import BackendError, BackendUnavailable
from ccat_workflow_manager.hpc.attempt.record import utc
from ccat_workflow_manager.hpc.batch.calls import SchedulerCommands
from ccat_workflow_manager.hpc.note_store import NoteStore
from ccat_workflow_manager.hpc.slurm.listing import (
    NODES,
    QUEUED,
    SACCT,
    SINFO,
    SQUEUE,
    Partition,
    Seen,
    TaskId,
    parse_boot_time,
    parse_config,
    parse_queued,
    parse_sacct,
    parse_silent_nodes,
    parse_sinfo,
    parse_squeue,
)

_CONFIG_SECONDS = 3600.0
_RESTARTED_SECONDS = 10.0
_NODE_TIMEOUT_SECONDS = 300.0
_NODE_LATE_SECONDS = 30.0
"""How long a controller may need to hear of a node that answers, or to notice that one does not."""
_NO_ACCOUNTING_SECONDS = 600.0
_LONGEST_POLL_SECONDS = 30.0
_SLOWNESS = 10
"""An answer is used for this many times as long as it took: a slow controller is asked less often."""
_ID_CHARACTERS = 100_000
_USUAL_SAMPLING_SECONDS = 30.0
_OK = "ok"
_NONE = "none"
_NOT_ASKED = "not asked yet"


class AccountingState:
    """Whether the accounting answers, for operators; shared by all workers, of which only some ask it."""

    def __init__(self, directory: Path, backend: str) -> None:
        self._notes: NoteStore[tuple[str, float]] = NoteStore(backend, directory, list, _state, ".json")

    def write(self, words: str) -> None:
        """`ok`, `none`, or why it did not answer. Only a change is written."""
        known = self._notes.get("accounting")
        if known is None or known[0] != words:
            self._notes.put("accounting", (words, time.time()))

    def details(self) -> dict[str, str]:
        try:
            known = self._notes.get("accounting")
        except BackendError as error:
            return {"accounting": error.message}
        if known is None:
            return {"accounting": _NOT_ASKED}
        return {"accounting": known[0], "accounting_since": utc(known[1]).isoformat(timespec="seconds")}


def _state(data: list[Any]) -> tuple[str, float]:
    return str(data[0]), float(data[1])


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """An answer about our jobs, and for how long it is used."""

    taken: float
    good_for: float
    jobs: Mapping[TaskId, Seen]
    numbers: frozenset[str] = frozenset()
    """The numbers that were asked for."""

    @property
    def recent(self) -> bool:
        return time.monotonic() - self.taken < self.good_for


class SlurmClient:
    """The controller and the accounting of one cluster."""

    def __init__(
        self, commands: SchedulerCommands, accounting: AccountingState, backend: str, poll_seconds: float
    ) -> None:
        self._commands = commands
        self.accounting = accounting
        self._backend = backend
        self._poll_seconds = poll_seconds
        self._listed: _Snapshot | None = None
        self._accounted: _Snapshot | None = None
        self._config: tuple[float, dict[str, str]] | None = None
        self._silent: tuple[float, frozenset[str]] = (0.0, frozenset())
        self._no_accounting_until = 0.0
        self.accounting_error = ""
        """Why the accounting did not answer last time; empty if it did, or if there is none."""

    # --- controller --------------------------------------------------------------------------------------------------

    def ping(self) -> str:
        """What `scontrol ping` says about the controllers. Raises BackendError if none of them is up."""
        done = self._commands.ask(["scontrol", "ping"])
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        # With a dead primary and a living backup, the exit code is that of a failure.
        if not any(line.endswith(" UP") for line in lines):
            raise self._commands.failed(done)
        return "; ".join(lines)

    def jobs(self, tasks: Iterable[TaskId] = ()) -> Mapping[TaskId, Seen]:
        """All our jobs, from a recent answer if that has all of `tasks`."""
        snapshot = self._listed
        if snapshot is not None and snapshot.recent and all(task in snapshot.jobs for task in tasks):
            return snapshot.jobs
        began = time.monotonic()
        jobs = self._commands.look([*SQUEUE, "--me"], parse_squeue)
        self._listed = _Snapshot(time.monotonic(), self._good_for(began), jobs)
        return jobs

    def outdated(self) -> None:
        """Ask again next time, because jobs were changed."""
        self._listed = None

    def numbers(self, job_name: str) -> set[str]:
        """The numbers of the jobs of this name, as of now."""
        return _numbers(self._commands.look([*SQUEUE, "--me", f"--name={job_name}"], parse_squeue))

    def partitions(self) -> list[Partition]:
        return self._commands.look(SINFO, parse_sinfo)

    def others_pending(self) -> Mapping[str, int] | None:
        """The waiting jobs of other users by partition. None if Slurm does not show them, or calls are short."""
        if self._commands.budget.is_short or "jobs" in self._configuration().get("PrivateData", ""):
            return None
        ours, users = {number for number, _ in self.jobs()}, {pwd.getpwuid(os.geteuid()).pw_name}
        return self._commands.look(QUEUED, lambda text: parse_queued(text, ours, users))

    def largest_array(self) -> int:
        return int(self._configuration()["MaxArraySize"])

    def sampling_seconds(self) -> float:
        """How often the accounting samples the memory of jobs."""
        try:
            frequency = self._configuration().get("JobAcctGatherFrequency", "")
        except BackendUnavailable:
            return _USUAL_SAMPLING_SECONDS
        digits = frequency.rpartition("task=")[2].partition(",")[0]
        return float(digits) if digits.isdecimal() and digits != "0" else math.inf

    def own_users(self) -> frozenset[int]:
        """The users as which Slurm itself acts: those of its daemons, unless this service acts as one of them."""
        try:
            configured = self._configuration()
        except BackendUnavailable:
            return frozenset({0})
        users = (re.search(r"\((\d+)\)$", configured.get(name, "")) for name in ("SlurmUser", "SlurmdUser"))
        return frozenset({0, *(int(user[1]) for user in users if user and int(user[1]) != os.geteuid())})

    def controller_started_at(self) -> datetime | None:
        """When the controller was started last; None if it does not answer."""
        try:
            return parse_boot_time(self._configuration(_RESTARTED_SECONDS).get("BOOT_TIME", ""))
        except BackendUnavailable:
            return None

    def has_no_word_of(self, node: str) -> bool:
        """Whether the controller has not heard of a node since its start, and does not take it for down yet.

        A node that answers ends the jobs that the controller has forgotten. Raises BackendUnavailable.
        """
        configured = self._configuration(_RESTARTED_SECONDS)
        started = parse_boot_time(configured.get("BOOT_TIME", ""))
        age = (datetime.now(UTC) - started).total_seconds() if started is not None else math.inf
        if age < _NODE_LATE_SECONDS:
            return True
        timeout = re.match(r"[1-9]\d{0,5}(?= sec)", configured.get("SlurmdTimeout", ""))
        if age > (float(timeout[0]) if timeout else _NODE_TIMEOUT_SECONDS) + _NODE_LATE_SECONDS:
            return False
        if time.monotonic() >= self._silent[0]:
            began = time.monotonic()
            nodes = self._commands.look(NODES, parse_silent_nodes)
            self._silent = (time.monotonic() + self._good_for(began), nodes)
        return node in self._silent[1]

    def _configuration(self, good_for: float = _CONFIG_SECONDS) -> Mapping[str, str]:
        if self._config is None or time.monotonic() - self._config[0] > good_for:
            answer = self._commands.look(["scontrol", "show", "config"], parse_config)
            self._config = (time.monotonic(), answer)
        return self._config[1]

    # --- accounting --------------------------------------------------------------------------------------------------

    @property
    def accounts(self) -> bool:
        """Whether there is an accounting, as far as is known."""
        return time.time() >= self._no_accounting_until

    def accounted(self, numbers: Iterable[str]) -> Mapping[TaskId, Seen] | None:
        """The accounting of these jobs; None if there is none, or if it does not answer."""
        if not self.accounts:
            return None
        wanted = frozenset(numbers)
        snapshot = self._accounted
        if snapshot is not None and snapshot.recent and wanted <= snapshot.numbers:
            return snapshot.jobs
        began = time.monotonic()
        known: dict[TaskId, Seen] = {}
        for some in _lists(sorted(wanted, key=int)):
            answer = self._ask_accounting(f"--jobs={some}")
            if answer is None:
                return None
            known |= answer
        self._accounted = _Snapshot(time.monotonic(), self._good_for(began), known, wanted)
        return known

    def accounted_numbers(self, job_name: str, since: float) -> set[str]:
        """The numbers of the jobs of this name; empty without an accounting. Raises BackendUnavailable."""
        if not self.accounts:
            return set()
        start = utc(since).strftime("%Y-%m-%dT%H:%M:%S")
        answer = self._ask_accounting(f"--name={job_name}", "--allocations", f"--starttime={start}")
        if answer is None and self.accounting_error:
            raise BackendUnavailable(self.accounting_error, backend=self._backend)
        return _numbers(answer or {})

    def _ask_accounting(self, *options: str) -> Mapping[TaskId, Seen] | None:
        """None if it does not answer: controller and exit record may suffice."""
        try:
            answer = self._commands.look([*SACCT, *options], parse_sacct)
        except BackendUnavailable as error:
            none = "storage is disabled" in error.message
            if none:
                self._no_accounting_until = time.time() + _NO_ACCOUNTING_SECONDS
            self.accounting_error = "" if none else error.message
            self.accounting.write(_NONE if none else error.message)
            return None
        self.accounting_error = ""
        self.accounting.write(_OK)
        return answer

    # --- both --------------------------------------------------------------------------------------------------------

    def _good_for(self, began: float) -> float:
        """How long an answer is used."""
        took = time.monotonic() - began
        return min(max(self._poll_seconds, _SLOWNESS * took), _LONGEST_POLL_SECONDS) if self._poll_seconds else 0


def _numbers(jobs: Iterable[TaskId]) -> set[str]:
    return {number for number, _ in jobs}


def _lists(numbers: Sequence[str]) -> list[str]:
    """Comma-separated, each short enough for one argument of a command."""
    lists = [""]
    for number in numbers:
        if len(lists[-1]) + len(number) > _ID_CHARACTERS:
            lists.append("")
        lists[-1] += ("," if lists[-1] else "") + number
    return lists
