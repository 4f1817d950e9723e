"""What an error of PostgreSQL means, by its SQLSTATE: the server is away, or a row is bad."""

from __future__ import annotations

import psycopg
from psycopg.errors import DataError, IntegrityError, InterfaceError, OperationalError

from ccat_workflow_manager.errors import ServiceUnavailable, WorkflowError

_SERVER_AWAY = ("08", "40", "53", "57", "58", "25P03", "55P03")
"""Connection, rollback by the server, resources, operator, system, idle too long in a transaction, locked for long."""
_ROLLED_BACK = "40"
_TOO_SLOW = "57014"
_BAD_ROW = ("22", "23", "54")
"""Data, integrity, limits of the program. psycopg calls the last one an OperationalError."""
_LONGEST = 500


class RowRefused(WorkflowError):
    """PostgreSQL refuses a value."""


class RolledBack(ServiceUnavailable):
    """PostgreSQL ended the transaction in favour of another one. The same transaction may succeed now."""


def translated(error: psycopg.Error) -> WorkflowError | None:
    """What the error means. Returns None for a fault of this program, such as a syntax error."""
    state, text = error.sqlstate, str(error).strip()
    if state is None:  # psycopg itself: no connection, or a value that it cannot send
        if isinstance(error, DataError | IntegrityError):
            return RowRefused(text[:_LONGEST])
        return _unavailable(text) if isinstance(error, OperationalError | InterfaceError) else None
    if state.startswith(_BAD_ROW):
        return RowRefused(text.partition("\n")[0][:_LONGEST])
    if state.startswith(_ROLLED_BACK):
        return RolledBack(f"PostgreSQL cannot be used: {text}")
    if state == _TOO_SLOW:
        return ServiceUnavailable(
            "PostgreSQL took longer than this request may take (STATEMENT_SECONDS); narrow it or try later"
        )
    return _unavailable(text) if state.startswith(_SERVER_AWAY) else None


def _unavailable(text: str) -> ServiceUnavailable:
    return ServiceUnavailable(f"PostgreSQL cannot be used: {text}")
