"""Ends what a bridge has left behind: waits until it is gone, however it went, then kills the rest of its session.

    python -I -S sweep.py PID STARTED

RADICAL-Pilot is two dozen processes. When the one that has started them is killed, they stay for ten minutes, and its
own orderly end leaves some for seconds. This needs nothing but the standard library and one pure module.
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
    # Last, because nothing of ours may hide a module of the standard library.
    sys.path.append(str(Path(__file__).resolve().parents[3]))
    from ccat_workflow_manager.hpc.attempt import process_tree

    bridge = process_tree.Identity(int(sys.argv[1]), int(sys.argv[2]))
    try:
        end = os.pidfd_open(bridge.pid)
    except ProcessLookupError:
        end = None
    if end is not None and bridge.running:
        poller = select.poll()
        poller.register(end, select.POLLIN)
        poller.poll()
    for _ in range(_ROUNDS):
        left = process_tree.related(bridge, process_tree.table())
        if not left:
            break
        process_tree.send(SIGKILL, left)
        time.sleep(0.05)
    return 0


if __name__ == "__main__":
    sys.exit(main())
