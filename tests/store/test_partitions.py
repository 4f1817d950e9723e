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
ADD_AUDIT = """
INSERT INTO audit (actor, identity, address, action, object, request_id) VALUES ('a', 'b', '', 'c', 'd', 'e')
"""


def partitions(context: Context, table: str = "events") -> set[str]:
    with context.database.read() as unit:
        found = unit.execute(f"SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = '{table}'::regclass")
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


def forget_months(context: Context, table: str) -> None:
    """As after months in which the service was off: it has no partition for the present month."""
    with context.database.begin() as unit:
        for name in sorted(partitions(context, table)):
            if not name.endswith("_rest"):
                unit.execute(f"DROP TABLE {name}")


def test_after_months_without_the_service_the_first_rows_get_their_month(context: Context) -> None:
    for table in ("events", "audit"):
        forget_months(context, table)
    start(context)
    with context.database.begin() as unit:
        unit.execute(ADD_AUDIT)
    maintain = {"events": maintain_events, "audit": maintain_audit}
    for table, make in maintain.items():
        assert stored_in(context, table) == {f"{table}_rest"}
        for _ in range(2):
            assert make(context.database, 12) == []
            assert len(partitions(context, table)) == 4
        [month] = stored_in(context, table)
        assert month in partitions(context, table) - {f"{table}_rest"}
    start(context)
    assert stored_in(context, "events") == {month.replace("audit", "events")}
    with pytest.raises(InsufficientPrivilege), context.database.begin() as unit:
        unit.execute("DELETE FROM audit")


def test_rows_of_an_unlikely_time_keep_no_month_from_being_made(context: Context) -> None:
    """The clock of the server was wrong once: such a row is kept, and so is a month that is mixed with it."""
    start(context)
    forget_months(context, "events")
    with context.database.begin() as unit:
        for year in (1999, 2001):
            unit.execute(_ADD.format(year=year))
        unit.execute("DROP TABLE events_1999_01")
        unit.execute(
            "INSERT INTO events (step_run_id, run_id, at, event, to_status, attempt, actor)"
            " SELECT id, run_id, '1999-01-15 00:00:00+00', 'created', 'PENDING', 0, 'x' FROM step_runs"
        )
    start(context)
    assert stored_in(context, "events") == {"events_rest"}
    assert maintain_events(context.database, 0) == []
    assert len(partitions(context)) == 4, "the rest, one of 2001, and the two months to come"
    assert stored_in(context, "events") == {"events_rest"}


def stored_in(context: Context, table: str) -> set[str]:
    with context.database.read() as unit:
        return {name for (name,) in unit.execute(f"SELECT DISTINCT tableoid::regclass::text FROM {table}")}


def test_old_months_of_the_audit_go_as_a_whole(context: Context) -> None:
    with context.database.begin() as unit:
        unit.execute(_ADD.format(year=2001).replace("events", "audit"))
    assert maintain_audit(context.database, 0) == []
    assert maintain_audit(context.database, 12) == ["audit_2001_01"]


@pytest.mark.parametrize("change", ["UPDATE audit SET actor = 'x'", "DELETE FROM audit", "TRUNCATE audit"])
def test_the_audit_refuses_every_change(context: Context, change: str) -> None:
    with context.database.begin() as unit:
        unit.execute(ADD_AUDIT)
    with pytest.raises(InsufficientPrivilege), context.database.begin() as unit:
        unit.execute(change)
    assert [row.actor for row in rows(context, table="audit")] == ["a"]
