"""The functions that Dask ships to its scheduler and its workers, with the sources of the job process inside of one."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from ccat_workflow_manager.hpc.attempt.bundle import sources

_NOWHERE = "ccat_workflow_manager_inside_dask"
"""The module name of these functions: Dask sends functions by value if it cannot import their module."""


@cache
def on_worker() -> Callable[[dict[str, Any]], None]:
    """`run_attempt` of on_worker.py."""
    bundle = sources("hpc/dask/job_process.py")
    digest = sha256(json.dumps(bundle, sort_keys=True).encode()).hexdigest()[:16]
    function: Callable[[dict[str, Any]], None] = _compiled("on_worker", BUNDLE=bundle, DIGEST=digest)["run_attempt"]
    return function


@cache
def on_scheduler(name: str) -> Callable[..., Any]:
    """A function of on_scheduler.py."""
    function: Callable[..., Any] = _compiled("on_scheduler")[name]
    return function


def _compiled(module: str, **names: object) -> dict[str, Any]:
    source = Path(__file__).with_name(f"{module}.py")
    namespace: dict[str, Any] = {"__name__": _NOWHERE}
    exec(compile(source.read_text(encoding="utf-8"), str(source), "exec"), namespace)
    namespace.update(names)
    return namespace
