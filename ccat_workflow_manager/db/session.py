"""Access to PostgreSQL: transactions, what happens after their commit, and new ids."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from psycopg.pq import TransactionStatus
from uuid_utils.compat import uuid7

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.db import audit
from ccat_workflow_manager.db.pool import Connection, Pool
from ccat_workflow_manager.db.result import Result
from ccat_workflow_manager.db.sql_errors import RolledBack, translated
from ccat_workflow_manager.json_values import storable, text_problem

T = TypeVar("T")

_KEEP_ALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 25_000}
"""A dead server is noticed after half a minute instead of hours, the default."""
_IDLE_MILLISECONDS = 120_000
"""How long a transaction may do nothing while it holds its locks: its process hangs or is gone."""
_TRIES = 5
_PARAMETER = re.compile(r"(?<![:\w\\]):(\w+)(?!:)")
"""`:name`, but neither `::type` nor `\\:name`, which stands for the text `:name`."""
_ESCAPED = re.compile(r"\\(:\w*)")
_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"


class UnitOfWork:
    """One transaction, and the actions to run once it has committed."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._after_commit: list[Callable[[], None]] = []

    def execute(self, statement: str, parameters: Mapping[str, Any] | None = None) -> Result:
        """Run one SQL statement. Lists of records are passed as JSON (`json_list`), values as named parameters."""
        query, names = _numbered(statement)
        values = [_sendable((parameters or {})[name]) for name in names] if names else None
        return Result(self._connection.execute(query, values))

    def rows(self, shape: type[T], statement: str, parameters: Mapping[str, Any] | None = None) -> list[T]:
        """Run a SELECT. Returns its rows as `Result.shaped` does."""
        return self.execute(statement, parameters).shaped(shape)

    def row(self, shape: type[T], statement: str, parameters: Mapping[str, Any] | None = None) -> T | None:
        """Run a SELECT of at most one row. Returns it as `rows` does, or None if there is none."""
        found = self.rows(shape, statement, parameters)
        return found[0] if found else None

    def records(self, statement: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Run a SELECT. Returns its rows as dicts from column to value."""
        result = self.execute(statement, parameters)
        return [dict(zip(result.columns, row, strict=True)) for row in result.tuples]

    def snapshot(self) -> None:
        """Give the statements of a unit that only reads the same snapshot from here on."""
        if self._connection.info.transaction_status is TransactionStatus.IDLE:
            self.execute(_SNAPSHOT)

    def together(self) -> None:
        """Let the statements that follow commit together, also where each commits by itself."""
        if self._connection.info.transaction_status is TransactionStatus.IDLE:
            self.execute("BEGIN")

    def after_commit(self, action: Callable[[], None]) -> None:
        """Run `action` once the transaction has committed, and not at all if it is rolled back."""
        self._after_commit.append(action)

    def commit(self) -> None:
        self._connection.commit()

    def run_after_commit(self) -> None:
        for action in self._after_commit:
            action()

    def ping(self) -> None:
        """One round trip to the server."""
        self.execute("SELECT 1")

    def clock(self) -> datetime:
        """The present time of the server, not that of the start of this transaction."""
        now: datetime = self.execute("SELECT clock_timestamp()").scalar_one()
        return now

    def server_version(self) -> str:
        return str(self.execute("SHOW server_version").scalar_one())


class Database:
    """The connections of one process. It connects on first use, so that the process may fork before."""

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 5,
        most: int = 0,
        spare_seconds: float = 0,
        application_name: str = "ccat-wm",
        statement_seconds: float = 0,
    ) -> None:
        """Up to `pool_size` connections stay open, and up to `most` are in use (0: twice as many).

        One that does not stay open is opened when none has been free for `spare_seconds`.

        `statement_seconds` is the longest time that one statement may take; 0: any.
        """
        self.url = url
        # Otherwise PostgreSQL compiles large statements, which takes longer than to run them.
        options = f"-c jit=off -c idle_in_transaction_session_timeout={_IDLE_MILLISECONDS}"
        if statement_seconds:
            options += f" -c statement_timeout={max(1, round(statement_seconds * 1000))}"
        self.pool = Pool(
            url,
            size=pool_size,
            most=most or 2 * pool_size,
            spare_seconds=spare_seconds,
            application_name=application_name,
            connect_timeout=5,
            client_encoding="utf8",
            options=options,
            **_KEEP_ALIVE,
        )

    @contextmanager
    def begin(self, name: str = "", *, one_statement: bool = False) -> Iterator[UnitOfWork]:
        """A transaction: committed at the end of the block, rolled back on an exception.

        Raises ServiceUnavailable if the server is away, and RowRefused if it refuses a value.
        `name` is its failpoint; every transaction that writes has one.
        With `one_statement` the block writes by a single statement, which commits with it: one round trip, not three.
        """
        with self._unit(autocommit=one_statement) as unit:
            if name and one_statement:
                failpoints.point(name)
            yield unit
            if name:
                audit.write(unit.execute)
            if name and not one_statement:
                failpoints.point(name)
            unit.commit()
        if name:
            failpoints.point(name, failpoints.AFTER)
        unit.run_after_commit()

    @contextmanager
    def read(self) -> Iterator[UnitOfWork]:
        """A unit that only reads. Each statement sees what is committed when it begins, unless `snapshot` is called."""
        with self._unit(autocommit=True) as unit:
            yield unit
            unit.commit()
        unit.run_after_commit()

    @contextmanager
    def _unit(self, *, autocommit: bool) -> Iterator[UnitOfWork]:
        try:
            with self.pool.connection(autocommit=autocommit) as connection:
                yield UnitOfWork(connection)
        except psycopg.Error as error:
            meaning = translated(error)
            if meaning is None:
                raise
            raise meaning from error

    def transact(self, name: str, work: Callable[[UnitOfWork], T], *, one_statement: bool = False) -> T:
        """Run `work` in a transaction. Repeats both if PostgreSQL ends the transaction to resolve a deadlock."""
        for _ in range(_TRIES - 1):
            with suppress(RolledBack), self.begin(name, one_statement=one_statement) as unit:
                return work(unit)
        with self.begin(name, one_statement=one_statement) as unit:
            return work(unit)

    def close(self) -> None:
        self.pool.close()


@lru_cache(maxsize=512)
def _numbered(statement: str) -> tuple[str, tuple[str, ...]]:
    """The statement with `$1` in place of `:name`, and the names in the order of their numbers."""
    numbers: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        return f"${numbers.setdefault(match[1], len(numbers) + 1)}"

    return _ESCAPED.sub(r"\1", _PARAMETER.sub(number, statement)), tuple(numbers)


def _sendable(value: object) -> object:
    """A parameter with every text, alone or in a list, as PostgreSQL can hold it."""
    texts = value if isinstance(value, list) else (value,)
    return storable(value) if any(isinstance(each, str) and text_problem(each) for each in texts) else value


def json_list(records: Sequence[Mapping[str, Any]]) -> str:
    """Encode records as one parameter for `json_to_recordset`: one round trip for any number of rows.

    PostgreSQL refuses the whole parameter for one NUL in it, and some texts are those of programs and backends.
    """
    text = json.dumps(records, default=str, separators=(",", ":"))
    if "\\u0000" in text or "\\ud" in text:
        return json.dumps(storable(records), default=str, separators=(",", ":"))
    return text


def new_id() -> UUID:
    """A UUIDv7. Later ids sort later, so an index on them grows at one end."""
    return uuid7()


def first_id(seconds: float) -> UUID:
    """The smallest id of this time, in seconds since the epoch: a UUIDv7 begins with the milliseconds."""
    return UUID(int=max(0, int(seconds * 1000)) << 80)


def new_ids(count: int) -> list[UUID]:
    """Several new ids in ascending order."""
    return sorted(uuid7() for _ in range(count))
