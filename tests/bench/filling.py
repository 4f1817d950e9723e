"""Fills an empty database with an invented history, by COPY: 8,000 step runs with all their rows in a second."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import psycopg

from ccat_workflow_manager.db import feed_epoch
from ccat_workflow_manager.db.migrate import upgrade
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.definition.input_roots import InputRoots
from ccat_workflow_manager.services.catalogue import Catalogue
from tests.bench.history import History, pipelines
from tests.bench.story import COLUMNS, Pipeline, Rows, columns_of

MONTHS = 12
_PARTITIONED = ("events", "audit")
_ADD_LANES = """
INSERT INTO lanes (project, pipeline, registered)
SELECT project, name, true FROM pipelines WHERE name = ANY(:names) RETURNING pipeline, id
"""
_PRESENT = """
INSERT INTO backends (name, polled_at, answered_at) SELECT unnest(ARRAY['slurm', 'kubernetes', 'local']), now(), now();
INSERT INTO workers (id, host, pid, backends) VALUES ('worker-3', 'submit-1', 1, '{slurm,kubernetes,local}')
"""


def fill(url: str, count: int, months: int = MONTHS, *, say: bool = False) -> None:
    """Make the tables in an empty database, and tell the history of `count` runs in them."""
    database = Database(url)
    try:
        upgrade(database)
        history = History(_registered(database), count, months, time.time())
        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            _write(connection, history, say)
        _begin_epoch(database)
    finally:
        database.close()
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE)")


def _registered(database: Database) -> list[Pipeline]:
    catalogue, chosen = Catalogue(database, InputRoots(free=True)), pipelines()
    for each in chosen:
        catalogue.apply(each.definition())
    with database.read() as unit:
        ids = dict(unit.execute("SELECT name, id::text FROM specs").tuples)
    with database.begin("commit.test") as unit:
        lanes = dict(unit.execute(_ADD_LANES, {"names": list(ids)}).tuples)
    for each in chosen:
        each.spec_id, each.lane = ids[each.name], lanes[each.name]
    return chosen


def _write(connection: psycopg.Connection, history: History, say: bool) -> None:
    """All rows in one transaction: rows of tables that it has emptied need neither WAL nor a vacuum."""
    connection.execute("SET session_replication_role = replica")  # every reference is there at the end
    connection.execute("TRUNCATE events, audit, runs CASCADE")
    made = _partition(connection, history.begin)
    for number, rows in enumerate(history.portions(), 1):
        _copy(connection, rows, made)
        if say and number % 20 == 0:
            print(f"  {number * 5000:,} runs", flush=True)
    for table, last in (("events", history.numbers.events), ("audit", history.numbers.audits)):
        connection.execute("SELECT setval(pg_get_serial_sequence(%s, 'id'), %s)", [table, max(1, last)])
    connection.execute(_PRESENT)


def _partition(connection: psycopg.Connection, begin: float) -> set[str]:
    """Make the partitions from the first month of the history to the present one. Returns their names."""
    made: set[str] = set()
    month = datetime.fromtimestamp(begin, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    while month <= datetime.now(UTC):
        following = (month + timedelta(days=32)).replace(day=1)
        for table in _PARTITIONED:
            name = f"{table}_{month:%Y_%m}"
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS {name} PARTITION OF {table}"
                f" FOR VALUES FROM ('{month:%Y-%m-%d} 00:00:00+00') TO ('{following:%Y-%m-%d} 00:00:00+00')".encode()
            )
            made.add(name)
        month = following
    return made


def _copy(connection: psycopg.Connection, rows: Rows, partitions: set[str]) -> None:
    for table, lines in rows.by_table.items():
        assert table in partitions or table in COLUMNS, table
        statement = f"COPY {table} ({columns_of(table)}) FROM STDIN (FREEZE)"
        with connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
            copy.write("\n".join(lines) + "\n")


def _begin_epoch(database: Database) -> None:
    """As after a restore: the positions of the history are not those of transactions of this server."""
    with database.begin("commit.test") as unit:
        unit.execute("UPDATE feed SET server = 'invented/0'")
        feed_epoch.begin_epoch(unit)
