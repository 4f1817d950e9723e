"""Kills what a pilot agent leaves behind: waits until the agent has ended, then kills the rest of its session.

    python -I -S sweep.py PID STARTED

RADICAL-Pilot is two dozen processes. They live on for ten minutes when the process that started them is killed, and
some live on for seconds after an orderly end.
"""

from __future__ import annotations

import os
import select
import sys
import time
from pathlib import Path
from signal import SIGKILL

_ROUNDS = 100


def main() -> int:
    # Last, so that no module of the package hides one of the standard library.
    sys.path.append(str(Path(__file__).resolve().parents[3]))
    from ccat_workflow_manager.hpc.attempt import process_tree

    agent = process_tree.Identity(int(sys.argv[1]), int(sys.argv[2]))
    try:
        end = os.pidfd_open(agent.pid)
    except ProcessLookupError:
        end = None
    if end is not None and agent.running:
        select.select([end], [], [])
    for _ in range(_ROUNDS):
        left = process_tree.related(agent, process_tree.table())
        if not left:
            break
        process_tree.send(SIGKILL, left)
        time.sleep(0.05)
    return 0


if __name__ == "__main__":
    sys.exit(main())
