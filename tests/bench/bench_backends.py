"""Every backend: how fast jobs are submitted, and what looking at them costs while there are few and many.

A call is what the service behind a backend is asked: a command, a request, a message. Jobs sleep or wait for a place.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from unittest import mock

from ccat_workflow_manager import shell
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.errors import BackendError
from ccat_workflow_manager.hpc.base import HPCBackend, JobRequest
from ccat_workflow_manager.hpc.dask.client import SchedulerClient
from ccat_workflow_manager.hpc.kubernetes.client import KubernetesClient
from ccat_workflow_manager.hpc.supervisor.link import Conversation
from ccat_workflow_manager.lifecycle.models import Resources
from ccat_workflow_manager.settings import load_settings
from tests.backends.dask.cluster import DaskCluster
from tests.backends.slurm.cluster import Cluster
from tests.bench.figures import Figure, middle, ratio_at_most, told
from tests.bench.sizes import Sizes
from tests.flow.sites import SITES, Ground, Site
from tests.parts import found
from tests.stand_ins.aws_batch.server import StandIn
from tests.support.reaper import Reaper
from tests.support.waiting import wait_until

LOOKS_PER_MINUTE = 12
"""With FOLLOW_SECONDS = 5."""
RESOURCES = Resources(cpu=1, memory_gb=0.1, time_hours=1)

Counter = Callable[[], int]
Counting = Callable[[Ground], AbstractContextManager[Counter]]


@contextmanager
def _calls_of(owner: Any, name: str, ground: Ground) -> Iterator[Counter]:
    """How often this function is called."""
    calls = 0
    real = getattr(owner, name)

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return real(*args, **kwargs)

    with mock.patch.object(owner, name, counted):
        yield lambda: calls


@contextmanager
def _requests_to_aws(ground: Ground) -> Iterator[Counter]:
    calls = ground.fixture("aws_batch_stand_in").calls
    before = sum(calls.values())
    yield lambda: sum(calls.values()) - before


@dataclass(frozen=True, slots=True)
class Measured:
    """How a backend is measured."""

    site: Site
    counting: Counting | None = None
    """None: it asks nobody but files and itself."""
    most: int = 1_000_000
    """More jobs than these its stand-in cannot hold on one machine."""
    settings: Mapping[str, str] = field(default_factory=dict)


def _plan() -> dict[str, Measured]:
    counting: dict[str, Counting] = {
        "local": partial(_calls_of, Conversation, "ask"),
        "slurm": partial(_calls_of, shell, "run"),
        "pbs": partial(_calls_of, shell, "run"),
        "kubernetes": partial(_calls_of, KubernetesClient, "call"),
        "aws_batch": _requests_to_aws,
        "dask": partial(_calls_of, SchedulerClient, "ask"),
    }
    most = {"pbs": 50}  # each job of the fake is a Python of its own
    # Looks follow each other without a pause here: none is to be answered from the one before.
    settings = {"slurm": {"CCAT_WORKFLOW_MANAGER_SLURM_POLL_SECONDS": "0"}}
    plan = {
        name: Measured(site, counting.get(name), most.get(name, 1_000_000), settings.get(name, {}))
        for name, site in SITES.items()
    }
    return {"noop": Measured(Site(), settings={"CCAT_WORKFLOW_MANAGER_NOOP_DELAY_SECONDS": "3600"}), **plan}


# --- measuring --------------------------------------------------------------------------------------------------------


def backends(parent: Path, sizes: Sizes, names: Sequence[str] = ()) -> Iterator[Figure]:
    """All that can be had on this machine, or these."""
    for name, measured in _plan().items():
        if names and name not in names:
            continue
        if missing := [part for part in measured.site.needs if not found(part)]:
            print(f"  {name} left out: no {', '.join(missing)} on this machine (`make lab` installs it)")
            continue
        print(f"  {name} ...", flush=True)
        reaper = Reaper()
        try:
            with ExitStack() as stack:
                directory = Path(mkdtemp(dir=parent, prefix=f"{name}-"))
                ground = Ground(_Fixtures(reaper, directory, stack).get, reaper, directory, stack)
                yield from _measure(name, measured, ground, sizes)
        finally:
            reaper.reap()


def _measure(name: str, measured: Measured, ground: Ground, sizes: Sizes) -> Iterator[Figure]:
    few, many = (min(number, measured.most) for number in sizes.backend_jobs)
    with mock.patch.dict(os.environ, {**measured.site.environment(ground), **measured.settings}):
        context = Context(load_settings({"DATA_DIR": str(ground.directory / "data"), "KILL_GRACE_SECONDS": 0}))
        backend = context.backend(name)
        attempts = ground.directory / "data" / "pipelines"
        attempts.mkdir(parents=True)
        # The first job pays for connections, pools and pilots.
        first = _submit(backend, attempts, few)
        _until_all_are_live(backend, first, measured.site.patience_seconds)
        calls_few, _ = _looks(backend, first, measured, ground, sizes)
        began = time.perf_counter()
        ids = first + _submit(backend, attempts, many - few)
        seconds = time.perf_counter() - began
        _until_all_are_live(backend, ids, measured.site.patience_seconds)
        calls, took = _looks(backend, ids, measured, ground, sizes)
        yield told(f"{name}: submitting {many - few:,} jobs at once", (many - few) / seconds, "jobs/s")
        yield told(f"{name}: one look at {many:,} live jobs", took * 1000, "ms")
        if measured.counting is not None:
            what = f"{name}: status calls with {many:,} live jobs"
            yield ratio_at_most(what, calls, "calls/min", calls_few, f"with {few:,}", 1.5)
        backend.cancel_many(ids)
        wait_until(
            lambda: all(info.finished for info in backend.get_statuses(ids).values()), 300, "all to be cancelled"
        )
        backend.cleanup_many(ids)
        backend.close()


def _submit(backend: HPCBackend, directory: Path, count: int) -> list[str]:
    results = backend.submit_many(_requests(directory, count))
    for result in results:
        if isinstance(result, BackendError):
            raise result
    return [result for result in results if isinstance(result, str)]


def _requests(directory: Path, count: int) -> list[JobRequest]:
    made = []
    for number in range(count):
        attempt = Path(mkdtemp(dir=directory, prefix=f"{number}-"))
        for name in ("workspace", "logs", "output.partial", "input", "config"):
            (attempt / name).mkdir()
        manifest = attempt / "config" / "manifest.json"
        manifest.write_text("{}")
        made.append(
            JobRequest(
                ("/bin/sleep", "3600"), None, None, str(attempt / "input"), str(attempt / "output.partial"),
                str(attempt / "workspace"), str(manifest), RESOURCES, {}, f"ccat-{os.urandom(16).hex()}-1",
            )
        )  # fmt: skip
    return made


def _until_all_are_live(backend: HPCBackend, ids: Sequence[str], seconds: float) -> None:
    def live() -> bool:
        statuses = {info.status for info in backend.get_statuses(ids).values()}
        return statuses <= {"pending", "running"}

    wait_until(live, seconds, "all jobs to wait or to run")


def _looks(
    backend: HPCBackend, ids: Sequence[str], measured: Measured, ground: Ground, sizes: Sizes
) -> tuple[float, float]:
    """Calls of a minute, and seconds of one look."""
    took = []
    with measured.counting(ground) if measured.counting is not None else _nothing() as calls:
        for _ in range(sizes.backend_looks):
            began = time.perf_counter()
            backend.get_statuses(ids)
            took.append(time.perf_counter() - began)
        return calls() / sizes.backend_looks * LOOKS_PER_MINUTE, middle(took)


@contextmanager
def _nothing() -> Iterator[Counter]:
    yield lambda: 0


# --- what fixtures are in tests ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Fixtures:
    """Each started when it is first wanted, and ended with the bench."""

    reaper: Reaper
    directory: Path
    stack: ExitStack
    made: dict[str, Any] = field(default_factory=dict)

    def get(self, name: str) -> Any:
        if name not in self.made:
            makers = {
                "slurm_cluster": self._slurm, "standing_dask_cluster": self._dask, "aws_batch_stand_in": self._aws,
            }  # fmt: skip
            self.made[name] = makers[name]()
        return self.made[name]

    def _slurm(self) -> Cluster:
        cluster = Cluster(self.reaper)
        self.stack.callback(cluster.close)
        cluster.start()
        return cluster

    def _dask(self) -> DaskCluster:
        cluster = DaskCluster(self.reaper)
        self.stack.callback(cluster.close)
        cluster.start()
        return cluster

    def _aws(self) -> StandIn:
        stand_in = StandIn(self.directory / "aws", scale=0.05).start()
        self.stack.callback(stand_in.close)
        stand_in.site.held = True
        return stand_in
