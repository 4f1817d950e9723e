"""A controller that was killed comes back with a state from before: it does not know that jobs have started."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.backends.slurm.cluster import Cluster
from tests.backends.slurm.conftest import settings
from tests.backends.slurm.test_breakage import check_once, gate, gated, marks
from tests.support.fixtures_service import Service
from tests.support.reaper import Reaper
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.needs("slurm"), pytest.mark.slow]
__all__ = ["gate", "marks"]
KEYS = 4
OPEN = ("scontrol", "update", "partitionname=main")
REASONS = {"node_failure", "backend_failed", "lost"}


@pytest.fixture
def small_cluster(reaper: Reaper) -> Iterator[Cluster]:
    """Its controller waits long for a node that is silent."""
    cluster = Cluster(reaper, nodes=2, accounting=False, extra=["SlurmdTimeout=200"])
    cluster.start()
    yield cluster
    cluster.close()


class Forgetful:
    """A run of which every step run has started, and a controller that can forget that."""

    def __init__(self, service: Service, cluster: Cluster, gate: Path, marks: Path, keys: int) -> None:
        self.service, self.cluster, self.marks, self.keys = service, cluster, marks, keys
        cluster.ask(*OPEN, "state=down")
        self.run_id = service.submit(gated(gate, marks, keys))
        wait_until(lambda: len(self.listed("pending", "%i")) == keys, 30, "jobs that wait for their partition")
        self._go_back = cluster.remembers_until_now()
        cluster.ask(*OPEN, "state=up")
        wait_until(lambda: len(list(marks.iterdir())) == keys, 60, "all to start")

    def listed(self, states: str, field: str) -> list[str]:
        return self.cluster.ask("squeue", "-h", "-r", "-p", "main", "-t", states, "-o", field).split()

    def forget(self) -> None:
        """Kill the controller, unless it is dead, and start it with the state from before the jobs started."""
        self.cluster.kill_daemon("slurmctld")
        self._go_back()
        self.cluster.start_daemon("slurmctld")
        self.cluster.ask(*OPEN, "state=up")

    def steps(self) -> list[dict[str, Any]]:
        return list(self.service.run(self.run_id)["step_runs"])

    def check(self) -> list[int]:
        """Each attempt has started once, and none was stopped by a person. Returns the attempts of each step run."""
        status, steps = self.service.wait(self.run_id, 200)["status"], self.steps()
        assert status == "COMPLETED", [(step["reason_text"], self.service.attempts(step)) for step in steps]
        for step in steps:
            history = self.service.attempts(step)
            assert step["attempt"] == len(history) == len((self.marks / step["key"]).read_text().split())
            assert {each["reason"] for each in history[:-1]} <= REASONS
        return [step["attempt"] for step in steps]


@pytest.mark.parametrize("keys", [1, KEYS], ids=["job", "array"])
def test_the_jobs_have_ended(
    slurm_service: Service, slurm_cluster: Cluster, gate: Path, marks: Path, keys: int
) -> None:
    run = Forgetful(slurm_service, slurm_cluster, gate, marks, keys)
    slurm_cluster.kill_daemon("slurmctld")
    gate.touch()
    attempts = [slurm_service.attempt_dir(run.run_id, "many", str(key)) for key in range(keys)]
    wait_until(lambda: all(list(each.glob("*.exit.json")) for each in attempts), 30, "the records")
    run.forget()
    run.check()
    check_once(marks, keys)


@pytest.mark.parametrize("keys", [1, KEYS], ids=["job", "array"])
def test_the_jobs_run(slurm_service: Service, slurm_cluster: Cluster, gate: Path, marks: Path, keys: int) -> None:
    """Slurm ends the first start, and may call the second running until it notices that its node does not have it."""
    run = Forgetful(slurm_service, slurm_cluster, gate, marks, keys)
    run.forget()
    wait_until(lambda: {step["attempt"] for step in run.steps()} == {2}, 200, "second attempts")
    gate.touch()
    assert run.check() == [2] * keys


@pytest.mark.parametrize("returns", [False, True], ids=["silent", "returns"])
def test_the_jobs_run_where_slurm_hears_nothing(
    make_service: Any, small_cluster: Cluster, gate: Path, marks: Path, returns: bool
) -> None:
    """Slurm starts them elsewhere. There is no second attempt while the first may still run."""
    run = Forgetful(make_service(**settings(small_cluster)), small_cluster, gate, marks, KEYS)
    nodes = set(run.listed("running", "%N"))
    for node in nodes:
        small_cluster.kill_daemon(node)
    run.forget()
    wait_until(lambda: len(run.listed("failed", "%i")) == KEYS, 60, "second starts that end at once")
    attempts = [run.service.attempt_dir(run.run_id, "many", str(key)) for key in range(KEYS)]
    assert all("ran nothing" in next(each.glob("*.starts")).read_text() for each in attempts)
    if returns:
        for node in nodes:
            small_cluster.start_daemon(node)
        wait_until(lambda: {step["attempt"] for step in run.steps()} == {2}, 200, "second attempts")
    # The controller knows by now which nodes are silent.
    wait_until(lambda: returns or "*" in small_cluster.ask("sinfo", "-h", "-N", "-o", "%T"), 60, "a silent node")
    gate.touch()
    assert run.check() == [1 + returns] * KEYS
