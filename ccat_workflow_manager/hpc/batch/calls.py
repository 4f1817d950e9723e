"""Runs the commands of a scheduler: each with a time limit, all of them within a budget of calls per minute."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from ccat_workflow_manager import failpoints, metrics, shell
from ccat_workflow_manager.errors import BackendConfused, BackendUnavailable
from ccat_workflow_manager.hpc.attempt.script import CLEAN_PATH
from ccat_workflow_manager.hpc.batch.remote import SubmitNode

T = TypeVar("T")

WINDOW_SECONDS = 60.0
_RESERVED_SHARE = 0.25
"""The share of the budget that is kept for submitting and cancelling."""
_SPARE_SHARE = 0.5
"""With so much of the budget in use nothing is asked that is only shown."""
_LONGEST_WAIT_SECONDS = 15.0
_PAUSE_SECONDS = 0.05


class CallBudget:
    """Allows so many calls in any minute to all processes that share the directory."""

    def __init__(self, directory: Path, per_minute: int) -> None:
        self.per_minute = per_minute
        self._file = directory / "calls"

    def wait_for_one(self, what: str, *, looking: bool, backend: str) -> None:
        """Wait until the budget has a call, and take it. Raises BackendUnavailable if that would take too long."""
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
        metrics.scheduler_called(backend, what, self.per_minute)

    def take(self, *, looking: bool) -> float | None:
        """Take one call. Returns None, or after how many seconds to ask again if the budget is used up."""
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

    @property
    def is_short(self) -> bool:
        """Whether calls are not to be spent on what is only shown."""
        return self.used() > self.per_minute * _SPARE_SHARE

    @staticmethod
    def _recent(text: str, now: float) -> list[float]:
        moments = []
        for line in text.splitlines():
            with suppress(ValueError):
                moments.append(float(line))
        # Calls of the future, from before the clock was set back, do not count.
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
        """Run a command until it ends, or until `enough` holds for its complaints.

        Raises BackendUnavailable if there is no such command or no call left in the budget, `shell.CommandError` if
        its end is not known: the scheduler may then have carried it out, or may still do so.
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
        return self._node.completed(done, argv, self._backend)

    def ask(self, argv: Sequence[str], *, looking: bool = True) -> shell.Completed:
        """Run a command to its end, whatever its exit code. Raises BackendUnavailable if its end is not known."""
        try:
            return self.run(argv, looking=looking)
        except shell.CommandError as error:
            raise BackendUnavailable(error.message, backend=self._backend, command=argv) from error

    def look(self, argv: Sequence[str], parse: Callable[[str], T]) -> T:
        """The parsed output of a command that changes nothing. Raises BackendUnavailable with its words if it fails."""
        done = self.ask(argv)
        if done.returncode != 0:
            raise self.failed(done)
        if done.truncated:
            raise BackendConfused(f"{argv[0]} printed more than can be read", backend=self._backend, command=argv)
        return self.parsed(done, parse)

    def parsed(self, done: shell.Completed, parse: Callable[[str], T]) -> T:
        """What a command has printed. Raises BackendConfused for a ValueError of `parse`."""
        try:
            return parse(done.stdout)
        except ValueError as error:
            words = f"the answer of {Path(done.argv[0]).name} cannot be read: {error}"
            tail = done.stdout[-2000:]
            raise BackendConfused(words, backend=self._backend, command=done.argv, output_tail=tail) from error

    def failed(self, done: shell.Completed) -> BackendUnavailable:
        """The error of a command that failed, in its own words."""
        command = Path(done.argv[0]).name
        words = " ".join((done.stderr.strip() or done.stdout.strip()).split())[-500:] or "it printed nothing"
        return BackendUnavailable(
            f"{command} failed with {done.returncode}: {words}",
            backend=self._backend,
            command=done.argv,
            output_tail=done.output_tail,
        )
