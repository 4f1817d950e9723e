"""The order of events for readers, and what keeps it when the database moves to another server.

Identity numbers are handed out before the commit, so a reader that goes on behind the highest one it saw misses what
commits late. `events.position` is therefore the transaction of the writer, and readers read below the oldest
transaction that still runs (`BELOW`): what is there can no longer change.

Transaction numbers belong to one server. After a restore from a dump they begin anew, so the positions of each server
lie in a range of their own, its epoch: all of a later epoch are higher than all of an earlier one.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from ccat_workflow_manager.db.session import Database, UnitOfWork

_EPOCH_BITS = 44
"""A server counts its transactions up to 17 million million before the next epoch would begin."""
_KEY_BYTES = 32


def _position(epoch: int) -> str:
    return f"CAST(CAST(pg_current_xact_id() AS text) AS bigint) + {epoch << _EPOCH_BITS}"


POSITION = _position(0)
"""The default of `events.position` in the first epoch."""

BELOW = (
    f"(SELECT COALESCE(max(epoch), 0)::bigint << {_EPOCH_BITS} FROM feed)"
    " + CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)"
)
"""The position of the oldest transaction that still runs, as the snapshot of the statement has it."""

_SERVER = "SELECT concat(s.system_identifier, '/', c.timeline_id) FROM pg_control_system() s, pg_control_checkpoint() c"
"""The cluster, and how often its history has branched off: by a recovery to a point in time, or by a fail-over."""
_INSERT = f"INSERT INTO feed (key, epoch, server) VALUES (:key, 0, ({_SERVER})) ON CONFLICT DO NOTHING"


@dataclass(frozen=True, slots=True)
class _Feed:
    key: bytes
    is_current: bool
    is_here: bool


_SELECT = f"""
SELECT f.key, f.server = n.server AS is_current, split_part(f.server, '/', 1) = split_part(n.server, '/', 1) AS is_here
FROM feed f, ({_SERVER}) n(server)
"""


def signing_key(database: Database) -> bytes:
    """The key that signs cursors, made at the first call for a database."""
    with database.read() as unit:
        found = unit.row(_Feed, _SELECT)
    if found is None:
        with database.begin("commit.feed") as unit:
            unit.execute(_INSERT, {"key": secrets.token_bytes(_KEY_BYTES)})
        with database.read() as unit:
            found = unit.row(_Feed, _SELECT)
    assert found is not None
    return bytes(found.key)


def was_moved(unit: UnitOfWork) -> bool:
    """Whether the events come from another server, so that new positions could lie below theirs."""
    found = unit.row(_Feed, _SELECT)
    return found is not None and not found.is_here


def begin_epoch(unit: UnitOfWork) -> None:
    """If transactions may count from a lower number, let all events from now on have higher positions than before.

    Waits for the transactions that write events, so that none of them ends in the earlier epoch after it was closed.
    """
    found = unit.row(_Feed, _SELECT)
    if found is None or found.is_current:
        return
    unit.execute("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
    statement = f"UPDATE feed SET epoch = epoch + 1, server = ({_SERVER}) RETURNING epoch"
    epoch: int = unit.execute(statement).scalar_one()
    unit.execute(f"ALTER TABLE events ALTER COLUMN position SET DEFAULT {_position(epoch)}")
