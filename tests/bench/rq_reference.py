"""Plain RQ with two SimpleWorkers that run a command: what the local backend is held against.

python -m tests.bench.rq_reference REDIS_URL
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from redis import Redis
from rq import Queue, SimpleWorker, Worker

from tests.support.waiting import wait_until

_QUEUE = "bench"
_COMMAND = ["/bin/true"]


def run_true() -> None:
    subprocess.run(_COMMAND, check=True)


@contextmanager
def two_workers(url: str) -> Iterator[Queue]:
    """Two SimpleWorkers that wait for work, and their queue."""
    connection = Redis.from_url(url)
    processes = [subprocess.Popen([sys.executable, "-m", __name__, url]) for _ in range(2)]
    try:
        wait_until(lambda: len(Worker.all(connection)) == 2, 30, "the workers of the reference")
        queue = Queue(_QUEUE, connection=connection)
        rate(queue, 20)
        yield queue
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)
        connection.close()


def rate(queue: Queue, count: int) -> float:
    """Run the command so many times: per second, from the first enqueue to the last end."""
    connection, finished = queue.connection, queue.finished_job_registry.key
    connection.delete(finished)
    began = time.perf_counter()
    queue.enqueue_many([Queue.prepare_data(run_true, timeout=60) for _ in range(count)])
    wait_until(lambda: connection.zcard(finished) == count, 110, "the jobs of the reference")
    return count / (time.perf_counter() - began)


if __name__ == "__main__":
    there = Redis.from_url(sys.argv[1])
    SimpleWorker([_QUEUE], connection=there).work(logging_level="WARNING")
