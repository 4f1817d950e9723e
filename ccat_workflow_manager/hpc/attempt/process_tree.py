"""The processes of a job, found in /proc: descendants, those in its session, and those that carry its mark.

A job's processes inherit the environment variable `CCAT_WM_JOB`. Through it, even a process is found that has left the
session and whose parent is gone.
"""

from __future__ import annotations

import os
import platform
import signal
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

MARK = "CCAT_WM_JOB"

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
_GONE = (FileNotFoundError, ProcessLookupError)
_DEAD_STATES = frozenset("ZXx")
_KILL_SECONDS = 5.0
"""So long the kernel may take for the end of a process: it frees all its memory first."""
_ENVIRONMENT_LOOKS = 50


@dataclass(frozen=True, slots=True)
class Identity:
    """One process for ever; the kernel gives its pid to another one later. `started` is in ticks since boot."""

    pid: int
    started: int

    @property
    def running(self) -> bool:
        process = look(self.pid)
        return process is not None and process.started == self.started and process.alive


@dataclass(frozen=True, slots=True)
class HostProcess:
    """One process of one machine for ever."""

    host: str
    boot: str
    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> HostProcess:
        """This process itself, or a child that was not waited for."""
        found = identity(pid)
        assert found is not None, "such a process is in the process table"
        return cls(platform.node(), boot_id(), found.pid, found.started)

    @classmethod
    def parse(cls, text: str) -> HostProcess | None:
        """The inverse of `text`. Returns None for anything else."""
        match text.split():
            case [host, boot, pid, started] if pid.isdecimal() and started.isdecimal():
                return cls(host, boot, int(pid), int(started))
            case _:
                return None

    @property
    def text(self) -> str:
        return f"{self.host} {self.boot} {self.pid} {self.started}"

    @property
    def is_of_this_boot(self) -> bool:
        """Whether it runs, or ran, on this machine since the machine was started."""
        return (self.host, self.boot) == (platform.node(), boot_id())

    @property
    def running(self) -> bool:
        """Whether a process of this machine runs."""
        return self.is_of_this_boot and Identity(self.pid, self.started).running


@dataclass(frozen=True, slots=True)
class Process:
    """One line of the process table."""

    pid: int
    parent: int
    session: int
    state: str
    started: int
    cpu_seconds: float
    """Its own, and those of the children that it has waited for."""
    rss: int
    size: int
    """Its address space in bytes: 0 once it is about to end, and for the kernel's own."""
    environment: tuple[int, int]
    """Where it begins and ends. At a moment of `exec` both are 0, or they are the same."""

    @property
    def alive(self) -> bool:
        return self.state not in _DEAD_STATES


def look(pid: int) -> Process | None:
    """The process with this pid; None if there is none, or if /proc hides it, as it does those of others."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (*_GONE, PermissionError):
        return None
    # The name, in parentheses, may hold anything; everything behind the last one is numbers.
    state, *numbers = text[text.rindex(b")") + 2 :].split()
    fields = [int(number) for number in numbers]
    return Process(
        pid=pid,
        parent=fields[0],
        session=fields[2],
        state=state.decode(),
        started=fields[18],
        cpu_seconds=sum(fields[10:14]) / _TICKS,
        rss=fields[20] * _PAGE,
        size=fields[19],
        environment=(fields[46], fields[47]),
    )


def table() -> dict[int, Process]:
    """All processes of the machine."""
    return {process.pid: process for pid in _pids() if (process := look(pid)) is not None}


def identity(pid: int) -> Identity | None:
    """The process that has this pid now."""
    process = look(pid)
    return Identity(pid, process.started) if process is not None else None


def identities(pids: Iterable[int]) -> set[Identity]:
    """The processes that have these pids now. While one ends it loses its mark; its identity it keeps."""
    return {found for pid in pids if (found := identity(pid)) is not None}


@cache
def boot_id() -> str:
    """Different after each start of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def related(root: Identity, processes: dict[int, Process]) -> set[int]:
    """The living processes that descend from `root` or belong to its session, itself included."""
    first = processes.get(root.pid)
    if first is not None and first.started != root.started:
        # The kernel has reused the pid, which it does only when no process is left in the session either.
        return set()
    children: dict[int, list[int]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process.pid)
    found: set[int] = set()
    waiting = [root.pid, *(process.pid for process in processes.values() if process.session == root.pid)]
    while waiting:
        pid = waiting.pop()
        if pid not in found and pid in processes:
            found.add(pid)
            waiting += children.get(pid, ())
    return {pid for pid in found if processes[pid].alive}


def marked(job_id: str, candidates: Iterable[int]) -> set[int]:
    """Those processes that carry the mark of this job."""
    wanted = f"{MARK}={job_id}".encode()
    return {pid for pid in candidates if wanted in _environment(pid)}


def members(job_id: str, root: Identity | None) -> set[int]:
    """All living processes of a job."""
    processes = table()
    found = related(root, processes) if root is not None else set()
    # None of a job's processes is older than its first one, so most need not be looked into.
    since = root.started if root is not None else 0
    strangers = [
        pid for pid, process in processes.items() if process.started >= since and pid not in found and process.alive
    ]
    for pid in marked(job_id, strangers):
        found |= related(Identity(pid, processes[pid].started), processes)
    return found


def send(number: signal.Signals, pids: Iterable[int]) -> None:
    """Signal processes; those that are gone by now are fine."""
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def kill_all(job_id: str, root: Identity | None) -> None:
    """Kill all processes of a job, again and again until there are none: while some are killed others may fork.

    They are stopped first, so that no process sees another one die and acts on it: a script would record that end.
    """
    killed: set[Identity] = set()
    deadline = time.monotonic() + _KILL_SECONDS
    while time.monotonic() < deadline:
        pids = members(job_id, root)
        if not pids and not any(process.running for process in killed):
            return
        killed |= identities(pids)
        send(signal.SIGSTOP, pids)
        send(signal.SIGKILL, pids)
        time.sleep(0.01)


def end_all(job_id: str, root: Identity | None, grace_seconds: float) -> None:
    """Wait until all processes of a job have ended by themselves; kill what is left when the grace is over."""
    deadline = time.monotonic() + grace_seconds
    while members(job_id, root) and time.monotonic() < deadline:
        time.sleep(0.05)
    kill_all(job_id, root)


def memory(processes: Iterable[Process]) -> int:
    """Resident memory in bytes; memory that processes share counts for each of them."""
    return sum(process.rss for process in processes)


def fair_memory(pids: Iterable[int]) -> int:
    """Resident memory in bytes; memory that processes share is divided among them. Slow: it reads a file for each."""
    return sum(_proportional(pid) for pid in pids)


def memory_against(limit: float, processes: Collection[Process]) -> int:
    """Resident memory in bytes, precise only where it decides: above the limit, shared memory is counted once."""
    used = memory(processes)
    return used if used <= limit else fair_memory(process.pid for process in processes)


def _proportional(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii", errors="replace") as file:
            return sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
    except (*_GONE, PermissionError):
        return 0


def _environment(pid: int) -> list[bytes]:
    """The environment of a process. During `exec` it reads as empty for a moment, so an empty one is read again."""
    seen_empty = 0
    for _ in range(_ENVIRONMENT_LOOKS):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                text = file.read()
        except (*_GONE, PermissionError):
            return []
        if text:
            return text.split(b"\0")
        process = look(pid)
        if process is None or not process.size:
            return []
        begin, end = process.environment
        seen_empty += begin == end > 0
        if seen_empty > 1:
            return []
        time.sleep(0.0005)
    return []


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdecimal())
