"""The resources of a step as Dask resources. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ccat_workflow_manager.hpc.dask.own_cluster import Shape
from ccat_workflow_manager.lifecycle.models import Resources

NAMED = ("cpu", "memory_gb", "gpu")
"""What Dask workers may declare (`dask worker --resources "cpu=16 memory_gb=64 gpu=2"`); jobs take it from them."""
_EXTRA = ("resources", "workers")


@dataclass(frozen=True, slots=True)
class ResourceRequest:
    """What a task asks of its worker; jobs with equal requests are submitted together."""

    resources: tuple[tuple[str, float], ...] = ()
    workers: tuple[str, ...] = ()
    priority: int = 0


def request_of(resources: Resources, named: frozenset[str], shape: Shape | None, priority: int) -> ResourceRequest:
    """Translate the resources of a step. Raises ValueError for every resource that Dask cannot give."""
    if resources.partition is not None:
        raise ValueError(f"Dask has no partitions, so not {resources.partition!r} either")
    if resources.account is not None:
        raise ValueError(f"Dask has no accounts, so not {resources.account!r} either")
    if unknown := sorted(set(resources.extra) - set(_EXTRA)):
        raise ValueError(f"it knows no extra.{', extra.'.join(unknown)}; it knows {', '.join(_EXTRA)}")
    if resources.gpu and "gpu" not in named:
        raise ValueError("its Dask workers declare no GPUs (DASK_RESOURCES does not name gpu)")
    if shape is not None:
        _check_fits(resources, shape)
    asked = {"cpu": resources.cpu, "memory_gb": resources.memory_gb, "gpu": float(resources.gpu)}
    taken = {name: amount for name, amount in asked.items() if name in named and amount}
    return ResourceRequest(
        resources=tuple(sorted({**taken, **_more_resources(resources.extra)}.items())),
        workers=_workers(resources.extra),
        priority=priority,
    )


def _check_fits(resources: Resources, shape: Shape) -> None:
    cpu, memory_gb = shape.cpu / shape.workers, shape.memory_gb / shape.workers
    each = "this machine" if shape.workers == 1 else "each of its Dask workers"
    if resources.cpu > cpu:
        raise ValueError(f"{each} has {cpu:g} CPUs, not {resources.cpu:g}")
    if resources.memory_gb > memory_gb:
        raise ValueError(f"{each} has {memory_gb:.1f} GB of memory to give, not {resources.memory_gb:g}")


def _more_resources(extra: Mapping[str, object]) -> dict[str, float]:
    asked = extra.get("resources", {})
    if not isinstance(asked, Mapping):
        raise ValueError(f"extra.resources must map names to numbers, not be {asked!r}")
    found = {}
    for name, amount in asked.items():
        if name in NAMED:
            raise ValueError(f"extra.resources.{name} is asked for as resources.{name}")
        if isinstance(amount, bool) or not isinstance(amount, int | float) or amount <= 0:
            raise ValueError(f"extra.resources.{name} must be a positive number, not {amount!r}")
        found[str(name)] = float(amount)
    return found


def _workers(extra: Mapping[str, object]) -> tuple[str, ...]:
    asked = extra.get("workers", [])
    if not isinstance(asked, list | tuple) or not all(isinstance(name, str) and name for name in asked):
        raise ValueError(f"extra.workers must be a list of names or addresses of Dask workers, not {asked!r}")
    return tuple(asked)
