"""A migrated database, and everything a process works with on top of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.migrate import upgrade
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.services import collect
from ccat_workflow_manager.settings import load_settings
from tests.support.fixtures_servers import Databases
from tests.support.waiting import PATIENCE

ContextMaker = Callable[..., Context]


def migrate(url: str) -> None:
    database = Database(url)
    upgrade(database)
    database.close()


@pytest.fixture
def migrated_url(databases: Databases) -> Iterator[str]:
    """A database with our schema and nothing in it."""
    with databases.borrow(migrate) as url:
        yield url


@pytest.fixture
def make_context(
    migrated_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ContextMaker]:
    """Contexts of as many processes as a test wants to be, all of one deployment."""
    # What a launch collects at once does not depend on how quick the machine is.
    monkeypatch.setattr(collect, "_AT_ONCE_SECONDS", PATIENCE)
    made: list[Context] = []

    def make(*backends: str, **settings: Any) -> Context:
        context = Context(
            load_settings(
                {
                    "DATABASE_URL": migrated_url,
                    "REDIS_URL": redis_url,
                    "DATA_DIR": str(tmp_path / "data"),
                    "HPC_BACKEND": (backends or ("noop",))[0],
                    "CONTAINER_RUNTIME": "none",
                    "KILL_GRACE_SECONDS": 1,
                    **settings,
                }
            ),
            backends=backends or ("noop",),
        )
        made.append(context)
        return context

    yield make
    for context in made:
        context.close()


@pytest.fixture
def context(make_context: ContextMaker) -> Context:
    return make_context("noop")
