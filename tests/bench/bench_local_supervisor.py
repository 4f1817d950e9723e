"""How many `/bin/true` a second the local backend runs, beside a bare loop that spawns `sh -c`. Run it by hand:

python -m tests.bench.bench_local_supervisor [JOBS]
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Event

from ccat_workflow_manager.hpc.base import JobRequest
from ccat_workflow_manager.hpc.local import LocalBackend
from ccat_workflow_manager.lifecycle.models import Resources

_RESOURCES = Resources(cpu=0.25, memory_gb=0.05, time_hours=1)


def bare(jobs: int) -> float:
    """Spawn `sh -c /bin/true` one after the other; per second."""
    began = time.perf_counter()
    for _ in range(jobs):
        os.waitpid(os.posix_spawn("/bin/sh", ["sh", "-c", "/bin/true; exit $?"], {}), 0)
    return jobs / (time.perf_counter() - began)


def request(directory: Path, number: int) -> JobRequest:
    attempt = directory / str(number)
    (attempt / "workspace").mkdir(parents=True)
    (attempt / "logs").mkdir()
    return JobRequest(
        ["/bin/true"], None, None, "", "", str(attempt / "workspace"), "", _RESOURCES, {"A": "b"}, f"job-{number}"
    )


def supervised(jobs: int, directory: Path, redis_url: str | None = None) -> tuple[float, float]:
    """Jobs per second from `submit_many` to the news of the last end, and median milliseconds of a lone job."""
    backend = LocalBackend(state_dir=str(directory / "state"), max_cpu=2, max_memory_gb=2, redis_url=redis_url)
    requests = [request(directory, number) for number in range(jobs + 50)]
    ended: set[str] = set()
    rung = Event()

    def on_change(job_ids: Sequence[str]) -> None:
        ended.update(job_ids)
        rung.set()

    backend.submit_many(requests[:1])
    stop = backend.listen(on_change)
    lone = []
    for each in requests[1:50]:
        began = time.perf_counter()
        [job_id] = backend.submit_many([each])
        while job_id not in ended:
            rung.wait()
            rung.clear()
        lone.append(time.perf_counter() - began)
    ended.clear()
    began = time.perf_counter()
    ids = backend.submit_many(requests[50:])
    submitted = time.perf_counter()
    while len(ended) < jobs:
        rung.wait()
        rung.clear()
    seconds = time.perf_counter() - began
    statuses = backend.get_statuses([each for each in ids if isinstance(each, str)])
    assert {info.status for info in statuses.values()} == {"completed"}, set(statuses.values())
    print(f"  submitted after {submitted - began:.2f} s of {seconds:.2f} s")
    stop()
    backend.cleanup_many(list(statuses))
    backend._link.ask({"do": "leave"})
    backend.close()
    return jobs / seconds, sorted(lone)[len(lone) // 2] * 1000


def main() -> None:
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    with tempfile.TemporaryDirectory() as directory:
        before = bare(jobs // 4)
        rate, lone = supervised(jobs, Path(directory))
        after = bare(jobs // 4)
    loop = (before + after) / 2
    print(f"bare loop of sh -c          {loop:8.0f} jobs/s")
    print(f"local backend, submit_many  {rate:8.0f} jobs/s  ({rate / loop:.2f} x)")
    print(f"a lone job, submit to news  {lone:8.2f} ms")


if __name__ == "__main__":
    main()
