"""A real PostgreSQL and a real Valkey per test process; a fresh database and an empty Valkey per test."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest
import redis

from ccat_workflow_manager.embedded import EmbeddedPostgres, EmbeddedValkey
from tests.support.reaper import Reaper


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
    """Databases on one server, each copied in milliseconds from a template that was prepared once."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._numbers = count(1)
        self._templates: dict[Callable[[str], None], str] = {}

    def create(self, prepare: Callable[[str], None] | None = None) -> str:
        """The URL of a fresh database. What `prepare(url)` does is done once, and copied."""
        template = None
        if prepare is not None:
            if prepare not in self._templates:
                made = self._make(None)
                prepare(self._url_of(made))
                self._templates[prepare] = made
            template = self._templates[prepare]
        return self._url_of(self._make(template))

    def drop(self, url: str) -> None:
        self._execute(f"DROP DATABASE IF EXISTS {_name_in(url)} WITH (FORCE)")

    def _make(self, template: str | None) -> str:
        name = f"test_{next(self._numbers)}"
        self._execute(f"CREATE DATABASE {name}" + (f" TEMPLATE {template} STRATEGY file_copy" if template else ""))
        return name

    def _url_of(self, name: str) -> str:
        return self._url.replace("/ccat?", f"/{name}?")

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self._url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(statement.encode())


def _name_in(url: str) -> str:
    return url.partition("@/")[2].partition("?")[0]


@pytest.fixture(scope="session")
def databases(server_dir: Path, reaper: Reaper) -> Iterator[Databases]:
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
