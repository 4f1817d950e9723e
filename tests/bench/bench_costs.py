"""What runs cost in PostgreSQL. These are counts, so they mean the same on a slow and on a fast machine."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ccat_workflow_manager.embedded import EmbeddedPostgres
from tests.bench.deployment import Deployment
from tests.bench.figures import Figure, at_most, told
from tests.bench.sizes import Sizes
from tests.support.waiting import wait_for

_SETTINGS = {"log_min_duration_statement": "0", "log_line_prefix": "'%a|'"}
_STATEMENT = re.compile(r"^ccat-wm \d+\|LOG:  duration: \S+ ms  (?:execute \S+|statement):\s+(\w+)", re.MULTILINE)
_TRANSACTION = ("BEGIN", "COMMIT", "ROLLBACK")


def costs(there: Deployment, sizes: Sizes) -> Iterator[Figure]:
    pipeline = there.add_pipeline()
    for backend in ("local", "noop"):
        there.warm_up(pipeline, backend=backend)
    found = [_statements(there, lambda: _lone(there, pipeline)) for _ in range(sizes.lone_runs)]
    words = sorted(found, key=len)[len(found) // 2]
    statements = [word for word in words if word not in _TRANSACTION]
    yield at_most("statements of a lone run with local", len(statements), "", 8)
    yield told("its commits of transactions", words.count("COMMIT"), "")
    wal, commits = _position(there), _commits(there)
    there.bulk(pipeline, sizes.noop_runs)
    there.wait_idle()
    yield at_most("WAL of a noop run in bulk", (_position(there) - wal) / sizes.noop_runs / 1000, "kB", 3)
    yield told("its commits", (_commits(there) - commits) / sizes.noop_runs, "")


def _lone(there: Deployment, pipeline: str) -> None:
    """One run to its end, which is awaited without the API."""
    run_id = there.call("POST", "/runs", {"pipeline": pipeline, "backend": "local"})["id"]
    look = "SELECT status FROM runs WHERE id = %s"
    wait_for(lambda: there.sql.execute(look, [run_id]).fetchone() == ("COMPLETED",), 30, "the run to end", 0.01)


def _statements(there: Deployment, act: Callable[[], None]) -> list[str]:
    """The first words of the statements of managers and workers meanwhile, without those of the loops."""
    log = EmbeddedPostgres(there.data_dir).log_file
    with _logged(there, log):
        start = log.stat().st_size
        act()
        # The line of a statement is written after its answer was sent.
        mark = "SELECT 'the last statement'"
        there.sql.execute(mark)
        wait_for(lambda: mark in _from(log, start), 10, "the log of PostgreSQL")
        return _STATEMENT.findall(_from(log, start))


@contextmanager
def _logged(there: Deployment, log: Path) -> Iterator[None]:
    """PostgreSQL logs every statement with the name of its client."""
    for name, value in _SETTINGS.items():
        there.sql.execute(f"ALTER SYSTEM SET {name} = {value}".encode())
    there.sql.execute("SELECT pg_reload_conf()")
    size = log.stat().st_size
    mark = "SELECT 'statements are logged'"

    def is_logged() -> bool:
        there.sql.execute(mark)
        return mark in _from(log, size)

    wait_for(is_logged, 10, "PostgreSQL to log statements")
    try:
        yield
    finally:
        for name in _SETTINGS:
            there.sql.execute(f"ALTER SYSTEM RESET {name}".encode())
        there.sql.execute("SELECT pg_reload_conf()")


def _from(log: Path, start: int) -> str:
    with log.open("rb") as file:
        file.seek(start)
        return file.read().decode(errors="replace")


def _position(there: Deployment) -> int:
    """Bytes of WAL that the server has written so far."""
    row = there.sql.execute("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint").fetchone()
    assert row is not None
    return int(row[0])


def _commits(there: Deployment) -> int:
    there.sql.execute("SELECT pg_stat_force_next_flush()")
    row = there.sql.execute("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()").fetchone()
    assert row is not None
    return int(row[0])
