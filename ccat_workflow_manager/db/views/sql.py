"""The pieces of SQL and of text that all views share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ccat_workflow_manager.db.session import UnitOfWork


class Row(NamedTuple):
    """One item of a list: the key after which the next page begins, and the item as JSON."""

    key: Any
    json: str


def utc(column: str) -> str:
    """A time as RFC 3339 in UTC, whatever the time zone of the server."""
    # The backslashes keep SQLAlchemy from taking `:MI` for a parameter.
    return rf"""to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24\:MI\:SS.US"Z"')"""


def times(alias: str, *columns: str) -> str:
    """Several columns of times, each under its own name."""
    return ", ".join(f"{utc(f'{alias}.{column}')} AS {column}" for column in columns)


def rows(unit: UnitOfWork, statement: str, parameters: Mapping[str, Any]) -> list[Row]:
    """The rows of a statement that selects a key and a JSON text."""
    return [Row(*row) for row in unit.execute(statement, parameters)]


def one(unit: UnitOfWork, statement: str, parameters: Mapping[str, Any]) -> str | None:
    """The JSON text that a statement selects, or None if there is no row."""
    text: str | None = unit.execute(statement, parameters).scalar()
    return text


def array(texts: Iterable[str]) -> str:
    """JSON texts as a JSON array."""
    return f"[{','.join(texts)}]"


def snapshot(unit: UnitOfWork) -> None:
    """Let all statements of this transaction see the same moment. Call it first."""
    unit.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
