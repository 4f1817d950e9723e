"""What the parts can do on this machine now: with these the other figures can be compared between machines and days."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from tests.bench.deployment import Deployment
from tests.bench.figures import Figure, told
from tests.bench.sizes import Sizes


def commits(there: Deployment, count: int) -> float:
    """Committed single-row inserts on one connection, per second."""
    there.sql.execute("CREATE TABLE IF NOT EXISTS commits (id bigint PRIMARY KEY, body text)")
    there.sql.execute("TRUNCATE commits")
    began = time.perf_counter()
    for number in range(count):
        there.sql.execute("INSERT INTO commits VALUES (%s, 'x')", [number])
    return count / (time.perf_counter() - began)


def spawn_seconds() -> float:
    """From the start of `/bin/true` to its end."""
    began = time.perf_counter()
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
    return time.perf_counter() - began


def machine(there: Deployment, sizes: Sizes) -> Iterator[Figure]:
    yield told("PostgreSQL, single-row inserts, each committed", commits(there, sizes.commits), "rows/s")
    yield told(
        "/bin/true, one after the other", sizes.spawns / sum(spawn_seconds() for _ in range(sizes.spawns)), "runs/s"
    )
