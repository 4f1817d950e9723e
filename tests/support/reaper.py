"""Nothing that a test run starts may outlive it, not even when the run is killed.

`Reaper` starts this file as a tiny process of its own that holds the other end of a pipe. When the pipe closes, because
the test run has ended in whatever way, it kills the processes that it was told of and removes the directories.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from threading import Event

_ROUNDS = 200
_PAUSE_SECONDS = 0.02
_PAUSE = Event()


class Reaper:
    """The end of the pipe that the test run holds."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__], stdin=subprocess.PIPE, start_new_session=True, text=True
        )

    def watch(self, pid: int) -> None:
        """Kill this process at the end."""
        self._tell(f"kill {pid} {born(pid)}")

    def remove(self, path: Path) -> None:
        """Remove this directory at the end."""
        self._tell(f"remove {path}")

    def kill_marked(self, assignment: str) -> None:
        """Kill whatever has this NAME=VALUE in its environment at the end."""
        self._tell(f"marked {assignment}")

    def reap(self) -> None:
        """Do it now, and wait until it is done."""
        self._process.communicate()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()


def born(pid: int) -> str:
    """When the process started: with the number, this names one process for ever."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return "never"


def kill_marked(assignment: str) -> None:
    """Kill every process with this NAME=VALUE in its environment, and those that they have just started."""
    for _ in range(_ROUNDS):
        found = False
        for environ in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if assignment.encode() in environ.read_bytes().split(b"\0"):
                    os.kill(int(environ.parent.name), signal.SIGKILL)
                    found = True
        if not found:
            return
        _PAUSE.wait(_PAUSE_SECONDS)


def main() -> None:
    lines = [line.rstrip("\n").split(" ", 1) for line in sys.stdin]
    for pid, birth in (rest.split() for verb, rest in lines if verb == "kill"):
        if born(int(pid)) == birth:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    for assignment in (rest for verb, rest in lines if verb == "marked"):
        kill_marked(assignment)
    for path in (rest for verb, rest in lines if verb == "remove"):
        clear_away(path)


def clear_away(path: str | Path) -> None:
    """All of it, though something that is just dying may still have written there or be in the group."""
    for _ in range(_ROUNDS):
        shutil.rmtree(path, ignore_errors=True)
        # What is left is a control group: the files in it cannot be removed, but it can.
        for directory, _, _ in os.walk(path, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(directory)
        if not Path(path).exists():
            return
        _PAUSE.wait(_PAUSE_SECONDS)


if __name__ == "__main__":
    main()
