"""The concurrent backend keeps the contract with threads and with processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from ccat_workflow_manager.hpc.concurrent.backend import ConcurrentBackend
from ccat_workflow_manager.testing.backend_contract import BackendContract, BackendHarness
from ccat_workflow_manager.testing.harness import Job


class ConcurrentHarness(BackendHarness):
    """The "service" of this backend is the directory in which it stores its tickets."""

    @property
    def state_dir(self) -> Path:
        return Path(self.config["state_dir"])

    @contextmanager
    def service_down(self) -> Iterator[None]:
        aside = self.state_dir.rename(self.state_dir.with_suffix(".aside"))
        try:
            yield
        finally:
            aside.rename(self.state_dir)

    @contextmanager
    def corrupt_answer(self, job: Job) -> Iterator[None]:
        ticket = self.state_dir / f"{job.id}.ticket"
        sound = ticket.read_text()
        ticket.write_text(sound[: len(sound) // 2])
        try:
            yield
        finally:
            ticket.write_text(sound)


class _Concurrent(BackendContract):
    not_claimed = frozenset({"fifty_ids_one_status_call"})
    executor: ClassVar[str]

    def make_harness(self, workdir: Path) -> BackendHarness:
        config: dict[str, Any] = {
            "state_dir": str(workdir / "state"),
            "executor": self.executor,
            "max_workers": 4,
            "kill_grace_seconds": 0.3,
        }
        harness = ConcurrentHarness(
            create=partial(ConcurrentBackend, **config),
            workdir=workdir,
            factory="ccat_workflow_manager.hpc.concurrent.backend:ConcurrentBackend",
            config=config,
            followed_elsewhere=True,
        )
        ordinary = harness.resources
        harness.refused = [
            replace(ordinary, partition="science"),
            replace(ordinary, account="ccat"),
            replace(ordinary, cpu=100_000),
            replace(ordinary, memory_gb=10_000_000),
        ]
        return harness


class TestThreads(_Concurrent):
    executor = "thread"


class TestProcesses(_Concurrent):
    executor = "process"
