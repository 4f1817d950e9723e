"""One door to PostgreSQL: a transaction, and what is to happen once it has committed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar

from sqlalchemy import Connection, CursorResult, Engine, TextClause, create_engine, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.errors import ServiceUnavailable

T = TypeVar("T")

_KEEP_ALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 25_000}
"""A server that vanishes without a word is noticed in half a minute and not, as by default, in hours."""
_DEADLOCK = "40P01"
_TRIES = 5


class UnitOfWork:
    """One transaction. Register with `after_commit` whatever must not happen unless it was committed."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._after_commit: list[Callable[[], None]] = []

    def execute(self, statement: str, parameters: Mapping[str, Any] | None = None) -> CursorResult[Any]:
        """Run one SQL statement. Lists of records go in as JSON (`json_list`), values as named parameters."""
        return self.connection.execute(_prepared(statement), parameters or {})

    def after_commit(self, action: Callable[[], None]) -> None:
        self._after_commit.append(action)

    def run_after_commit(self) -> None:
        for action in self._after_commit:
            action()


class Database:
    """The engine of one process. Connections are made when first needed, so that a process may fork before."""

    def __init__(self, url: str, *, pool_size: int = 5, application_name: str = "ccat-wm") -> None:
        self.url = url
        self.engine: Engine = create_engine(
            url,
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_pre_ping=False,
            pool_use_lifo=True,
            connect_args={"application_name": application_name, "connect_timeout": 5, **_KEEP_ALIVE},
            json_serializer=json.dumps,
        )

    @contextmanager
    def begin(self, name: str = "") -> Iterator[UnitOfWork]:
        """A transaction: committed at the end of the block, rolled back if it raises. One that writes has a name."""
        try:
            with self.engine.begin() as connection:
                unit = UnitOfWork(connection)
                yield unit
                if name:
                    failpoints.point(name)
        except (OperationalError, InterfaceError) as error:
            if is_deadlock(error):
                raise
            raise ServiceUnavailable(f"PostgreSQL cannot be used: {str(error.orig).strip()}") from error
        except PoolTimeout as error:
            raise ServiceUnavailable("PostgreSQL cannot be used: all connections of this process are busy") from error
        if name:
            failpoints.point(name, failpoints.AFTER)
        unit.run_after_commit()

    @contextmanager
    def read(self) -> Iterator[UnitOfWork]:
        """A transaction in which only reads happen."""
        with self.begin() as unit:
            yield unit

    def transact(self, name: str, work: Callable[[UnitOfWork], T]) -> T:
        """Run `work` in a transaction, and again if PostgreSQL chose it as the one to give way in a deadlock."""
        for _ in range(_TRIES - 1):
            try:
                with self.begin(name) as unit:
                    return work(unit)
            except OperationalError as error:
                if not is_deadlock(error):
                    raise
        with self.begin(name) as unit:
            return work(unit)

    def close(self) -> None:
        self.engine.dispose()


def is_deadlock(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) == _DEADLOCK


@lru_cache(maxsize=256)
def _prepared(statement: str) -> TextClause:
    return text(statement)


def json_list(records: Sequence[Mapping[str, Any]]) -> str:
    """Records as one JSON parameter for `json_to_recordset`: one round trip however many rows."""
    return json.dumps(records, default=str, separators=(",", ":"))
