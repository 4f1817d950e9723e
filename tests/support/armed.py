"""The command line with armed failpoints: `CCAT_WM_FAULTS=PLAN python -m tests.support.armed up`.

A plan has one injection per line or between semicolons:

    worker backend.submit after crash
    manager commit.create before delay nth=2 seconds=1.5

The words are: the process (`manager`, `worker`, or `*` for any), the failpoint, `before` or `after`, and the action
of the nth passage. `@DIRECTORY` in place of a plan names a directory: the processes read the plan in `DIRECTORY/plan`
again whenever it changes, and each injection happens once in the whole deployment, however many processes there are
and however often they restart. `DIRECTORY/fired` lists the injections that happened. The plan `record` injects nothing;
the processes write every point that they pass to `DIRECTORY/seen`.

- crash: the process ends as if it had been killed
- raise: an exception of no known class
- delay: the process waits (longer than a lease, say)
- twice: what is between `before` and `after` is done twice (only at points around a repeatable action)
- timeout: the error of a server that does not answer; `after`: the server has done what it was asked
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from redis.exceptions import TimeoutError as RedisTimeout

from ccat_workflow_manager import failpoints, shell
from ccat_workflow_manager.cli import main
from ccat_workflow_manager.errors import BackendUnavailable, ConfigurationError, ServiceUnavailable

R = TypeVar("R")

_PAUSE = threading.Event()
VARIABLE = "CCAT_WM_FAULTS"
PROGRAM = (sys.executable, "-m", "tests.support.armed")
ANY = "*"
AROUND = "around"
RECORD = "record"
CRASH_EXIT_CODE = 86


class Action(StrEnum):
    """What an injection does at its point."""

    CRASH = "crash"
    RAISE = "raise"
    DELAY = "delay"
    TWICE = "twice"
    TIMEOUT = "timeout"


class Injected(Exception):
    """An exception of no known class."""


@dataclass(frozen=True, slots=True)
class Injection:
    """One line of a plan."""

    process: str
    point: str
    moment: str
    action: Action
    nth: int = 1
    seconds: float = 1.0

    def __str__(self) -> str:
        return f"{self.process} {self.point} {self.moment} {self.action} nth={self.nth} seconds={self.seconds:g}"

    @property
    def passage(self) -> tuple[str, str]:
        return self.point, AROUND if self.action is Action.TWICE else self.moment


_TIMEOUTS: Mapping[str, Callable[[], Exception]] = {
    "commit": lambda: ServiceUnavailable("PostgreSQL cannot be used: connection lost (injected)"),
    "bell": lambda: RedisTimeout("no answer (injected)"),
    "backend": lambda: BackendUnavailable("Socket timed out on send/recv operation (injected)"),
    "command": lambda: shell.CommandTimeout(["(injected)"], 0, ""),
    "webhook": lambda: TimeoutError(errno.ETIMEDOUT, "Connection timed out (injected)"),
    "files": lambda: TimeoutError(errno.ETIMEDOUT, "Connection timed out (injected)"),
}


def parse(text: str) -> list[Injection]:
    """Parse a plan. Raises ConfigurationError."""
    lines = [line.strip() for part in text.split(";") for line in part.splitlines()]
    return [_parse_line(line) for line in lines if line and line != RECORD]


def _parse_line(line: str) -> Injection:
    try:
        process, point, moment, action, *more = line.split()
        options = dict(option.split("=", 1) for option in more)
        if moment not in (failpoints.BEFORE, failpoints.AFTER) or options.keys() - {"nth", "seconds"}:
            raise ValueError(f"{moment}, {', '.join(options)}")
        return Injection(
            process, point, moment, Action(action), int(options.get("nth", 1)), float(options.get("seconds", 1))
        )
    except ValueError as error:
        raise ConfigurationError(f"{VARIABLE}: {line!r} is no injection ({error})") from error


class Plan:
    """The injections of one process: what `failpoints.arm` takes."""

    def __init__(self, text: str) -> None:
        self._directory = Path(text[1:]) if text.startswith("@") else None
        self._process = ""
        self._stamp: tuple[int, int] | None = None
        self._injections: dict[tuple[str, str], list[Injection]] = {}
        self._recording = False
        self._passed: Counter[Injection] = Counter()
        self._lock = threading.Lock()
        if self._directory is None:
            self._take(text)

    # --- failpoints.Faults ------------------------------------------------------------------------------------------

    def enter(self, process: str) -> None:
        self._process = process

    def at(self, name: str, moment: str) -> None:
        if (injection := self._due(name, moment)) is not None:
            _do(injection)

    def around(self, name: str, action: Callable[[], R]) -> R:
        self.at(name, failpoints.BEFORE)
        result = action()
        if self._due(name, AROUND) is not None:
            result = action()
        self.at(name, failpoints.AFTER)
        return result

    # --- inside ------------------------------------------------------------------------------------------------------

    def _take(self, text: str) -> None:
        self._injections = {}
        for injection in parse(text):
            self._injections.setdefault(injection.passage, []).append(injection)
        self._recording = RECORD in text.split()

    def _due(self, name: str, moment: str) -> Injection | None:
        with self._lock:
            if self._directory is not None:
                self._look(self._directory)
                if self._recording:
                    _append(self._directory / "seen", f"{self._process} {name} {moment}\n")
            for injection in self._injections.get((name, moment), ()):
                if injection.process in (ANY, self._process) and self._count(injection):
                    return injection
        return None

    def _look(self, directory: Path) -> None:
        """Read the plan if it has changed."""
        try:
            found = os.stat(directory / "plan")
        except FileNotFoundError:
            self._stamp, self._injections, self._recording = None, {}, False
            return
        stamp = (found.st_ino, found.st_mtime_ns)
        if stamp != self._stamp:
            self._take((directory / "plan").read_text(encoding="utf-8"))
            self._stamp = stamp

    def _count(self, injection: Injection) -> bool:
        """Count this passage. Returns whether it is the nth."""
        if self._directory is None:
            self._passed[injection] += 1
            return self._passed[injection] == injection.nth
        hits = self._directory / f"hits {injection}"
        if _append(hits, ".") != injection.nth:
            return False
        _append(self._directory / "fired", f"{injection}\n")
        return True


class CallOnce(Plan):
    """Runs an action once, at the first passage of a point: something happens elsewhere just then."""

    def __init__(self, point: str, moment: str, action: Callable[[], object]) -> None:
        super().__init__("")
        self._passage, self._actions = (point, moment), [action]

    def at(self, name: str, moment: str) -> None:
        if (name, moment) == self._passage and self._actions:
            self._actions.pop()()


def _append(path: Path, text: str) -> int:
    """Append to a file that several processes append to. Returns its length right after that."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, text.encode())
        return os.lseek(descriptor, 0, os.SEEK_CUR)
    finally:
        os.close(descriptor)


def _do(injection: Injection) -> None:
    match injection.action:
        case Action.CRASH:
            os._exit(CRASH_EXIT_CODE)
        case Action.RAISE:
            raise Injected(str(injection))
        case Action.DELAY:
            _PAUSE.wait(injection.seconds)
        case Action.TIMEOUT:
            raise _TIMEOUTS[injection.point.partition(".")[0]]()
        case Action.TWICE:
            pass


def arm_from_environment() -> None:
    """Arm the points of this process with the plan in the environment. The children that it forks inherit them."""
    text = os.environ.get(VARIABLE)
    if text:
        failpoints.arm(Plan(text))


if __name__ == "__main__":
    arm_from_environment()
    main()
