"""What runs inside a Dask worker: a function that starts the watcher of one job and waits for it.

Dask workers need not have our package: this source is compiled where jobs are submitted, under a name that nobody can
import, so that Dask ships the function itself (`bundle.py`). Standard library and Dask only.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from typing import Any

BUNDLE: dict[str, str] = {}
"""File name -> source of what a watcher is made of; filled in by `bundle.py`."""
DIGEST = ""
TAKEN = 75
LOOK_MILLISECONDS = 500


def run_attempt(order: dict[str, Any]) -> None:
    """Run one attempt to its end. How it ended is in its exit record; an exception means that Dask failed us."""
    from distributed import get_worker

    worker = get_worker()
    program = os.path.join(unpacked(worker.local_directory), "run.py")
    code = watched(program, {**order, "worker": worker.address}, worker)
    if code == TAKEN:
        raise RuntimeError(f"the attempt {order['job_name']} was started before, by a Dask worker that was lost since")
    if code != 0:
        watched(program, {**order, "worker": worker.address, "abandoned": True}, worker)
        raise RuntimeError(f"the watcher of {order['job_name']} ended with {code}")


def watched(program: str, order: dict[str, Any], worker: Any) -> int:
    """Start a watcher and wait for it; when this process dies, the pipe closes and the watcher knows."""
    argv = [sys.executable, "-I", "-S", program, json.dumps(order)]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, env={"LANG": "C.UTF-8"}, cwd="/", start_new_session=True
    ) as process:
        end = os.pidfd_open(process.pid)
        try:
            poller = select.poll()
            poller.register(end, select.POLLIN)
            while not poller.poll(LOOK_MILLISECONDS):
                # A worker that is closing waits for its tasks, for a while; it is to find this one over.
                if worker.status.name not in ("init", "running", "paused") and process.stdin is not None:
                    process.stdin.close()
                    process.stdin = None
        finally:
            os.close(end)
        return process.wait()


def unpacked(directory: str) -> str:
    """The directory with the files of the bundle, made by whichever job on this worker comes first."""
    target = os.path.join(directory, f"ccat-workflow-manager-{DIGEST}")
    if os.path.isdir(target):
        return target
    part = tempfile.mkdtemp(prefix="ccat-workflow-manager-", dir=directory)
    for name, source in BUNDLE.items():
        path = os.path.join(part, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(source)
    with suppress(OSError):
        os.rename(part, target)
    # Another thread was faster; the two are alike.
    shutil.rmtree(part, ignore_errors=True)
    return target
