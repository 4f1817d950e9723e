"""The history of events by month."""

from __future__ import annotations

import pytest
from psycopg.errors import InsufficientPrivilege

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.partitions import maintain_audit, maintain_events
from tests.support.step_runs import rows, start

_ADD = """
CREATE TABLE events_{year}_01 PARTITION OF events
FOR VALUES FROM ('{year}-01-01 00:00:00+00') TO ('{year}-02-01 00:00:00+00')
"""


def partitions(context: Context) -> set[str]:
    with context.database.read() as unit:
        found = unit.execute("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass")
        return {name for (name,) in found}


def test_old_months_are_dropped_and_others_stay(context: Context) -> None:
    start(context)
    before = partitions(context)
    assert len(before) == 4
    with context.database.begin() as unit:
        unit.execute(_ADD.format(year=2001))
        unit.execute(
            "INSERT INTO events (step_run_id, run_id, at, event, to_status, attempt, actor)"
            " SELECT step_run_id, run_id, '2001-01-15 00:00:00+00', event, to_status, attempt, actor FROM events"
        )
    assert len(rows(context, table="events")) == 2
    assert maintain_events(context.database, 0) == []
    assert maintain_events(context.database, 600) == []
    assert maintain_events(context.database, 12) == ["events_2001_01"]
    with context.database.read() as unit:
        (row,) = unit.execute("SELECT actor, action, object, after FROM audit").all()
    dropped = {"dropped": ["events_2001_01"], "keep_months": 12}
    assert tuple(row) == ("history", "prune", "events", dropped)
    assert partitions(context) == before
    assert len(rows(context, table="events")) == 1
    assert len(rows(context)) == 1


def test_old_months_of_the_audit_go_as_a_whole(context: Context) -> None:
    with context.database.begin() as unit:
        unit.execute(_ADD.format(year=2001).replace("events", "audit"))
    assert maintain_audit(context.database, 0) == []
    assert maintain_audit(context.database, 12) == ["audit_2001_01"]


@pytest.mark.parametrize("change", ["UPDATE audit SET actor = 'x'", "DELETE FROM audit", "TRUNCATE audit"])
def test_the_audit_refuses_every_change(context: Context, change: str) -> None:
    with context.database.begin() as unit:
        unit.execute(
            "INSERT INTO audit (actor, identity, address, action, object, request_id)"
            " VALUES ('a', 'b', '', 'c', 'd', 'e')"
        )
    with pytest.raises(InsufficientPrivilege), context.database.begin() as unit:
        unit.execute(change)
    assert [row.actor for row in rows(context, table="audit")] == ["a"]
