"""An empty database with the schema of the product, which deployments of tests copy instead of making their own.

Making one costs more than anything else that a short test of a deployment does.
"""

from __future__ import annotations

import subprocess
import tempfile
from functools import cache
from pathlib import Path

import psycopg

from ccat_workflow_manager.db.migrate import upgrade
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.embedded import EmbeddedPostgres
from tests.support.reaper import Reaper


def give_database(data_dir: Path) -> None:
    """Put a stopped PostgreSQL with an empty database into a data directory that has none."""
    data_dir.mkdir(parents=True, exist_ok=True)
    server = EmbeddedPostgres(data_dir)
    if not server.home.exists():
        subprocess.run(["cp", "-a", str(EmbeddedPostgres(_prepared()[0]).home), str(server.home)], check=True)


@cache
def _prepared() -> tuple[Path, Reaper]:
    """The data directory that the others are copied from, and what removes it when this process has ended."""
    reaper = Reaper()
    directory = Path(tempfile.mkdtemp(prefix="ccat-wm-prepared-"))
    reaper.remove(directory)
    server = EmbeddedPostgres(directory, fsync=False)
    with server as url:
        assert server.pid is not None
        reaper.watch(server.pid)
        database = Database(url)
        upgrade(database)
        database.close()
        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            connection.execute("DELETE FROM feed")  # each copy makes a key of its own
    return directory, reaper
