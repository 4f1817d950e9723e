"""A real PostgreSQL and a real Valkey per test process; a fresh database and an empty Valkey per test."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from ccat_workflow_manager.embedded import EmbeddedPostgres, EmbeddedValkey
from tests.support.reaper import Reaper

DATABASE_VARIABLE, REDIS_VARIABLE = "CCAT_WM_TEST_DATABASE_URL", "CCAT_WM_TEST_REDIS_URL"
"""Name servers to test with instead of those of the wheels. `python -m tests.old_servers` sets them."""


@pytest.fixture(scope="session")
def reaper() -> Iterator[Reaper]:
    """Tell it of every process that would outlive a killed test run."""
    reaper = Reaper()
    yield reaper
    reaper.reap()


@pytest.fixture(scope="session")
def server_dir(reaper: Reaper) -> Path:
    # Not below pytest's own directory: the path of a socket must be short.
    path = Path(tempfile.mkdtemp(prefix="ccat-wm-tests-"))
    reaper.remove(path)
    return path


class Databases:
    """Databases on one server. A prepared one is copied from a template once, and emptied for each further test."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._numbers = count(1)
        self._prepared: dict[Callable[[str], None], _Prepared] = {}

    def create(self, options: str = "") -> str:
        """The URL of a fresh database. `options` are those of CREATE DATABASE."""
        return self._make("template0" if options else None, options)

    def drop(self, url: str) -> None:
        self._execute(f"DROP DATABASE IF EXISTS {_name_in(url)} WITH (FORCE)")

    @contextmanager
    def closed(self, url: str) -> Iterator[None]:
        """For the clients of this database, the server is away."""
        name = _name_in(url)
        self._execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        try:
            self._execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
            yield
        finally:
            self._execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")

    @contextmanager
    def borrow(self, prepare: Callable[[str], None]) -> Iterator[str]:
        """A database in the state in which `prepare(url)` leaves a fresh one."""
        if prepare not in self._prepared:
            template = self._make()
            prepare(template)
            self._prepared[prepare] = _Prepared(_name_in(template), _tables(template))
        prepared = self._prepared[prepare]
        url = prepared.free.pop() if prepared.free else self._make(prepared.template)
        try:
            yield url
        finally:
            if _tables(url) == prepared.tables:
                _empty(url, prepared.tables)
                prepared.free.append(url)
            else:
                self.drop(url)

    def _make(self, template: str | None = None, options: str = "") -> str:
        name = f"test_{next(self._numbers)}"
        self._execute(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else "") + options)
        return self._url.replace("/ccat?", f"/{name}?")

    def _execute(self, statement: str) -> None:
        with _connect(self._url) as connection:
            connection.execute(statement.encode())


@dataclass(slots=True)
class _Prepared:
    """A template and the databases that were copied from it and that no test uses now."""

    template: str
    tables: list[str]
    free: list[str] = field(default_factory=list)


def _connect(url: str) -> psycopg.Connection[tuple[Any, ...]]:
    return psycopg.connect(url.replace("+psycopg", ""), autocommit=True)


def _name_in(url: str) -> str:
    return url.partition("@/")[2].partition("?")[0]


def _tables(url: str) -> list[str]:
    with _connect(url) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
        return [row[0] for row in rows]


def _empty(url: str, tables: list[str]) -> None:
    """Delete all rows but the version of the schema, and count from 1 again. TRUNCATE would take ten times as long."""
    deletes = "".join(f"DELETE FROM {table};" for table in tables if table != "alembic_version")
    with _connect(url) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        connection.execute(
            f"SET session_replication_role = replica; {deletes}"
            "SELECT setval(format('%I.%I', schemaname, sequencename)::regclass, 1, false) FROM pg_sequences".encode()
        )


@pytest.fixture(scope="session")
def databases(server_dir: Path, reaper: Reaper) -> Iterator[Databases]:
    if given := os.environ.get(DATABASE_VARIABLE):
        yield Databases(given)
        return
    server = EmbeddedPostgres(server_dir, fsync=False)
    url = server.start()
    assert server.pid is not None
    reaper.watch(server.pid)
    yield Databases(url)
    server.stop()


@pytest.fixture
def postgres_url(databases: Databases) -> Iterator[str]:
    """An empty database, gone after the test."""
    url = databases.create()
    yield url
    databases.drop(url)


@pytest.fixture(scope="session")
def redis_server_url(server_dir: Path, reaper: Reaper) -> Iterator[str]:
    if given := os.environ.get(REDIS_VARIABLE):
        yield given
        return
    server = EmbeddedValkey(server_dir)
    url = server.start()
    assert server.pid is not None
    reaper.watch(server.pid)
    yield url
    server.stop()


@pytest.fixture
def redis_url(redis_server_url: str) -> str:
    """A Valkey with nothing in it."""
    with redis.Redis.from_url(redis_server_url) as client:
        client.flushall()
    return redis_server_url
