"""The task inside a Dask worker: it starts the job process of one job and waits for it.

Dask workers need not have our package: this source is compiled where jobs are submitted, under a module name that
cannot be imported, so that Dask ships the function itself (`bundle.py`). Standard library and Dask only.
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
"""File name -> source of the job process; filled in by `bundle.py`."""
DIGEST = ""
NOT_STARTED = 75
LOOK_MILLISECONDS = 500


def run_attempt(order: dict[str, Any]) -> None:
    """Run one attempt to its end, which its exit record describes. Raises if the attempt could not be run."""
    from distributed import get_worker

    worker = get_worker()
    program = os.path.join(unpacked(worker.local_directory), "run.py")
    code = run_process(program, {**order, "worker": worker.address}, worker)
    if code == NOT_STARTED:
        raise RuntimeError(f"the attempt {order['job_name']} was started before, by a Dask worker that was lost since")
    if code != 0:
        run_process(program, {**order, "worker": worker.address, "abandoned": True}, worker)
        raise RuntimeError(f"the job process of {order['job_name']} ended with {code}")


def run_process(program: str, order: dict[str, Any], worker: Any) -> int:
    """Start a job process and wait for it; it notices by the closing pipe that this process has died."""
    argv = [sys.executable, "-I", "-S", program, json.dumps(order)]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, env={"LANG": "C.UTF-8"}, cwd="/", start_new_session=True
    ) as process:
        end = os.pidfd_open(process.pid)
        try:
            poller = select.poll()
            poller.register(end, select.POLLIN)
            while not poller.poll(LOOK_MILLISECONDS):
                # A worker that is closing waits some time for its tasks: end this one.
                if worker.status.name not in ("init", "running", "paused") and process.stdin is not None:
                    process.stdin.close()
                    process.stdin = None
        finally:
            os.close(end)
        return process.wait()


def unpacked(directory: str) -> str:
    """The directory with the files of the bundle, made by the first job on this worker."""
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
    # Only if another thread was faster is something left; the two directories are alike.
    shutil.rmtree(part, ignore_errors=True)
    return target
