"""Calling the commands of a scheduler: each with a time limit, all of them within a budget of calls per minute."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path

from ccat_workflow_manager import failpoints, shell
from ccat_workflow_manager.errors import BackendConfused, BackendUnavailable
from ccat_workflow_manager.hpc.attempt.script import CLEAN_PATH
from ccat_workflow_manager.hpc.batch.remote import SubmitNode

WINDOW_SECONDS = 60.0
_RESERVED_SHARE = 0.25
"""Of the budget, for submitting and cancelling: looking must not keep work from getting on."""
_LONGEST_WAIT_SECONDS = 15.0
_PAUSE_SECONDS = 0.05


class Refusal(Enum):
    """What became of a job that a submit command did not give a number for."""

    NEVER = "never"
    """It can never run as it was asked for."""
    LATER = "later"
    """A limit of the site is reached; it was not taken."""
    FULL = "full"
    """The same, said by a command that then tried again by itself: what became of its last try nobody knows."""
    UNSURE = "unsure"
    """Nobody knows whether it was taken."""


class CallBudget:
    """No more than so many calls in any minute, by all processes that share the directory."""

    def __init__(self, directory: Path, per_minute: int) -> None:
        self.per_minute = per_minute
        self._file = directory / "calls"

    def wait_for_one(self, what: str, *, looking: bool, backend: str) -> None:
        """Take one call as soon as there is one. Raises BackendUnavailable if that would take too long."""
        deadline = time.monotonic() + _LONGEST_WAIT_SECONDS
        try:
            while (wait := self.take(looking=looking)) is not None:
                if time.monotonic() + wait > deadline:
                    words = f"the budget of {self.per_minute} scheduler calls a minute is used up"
                    raise BackendUnavailable(f"{words}, so no {what} now", backend=backend)
                time.sleep(wait)
        except OSError as error:
            text = f"the budget of scheduler calls cannot be kept: {error}"
            raise BackendUnavailable(text, backend=backend) from error

    def take(self, *, looking: bool) -> float | None:
        """Take one call; None if there is one, else how many seconds to wait before asking again."""
        room = self.per_minute - (int(self.per_minute * _RESERVED_SHARE) if looking else 0)
        with self._file.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            now = time.time()
            file.seek(0)
            recent = self._recent(file.read(), now)
            if len(recent) >= room:
                return max(_PAUSE_SECONDS, recent[len(recent) - room] + WINDOW_SECONDS - now)
            recent.append(now)
            file.truncate(0)
            file.write("\n".join(map(repr, recent)))
            return None

    def used(self) -> int:
        """How many calls were made in the last minute."""
        try:
            return len(self._recent(self._file.read_text(), time.time()))
        except FileNotFoundError:
            return 0

    @staticmethod
    def _recent(text: str, now: float) -> list[float]:
        moments = []
        for line in text.splitlines():
            with suppress(ValueError):
                moments.append(float(line))
        # A clock that was set back must not leave calls of the future in the way.
        return [moment for moment in moments if now - WINDOW_SECONDS < moment <= now]


class SchedulerCommands:
    """Runs the commands of one scheduler."""

    def __init__(
        self,
        backend: str,
        budget: CallBudget,
        environment: Mapping[str, str],
        timeout: float,
        looking_environment: Mapping[str, str] | None = None,
        node: SubmitNode | None = None,
    ) -> None:
        self._backend = backend
        self._node = node
        self._environment = environment
        self._looking_environment = looking_environment or {}
        self.budget = budget
        self.timeout = timeout

    def run(
        self,
        argv: Sequence[str],
        *,
        looking: bool,
        script: bytes | None = None,
        enough: Callable[[str], object] | None = None,
    ) -> shell.Completed:
        """Run a command to its end, whatever that is, or until it has complained `enough`.

        Raises BackendUnavailable if there is no such command or no call left in the budget, `shell.CommandError` if
        nobody knows its end: the scheduler may then have done what it was asked, or may still do it.
        """
        program = shutil.which(argv[0] if self._node is None else "ssh")
        if program is None:
            raise BackendUnavailable(f"there is no program {argv[0]!r} on this machine", backend=self._backend)
        self.budget.wait_for_one(argv[0], looking=looking, backend=self._backend)
        environment = {"LC_ALL": "C.UTF-8", **self._environment, **(self._looking_environment if looking else {})}
        if not looking:
            failpoints.point("command.run")
        try:
            done = self._run(argv if self._node is not None else [program, *argv[1:]], environment, script, enough)
        except shell.CommandMissing as error:
            raise BackendUnavailable(error.message, backend=self._backend) from error
        if not looking:
            failpoints.point("command.run", failpoints.AFTER)
        return done

    def _run(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        script: bytes | None,
        enough: Callable[[str], object] | None,
    ) -> shell.Completed:
        here = {"PATH": CLEAN_PATH, "HOME": os.path.expanduser("~")}
        if self._node is None:
            given = {**here, **environment}
            return shell.run(argv, timeout=self.timeout, env=given, cwd="/", input=script, stop_when=enough)
        agent = {name: value for name in ("SSH_AUTH_SOCK", "USER") if (value := os.environ.get(name))}
        there = self._node.argv(argv, environment, self.timeout)
        done = shell.run(there, timeout=self.timeout, env={**here, **agent}, cwd="/", input=script)
        return self._node.judge(done, argv, self._backend)

    def look(self, argv: Sequence[str]) -> str:
        """What a command prints that changes nothing. Raises BackendUnavailable with its words if it fails."""
        try:
            done = self.run(argv, looking=True)
        except shell.CommandError as error:
            raise BackendUnavailable(error.message, backend=self._backend, command=argv) from error
        if done.returncode != 0:
            raise self.failed(done)
        if done.truncated:
            raise BackendConfused(f"{argv[0]} printed more than can be read", backend=self._backend, command=argv)
        return done.stdout

    def failed(self, done: shell.Completed) -> BackendUnavailable:
        """The error that a command ended with, in its own words."""
        command = Path(done.argv[0]).name
        words = " ".join((done.stderr.strip() or done.stdout.strip()).split())[-500:] or "it said nothing"
        return BackendUnavailable(
            f"{command} failed with {done.returncode}: {words}",
            backend=self._backend,
            command=done.argv,
            output_tail=done.output_tail,
        )
