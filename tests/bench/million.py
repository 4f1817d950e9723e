"""Make a database with the invented history of many runs.

    python -m tests.bench.million --runs 1000000

needs 15 GB in the directory of temporary files, or in `--directory`, for a million. With `--keep` the database stays.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.embedded import EmbeddedPostgres
from ccat_workflow_manager.managers.loops import FiguresLoop
from tests.bench.filling import fill


@contextmanager
def server(directory: Path | None, *, keep: bool) -> Iterator[str]:
    """The URL of a database in a directory, which is removed at the end unless it is to be kept."""
    home = Path(tempfile.mkdtemp(prefix="ccat-million-", dir=directory))
    postgres = EmbeddedPostgres(home)
    try:
        yield postgres.start()
    finally:
        postgres.stop()
        if keep:
            print(f"kept: {home}")
        else:
            shutil.rmtree(home)


def count_figures(url: str) -> None:
    """Count the events into the figures, as managers do."""
    database = Database(url)
    FiguresLoop(database).tick()
    database.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.million", description="Invent the history of many runs."
    )
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--directory", type=Path, help="where the database is made")
    parser.add_argument("--keep", action="store_true", help="leave the database there")
    arguments = parser.parse_args()
    with server(arguments.directory, keep=arguments.keep) as url:
        begin = time.monotonic()
        fill(url, arguments.runs, say=True)
        print(f"filled in {time.monotonic() - begin:.0f} s", flush=True)
        begin = time.monotonic()
        count_figures(url)
        print(f"counted in {time.monotonic() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
