"""The program of a task on a node of the pilot: it runs one job, and leaves its exit record.

    python -I -S run.py JOB_FILE PILOT_DIRECTORY

A pilot that ends kills the processes that it started, and their children. So the process that it starts only waits for
another one, which runs the job out of its reach: in a session of its own, as a child of init. Each of the two notices
by a socket when the other one is gone; the second one then stops the job.
This file travels to the nodes together with `hpc.attempt`: it imports nothing else but the standard library.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import Any

from ccat_workflow_manager.hpc.attempt import claim as claims
from ccat_workflow_manager.hpc.attempt.claim import NOT_STARTED
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.runner import JobRunner, Limits, end_abandoned

ALIVE, ENDED = "alive", "ended"
"""The file in the directory of a pilot that changes while its agent lives, and its content after that."""
SILENT_SECONDS = 60
"""A job is stopped when the agent of its pilot has been silent for so long."""

_DEVICES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")
"""The GPUs that RADICAL-Pilot gives to a job. A job gets no other variable of the pilot."""


def main() -> int:
    job_file, pilot = sys.argv[1:]
    with open(job_file, encoding="utf-8") as file:
        job: dict[str, Any] = json.load(file)
    files = AttemptFiles.of(job["workspace"], job["job_id"])
    os.chdir("/")
    if not claims.take(files, os.path.basename(pilot)):
        return NOT_STARTED
    waiting, running = socket.socketpair()
    if os.fork() == 0:
        waiting.close()
        if os.fork() != 0:
            os._exit(0)
        os.setsid()
        _run(files, Limits(**job["limits"]), _Pilot(os.path.join(pilot, ALIVE), running.fileno()))
        with suppress(BrokenPipeError):
            running.send(b".")
        return 0
    running.close()
    os.wait()
    if not waiting.recv(1):
        end_abandoned(files, "the process that watched over the job was killed, and the job with it")
    return 0


def _run(files: AttemptFiles, limits: Limits, pilot: _Pilot) -> None:
    signal.signal(signal.SIGTERM, pilot.on_signal)
    devices = {name: os.environ[name] for name in _DEVICES if os.environ.get(name)}
    runner = JobRunner(files, limits, environment=devices, carrier_lost=pilot.lost, wake_on=[pilot.socket])
    runner.start()
    while not runner.step():
        pass


class _Pilot:
    """Whether the pilot of a job still runs."""

    def __init__(self, alive: str, descriptor: int) -> None:
        self.socket = descriptor
        self._alive = alive
        self._signalled = False
        self._last = ""
        self._heard = time.monotonic()

    def on_signal(self, *_: object) -> None:
        """A batch system signals every process of an allocation that it ends."""
        self._signalled = True

    def lost(self) -> str | None:
        """Why the job must end with its pilot; None if the pilot runs."""
        closed, _, _ = select.select([self.socket], [], [], 0)
        beat, now = self._beat(), time.monotonic()
        if closed or self._signalled or beat == ENDED:
            return "its pilot ended while it ran"
        if beat and beat != self._last:
            self._last, self._heard = beat, now
        if now - self._heard > SILENT_SECONDS:
            return f"the agent of its pilot has been silent for {SILENT_SECONDS} s"
        return None

    def _beat(self) -> str:
        with suppress(OSError), open(self._alive, encoding="ascii", errors="replace") as file:
            return file.read(100).strip()
        return ""
