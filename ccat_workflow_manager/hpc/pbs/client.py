"""Asks the commands of PBS: `qstat` and `qselect`, of either family."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import time
from collections.abc import Callable, Sequence

from ccat_workflow_manager import shell
from ccat_workflow_manager.errors import BackendConfused
from ccat_workflow_manager.hpc.batch.calls import SchedulerCommands
from ccat_workflow_manager.hpc.pbs.listing import (
    Queue,
    Seen,
    parse_json,
    parse_numbers,
    parse_queues,
    parse_text,
    parse_version,
    sequence,
)
from ccat_workflow_manager.hpc.pbs.refusals import only_gone, without_history
from ccat_workflow_manager.hpc.pbs.script import Dialect

AT_A_TIME = 5000
"""So many ids fit into one command."""
_NO_HISTORY_SECONDS = 600.0
_RECENT_SECONDS, _SCARCE_SECONDS = 30.0, 600.0
"""For so long an answer is good enough for people, and while calls are short."""


class PbsClient:
    """One PBS server."""

    def __init__(self, commands: SchedulerCommands, backend: str) -> None:
        self._commands = commands
        self._backend = backend
        self._dialect: Dialect | None = None
        self._json = True
        self._no_history_until = 0.0
        self._ours: tuple[float, dict[str, Seen]] | None = None

    @property
    def dialect(self) -> Dialect:
        """The family, according to the program; needs no server."""
        if self._dialect is None:
            done = self._commands.ask(["qstat", "--version"])
            self._dialect = parse_version(done.stdout + done.stderr)
        return self._dialect

    @property
    def has_history(self) -> bool:
        """Whether the server keeps jobs that are over, as far as is known."""
        return time.monotonic() >= self._no_history_until

    # --- jobs --------------------------------------------------------------------------------------------------------

    def numbers(self, job_name: str) -> list[str]:
        """The numbers of our jobs of this name, oldest first."""
        if not self.knows_ours:
            return sorted((number for number, seen in self._listed(()).items() if seen.name == job_name), key=sequence)
        return self._selected(self._with_history(lambda history: ["qselect", *history, *_ours(), "-N", job_name]))

    @property
    def knows_ours(self) -> bool:
        """Whether jobs are listed by their user. The wrappers around Slurm list all jobs, without a user."""
        return shutil.which("qselect") is not None

    def ours(self) -> dict[str, Seen]:
        """Our jobs, perhaps with some that are over."""
        if self.knows_ours:
            found = self.listed(self._selected(self._commands.ask(["qselect", *_ours()])))
        else:
            found = self._listed(())
        self._ours = (time.monotonic(), found)
        return found

    def ours_lately(self) -> dict[str, Seen]:
        """Our jobs, for people: those of the last answer if that is recent, or if calls are short."""
        if self._ours is not None:
            answered, found = self._ours
            age = time.monotonic() - answered
            if age < _RECENT_SECONDS or (age < _SCARCE_SECONDS and self._commands.budget.is_short):
                return found
        return self.ours()

    def listed(self, numbers: Sequence[str]) -> dict[str, Seen]:
        """These jobs, without those that the server does not know."""
        listed: dict[str, Seen] = {}
        for start in range(0, len(numbers), AT_A_TIME):
            listed |= self._listed(numbers[start : start + AT_A_TIME])
        return listed

    def queues(self) -> list[Queue]:
        return self._commands.look(["qstat", "-Q", "-f"], parse_queues)

    def _selected(self, done: shell.Completed) -> list[str]:
        if done.returncode != 0:
            raise self._commands.failed(done)
        return self._commands.parsed(done, parse_numbers)

    def _listed(self, numbers: Sequence[str]) -> dict[str, Seen]:
        """`qstat` for these jobs; without any, for all jobs of the server."""
        if self._json and self.dialect is Dialect.OPENPBS:
            done = self._qstat(["-f", "-F", "json"], numbers)
            if done is not None:
                listed = self._commands.parsed(done, _json_or_none)
                if listed is not None:
                    return listed
            else:
                self._json = False
        done = self._qstat(["-f"], numbers)
        if done is None:
            raise BackendConfused("qstat does not know its option -f", backend=self._backend)
        return self._commands.parsed(done, parse_text)

    # --- commands ----------------------------------------------------------------------------------------------------

    def _qstat(self, options: Sequence[str], numbers: Sequence[str]) -> shell.Completed | None:
        """None if `qstat` does not know the options."""
        done = self._with_history(lambda history: ["qstat", *history, *options, *numbers])
        if done.returncode == 0 and numbers and not done.stdout.strip():
            raise BackendConfused("qstat printed nothing, but succeeded", backend=self._backend)
        if done.returncode != 0 and not only_gone(done.returncode, done.stderr):
            if "usage:" in done.stderr.lower() or "invalid option" in done.stderr:
                return None
            raise self._commands.failed(done)
        if done.truncated:
            raise BackendConfused("qstat printed more than can be read", backend=self._backend, command=done.argv)
        return done

    def _with_history(self, argv: Callable[[Sequence[str]], Sequence[str]]) -> shell.Completed:
        """Run a command that may include jobs that are over. (To Torque `-x` means something else.)"""
        if self.dialect is Dialect.OPENPBS and self.has_history:
            done = self._commands.ask(argv(["-x"]))
            if done.returncode == 0 or not without_history(done.returncode, done.stderr):
                return done
            self._no_history_until = time.monotonic() + _NO_HISTORY_SECONDS
        return self._commands.ask(argv([]))


def _json_or_none(text: str) -> dict[str, Seen] | None:
    """None if it is no JSON: some versions do not quote what users choose freely. The text mode always works."""
    try:
        return parse_json(text)
    except json.JSONDecodeError:
        return None


def _ours() -> list[str]:
    return ["-u", pwd.getpwuid(os.geteuid()).pw_name]
