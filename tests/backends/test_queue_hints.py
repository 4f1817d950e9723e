"""Hints about requests that no queue can satisfy."""

from __future__ import annotations

from typing import Any

import pytest

from ccat_workflow_manager.hpc.queue_hints import Asked, QueueLimits, hints
from ccat_workflow_manager.lifecycle.models import Resources

MAIN = QueueLimits("main", default=True, cpus=16, memory_gb=64, gpus=0)
SHORT = QueueLimits("short", cpus=64, memory_gb=256, gpus=4, hours=0.5)


def about(*queues: QueueLimits, **resources: Any) -> list[str]:
    return hints([Asked("grid", "slurm", Resources(**resources))], {"slurm": queues})


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({}, None),
        ({"time_hours": 10_000}, None),
        ({"cpu": 17}, "asks for 17 CPUs, but the default partition main of slurm gives at most 16"),
        ({"memory_gb": 64.5}, "asks for 64.5 GB of memory, but the default partition main of slurm gives at most 64"),
        ({"gpu": 1}, "asks for 1 GPU, but the default partition main of slurm gives at most 0"),
        ({"cpu": 64, "partition": "short", "time_hours": 0.5}, None),
        ({"partition": "short"}, "asks for 1 hour, but the partition short of slurm gives at most 0.5"),
        ({"partition": "science"}, "names the partition science, which slurm does not have; there is main, short"),
        ({"partition": "main,short", "cpu": 65}, "no partition of slurm gives more: it is at most 64"),
        ({"partition": "main,short", "time_hours": 5}, None),
        ({"partition": "main,shrot"}, "names the partition shrot"),
    ],
)
def test_one_step(resources: dict[str, Any], words: str | None) -> None:
    found = about(MAIN, SHORT, **resources)
    if words is None:
        assert found == []
    else:
        assert len(found) == 1
        assert words in found[0]
        assert found[0].startswith("the step grid ")


def test_without_a_default_any_queue_will_do() -> None:
    one, other = QueueLimits("one", cpus=2, hours=1), QueueLimits("other", cpus=4, hours=2)
    assert about(one, other, cpu=4, time_hours=2) == []
    assert "no partition of slurm gives more: it is at most 4" in about(one, other, cpu=5)[0]


def test_several_things_at_once() -> None:
    assert len(about(MAIN, cpu=100, memory_gb=100, gpu=1)) == 3


def test_unknown_queues_and_limits_give_no_hints() -> None:
    assert hints([Asked("grid", "slurm", Resources(cpu=10_000, partition="x"))], {"slurm": []}) == []
    assert hints([Asked("grid", "slurm", Resources(cpu=10_000, partition="x"))], {}) == []
    assert about(QueueLimits("batch", hours=None), cpu=10_000, gpu=9, memory_gb=10_000) == []
