"""The process in the middle: takes orders from the server, starts a shim for each container, passes on signals."""

from __future__ import annotations

import json
import os
import selectors
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.stand_ins.container_node import shim

_CHUNK = 65536
_ORDERS, _REPORTS = 0, 1


def run() -> None:
    """Until the server closes the pipe. Arguments: the project, then the control groups to be removed at the end."""
    node = _Node()
    node.serve()
    node.end()
    for base in sys.argv[2:]:
        _remove(Path(base))


class _Node:
    def __init__(self) -> None:
        self.shims: dict[str, int] = {}
        self.selector = selectors.DefaultSelector()
        self.wake, self.other = os.pipe()
        for end in (self.wake, self.other):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self.other)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.selector.register(_ORDERS, selectors.EVENT_READ)
        self.selector.register(self.wake, selectors.EVENT_READ)

    def serve(self) -> None:
        rest = b""
        while True:
            for key, _ in self.selector.select():
                data = os.read(key.fd, _CHUNK)
                if key.fd == self.wake:
                    self._reap()
                elif not data:
                    return
                else:
                    *lines, rest = (rest + data).split(b"\n")
                    for line in lines:
                        self._obey(json.loads(line))

    def end(self) -> None:
        """Kill every container and wait for every shim."""
        for pid in self.shims.values():
            with suppress(ProcessLookupError):
                os.kill(pid, shim.KILL)
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)

    def _obey(self, order: dict[str, Any]) -> None:
        if order["order"] == "start":
            self._start(order)
        elif pid := self.shims.get(order["id"]):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM if order["order"] == "stop" else shim.KILL)

    def _start(self, order: dict[str, Any]) -> None:
        # A signal that comes before the shim can handle it must not kill it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, shim.KILL})
        pid = os.fork()
        if pid == 0:
            self._become_shim(order)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, shim.KILL})
        self.shims[order["id"]] = pid

    def _become_shim(self, order: dict[str, Any]) -> None:
        """In the child. Never returns."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            self.selector.close()
            os.dup2(os.open("/dev/null", os.O_RDONLY), _ORDERS)
            os.close(self.wake)
            os.close(self.other)
            shim.keep(order, report)
            status = 0
        finally:
            if status:
                # Nothing else would show what went wrong: this process ends here.
                traceback.print_exc()
            os._exit(status)

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, _ = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                for name in [name for name, other in self.shims.items() if other == pid]:
                    del self.shims[name]
                    report({"id": name, "event": "gone", "at": time.time()})


def _remove(base: Path) -> None:
    """Remove a control group and those in it, but for those that still hold a process."""
    with suppress(OSError):
        for path in [*base.iterdir()]:
            if path.is_dir():
                with suppress(OSError):
                    path.rmdir()
        base.rmdir()


def report(what: dict[str, Any]) -> None:
    """Write one line, in one piece."""
    os.write(_REPORTS, json.dumps(what).encode() + b"\n")
