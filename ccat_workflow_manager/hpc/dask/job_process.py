"""The process between a Dask worker and one job: it runs the job and ends it when the Dask worker is gone.

    python -I -S run.py '{"job_name": ..., ...}'      # the Dask worker holds the other end of standard input

However the worker ends, the pipe closes. Then no process reports the job to Dask any more, and the job is stopped.
This file travels to Dask workers together with `hpc.attempt`: it imports nothing else but the standard library.
"""

from __future__ import annotations

import json
import os
import select
import sys

from ccat_workflow_manager.hpc.attempt.claim import NOT_STARTED
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.runner import JobRunner, Limits, end_abandoned


def main() -> int:
    order = json.loads(sys.argv[1])
    files = AttemptFiles.of(order["workspace"], order["job_name"])
    os.chdir("/")
    if order.get("abandoned"):
        end_abandoned(files, "the process that watched over the job was killed, and the job with it")
        return 0
    worker, pipe = os.getppid(), sys.stdin.fileno()

    def carrier_lost() -> str | None:
        closed, _, _ = select.select([pipe], [], [], 0)
        if closed or os.getppid() != worker:
            return f"the Dask worker {order['worker']} ended while it ran the job"
        return None

    runner = JobRunner(files, Limits(**order["limits"]), carrier_lost=carrier_lost, wake_on=[pipe])
    return 0 if runner.run(order["worker"]) else NOT_STARTED
