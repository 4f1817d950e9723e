"""Ends an engine with its program: at a signal, when its loop ends, or when the interpreter does."""

from __future__ import annotations

import asyncio
import atexit
import signal
import threading
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
_GRACE_SECONDS = 10.0

_open: weakref.WeakSet[Lifetime] = weakref.WeakSet()


class Lifetime:
    """Watches over one engine until `close`.

    SIGINT needs nothing: asyncio cancels the main task, and then all others. SIGTERM and SIGHUP end a program at once
    unless it handles them itself, so for those the engine ends its tasks first and lets the signal act then.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, shutdown: Callable[[], Awaitable[None]], abandon: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._shutdown = shutdown
        self._abandon = abandon
        self._main = asyncio.current_task(loop)
        self._ending: asyncio.Task[None] | None = None
        self._closed = False
        self._keeper = loop.create_task(self._keep(), name="flow-keeper")
        self._signals = self._handled()
        for number in self._signals:
            loop.add_signal_handler(number, _on_signal, loop, number)
        _open.add(self)

    @property
    def is_ending(self) -> bool:
        """Whether the main task of the program is being cancelled, as by SIGINT."""
        return self._main is not None and self._main.cancelling() > 0

    def _handled(self) -> list[signal.Signals]:
        """The signals that the program does not handle itself."""
        if threading.current_thread() is not threading.main_thread():
            return []
        return [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]

    async def _keep(self) -> None:
        """Lives as long as the loop: asyncio cancels what is left when a program ends."""
        try:
            await self._loop.create_future()
        finally:
            if not self._closed:
                self.abandon()

    def abandon(self) -> None:
        self.close()
        self._abandon()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        _open.discard(self)
        if self._loop.is_closed():
            return
        self._keeper.cancel()
        heirs = [each for each in _open if each._loop is self._loop]
        for number in self._signals:
            if heirs:
                heirs[0]._signals.append(number)
            else:
                self._loop.remove_signal_handler(number)

    def end(self, number: signal.Signals) -> None:
        """Shut the engine down, cancel the main task, and let the signal act when that has ended."""
        if self._ending is None:
            self._ending = self._loop.create_task(self._end(number))

    async def _end(self, number: signal.Signals) -> None:
        with suppress(asyncio.CancelledError):
            await self._shutdown()
        if self._main is not None and not self._main.done():
            self._main.add_done_callback(lambda _: signal.raise_signal(number))
            self._main.cancel()
            await asyncio.wait([self._main], timeout=_GRACE_SECONDS)
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


def _on_signal(loop: asyncio.AbstractEventLoop, number: signal.Signals) -> None:
    for each in list(_open):
        if each._loop is loop:
            each.end(number)


def _at_exit() -> None:
    """A loop may be closed without cancelling its tasks."""
    for each in list(_open):
        each.abandon()


atexit.register(_at_exit)
