"""Runs the programs of executable tasks as children of this process."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import IO
from uuid import uuid4

from ccat_workflow_manager import shell
from ccat_workflow_manager.flow.errors import TaskFailed
from ccat_workflow_manager.flow.execution import Work
from ccat_workflow_manager.hpc.attempt import process_tree

OUTPUT_LIMIT = 64 * 1024 * 1024
"""The most bytes that a result holds; `capture_stdio` leaves more in files."""
TAIL = 1024 * 1024
"""The most bytes of each stream that a failure holds."""
GRACE_SECONDS = 5.0


class Programs:
    """The programs of one backend. All their processes carry one mark, so that none is overlooked at the end."""

    def __init__(self) -> None:
        self._mark = f"flow-{uuid4().hex}"
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        self._any = False
        self._closed = False

    def run(self, work: Work, directory: str) -> str:
        """Run a program to its end. Returns what it printed, or the path of that. Raises TaskFailed."""
        assert work.command is not None
        where = working_directory(work, directory)
        if work.capture_stdio:
            out, err = (_created(Path(directory, f"{work.name}.{stream}")) for stream in ("stdout", "stderr"))
            work.future.stdout, work.future.stderr = out.name, err.name
        else:
            out, err = _unnamed(), _unnamed()
        with out, err:
            code = self._run(work, where, out.fileno(), err.fileno())
            if code == 0:
                return out.name if work.capture_stdio else _text(work, out.fileno())
            raise TaskFailed(
                work.name,
                f"exit code {code}" if code > 0 else f"killed by signal {-code}",
                exit_code=code,
                stdout=_tail(out.fileno()),
                stderr=_tail(err.fileno()),
                attempts=work.attempt,
            )

    def _run(self, work: Work, directory: str, out: int, err: int) -> int:
        process = self._started(work.command or (), directory, out, err, work.options.environment, work)
        try:
            # The process stays in the table until `wait`, so that its group cannot be another one meanwhile.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        finally:
            with self._lock:
                shell.kill_group(process.pid, SIGKILL)
                self._groups.discard(process.pid)
                code = process.wait()
        return code

    def _started(
        self, command: Sequence[str], directory: str, out: int, err: int, environment: Mapping[str, str], work: Work
    ) -> shell.Process:
        env = {**os.environ, **environment, "PWD": directory, process_tree.MARK: self._mark}
        with self._lock:
            if self._closed or work.future.done():
                raise TaskFailed(work.name, "the engine was shut down before it started", attempts=work.attempt)
            self._any = True
            try:
                process = shell.spawn(command, env=env, cwd=directory, stdout=out, stderr=err)
            except (shell.CommandMissing, OSError, ValueError) as error:
                raise TaskFailed(work.name, str(error), exit_code=127, attempts=work.attempt) from error
            self._groups.add(process.pid)
            work.stop = lambda: self._stop(process.pid)
        return process

    def _stop(self, pid: int) -> None:
        """Ask the processes of a program to end; kill them after the grace."""
        if self._signal(pid, SIGTERM):
            timer = threading.Timer(GRACE_SECONDS, self._signal, (pid, SIGKILL))
            timer.daemon = True
            timer.start()

    def _signal(self, pid: int, number: int) -> bool:
        with self._lock:
            if pid not in self._groups:
                return False
            shell.kill_group(pid, SIGTERM if number == SIGTERM else SIGKILL)
            return True

    def terminate(self) -> None:
        """Ask all programs to end, and start no more."""
        with self._lock:
            self._closed = True
            for pid in self._groups:
                shell.kill_group(pid, SIGTERM)

    def kill(self) -> None:
        """Kill every process that a program has left, also those that have left its session."""
        with self._lock:
            self._closed = True
            for pid in self._groups:
                shell.kill_group(pid, SIGKILL)
        if self._any:
            process_tree.kill_all(self._mark, None)


def working_directory(work: Work, directory: str) -> str:
    """Where a program works. Raises TaskFailed if there is no such directory."""
    cwd = work.options.cwd
    where = os.path.realpath(os.path.join(directory, cwd)) if cwd else directory
    if not os.path.isdir(where):
        raise TaskFailed(work.name, f"it cannot start in {where}: there is no such directory", attempts=work.attempt)
    return where


def _created(path: Path) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("w+b")


def _unnamed() -> IO[bytes]:
    """A file without a name: unlike a pipe, it is never full, and no process can keep it from ending."""
    directory = tempfile.gettempdir()
    try:
        return os.fdopen(os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), "w+b", buffering=0)
    except OSError:  # a filesystem without such files
        return tempfile.TemporaryFile(buffering=0)


def _text(work: Work, descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    if size > OUTPUT_LIMIT:
        raise TaskFailed(
            work.name,
            f"it printed {size / 2**20:.0f} MB, and a result holds {OUTPUT_LIMIT // 2**20}; use capture_stdio=True",
            exit_code=0,
            attempts=work.attempt,
        )
    return os.pread(descriptor, size, 0).decode("utf-8", "replace") if size else ""


def _tail(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    start = max(0, size - TAIL)
    return os.pread(descriptor, TAIL, start).decode("utf-8", "replace") if size else ""
