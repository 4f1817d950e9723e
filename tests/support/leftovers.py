"""What a deployment of a test leaves behind when it has been broken: processes, control groups, files."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import psutil

from tests.support import invariants
from tests.support.reaper import clear_away


def clear(place: Path, data_dir: Path) -> None:
    """All of it. Processes are asked first: a supervisor that may leave takes its control groups along."""
    living = processes(place)
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for process in living:
            with suppress(psutil.NoSuchProcess):
                end(process)
        living = psutil.wait_procs(living, timeout=5)[1]
    for group in invariants.control_groups(data_dir):
        clear_away(group)
    shutil.rmtree(place, ignore_errors=True)


def processes(place: Path) -> list[psutil.Process]:
    """Those that live and work in this directory, or on it."""
    found = []
    for process in psutil.process_iter(["cwd", "cmdline", "status"]):
        words = [process.info["cwd"] or "", *(process.info["cmdline"] or ())]
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(str(place) in word for word in words):
            found.append(process)
    return found
