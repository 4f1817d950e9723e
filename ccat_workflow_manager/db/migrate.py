"""Bring a database to the schema of this program, and refuse one that is not there."""

from __future__ import annotations

from dataclasses import dataclass

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from alembic import command
from ccat_workflow_manager.db import feed_epoch
from ccat_workflow_manager.db.partitions import CREATE_AUDIT_PARTITIONS, CREATE_EVENT_PARTITIONS
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.errors import ConfigurationError
from ccat_workflow_manager.settings import migrations_dir

_LOCK = 0x63636174
"""The key of an advisory lock: processes that start together migrate one after the other."""


@dataclass(frozen=True, slots=True)
class SchemaState:
    """The revision that a database has, and the one that this program needs."""

    current: str | None
    wanted: str

    @property
    def is_current(self) -> bool:
        return self.current == self.wanted


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_dir()).replace("%", "%%"))
    return config


def state(database: Database) -> SchemaState:
    with database.read() as unit:
        current = MigrationContext.configure(unit.connection).get_current_revision()
    wanted = ScriptDirectory.from_config(_config()).get_current_head()
    assert wanted is not None
    return SchemaState(current, wanted)


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
        config = _config()
        with database.begin("commit.migrate") as unit:
            unit.execute("SELECT pg_advisory_xact_lock(:key)", {"key": _LOCK})
            config.attributes["connection"] = unit.connection
            try:
                command.upgrade(config, "head")
            except CommandError as error:
                known = f"the database is at revision {before.current}, which this program does not know"
                raise ConfigurationError(f"{known}; use the version that made it, or an empty database") from error
            unit.execute(CREATE_EVENT_PARTITIONS)
            unit.execute(CREATE_AUDIT_PARTITIONS)
    feed_epoch.signing_key(database)
    with database.begin("commit.feed-epoch") as unit:
        unit.execute("SELECT pg_advisory_xact_lock(:key)", {"key": _LOCK})
        feed_epoch.begin_epoch(unit)
    return before


def require_current(database: Database) -> None:
    """Raise ConfigurationError unless the schema of the database is that of this program."""
    found = state(database)
    if not found.is_current:
        has = f"is at revision {found.current}" if found.current else "has no schema yet"
        raise ConfigurationError(f"the database {has}, this program needs {found.wanted}; run: ccat-wm db upgrade")
    with database.read() as unit:
        if feed_epoch.was_moved(unit):
            raise ConfigurationError("the database was restored from another server; run: ccat-wm db upgrade")
