"""Ends a worker that hangs, and names the call that it hangs in.

Threads report what they do. A thread of its own compares the reports with the clock: as long as all are recent, it
tells systemd and `ccat-wm up` that the process is alive; otherwise it ends the process. A worker that has lost its
leases would otherwise hang for ever, and every worker after it in the same call.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from mmap import mmap

log = logging.getLogger(__name__)

EXIT_CODE = 75
_LOOK_SECONDS = 1.0
_STAMP = struct.Struct("d")
_TEXT_BYTES = 400


@dataclass(frozen=True, slots=True)
class _Report:
    what: str
    since: float
    until: float


class Page:
    """Memory that a process shares with the one that has forked it: when it was alive, and what it did then."""

    def __init__(self) -> None:
        self._memory = mmap(-1, _STAMP.size + _TEXT_BYTES)

    def write(self, now: float, what: str) -> None:
        text = what.encode()[:_TEXT_BYTES].ljust(_TEXT_BYTES, b"\0")
        self._memory[:] = _STAMP.pack(now) + text

    def read(self) -> tuple[float, str]:
        """The time of the last sign of life, 0 for none, and what the process did."""
        data = self._memory[:]
        return _STAMP.unpack_from(data)[0], data[_STAMP.size :].rstrip(b"\0").decode("utf-8", "replace")


class Watchdog(threading.Thread):
    """Watches the threads of this process that report."""

    def __init__(self, seconds: float, page: Page | None = None, end: Callable[[int], object] = os._exit) -> None:
        """`seconds` is how long a thread may be silent."""
        super().__init__(name="watchdog", daemon=True)
        self._seconds = seconds
        self._page = page
        self._end = end
        self._reports: dict[int, _Report] = {}
        self._stopping = threading.Event()
        self._socket = _notify_socket()

    def report(self, what: str | None, more_seconds: float) -> None:
        thread, now = threading.get_ident(), time.monotonic()
        before = self._reports.get(thread)
        if what is None and before is None:
            return
        self._reports[thread] = _Report(what or before.what, now, now + self._seconds + more_seconds)  # type: ignore[union-attr]

    def forget(self) -> None:
        self._reports.pop(threading.get_ident(), None)

    @property
    def present(self) -> str | None:
        report = self._reports.get(threading.get_ident())
        return report.what if report else None

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        while not self._stopping.wait(_LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        """End the process if a thread hangs; else give a sign of life."""
        now, reports = time.monotonic(), list(self._reports.values())
        for report in reports:
            if now > report.until:
                log.critical(
                    "%s has hung for %.0f s (HANG_SECONDS): this process ends, another one goes on",
                    report.what, now - report.since,
                )  # fmt: skip
                self._end(EXIT_CODE)
                return
        if self._page is not None:
            self._page.write(now, ", ".join(report.what for report in reports))
        if self._socket is not None:
            _notify(self._socket)


_active: Watchdog | None = None


def start(seconds: float, page: Page | None = None) -> None:
    """Watch this process from now on. Only workers are watched."""
    global _active  # noqa: PLW0603  one for the whole process, and nothing to pass through every layer
    _active = Watchdog(seconds, page)
    _active.start()


def stop() -> None:
    global _active  # noqa: PLW0603
    if _active is not None:
        _active.stop()
    _active = None


def report(what: str | None = None, more_seconds: float = 0) -> None:
    """This thread begins `what`, or (None) makes progress with it. It may be silent for so much longer."""
    if _active is not None:
        _active.report(what, more_seconds)


def forget() -> None:
    """This thread waits for work, however long."""
    if _active is not None:
        _active.forget()


@contextmanager
def during(what: str, more_seconds: float = 0) -> Iterator[None]:
    """This thread does `what` inside, and then goes on with what it did before."""
    watchdog = _active
    if watchdog is None:
        yield
        return
    before = watchdog.present
    watchdog.report(what, more_seconds)
    try:
        yield
    finally:
        if before is None:
            watchdog.forget()
        else:
            watchdog.report(before, 0)


def _notify_socket() -> str | None:
    """The address at which systemd listens, if it watches this process."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address or "WATCHDOG_USEC" not in os.environ:
        return None
    return "\0" + address[1:] if address.startswith("@") else address


def _notify(address: str) -> None:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as client:
            client.sendto(b"WATCHDOG=1", address)
    except OSError as error:
        log.warning("systemd does not get the sign of life of this worker: %s", error)
