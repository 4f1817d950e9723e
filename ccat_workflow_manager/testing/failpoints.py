"""Failing on demand: what the environment variable CCAT_WM_FAULTS makes of the points in `failpoints`.

Its value is a plan, one fault per line or between semicolons:

    worker backend.submit after crash
    manager commit.create before delay nth=2 seconds=1.5

that is: which process (`manager`, `worker`, or `*` for any), which point, `before` or `after`, and what happens
there the nth time that anybody comes by. In place of a plan `@DIRECTORY` may be given: the plan is then in
`DIRECTORY/plan` and is read again whenever it changes, and each of its faults happens once in the whole deployment,
however many processes there are and however often they are started again. `DIRECTORY/fired` tells which have happened.
The plan `record` makes nothing fail and writes every point that is passed to `DIRECTORY/seen`.

- crash: the process is gone, as if it had been killed
- raise: an exception that nobody expects
- delay: nothing happens for a while (longer than a lease, say)
- twice: what is between `before` and `after` is done twice (only for points around something that can be)
- timeout: the error that the surroundings give when they do not answer; `after`: they have done it all the same
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from redis.exceptions import TimeoutError as RedisTimeout

from ccat_workflow_manager import failpoints, shell
from ccat_workflow_manager.errors import BackendUnavailable, ConfigurationError, ServiceUnavailable

R = TypeVar("R")

VARIABLE = "CCAT_WM_FAULTS"
ANY = "*"
AROUND = "around"
RECORD = "record"
CRASH_EXIT_CODE = 86


class Action(StrEnum):
    """What happens at an armed point."""

    CRASH = "crash"
    RAISE = "raise"
    DELAY = "delay"
    TWICE = "twice"
    TIMEOUT = "timeout"


class Injected(Exception):
    """An exception that nobody expects."""


@dataclass(frozen=True, slots=True)
class Fault:
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
    def place(self) -> tuple[str, str]:
        return self.point, AROUND if self.action is Action.TWICE else self.moment


_TIMEOUTS: Mapping[str, Callable[[], Exception]] = {
    "commit": lambda: ServiceUnavailable("PostgreSQL cannot be used: connection lost (injected)"),
    "bell": lambda: RedisTimeout("no answer (injected)"),
    "backend": lambda: BackendUnavailable("Socket timed out on send/recv operation (injected)"),
    "command": lambda: shell.CommandTimeout(["(injected)"], 0, ""),
    "files": lambda: TimeoutError(errno.ETIMEDOUT, "Connection timed out (injected)"),
}


def parse(text: str) -> list[Fault]:
    """The faults of a plan. Raises ConfigurationError."""
    lines = [line.strip() for part in text.split(";") for line in part.splitlines()]
    return [_parse_line(line) for line in lines if line and line != RECORD]


def _parse_line(line: str) -> Fault:
    try:
        process, point, moment, action, *more = line.split()
        options = dict(option.split("=", 1) for option in more)
        if moment not in (failpoints.BEFORE, failpoints.AFTER) or options.keys() - {"nth", "seconds"}:
            raise ValueError(f"{moment}, {', '.join(options)}")
        return Fault(
            process, point, moment, Action(action), int(options.get("nth", 1)), float(options.get("seconds", 1))
        )
    except ValueError as error:
        raise ConfigurationError(f"{VARIABLE}: {line!r} is no fault ({error})") from error


class Plan:
    """The armed faults of one process."""

    def __init__(self, text: str) -> None:
        self._directory = Path(text[1:]) if text.startswith("@") else None
        self._process = ""
        self._stamp: tuple[int, int] | None = None
        self._faults: dict[tuple[str, str], list[Fault]] = {}
        self._recording = False
        self._passed: Counter[Fault] = Counter()
        self._lock = threading.Lock()
        if self._directory is None:
            self._take(text)

    # --- failpoints.Faults ------------------------------------------------------------------------------------------

    def enter(self, process: str) -> None:
        self._process = process

    def at(self, name: str, moment: str) -> None:
        if (fault := self._due(name, moment)) is not None:
            _do(fault)

    def around(self, name: str, action: Callable[[], R]) -> R:
        self.at(name, failpoints.BEFORE)
        result = action()
        if self._due(name, AROUND) is not None:
            result = action()
        self.at(name, failpoints.AFTER)
        return result

    # --- inside ------------------------------------------------------------------------------------------------------

    def _take(self, text: str) -> None:
        self._faults = {}
        for fault in parse(text):
            self._faults.setdefault(fault.place, []).append(fault)
        self._recording = RECORD in text.split()

    def _due(self, name: str, moment: str) -> Fault | None:
        with self._lock:
            if self._directory is not None:
                self._look(self._directory)
                if self._recording:
                    _append(self._directory / "seen", f"{self._process} {name} {moment}\n")
            for fault in self._faults.get((name, moment), ()):
                if fault.process in (ANY, self._process) and self._count(fault):
                    return fault
        return None

    def _look(self, directory: Path) -> None:
        """Read the plan if it is another one than before."""
        try:
            found = os.stat(directory / "plan")
        except FileNotFoundError:
            self._stamp, self._faults, self._recording = None, {}, False
            return
        stamp = (found.st_ino, found.st_mtime_ns)
        if stamp != self._stamp:
            self._take((directory / "plan").read_text(encoding="utf-8"))
            self._stamp = stamp

    def _count(self, fault: Fault) -> bool:
        """Whether this is the nth time."""
        if self._directory is None:
            self._passed[fault] += 1
            return self._passed[fault] == fault.nth
        hits = self._directory / f"hits {fault.process} {fault.point} {fault.moment} {fault.action} {fault.nth}"
        if _append(hits, ".") != fault.nth:
            return False
        _append(self._directory / "fired", f"{fault}\n")
        return True


def _append(path: Path, text: str) -> int:
    """Add to a file that several processes add to: how long it was right after that."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, text.encode())
        return os.lseek(descriptor, 0, os.SEEK_CUR)
    finally:
        os.close(descriptor)


def _do(fault: Fault) -> None:
    match fault.action:
        case Action.CRASH:
            os._exit(CRASH_EXIT_CODE)
        case Action.RAISE:
            raise Injected(str(fault))
        case Action.DELAY:
            time.sleep(fault.seconds)
        case Action.TIMEOUT:
            raise _TIMEOUTS[fault.point.partition(".")[0]]()
        case Action.TWICE:
            pass


def arm_from_environment() -> None:
    """Arm the points of this process, if the environment says so."""
    text = os.environ.get(VARIABLE)
    if text:
        failpoints.arm(Plan(text))
