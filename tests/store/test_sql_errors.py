"""What an error of PostgreSQL means."""

from __future__ import annotations

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.db.sql_errors import RolledBack, RowRefused
from ccat_workflow_manager.errors import ServiceUnavailable

_RAISE = "DO $$ BEGIN RAISE EXCEPTION 'words' USING ERRCODE = '{state}'; END $$"
MEANINGS = {
    "22003": RowRefused,
    "22P05": RowRefused,
    "23505": RowRefused,
    "54000": RowRefused,
    "40001": RolledBack,
    "40P01": RolledBack,
    "08006": ServiceUnavailable,
    "53100": ServiceUnavailable,
    "57P01": ServiceUnavailable,
    "57014": ServiceUnavailable,
    "58030": ServiceUnavailable,
}


@pytest.mark.parametrize(("state", "meaning"), MEANINGS.items(), ids=MEANINGS)
def test_states(context: Context, state: str, meaning: type[Exception]) -> None:
    with pytest.raises(meaning), context.database.begin() as unit:
        unit.execute(_RAISE.format(state=state))


def test_a_fault_of_this_program_stays_what_it_is(context: Context) -> None:
    with pytest.raises(Exception, match="syntax error") as raised, context.database.begin() as unit:
        unit.execute("SELEKT 1")
    assert not isinstance(raised.value, ServiceUnavailable | RowRefused)


def test_a_statement_of_the_api_has_an_end(migrated_url: str) -> None:
    database = Database(migrated_url, statement_seconds=1)
    try:
        with pytest.raises(ServiceUnavailable, match="STATEMENT_SECONDS"), database.read() as unit:
            unit.execute("SELECT pg_sleep(1000)")
        with database.read() as unit:
            unit.ping()
    finally:
        database.close()


def test_a_transaction_that_the_server_rolls_back_is_repeated(context: Context) -> None:
    tries = []

    def work(unit: object) -> int:
        tries.append(unit)
        if len(tries) < 3:
            raise RolledBack("again")
        return len(tries)

    assert context.database.transact("commit.cancel", work) == 3
