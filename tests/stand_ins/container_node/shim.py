"""The keeper of one container: starts its program, writes its log, kills what it leaves behind, reports its end."""

from __future__ import annotations

import json
import os
import selectors
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.stand_ins.container_node import kernel
from tests.stand_ins.container_node.root import CannotMount, enter

KILL = signal.SIGUSR2
"""Kills the whole container. SIGTERM asks it to end, as the kernel asks the first process of a container."""

_CHUNK = 65536
_LONGEST_LINE = 16384
_DRAIN_SECONDS = 2.0


def keep(spec: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> None:
    """Run one container, in a process of its own. Returns when nothing is left of it."""
    kernel.adopt_orphans()
    kernel.die_with_parent(KILL)
    shim = _Shim(spec, report)
    try:
        shim.start()
    except _NotStarted as error:
        report({"id": spec["id"], "event": "refused", "stage": error.stage, "message": str(error), "at": time.time()})
        return
    shim.watch()


class _NotStarted(Exception):
    def __init__(self, stage: str, message: str) -> None:
        super().__init__(message)
        self.stage = stage


class _Shim:
    def __init__(self, spec: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> None:
        self.spec = spec
        self.report = report
        self.main = 0
        self.status: int | None = None
        self.log = open(spec["log"], "ab", buffering=0)  # noqa: SIM115 - open for as long as this process lives
        self.selector = selectors.DefaultSelector()
        self.wake, other = os.pipe()
        for end in (self.wake, other):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(other)
        for number in (signal.SIGCHLD, signal.SIGTERM, KILL):
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the node has held them back until the shim can handle them
        self.selector.register(self.wake, selectors.EVENT_READ)

    def start(self) -> None:
        out, out_end = os.pipe()
        err, err_end = os.pipe()
        refusal, refusal_end = os.pipe()
        self.main = os.fork()
        if self.main == 0:
            _become(self.spec, out_end, err_end, refusal_end)
        for end in (out_end, err_end, refusal_end):
            os.close(end)
        with open(refusal, "rb") as file:
            why = file.read()
        if why:
            os.waitpid(self.main, 0)
            raise _NotStarted(**json.loads(why))
        self.report({"id": self.spec["id"], "event": "started", "at": time.time()})
        for pipe, name in ((out, "stdout"), (err, "stderr")):
            self.selector.register(pipe, selectors.EVENT_READ, _Stream(name, self.log))

    def watch(self) -> None:
        """Until the first process has ended; then the rest is killed and the log completed."""
        while self.status is None:
            self._serve(None)
        ended = time.time()
        self._kill_all()
        deadline = time.monotonic() + _DRAIN_SECONDS
        while len(self.selector.get_map()) > 1 and (left := deadline - time.monotonic()) > 0:
            self._serve(left)
        self.report({"id": self.spec["id"], "event": "ended", "code": _code(self.status), "at": ended})

    def _serve(self, timeout: float | None) -> None:
        for key, _ in self.selector.select(timeout):
            if isinstance(key.data, _Stream):
                data = os.read(key.fd, _CHUNK)
                key.data.write(data)
                if not data:
                    self.selector.unregister(key.fd)
                    os.close(key.fd)
            else:
                for number in os.read(self.wake, _CHUNK):
                    self._signalled(number)

    def _signalled(self, number: int) -> None:
        if number == signal.SIGTERM and _catches(self.main, signal.SIGTERM):
            # The first process of a container is spared the signals that it has no handler for.
            os.kill(self.main, signal.SIGTERM)
        elif number == KILL:
            self._kill_all()
        self._reap()

    def _reap(self) -> None:
        """Collect children that have ended; orphans of the container are among them."""
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self.main:
                    self.status = status

    def _kill_all(self) -> None:
        """Level by level: the children of a killed one become ours."""
        while children := _children():
            for pid in children:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                pid, status = os.waitpid(-1, 0)
                if pid == self.main:
                    self.status = status


class _Stream:
    """One output of the container, cut into lines with a time and a name each."""

    def __init__(self, name: str, log: Any) -> None:
        self.name = name
        self.log = log
        self.rest = b""

    def write(self, data: bytes) -> None:
        lines = (self.rest + data).split(b"\n")
        self.rest = lines.pop()
        now = time.time_ns()
        clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 1_000_000_000))
        head = f"{clock}.{now % 1_000_000_000:09d}Z {self.name}".encode()
        text = [b"%s F %s\n" % (head, line) for line in lines]
        if len(self.rest) >= _LONGEST_LINE or (self.rest and not data):
            text.append(b"%s P %s\n" % (head, self.rest))
            self.rest = b""
        if text:
            self.log.write(b"".join(text))


def _become(spec: dict[str, Any], out: int, err: int, refusal: int) -> None:
    """In the child: become the program of the container. Never returns."""
    stage = "start"
    try:
        os.setsid()
        if spec["join"]:
            with open(spec["join"], "w", encoding="ascii") as file:
                file.write(str(os.getpid()))
        stage = "mount"
        enter(spec)
        stage = "directory"
        if spec["image_directory"]:
            os.makedirs(spec["cwd"], exist_ok=True)
        os.chdir(spec["cwd"])
        stage = "user"
        _change_user(spec)
        stage = "exec"
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        for number in (signal.SIGCHLD, signal.SIGTERM, KILL, signal.SIGPIPE, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.execvpe(spec["argv"][0], spec["argv"], spec["env"])
    except (OSError, CannotMount) as error:
        message = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        os.write(refusal, json.dumps({"stage": stage, "message": message}).encode())
    finally:
        os._exit(127)


def _change_user(spec: dict[str, Any]) -> None:
    if spec["groups"] is not None:
        os.setgroups(spec["groups"])
    if spec["gid"] is not None and spec["gid"] != os.getgid():
        os.setresgid(spec["gid"], spec["gid"], spec["gid"])
    if spec["uid"] is not None and spec["uid"] != os.getuid():
        os.setresuid(spec["uid"], spec["uid"], spec["uid"])


def _code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def _catches(pid: int, number: int) -> bool:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def _children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
