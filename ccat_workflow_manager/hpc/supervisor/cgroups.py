"""A control group for each running job: its memory limit, its peak, its out-of-memory kills, its processes.

Version 2 if the memory controller can be had there, else version 1, else none: then the supervisor watches the memory
of the process tree itself. Groups of version 1 are used again for the next job, because a group that is removed lives
on in the kernel as long as any page of a file that the job wrote is cached. In version 2 the peak cannot be set back,
so each job gets a fresh one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

_READ = 65536
_SMALLEST_LIMIT = 1024 * 1024
_NO_LIMIT = 1 << 62
_LEFT_OVER = 1024 * 1024
"""A group that still holds more than this much (cached files) of its last job is not used again."""


@dataclass(frozen=True, slots=True)
class Version:
    """The names of the files of one version."""

    source: str
    limit: str
    swap: str
    peak: str
    usage: str
    events: str
    join: str
    """The file through which a job script moves itself. A single thread need not wait for all
    readers in the kernel, which takes 10 ms; but version 2 moves whole processes only."""
    reusable: bool


V1 = Version(
    source="cgroup1",
    limit="memory.limit_in_bytes",
    swap="memory.memsw.limit_in_bytes",
    peak="memory.max_usage_in_bytes",
    usage="memory.usage_in_bytes",
    events="memory.oom_control",
    join="tasks",
    reusable=True,
)
V2 = Version(
    source="cgroup2",
    limit="memory.max",
    swap="memory.swap.max",
    peak="memory.peak",
    usage="memory.current",
    events="memory.events",
    join="cgroup.procs",
    reusable=False,
)


class Group:
    """One control group."""

    def __init__(self, path: str, version: Version) -> None:
        self.path = path
        self.version = version
        self.join_file = f"{path}/{version.join}"
        self.tainted = False
        """Processes may still be in it that could not be ended."""
        self._limit = _NO_LIMIT
        self._has_swap = os.path.exists(f"{path}/{version.swap}")

    def limit(self, limit: int) -> None:
        """Set the memory limit; swap counts too. Raises OSError."""
        limit = max(limit, _SMALLEST_LIMIT)
        if limit == self._limit:
            return
        if self.version is V2:
            self._write("memory.max", limit)
            with suppress(OSError):
                self._write("memory.oom.group", 1)
            if self._has_swap:
                self._write("memory.swap.max", 0)
        else:
            # Memory with swap may never be less than memory alone.
            names = [self.version.limit, self.version.swap] if self._has_swap else [self.version.limit]
            for name in names if limit < self._limit else reversed(names):
                self._write(name, limit)
        self._limit = limit

    def members(self) -> list[int]:
        return [int(pid) for pid in self._read("cgroup.procs").split()]

    def peak(self) -> int | None:
        """The most memory that the job has used; None where this kernel does not count it (version 2 before 5.19)."""
        try:
            return int(self._read(self.version.peak))
        except (OSError, ValueError):
            return None

    def usage(self) -> int:
        return int(self._read(self.version.usage))

    def oom_killed(self) -> bool:
        for line in self._read(self.version.events).splitlines():
            key, _, value = line.partition(b" ")
            if key == b"oom_kill":
                return int(value) > 0
        return False

    def forget(self) -> bool:
        """Make the group like new, if that can be done."""
        if self.tainted or not self.version.reusable:
            return False
        try:
            # The count of out-of-memory kills cannot be set back.
            if self.usage() > _LEFT_OVER or self.oom_killed():
                return False
            self._write(self.version.peak, 0)
        except OSError:
            return False
        return True

    def remove(self) -> None:
        """Give the group back; one that still has processes stays."""
        with suppress(OSError):
            os.rmdir(self.path)

    def _read(self, name: str) -> bytes:
        # Not through a file that stays open: version 1 would show the members of a while ago.
        file = os.open(f"{self.path}/{name}", os.O_RDONLY)
        try:
            text = b""
            while data := os.read(file, _READ):
                text += data
        finally:
            os.close(file)
        return text

    def _write(self, name: str, value: int) -> None:
        file = os.open(f"{self.path}/{name}", os.O_WRONLY | os.O_TRUNC)
        try:
            os.write(file, str(value).encode())
        finally:
            os.close(file)


class Groups:
    """The control groups of one supervisor, below the one that it is in itself."""

    def __init__(self, mount: str, base: str, version: Version) -> None:
        self.mount = mount
        self.base = base
        self.version = version
        self._idle: list[Group] = []
        self._number = 0

    def acquire(self, limit: int) -> Group | None:
        """A group with this memory limit; None if none can be made just now."""
        try:
            group = self._idle.pop() if self._idle else self._make()
        except OSError:
            return None
        try:
            group.limit(limit)
        except OSError:
            group.remove()
            return None
        return group

    def release(self, group: Group) -> None:
        if group.forget():
            self._idle.append(group)
        else:
            group.remove()

    def adopt(self, pid: int) -> Group | None:
        """The group that a job of an earlier supervisor runs in."""
        path = _memberships(pid).get("memory" if self.version is V1 else "")
        if path is None or os.path.basename(os.path.dirname(path)) != os.path.basename(self.base):
            return None
        path = self.mount + path
        return Group(path, self.version) if os.path.isdir(path) else None

    def sweep(self) -> None:
        """Remove the empty groups, also those that an earlier supervisor has left."""
        with suppress(OSError):
            for entry in list(os.scandir(self.base)):
                if entry.is_dir():
                    with suppress(OSError):
                        os.rmdir(entry.path)

    def close(self) -> None:
        self._idle.clear()
        self.sweep()
        with suppress(OSError):
            os.rmdir(self.base)

    def _make(self) -> Group:
        while True:
            self._number += 1
            path = f"{self.base}/job-{self._number}"
            try:
                os.mkdir(path)
            except FileExistsError:
                continue  # of a job that an earlier supervisor has started
            except FileNotFoundError:
                os.mkdir(self.base)
                continue
            return Group(path, self.version)


def detect(name: str) -> Groups | None:
    """The best kind of control groups that can be made here, all in one named `name`."""
    own = _memberships(os.getpid())
    mounts = list(_mounts())
    for kind, _, mount in mounts:
        if kind == "cgroup2" and "" in own and (groups := _try(mount, own[""], name, V2)):
            return groups
    for kind, options, mount in mounts:
        if kind == "cgroup" and "memory" in options and (groups := _try(mount, own.get("memory", "/"), name, V1)):
            return groups
    return None


def _try(mount: str, own: str, name: str, version: Version) -> Groups | None:
    """Make one group and remove it: nothing else shows whether groups can be made."""
    for parent in dict.fromkeys((mount + own.rstrip("/"), mount + os.path.dirname(own).rstrip("/"), mount)):
        base = f"{parent}/{name}"
        groups = Groups(mount, base, version)
        try:
            if version is V2:
                _delegate(parent)
            os.makedirs(base, exist_ok=True)
            if version is V2:
                _delegate(base)
        except OSError:
            continue
        group = groups.acquire(1 << 30)
        if group is None:
            groups.close()
            continue
        group.remove()
        return groups
    return None


def _delegate(path: str) -> None:
    """Let the groups below have the memory controller. Raises OSError."""
    control = f"{path}/cgroup.subtree_control"
    with open(control, encoding="ascii") as file:
        if "memory" in file.read().split():
            return
    with open(control, "w", encoding="ascii") as file:
        file.write("+memory")


def _memberships(pid: int) -> dict[str, str]:
    """The control group of a process for each controller; that of version 2 under the empty name."""
    found = {}
    for line in _lines(f"/proc/{pid}/cgroup"):
        _, controllers, path = line.split(":", 2)
        found.update(dict.fromkeys(controllers.split(","), path))
    return found


def _mounts() -> Iterable[tuple[str, list[str], str]]:
    """Kind, options and path of the mounted control groups."""
    for line in _lines("/proc/self/mounts"):
        _, path, kind, options, *_ = line.split()
        if kind in ("cgroup", "cgroup2"):
            yield kind, options.split(","), path.replace("\\040", " ")


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read().splitlines()
    except OSError:
        return []
