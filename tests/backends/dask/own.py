"""The cluster that the Dask backend starts by itself: looked at and ended from outside."""

from __future__ import annotations

import json
from pathlib import Path

import psutil

from tests.support.waiting import wait_until


def own_cluster(state_dir: Path) -> list[psutil.Process]:
    """Its process and what belongs to it."""
    try:
        told = json.loads((state_dir / "cluster" / "address.json").read_text())
        process = psutil.Process(told["process"]["pid"])
        return [process, *process.children(recursive=True)]
    except (FileNotFoundError, psutil.NoSuchProcess):
        return []


def end_own_cluster(state_dir: Path) -> None:
    """Kill its first process; the others end by themselves, and that is waited for."""
    family = own_cluster(state_dir)
    if family:
        family[0].kill()
        wait_until(lambda: not any(map(_alive, family)), 30, f"the end of {family}")


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
