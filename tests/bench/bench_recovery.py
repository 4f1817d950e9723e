"""How long a deployment with the shipped settings needs to go on by itself after something has died."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from uuid import UUID

import psycopg

from ccat_workflow_manager.embedded import EmbeddedPostgres, EmbeddedValkey
from tests.bench.client import Refused
from tests.bench.deployment import Deployment
from tests.bench.figures import Figure, at_most
from tests.bench.sizes import Sizes
from tests.support.waiting import wait_for, wait_until

_LOOK_SECONDS = 0.01
_PATIENCE_SECONDS = 100
_HELD = "SELECT id FROM step_runs WHERE status = 'STAGING_DATA' AND lease_owner LIKE %s AND lease_until > now()"
_AGAIN = "SELECT count(*) FROM step_runs WHERE id = ANY(%s) AND status IN ('PENDING', 'STAGING_DATA')"


def recovery(there: Deployment, sizes: Sizes) -> Iterator[Figure]:
    """The longest of several deaths each."""
    pipeline = there.add_pipeline()
    there.warm_up(pipeline, backend="noop")
    if sizes.worker_deaths:
        longest = max(_worker_dies(there, pipeline) for _ in range(sizes.worker_deaths))
        yield at_most("a worker is killed: until what it held is launched again", longest, "s", 30)
    longest = max(_redis_dies(there, pipeline) for _ in range(sizes.server_deaths))
    yield at_most("Redis is killed: until a run that was created then is over", longest, "s", 15)
    longest = max(_postgres_dies(there, pipeline) for _ in range(sizes.server_deaths))
    yield at_most("PostgreSQL is killed: from its return until a new run is over", longest, "s", 10)


def _worker_dies(there: Deployment, pipeline: str) -> float:
    """Kill a worker that has claimed step runs and not yet submitted them."""
    pid, held = _caught(there, pipeline)
    os.kill(pid, signal.SIGKILL)
    died = time.perf_counter()
    wait_until(lambda: there.sql.execute(_AGAIN, [held]).fetchone() == (0,), _PATIENCE_SECONDS, "their launch")
    seconds = time.perf_counter() - died
    there.wait_idle()
    wait_for(lambda: len(there.call("GET", "/workers")["items"]) >= 2, _PATIENCE_SECONDS, "another worker")
    return seconds


def _caught(there: Deployment, pipeline: str) -> tuple[int, list[UUID]]:
    """A worker that is stopped with step runs in its hands, and these."""
    while True:
        there.bulk(pipeline, 1000, backend="noop")
        for pid in [pid for pid, name in there.pids().items() if name == "worker"] * 20:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                held = [row[0] for row in there.sql.execute(_HELD, [f"%:{pid}:%"]).fetchall()]
                if held:
                    return pid, held
                os.kill(pid, signal.SIGCONT)
        there.wait_idle()


def _redis_dies(there: Deployment, pipeline: str) -> float:
    server = EmbeddedValkey(there.data_dir)
    pid = wait_for(lambda: server.pid, _PATIENCE_SECONDS, "Redis")
    os.kill(pid, signal.SIGKILL)
    died = time.perf_counter()
    _complete_one(there, pipeline)
    seconds = time.perf_counter() - died
    wait_for(lambda: server.pid, _PATIENCE_SECONDS, "Redis")
    return seconds


def _postgres_dies(there: Deployment, pipeline: str) -> float:
    """Stopped at once (SIGQUIT), as after a crash; the service starts its embedded server again by itself."""
    server = EmbeddedPostgres(there.data_dir)
    pid = wait_for(lambda: server.pid, _PATIENCE_SECONDS, "PostgreSQL")
    there.sql.close()
    del there.sql
    os.kill(pid, signal.SIGQUIT)
    wait_until(lambda: server.pid != pid, _PATIENCE_SECONDS, "the end of PostgreSQL")
    wait_until(lambda: _accepts(there), _PATIENCE_SECONDS, "PostgreSQL to be back")
    back = time.perf_counter()
    wait_until(lambda: _promised(there, pipeline), _PATIENCE_SECONDS, "a promise")
    there.wait_idle()
    return time.perf_counter() - back


def _accepts(there: Deployment) -> bool:
    try:
        psycopg.connect(there.database_url.replace("+psycopg", "")).close()
    except psycopg.OperationalError:
        return False
    return True


def _promised(there: Deployment, pipeline: str) -> bool:
    """Whether a run could be created; a client that gets no answer asks again."""
    try:
        there.bulk(pipeline, 1, backend="noop")
    except (OSError, Refused):
        return False
    return True


def _complete_one(there: Deployment, pipeline: str) -> None:
    [run_id] = there.bulk(pipeline, 1, backend="noop")
    path = f"/runs/{run_id}"
    wait_for(
        lambda: there.call("GET", path)["status"] == "COMPLETED", _PATIENCE_SECONDS, "the run to end", _LOOK_SECONDS
    )
