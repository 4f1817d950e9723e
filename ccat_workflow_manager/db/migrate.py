"""Bring a database to the schema of this program, and refuse one that is not there.

Alembic and SQLAlchemy are imported for a migration only: no other process needs the memory that they take.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.db import feed_epoch
from ccat_workflow_manager.db.partitions import CREATE_AUDIT_PARTITIONS, CREATE_EVENT_PARTITIONS
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.db.sql_errors import translated
from ccat_workflow_manager.errors import ConfigurationError
from ccat_workflow_manager.settings import migrations_dir

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

_LOCK = 0x63636174
"""The key of an advisory lock: processes that start together migrate one after the other."""
_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '10s'"
"""A migration that waits for a table keeps everybody else from it as well."""
_COMMENT = "SELECT obj_description('alembic_version'::regclass, 'pg_class')"
_WORKS_WITH = re.compile(r"(\d+) works with programs of (\d+)")
_VERSION = re.compile(r"(\d+)_\w+\.py")


@dataclass(frozen=True, slots=True)
class SchemaState:
    """The revision that a database has, and the one that this program needs."""

    current: str | None
    wanted: str
    oldest: str | None = None
    """The revision of the oldest program that may work with the database; None: only one of `current` may."""
    is_known: bool = True
    """Whether this program has the migrations that lead from the revision of the database to its own."""

    @property
    def is_current(self) -> bool:
        """Whether this program may work with the database, which has its revision, or one that only adds to it."""
        if self.current is None or self.oldest is None:
            return self.current == self.wanted
        return self.oldest <= self.wanted <= self.current

    @property
    def remedy(self) -> str:
        """What to do about a database that is not current."""
        if self.is_known:
            return "run: ccat-wm db upgrade"
        return f"{self.current} is unknown here: use the version of the program that made it"


def state(database: Database) -> SchemaState:
    with database.read() as unit:
        has_version = unit.execute("SELECT to_regclass('alembic_version')").scalar_one()
        current = unit.execute("SELECT version_num FROM alembic_version").scalar() if has_version else None
        words = unit.execute(_COMMENT).scalar() if has_version else None
    works_with = _WORKS_WITH.fullmatch(words or "")
    oldest = works_with[2] if works_with and works_with[1] == current else None
    return SchemaState(current, newest_revision(), oldest, current is None or current in _revisions())


def newest_revision() -> str:
    """The revision that this program makes: the highest number of the files of migrations."""
    return max(_revisions())


def _revisions() -> list[str]:
    names = [path.name for path in (migrations_dir() / "versions").iterdir()]
    return [match[1] for match in map(_VERSION.fullmatch, names) if match]


def upgrade(database: Database) -> SchemaState:
    """Run the missing migrations, and adopt a database that comes from another server. Returns the state before.

    Raises ConfigurationError if the database is of another program, or cannot hold every text.
    """
    before = state(database)
    with database.read() as unit:
        encoding = unit.execute("SHOW server_encoding").scalar_one()
    if encoding != "UTF8":
        how = "CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
        raise ConfigurationError(f"the encoding of the database is {encoding}, it has to be UTF8; make one by: {how}")
    if not before.is_current:
        _migrate(database, before)
    feed_epoch.signing_key(database)
    with database.begin("commit.feed-epoch") as unit:
        unit.execute("SELECT pg_advisory_xact_lock(:key)", {"key": _LOCK})
        feed_epoch.begin_epoch(unit)
    return before


def _migrate(database: Database, before: SchemaState) -> None:
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    from alembic import command

    with connection_for_alembic(database) as (connection, config):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        connection.exec_driver_sql(_LOCK_TIMEOUT)
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            known = f"the database is at revision {before.current}, which this program does not know"
            raise ConfigurationError(f"{known}; use the version that made it, or an empty database") from error
        head = ScriptDirectory.from_config(config).get_revision("head")
        oldest = getattr(head.module, "works_with", None)
        words = "NULL" if oldest is None else f"'{head.revision} works with programs of {oldest}'"
        connection.exec_driver_sql(f"COMMENT ON TABLE alembic_version IS {words}")
        connection.exec_driver_sql(CREATE_EVENT_PARTITIONS)
        connection.exec_driver_sql(CREATE_AUDIT_PARTITIONS)
        failpoints.point("commit.migrate")
    failpoints.point("commit.migrate", failpoints.AFTER)


@contextmanager
def connection_for_alembic(database: Database) -> Iterator[tuple[Connection, Config]]:
    """A transaction for alembic, and the configuration that tells alembic to use it."""
    from alembic.config import Config
    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.pool import NullPool

    config = Config()
    config.set_main_option("script_location", str(migrations_dir()).replace("%", "%%"))
    engine = create_engine(database.url, poolclass=NullPool, hide_parameters=True)
    try:
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            yield connection, config
            connection.commit()
    except DBAPIError as error:
        meaning = translated(error.orig) if isinstance(error.orig, psycopg.Error) else None
        raise meaning or error from error


def require_current(database: Database) -> None:
    """Raise ConfigurationError unless the schema of the database is that of this program."""
    found = state(database)
    if not found.is_current:
        has = f"is at revision {found.current}" if found.current else "has no schema yet"
        raise ConfigurationError(f"the database {has}, this program needs {found.wanted}; {found.remedy}")
    with database.read() as unit:
        if feed_epoch.was_moved(unit):
            raise ConfigurationError("the database was restored from another server; run: ccat-wm db upgrade")
