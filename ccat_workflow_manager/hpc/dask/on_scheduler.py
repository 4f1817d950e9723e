"""Functions inside a Dask scheduler, for which its protocol has no call: shipped like `on_worker.py`.

Dask drops the tasks of a client that is gone. So a client name of our own holds them, as Dask itself does with
published data sets, and releases them once their ends are recorded.
"""

from __future__ import annotations

from typing import Any

HOLDER = "ccat-workflow-manager"


def hold(keys: list[str], dask_scheduler: Any = None) -> int:
    """Keep these tasks when their client goes. Returns how many of them the scheduler knows."""
    there = [key for key in keys if key in dask_scheduler.tasks]
    dask_scheduler.client_desires_keys(keys=there, client=HOLDER)
    return len(there)


def release(keys: list[str], dask_scheduler: Any = None) -> None:
    """Release these tasks: one that has not started never will."""
    # Creates the holder at a scheduler that was restarted.
    dask_scheduler.client_desires_keys(keys=[], client=HOLDER)
    dask_scheduler.client_releases_keys(keys=[key for key in keys if key in dask_scheduler.tasks], client=HOLDER)


def errors(keys: list[str], dask_scheduler: Any = None) -> dict[str, str | None]:
    """The texts of the errors of these tasks; None for KilledWorker: several workers died while they held the task."""
    found: dict[str, str | None] = {}
    for key in keys:
        task = dask_scheduler.tasks.get(key)
        if task is not None and task.state == "erred":
            died = task.suspicious > dask_scheduler.allowed_failures
            found[key] = None if died else str(task.exception_text or "")
    return found
