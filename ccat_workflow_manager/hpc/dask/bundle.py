"""The functions that Dask ships to its scheduler and its workers, and the sources of the watcher inside of one."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).parents[2]
_NAME = _PACKAGE.name
_MODULES = (
    "hpc/attempt/script.py",
    "hpc/attempt/log_limit.py",
    "hpc/attempt/process_tree.py",
    "hpc/attempt/log_files.py",
    "hpc/dask/claims.py",
    "hpc/dask/watcher.py",
)
_RUN = f"""\
import sys

sys.path.insert(0, __file__.rpartition("/")[0])

from {_NAME}.hpc.dask.watcher import main

sys.exit(main())
"""
_NOWHERE = "ccat_workflow_manager_inside_dask"
"""The module that the functions say they are from: what cannot be imported is sent by value."""


def sources() -> dict[str, str]:
    """File name -> content: what a watcher is started from, nothing beyond the standard library needed."""
    files = {f"{_NAME}/{name}": (_PACKAGE / name).read_text(encoding="utf-8") for name in _MODULES}
    for package in {name.rpartition("/")[0] for name in files} | {_NAME, f"{_NAME}/hpc"}:
        files[f"{package}/__init__.py"] = ""
    return {**files, "run.py": _RUN}


@cache
def on_worker() -> Callable[[dict[str, Any]], None]:
    """`run_attempt` of on_worker.py."""
    bundle = sources()
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
