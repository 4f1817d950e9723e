"""Which jobs run when, and which never."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ccat_workflow_manager.errors import BackendRejected, BackendUnavailable
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.lifecycle.models import Resources
from tests.backends.local.site import Site


def test_priority_then_order(site: Site) -> None:
    gate, order = site.root / "go", site.root / "order"
    first = site.sh('until [ -e "$1" ]; do sleep 0.02; done', str(gate), cpu=2)
    wanted = [("a", 0), ("b", 5), ("c", 5), ("d", -1), ("e", 10)]
    requests = [
        site.request("/bin/sh", "-c", 'echo "$1" >> "$2"', "sh", name, str(order), cpu=2, priority=priority)
        for name, priority in wanted
    ]
    ids = site.submit(*requests)
    gate.touch()
    site.all_ended([first, *ids])
    assert order.read_text().split() == ["e", "b", "c", "a", "d"]


def test_capacity_is_kept_and_nothing_overtakes(site: Site) -> None:
    gate = site.root / "go"
    hold = ("/bin/sh", "-c", 'until [ -e "$1" ]; do sleep 0.02; done', "sh", str(gate))
    running, large, small = site.submit(
        site.request(*hold, cpu=1.5), site.request("true", cpu=2), site.request("true", cpu=0.5)
    )
    site.until(running, JobStatus.RUNNING)
    statuses = site.backend.get_statuses([large, small])
    assert [info.status for info in statuses.values()] == [JobStatus.PENDING, JobStatus.PENDING]
    assert statuses[large].message == "capacity: 1.5 of 2 CPUs in use"
    [queue] = site.backend.queue_status()
    assert (queue.running, queue.pending, queue.cpus_total, queue.cpus_used) == (1, 2, 2.0, 1.5)
    gate.touch()
    site.all_ended([running, large, small])
    [queue] = site.backend.queue_status()
    assert (queue.running, queue.pending, queue.cpus_used, queue.memory_used_gb) == (0, 0, 0, 0)


def test_memory_is_admitted_too(site: Site) -> None:
    first = site.run("sleep", "1000", memory_gb=1.5)
    second = site.run("true", memory_gb=1)
    assert site.until(second, JobStatus.PENDING).message == "capacity: 1.5 of 2.0 GB of memory in use"
    site.backend.cancel(first)
    assert site.ended(second).status is JobStatus.COMPLETED


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        (Resources(cpu=3, memory_gb=1), "3 CPUs where jobs may use 2"),
        (Resources(memory_gb=4), "4 GB of memory where jobs may use 2 GB"),
        (Resources(memory_gb=1, gpu=1), "no GPUs"),
        (Resources(memory_gb=1, partition="fast"), "no partitions, so not 'fast'"),
        (Resources(memory_gb=1, account="me"), "no accounts, so not 'me'"),
        (Resources(memory_gb=1, extra={"constraint": "x"}), "no extra resources, so not constraint"),
    ],
)
def test_refusals_say_why(site: Site, resources: Resources, words: str) -> None:
    good, bad = site.request("true"), site.request("true", resources=resources)
    accepted, error, also_accepted = site.backend.submit_many([good, bad, site.request("true")])
    assert isinstance(error, BackendRejected)
    assert words in error.message
    assert {info.status for info in site.all_ended([str(accepted), str(also_accepted)])} == {JobStatus.COMPLETED}


@pytest.mark.parametrize(
    ("command", "environment", "words"),
    [
        ((), {}, "no command"),
        (("a\0b",), {}, "NUL"),
        (("true",), {"": "x"}, "environment variable"),
        (("true",), {"A=B": "x"}, "environment variable"),
    ],
)
def test_impossible_commands(site: Site, command: tuple[str, ...], environment: dict[str, str], words: str) -> None:
    [error] = site.backend.submit_many([site.request(*command, environment=environment)])
    assert isinstance(error, BackendRejected)
    assert words in error.message


def test_bad_names_and_places(site: Site) -> None:
    [error] = site.backend.submit_many([replace(site.request("true"), job_name="../x")])
    assert isinstance(error, BackendRejected)
    in_the_way = site.root / "file"
    in_the_way.write_text("")
    [error] = site.backend.submit_many(
        [replace(site.request("true"), workspace_dir=str(in_the_way / "attempt" / "workspace"))]
    )
    assert isinstance(error, BackendRejected)
    assert error.reason is FailureReason.STAGING_FAILED


def test_the_last_configuration_holds(site: Site) -> None:
    assert isinstance(site.backend.submit_many([site.request("true", cpu=3)])[0], BackendRejected)
    site._config["max_cpu"] = 4
    wider = site.another()
    assert [queue.cpus_total for queue in wider.queue_status()] == [4.0]
    assert site.ended(site.run("true", cpu=3)).status is JobStatus.COMPLETED
    wider.close()


def test_state_directory_that_cannot_be_used(tmp_path: Path, make_site: Callable[..., Site]) -> None:
    site = make_site()
    site.root.mkdir(parents=True, exist_ok=True)
    site.state_dir.write_text("in the way")
    with pytest.raises(BackendUnavailable, match="cannot use"):
        site.backend.get_status("00000000-0000-0000-0000-000000000000")
