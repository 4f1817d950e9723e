"""What Slurm's commands answer, asked no more often than need be: one answer does for all jobs for a while."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from ccat_workflow_manager.errors import BackendConfused, BackendUnavailable
from ccat_workflow_manager.hpc.batch.calls import SchedulerCommands
from ccat_workflow_manager.hpc.slurm.accounting import NONE, OK, AccountingNote
from ccat_workflow_manager.hpc.slurm.listing import (
    SACCT,
    SINFO,
    SQUEUE,
    Partition,
    Place,
    Seen,
    parse_config,
    parse_sacct,
    parse_sinfo,
    parse_squeue,
)

_CONFIG_SECONDS = 3600.0
_NO_ACCOUNTING_SECONDS = 600.0
_LONGEST_POLL_SECONDS = 30.0
_SLOWNESS = 10
"""An answer is good for this many times as long as it took: a slow controller is asked less often."""
_ID_CHARACTERS = 100_000
_USUAL_SAMPLING_SECONDS = 30.0

_T = TypeVar("_T")


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


class SlurmAnswers:
    """The controller and the accounting of one cluster."""

    def __init__(
        self, commands: SchedulerCommands, accounting: AccountingNote, backend: str, poll_seconds: float
    ) -> None:
        self._commands = commands
        self.accounting = accounting
        self._backend = backend
        self._poll_seconds = poll_seconds
        self._listed: _Snapshot | None = None
        self._accounted: _Snapshot | None = None
        self._config: tuple[float, dict[str, str]] | None = None
        self._no_accounting_until = 0.0
        self.accounting_away = ""
        """Why the accounting did not answer last time, in its own words; empty if it did, or if there is none."""

    # --- controller --------------------------------------------------------------------------------------------------

    def jobs(self, places: Iterable[Place] = ()) -> Mapping[Place, Seen]:
        """All our jobs, by a look that is recent enough and knows these."""
        snapshot = self._listed
        if snapshot is not None and snapshot.recent and all(place in snapshot.jobs for place in places):
            return snapshot.jobs
        began = time.monotonic()
        jobs = self._asked([*SQUEUE, "--me"], parse_squeue)
        self._listed = _Snapshot(time.monotonic(), self._good_for(began), jobs)
        return jobs

    def outdated(self) -> None:
        """Jobs were told to do something else: look again."""
        self._listed = None

    def numbers(self, job_name: str) -> set[str]:
        """The numbers of the jobs of this name, as of now."""
        return _numbers(self._asked([*SQUEUE, "--me", f"--name={job_name}"], parse_squeue))

    def partitions(self) -> list[Partition]:
        return self._asked(SINFO, parse_sinfo)

    def largest_array(self) -> int:
        return int(self._configuration()["MaxArraySize"])

    def sampling_seconds(self) -> float:
        """How often the accounting looks at the memory of jobs."""
        try:
            frequency = self._configuration().get("JobAcctGatherFrequency", "")
        except BackendUnavailable:
            return _USUAL_SAMPLING_SECONDS
        digits = frequency.rpartition("task=")[2].partition(",")[0]
        return float(digits) if digits.isdecimal() and digits != "0" else math.inf

    def _configuration(self) -> Mapping[str, str]:
        if self._config is None or time.monotonic() - self._config[0] > _CONFIG_SECONDS:
            answer = self._asked(["scontrol", "show", "config"], parse_config)
            self._config = (time.monotonic(), answer)
        return self._config[1]

    # --- accounting --------------------------------------------------------------------------------------------------

    @property
    def accounts(self) -> bool:
        """Whether there is an accounting, as far as is known."""
        return time.time() >= self._no_accounting_until

    def accounted(self, numbers: Iterable[str]) -> Mapping[Place, Seen] | None:
        """What the accounting knows of these; None if there is none, or if it does not answer."""
        if not self.accounts:
            return None
        wanted = frozenset(numbers)
        snapshot = self._accounted
        if snapshot is not None and snapshot.recent and wanted <= snapshot.numbers:
            return snapshot.jobs
        began = time.monotonic()
        known: dict[Place, Seen] = {}
        for some in _lists(sorted(wanted, key=int)):
            answer = self._ask_accounting(f"--jobs={some}")
            if answer is None:
                return None
            known |= answer
        self._accounted = _Snapshot(time.monotonic(), self._good_for(began), known, wanted)
        return known

    def accounted_numbers(self, job_name: str, since: float) -> set[str]:
        """The numbers of the jobs of this name; empty without an accounting. Raises if there is one that is silent."""
        if not self.accounts:
            return set()
        start = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        answer = self._ask_accounting(f"--name={job_name}", "--allocations", f"--starttime={start}")
        if answer is None and self.accounting_away:
            raise BackendUnavailable(self.accounting_away, backend=self._backend)
        return _numbers(answer or {})

    def _ask_accounting(self, *options: str) -> Mapping[Place, Seen] | None:
        """An accounting that does not answer is noted: the other two witnesses may do without."""
        try:
            answer = self._asked([*SACCT, *options], parse_sacct)
        except BackendUnavailable as error:
            none = "storage is disabled" in error.message
            if none:
                self._no_accounting_until = time.time() + _NO_ACCOUNTING_SECONDS
            self.accounting_away = "" if none else error.message
            self.accounting.write(NONE if none else error.message)
            return None
        self.accounting_away = ""
        self.accounting.write(OK)
        return answer

    # --- both --------------------------------------------------------------------------------------------------------

    def _asked(self, argv: Sequence[str], parse: Callable[[str], _T]) -> _T:
        text = self._commands.look(argv)
        try:
            return parse(text)
        except ValueError as error:
            words = f"the answer of {argv[0]} cannot be read: {error}"
            raise BackendConfused(words, backend=self._backend, command=argv, output_tail=text[-2000:]) from error

    def _good_for(self, began: float) -> float:
        """How long an answer may be used: slow services are asked less often."""
        took = time.monotonic() - began
        return min(max(self._poll_seconds, _SLOWNESS * took), _LONGEST_POLL_SECONDS) if self._poll_seconds else 0


def _numbers(jobs: Iterable[Place]) -> set[str]:
    return {number for number, _ in jobs}


def _lists(numbers: Sequence[str]) -> list[str]:
    """Comma-separated, each short enough for one argument of a command."""
    lists = [""]
    for number in numbers:
        if len(lists[-1]) + len(number) > _ID_CHARACTERS:
            lists.append("")
        lists[-1] += ("," if lists[-1] else "") + number
    return lists
