"""Forks deployments from a process that has imported everything: a new interpreter imports for 1.5 s of CPU time.

What is forked has the arguments, environment, directory, log and session of a program that was started. The tests of
`cli`, `packaging` and the deployment that most tests share go on starting the real command.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from ccat_workflow_manager import cli, supervise
from tests.support import armed

REPOSITORY = Path(__file__).parents[2]
_READ_AT_START = ("PYTHON", "LD_", "LC_", "LANG", "TZ", "MALLOC_", "OPENSSL_")
"""Variables that an interpreter reads when it starts: one that is forked has those of its zygote."""
_LONGEST_REQUEST = 1 << 20


class Zygote:
    """The end of the tests."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LONGEST_REQUEST)
        self._lock = Lock()
        with theirs:
            subprocess.Popen(
                [sys.executable, "-m", "tests.support.zygote", str(theirs.fileno())],
                pass_fds=[theirs.fileno()], cwd=REPOSITORY, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def start(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: int) -> Forked:
        """Start this command line with its output to the descriptor `log`."""
        return Forked(self, self._ask({"argv": argv, "env": dict(env), "cwd": str(cwd)}, [log]))

    def exit_code(self, pid: int) -> int | None:
        """The exit code of a process that has ended; None of one that lives."""
        code: int | None = self._ask({"pid": pid}, [])
        return code

    def _ask(self, request: dict[str, Any], descriptors: list[int]) -> Any:
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(request).encode()], descriptors)
            return json.loads(self._socket.recv(_LONGEST_REQUEST))


class Forked:
    """What tests use of `subprocess.Popen`, for a process that the zygote has forked."""

    def __init__(self, zygote: Zygote, pid: int) -> None:
        self._zygote, self.pid = zygote, pid
        self.returncode: int | None = None
        self._lock = Lock()

    def poll(self) -> int | None:
        with self._lock:
            if self.returncode is None:
                self.returncode = self._zygote.exit_code(self.pid)
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if (code := self.poll()) is None:
            # It stays a zombie until it is asked for, so that the number is still its own.
            descriptor = os.pidfd_open(self.pid)
            try:
                if not select.select([descriptor], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            finally:
                os.close(descriptor)
            code = self.poll()
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@cache
def zygote() -> Zygote:
    """That of this process, which ends with it."""
    return Zygote()


def starts_alike(environment: Mapping[str, str]) -> bool:
    """Whether an interpreter that starts in this environment is like the zygote."""
    return _read_at_start(environment) == _read_at_start(os.environ)


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(_READ_AT_START) and (name, value) != ("PYTHONPATH", str(REPOSITORY))
    }


# --- the zygote itself ------------------------------------------------------------------------------------------------


def _serve(channel: socket.socket) -> dict[str, Any] | None:
    """Fork whatever is asked for. Returns the request in what is forked, and None when the tests have ended."""
    while True:
        data, descriptors, _, _ = socket.recv_fds(channel, _LONGEST_REQUEST, 1)
        if not data:
            return None
        request: dict[str, Any] = json.loads(data)
        if "pid" in request:
            channel.send(json.dumps(_end_of(request["pid"])).encode())
            continue
        [log] = descriptors
        pid = os.fork()
        if pid == 0:
            channel.close()
            request["log"] = log
            return request
        os.close(log)
        channel.send(json.dumps(pid).encode())


def _end_of(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _become(request: Mapping[str, Any]) -> None:
    """Have the surroundings of a program that was started."""
    os.setsid()
    for descriptor in (1, 2):
        os.dup2(request["log"], descriptor)
    os.close(request["log"])
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])


def main() -> None:
    supervise.preload()
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        request = _serve(channel)
    if request is None:
        return
    _become(request)
    sys.argv = request["argv"]
    if sys.argv[: len(armed.PROGRAM)] == [*armed.PROGRAM]:
        del sys.argv[: len(armed.PROGRAM) - 1]
        armed.arm_from_environment()
    cli.main()


if __name__ == "__main__":
    main()
