"""Access to PostgreSQL: transactions, what happens after their commit, and new ids."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Connection, CursorResult, Engine, TextClause, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from uuid_utils.compat import uuid7

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.db import audit
from ccat_workflow_manager.db.sql_errors import RolledBack, translated
from ccat_workflow_manager.errors import ServiceUnavailable
from ccat_workflow_manager.json_values import storable, text_problem

T = TypeVar("T")

_KEEP_ALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 25_000}
"""A dead server is noticed after half a minute instead of hours, the default."""
_IDLE_MILLISECONDS = 120_000
"""How long a transaction may do nothing while it holds its locks: its process hangs or is gone."""
_TRIES = 5


class UnitOfWork:
    """One transaction, and the actions to run once it has committed."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._after_commit: list[Callable[[], None]] = []

    def execute(self, statement: str, parameters: Mapping[str, Any] | None = None) -> CursorResult[Any]:
        """Run one SQL statement. Lists of records are passed as JSON (`json_list`), values as named parameters."""
        return self.connection.execute(_prepared(statement), _sendable(parameters or {}))

    def rows(self, shape: type[T], statement: str, parameters: Mapping[str, Any] | None = None) -> list[T]:
        """Run a SELECT. Returns its rows as `shape`, a dataclass: each field takes the column of its own name."""
        result = self.execute(statement, parameters)
        columns = list(result.keys())
        by_name = itemgetter(*(columns.index(name) for name in shape.__match_args__))  # type: ignore[attr-defined]
        return [shape(*by_name(row)) for row in result.all()]

    def row(self, shape: type[T], statement: str, parameters: Mapping[str, Any] | None = None) -> T | None:
        """Run a SELECT of at most one row. Returns it as `rows` does, or None if there is none."""
        found = self.rows(shape, statement, parameters)
        return found[0] if found else None

    def records(self, statement: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Run a SELECT. Returns its rows as dicts from column to value."""
        result = self.execute(statement, parameters)
        columns = tuple(result.keys())
        return [dict(zip(columns, row, strict=True)) for row in result.all()]

    def after_commit(self, action: Callable[[], None]) -> None:
        """Run `action` once the transaction has committed, and not at all if it is rolled back."""
        self._after_commit.append(action)

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
    """The engine of one process. It connects on first use, so that the process may fork before."""

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 5,
        application_name: str = "ccat-wm",
        statement_seconds: float = 0,
    ) -> None:
        """`statement_seconds` is the longest time that one statement may take; 0: any."""
        self.url = url
        options = f"-c idle_in_transaction_session_timeout={_IDLE_MILLISECONDS}"
        if statement_seconds:
            options += f" -c statement_timeout={max(1, round(statement_seconds * 1000))}"
        self.engine: Engine = create_engine(
            url,
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_pre_ping=False,
            pool_use_lifo=True,
            connect_args={
                "application_name": application_name,
                "connect_timeout": 5,
                "client_encoding": "utf8",
                "options": options,
                **_KEEP_ALIVE,
            },
            json_serializer=json.dumps,
            hide_parameters=True,  # they hold definitions and parameters, which do not belong into a log
        )

    @contextmanager
    def begin(self, name: str = "") -> Iterator[UnitOfWork]:
        """A transaction: committed at the end of the block, rolled back on an exception.

        Raises ServiceUnavailable if the server is away, and RowRefused if it refuses a value.
        `name` is its failpoint; every transaction that writes has one.
        """
        try:
            with self.engine.begin() as connection:
                unit = UnitOfWork(connection)
                yield unit
                if name:
                    audit.write(unit)
                    failpoints.point(name)
        except DBAPIError as error:
            meaning = translated(error)
            if meaning is None:
                raise
            raise meaning from error
        except PoolTimeout as error:
            raise ServiceUnavailable("PostgreSQL cannot be used: all connections of this process are busy") from error
        if name:
            failpoints.point(name, failpoints.AFTER)
        unit.run_after_commit()

    @contextmanager
    def read(self) -> Iterator[UnitOfWork]:
        """A transaction that only reads."""
        with self.begin() as unit:
            yield unit

    def transact(self, name: str, work: Callable[[UnitOfWork], T]) -> T:
        """Run `work` in a transaction. Repeats both if PostgreSQL ends the transaction to resolve a deadlock."""
        for _ in range(_TRIES - 1):
            with suppress(RolledBack), self.begin(name) as unit:
                return work(unit)
        with self.begin(name) as unit:
            return work(unit)

    def close(self) -> None:
        self.engine.dispose()


@lru_cache(maxsize=256)
def _prepared(statement: str) -> TextClause:
    return text(statement)


def _sendable(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters with every text, alone or in a list, as PostgreSQL can hold it."""
    bad = {
        name: storable(value)
        for name, value in parameters.items()
        if (isinstance(value, str) and text_problem(value))
        or (isinstance(value, list) and any(isinstance(each, str) and text_problem(each) for each in value))
    }
    return {**parameters, **bad} if bad else parameters


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


def new_ids(count: int) -> list[UUID]:
    """Several new ids in ascending order."""
    return sorted(uuid7() for _ in range(count))
