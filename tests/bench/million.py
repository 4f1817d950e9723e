"""Make a database with the invented history of many runs, and measure what it costs beside one of a thousand.

    python -m tests.bench.million --runs 1000000

needs 15 GB in the directory of temporary files, or in `--directory`, for a million. With `--keep` the database stays,
and `--kept PATH` measures it again.
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
from ccat_workflow_manager.embedded import EmbeddedPostgres, EmbeddedValkey
from ccat_workflow_manager.managers.loops import FiguresLoop
from tests.bench.filling import fill
from tests.bench.measuring import measure

FEW = 1000
MOST_MILLISECONDS = 100
MOST_RATIO = 2


@contextmanager
def server(directory: Path | None, *, keep: bool) -> Iterator[str]:
    """The URL of a database in a directory, which is removed at the end unless it is to be kept."""
    home = Path(tempfile.mkdtemp(prefix="ccat-million-", dir=directory))
    try:
        with _running(EmbeddedPostgres(home)) as url:
            yield url
    finally:
        if keep:
            print(f"kept: {home}")
        else:
            shutil.rmtree(home)


@contextmanager
def _running(postgres: EmbeddedPostgres) -> Iterator[str]:
    try:
        yield postgres.start()
    finally:
        postgres.stop()


def count_figures(url: str) -> None:
    """Count the events into the figures, as managers do."""
    database = Database(url)
    FiguresLoop(database).tick()
    database.close()


def _measure(many: str, directory: Path | None) -> None:
    """Print the 95th percentile of every page, query and loop, with many runs and with few."""
    with server(directory, keep=False) as few, tempfile.TemporaryDirectory(prefix="ccat-million-") as home:
        fill(few, FEW)
        count_figures(few)
        valkey = EmbeddedValkey(Path(home))
        print(f"{'milliseconds, 95th percentile':64} {'many':>8} {FEW:>8} {'ratio':>6}")
        try:
            for cost in measure(many, few, valkey.start()):
                ratio = cost.many / cost.few
                missed = "" if cost.many < MOST_MILLISECONDS and ratio < MOST_RATIO else "  missed"
                print(f"{cost.what:64} {cost.many:8.1f} {cost.few:8.1f} {ratio:6.1f}{missed}", flush=True)
        finally:
            valkey.stop()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.million", description="Invent the history of many runs."
    )
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--directory", type=Path, help="where the database is made")
    parser.add_argument("--keep", action="store_true", help="leave the database there")
    parser.add_argument("--kept", type=Path, metavar="PATH", help="measure a database that was kept")
    arguments = parser.parse_args()
    if arguments.kept is not None:
        with _running(EmbeddedPostgres(arguments.kept)) as url:
            _measure(url, arguments.directory)
        return
    with server(arguments.directory, keep=arguments.keep) as url:
        begin = time.monotonic()
        fill(url, arguments.runs, say=True)
        print(f"filled in {time.monotonic() - begin:.0f} s", flush=True)
        begin = time.monotonic()
        count_figures(url)
        print(f"counted in {time.monotonic() - begin:.0f} s", flush=True)
        _measure(url, arguments.directory)


if __name__ == "__main__":
    main()
