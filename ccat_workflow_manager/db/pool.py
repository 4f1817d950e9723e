"""The connections of one process to PostgreSQL, kept for the next transaction."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Condition
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from ccat_workflow_manager.errors import ServiceUnavailable

Connection = psycopg.Connection[tuple[Any, ...]]

_PATIENCE_SECONDS = 30.0


class Pool:
    """Opens a connection when all others are in use. The one that was used last is used next.

    Opens up to `most` connections. Keeps up to `size` of them, and closes the others after their use. Opens one that it
    will not keep only when none was given back for `spare_seconds`: to open one costs more than most transactions do.
    """

    def __init__(self, url: str, *, size: int, most: int, spare_seconds: float = 0, **options: Any) -> None:
        """`options` are those of libpq."""
        self._url = re.sub(r"^postgresql\+psycopg:", "postgresql:", url)
        self._size = size
        self._most = most
        self._spare_seconds = spare_seconds
        self._options = options
        self._given_back = Condition()
        self._idle: list[Connection] = []
        self._used: set[Connection] = set()
        self._doubtful: set[Connection] = set()
        """Connections that were in use when another one broke. They are closed after their use."""
        self._opening = 0

    @contextmanager
    def connection(self, *, autocommit: bool) -> Iterator[Connection]:
        """A connection without a transaction. What the block leaves open is rolled back.

        Raises ServiceUnavailable if no connection becomes free, and the errors of psycopg.
        """
        connection = self._take()
        try:
            if connection.autocommit != autocommit:
                connection.autocommit = autocommit
            yield connection
        finally:
            self._give_back(connection)

    @property
    def used(self) -> int:
        """How many connections are in use."""
        return len(self._used)

    @property
    def idle(self) -> int:
        return len(self._idle)

    def close(self) -> None:
        """Close all connections that are not in use."""
        with self._given_back:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _take(self) -> Connection:
        began = time.monotonic()
        with self._given_back:
            while not self._idle and (seconds := self._longest_wait()):
                if not self._given_back.wait(began + seconds - time.monotonic()):
                    if seconds < _PATIENCE_SECONDS:
                        break
                    raise ServiceUnavailable("PostgreSQL cannot be used: all connections of this process are busy")
            if self._idle:
                connection = self._idle.pop()
                self._used.add(connection)
                return connection
            self._opening += 1
        opened: Connection | None = None
        try:
            opened = psycopg.connect(self._url, cursor_factory=psycopg.RawCursor, **self._options)
            return opened
        except psycopg.ProgrammingError:
            # What libpq says of a URL that it cannot read may hold the password.
            raise ServiceUnavailable("DATABASE_URL: libpq does not understand the URL, or an option in it") from None
        finally:
            with self._given_back:
                self._opening -= 1
                if opened is not None:
                    self._used.add(opened)
                else:
                    self._given_back.notify()

    def _longest_wait(self) -> float:
        """For how long a connection is waited for before another one is opened, or the caller is refused."""
        living = len(self._used) + self._opening
        if living >= self._most:
            return _PATIENCE_SECONDS
        return self._spare_seconds if living >= self._size else 0

    def _give_back(self, connection: Connection) -> None:
        if connection.info.transaction_status is not TransactionStatus.IDLE:
            with suppress(psycopg.Error):
                connection.rollback()
        usable = connection.info.transaction_status is TransactionStatus.IDLE
        closing: list[Connection] = [] if usable else [connection]
        with self._given_back:
            self._used.discard(connection)
            if not usable:
                # The server has closed this one, and so perhaps all others, too.
                closing += self._idle
                self._idle = []
                self._doubtful |= self._used
            elif connection in self._doubtful or len(self._idle) >= self._size:
                closing.append(connection)
            else:
                self._idle.append(connection)
            self._doubtful.discard(connection)
            self._given_back.notify()
        for each in closing:
            each.close()
