"""The supervisor of local jobs: a small process of its own, one for each state directory.

    python -I -S supervisor.py STATE_DIR OPTIONS-AS-JSON

It is started by the `local` backend when first needed, detaches itself, and outlives the worker that started it. It
starts the jobs when there is room for them, watches their limits, and writes their exit records. When it is killed, the
jobs go on, and the next one takes them over; when it has had nothing to do for a while, it ends by itself.

It needs nothing but the standard library and the `supervisor_*` modules (with the pure ones they share with the rest),
so it starts fast and stays small; no site-packages, no environment of the worker.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> int:
    # Last, because nothing here may hide a module of the standard library, as the `concurrent.py` beside this would.
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    from ccat_workflow_manager.hpc import supervisor_daemon

    return supervisor_daemon.start(sys.argv[1], json.loads(sys.argv[2]))


if __name__ == "__main__":
    sys.exit(main())
