"""One container, here a process with all its children: limits, a log, and an end of everything at once."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGTERM
from threading import Event, Lock

from ccat_workflow_manager import shell
from ccat_workflow_manager.hpc.attempt import process_tree
from ccat_workflow_manager.hpc.supervisor.cgroups import Group

_FIRST_LOOK_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 0.2
_JOIN = 'echo 0 >"$1" || exit; shift; exec "$@"'
"""Shell: go into the control group whose file is the first argument, and become the rest."""


@dataclass(slots=True)
class Ended:
    """How a container ended."""

    exit_code: int | None = None
    out_of_memory: bool = False
    timed_out: bool = False


class Container:
    """Runs to its end in the thread that calls `run`."""

    def __init__(
        self,
        mark: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        log: Path,
        memory_mb: int,
        group: Group | None,
        seconds: float,
        grace_seconds: float,
    ) -> None:
        self._mark = mark
        self._command = command
        self._environment = environment
        self._log = log
        self._memory = memory_mb * 1024 * 1024
        self._group = group
        self._seconds = seconds
        self._grace = grace_seconds
        self._stop = Event()
        self._kill = Event()
        self._lock = Lock()

    def stop(self) -> None:
        """SIGTERM to the command, after a while SIGKILL to everything."""
        self._stop.set()

    def kill(self) -> None:
        """As if the machine had gone."""
        self._kill.set()

    def run(self, started: Callable[[], None]) -> Ended:
        environment = {**self._environment, process_tree.MARK: self._mark}
        with self._log.open("ab") as log:
            process = shell.spawn(self._argv(), env=environment, cwd="/", stdout=log, stderr=shell.STDOUT)
        root = process_tree.identity(process.pid)
        started()
        ended = self._watch(process)
        while left := process_tree.members(self._mark, root) - {process.pid}:
            process_tree.send(SIGKILL, left)
        if ended.exit_code is None:
            process.kill()
            ended.exit_code = _code(process.wait())
        return ended

    def _argv(self) -> Sequence[str]:
        if self._group is None:
            return self._command
        return ["/bin/sh", "-c", _JOIN, "sh", self._group.join_file, *self._command]

    def _watch(self, process: shell.Process) -> Ended:
        deadline = time.monotonic() + self._seconds
        asked_at: float | None = None
        ended = Ended()
        pause = _FIRST_LOOK_SECONDS
        while True:
            self._wait(process, pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            code = process.poll()
            if code is not None:
                ended.exit_code = _code(code)
                ended.out_of_memory = self._group is not None and self._group.oom_killed()
                return ended
            now = time.monotonic()
            if self._kill.is_set() or (asked_at is not None and now - asked_at > self._grace):
                return ended
            if self._too_large(process.pid):
                ended.out_of_memory = True
                return ended
            if asked_at is None and (self._stop.is_set() or now > deadline):
                ended.timed_out = not self._stop.is_set()
                os.kill(process.pid, SIGTERM)
                asked_at = now

    @staticmethod
    def _wait(process: shell.Process, seconds: float) -> None:
        """Until the process has ended, or at most so long."""
        end = os.pidfd_open(process.pid)
        try:
            poller = select.poll()
            poller.register(end, select.POLLIN)
            poller.poll(seconds * 1000)
        finally:
            os.close(end)

    def _too_large(self, pid: int) -> bool:
        """With a control group, the kernel enforces the limit."""
        if self._group is not None:
            return self._group.oom_killed()
        root = process_tree.identity(pid)
        processes = process_tree.table()
        related = process_tree.related(root, processes) if root is not None else ()
        return process_tree.memory(processes[each] for each in related) > self._memory


def _code(returned: int) -> int:
    """As a shell shows it."""
    return 128 - returned if returned < 0 else returned
