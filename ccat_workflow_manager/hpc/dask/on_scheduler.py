"""What runs inside a Dask scheduler, for what its protocol has no question: shipped like `on_worker.py`.

Dask drops the tasks of a client that is gone. So they are held under a name of our own, as Dask itself does with
published data sets, and released when their ends are recorded.
"""

from __future__ import annotations

from typing import Any

HOLDER = "ccat-workflow-manager"


def hold(keys: list[str], dask_scheduler: Any = None) -> int:
    """Keep these tasks, whatever becomes of the client; how many of them there are."""
    there = [key for key in keys if key in dask_scheduler.tasks]
    dask_scheduler.client_desires_keys(keys=there, client=HOLDER)
    return len(there)


def release(keys: list[str], dask_scheduler: Any = None) -> None:
    """Let go of these tasks: one that has not started never will."""
    # The holder is made by holding; a scheduler that was restarted has not heard of it.
    dask_scheduler.client_desires_keys(keys=[], client=HOLDER)
    dask_scheduler.client_releases_keys(keys=[key for key in keys if key in dask_scheduler.tasks], client=HOLDER)


def errors(keys: list[str], dask_scheduler: Any = None) -> dict[str, str | None]:
    """Why these tasks have erred; None: worker after worker died under it (KilledWorker)."""
    found: dict[str, str | None] = {}
    for key in keys:
        task = dask_scheduler.tasks.get(key)
        if task is not None and task.state == "erred":
            died = task.suspicious > dask_scheduler.allowed_failures
            found[key] = None if died else str(task.exception_text or "")
    return found
