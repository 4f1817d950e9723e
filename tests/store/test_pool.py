"""Connections to PostgreSQL, and statements as they are sent."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import psycopg
import pytest

from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.errors import ServiceUnavailable

PID = "SELECT pg_backend_pid()"


@pytest.fixture
def database(migrated_url: str) -> Iterator[Database]:
    database = Database(migrated_url, pool_size=2)
    yield database
    database.close()


def pids(database: Database, count: int) -> list[int]:
    """The connections of so many units at the same time."""
    with ExitStack() as stack:
        return [stack.enter_context(database.read()).execute(PID).scalar_one() for _ in range(count)]


def test_connections_are_used_again_and_those_beyond_the_size_are_closed(database: Database) -> None:
    first = pids(database, 4)
    assert len(set(first)) == 4
    assert pids(database, 1)[0] in first
    assert len(set(pids(database, 4)) & set(first)) == 2


def test_one_connection_that_the_server_has_closed_stands_for_all(database: Database) -> None:
    before = pids(database, 2)
    with database.begin() as unit:
        unit.execute("SELECT pg_terminate_backend(pid) FROM unnest(CAST(:pids AS int[])) AS t(pid)"
                     " WHERE pid <> pg_backend_pid()", {"pids": before})  # fmt: skip
    with pytest.raises(ServiceUnavailable), database.read() as unit:
        pids(database, 1)
    assert not set(pids(database, 2)) & set(before)


def test_statements_are_not_compiled(database: Database) -> None:
    with database.read() as unit:
        assert unit.execute("SHOW jit").scalar_one() == "off"


def test_what_a_block_leaves_open_is_rolled_back(database: Database) -> None:
    for statement in ("INSERT INTO backends (name) VALUES ('lost')", "SELEKT 1"):
        with suppress(psycopg.errors.SyntaxError), database.begin() as unit:
            unit.execute(statement)
            unit.execute("SELEKT 1")
    with database.read() as unit:
        assert unit.execute("SELECT name FROM backends").all() == []


def test_all_statements_of_a_snapshot_see_the_same(database: Database) -> None:
    with database.read() as frozen, database.read() as fresh:
        frozen.snapshot()
        for unit in (frozen, fresh):
            assert unit.execute("SELECT name FROM backends").first() is None
        with database.begin() as writer:
            writer.execute("INSERT INTO backends (name) VALUES ('new')")
        assert fresh.execute("SELECT name FROM backends").scalar() == "new"
        assert frozen.execute("SELECT name FROM backends").scalar() is None


def test_more_threads_than_connections_take_turns(database: Database) -> None:
    with ThreadPoolExecutor(12) as threads:
        found = list(threads.map(lambda _: pids(database, 1)[0], range(60)))
    assert len(found) == 60


def test_one_more_connection_is_opened_only_if_none_was_given_back(migrated_url: str) -> None:
    patient = Database(migrated_url, pool_size=1, most=12, spare_seconds=600)
    with ThreadPoolExecutor(12) as threads:
        assert len(set(threads.map(lambda _: pids(patient, 1)[0], range(60)))) == 1
    patient.close()
    soon = Database(migrated_url, pool_size=1, most=3, spare_seconds=0.01)
    assert len(set(pids(soon, 3))) == 3
    soon.close()


def test_parameters_have_names(database: Database) -> None:
    statement = r"SELECT CAST(:b AS text) AS b, CAST(:a AS int) AS a, CAST(:a AS int) + 1, '10\:30' LIKE '%:%'"
    with database.read() as unit:
        row = unit.execute(statement, {"a": 1, "b": "x\0y", "unused": 2}).one()
    assert (row.b, row.a, row[2], row[3]) == ("x\ufffdy", 1, 2, True)
