"""The migrations make exactly the schema of `db.schema`."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from alembic import command
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db import migrate
from ccat_workflow_manager.db.conditions import RUN_STATUS_SQL, counter
from ccat_workflow_manager.db.schema import metadata
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.errors import ConfigurationError
from ccat_workflow_manager.lifecycle.states import Status, run_status

_CATALOG = {
    "columns": """
        SELECT table_name, column_name, data_type, is_nullable, column_default, is_generated, generation_expression
        FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'alembic_version'""",
    "indexes": """
        SELECT tablename, indexname, indexdef FROM pg_indexes
        WHERE schemaname = 'public' AND tablename <> 'alembic_version'""",
    "options": """
        SELECT relname, reloptions::text FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND reloptions IS NOT NULL""",
}  # fmt: skip


def catalog(url: str) -> dict[str, list[Any]]:
    engine = create_engine(url)
    with engine.connect() as connection:
        found = {name: sorted(map(tuple, connection.execute(text(sql))), key=repr) for name, sql in _CATALOG.items()}
    engine.dispose()
    return found


def test_migrations_and_description_agree(databases: Any, migrated_url: str) -> None:
    described = databases.create()
    engine = create_engine(described)
    metadata.create_all(engine)
    engine.dispose()
    by_migration, by_description = catalog(migrated_url), catalog(described)
    for part in _CATALOG:
        assert by_migration[part] == by_description[part], part
    databases.drop(described)


def test_migrations_go_back_and_forth(context: Context, migrated_url: str) -> None:
    before = catalog(migrated_url)
    with migrate.connection_for_alembic(context.database) as (_, config):
        command.downgrade(config, "base")
    assert catalog(migrated_url)["columns"] == []
    assert migrate.upgrade(context.database).current is None
    assert catalog(migrated_url) == before


@pytest.mark.parametrize("revision", ["9999", "0001", "0002"])
def test_a_database_of_another_version_is_refused(context: Context, revision: str) -> None:
    version = "UPDATE alembic_version SET version_num = :version"
    with context.database.begin() as unit:
        current = unit.execute("SELECT version_num FROM alembic_version").scalar_one()
        unit.execute(version, {"version": revision})
    try:
        with pytest.raises(ConfigurationError, match=f"revision {revision}.*use the version") as refused:
            migrate.require_current(context.database)
        assert "db upgrade" not in refused.value.message  # it would be refused, too
        with pytest.raises(ConfigurationError, match=f"revision {revision}"):
            migrate.upgrade(context.database)
    finally:
        # Other tests use this database as well.
        with context.database.begin() as unit:
            unit.execute(version, {"version": current})


@pytest.mark.parametrize(
    ("current", "oldest", "works"),
    [(0, None, True), (1, None, False), (1, 0, True), (1, 1, False), (-1, -1, False), (None, None, False)],
)
def test_a_later_schema_says_which_programs_may_work_with_it(
    current: int | None, oldest: int | None, works: bool
) -> None:
    wanted = 7
    texts = [None if each is None else f"{wanted + each:04}" for each in (current, oldest)]
    assert migrate.SchemaState(texts[0], f"{wanted:04}", texts[1]).is_current is works


def test_a_database_without_a_schema_is_refused_until_it_is_upgraded(postgres_url: str) -> None:
    database = Database(postgres_url)
    with pytest.raises(ConfigurationError, match="ccat-wm db upgrade"):
        migrate.require_current(database)
    migrate.upgrade(database)
    migrate.require_current(database)
    assert migrate.upgrade(database).is_current
    database.close()


def test_a_database_that_cannot_hold_every_text_is_refused(databases: Any) -> None:
    url = databases.create(" ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'")
    database = Database(url)
    with pytest.raises(ConfigurationError, match="SQL_ASCII"):
        migrate.upgrade(database)
    database.close()
    databases.drop(url)


def test_the_status_of_a_run_is_one_rule_in_two_languages(postgres_url: str) -> None:
    combinations = [{status: (number >> bit) & 1 for bit, status in enumerate(Status)} for number in range(1, 512)]
    columns = ", ".join(counter(status) for status in Status)
    engine = create_engine(postgres_url)
    with engine.connect() as connection:
        cases = list(product(combinations, (False, True)))
        values = [
            f"({number}, {tolerated}, {', '.join(str(counts[status]) for status in Status)})"
            for number, (counts, tolerated) in enumerate(cases)
        ]
        table = f"(VALUES {', '.join(values)}) AS t(number, tolerated, {columns})"
        found = connection.execute(text(f"SELECT {RUN_STATUS_SQL} FROM {table} ORDER BY number")).scalars()
        assert list(found) == [run_status(counts, tolerated=tolerated) for counts, tolerated in cases]
    engine.dispose()
