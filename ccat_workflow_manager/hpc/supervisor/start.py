"""The supervisor of local jobs: a small process of its own, one for each state directory.

    python -I -S start.py STATE_DIR OPTIONS-AS-JSON

It is started by the `local` backend when first needed, detaches itself, and outlives the worker that started it. It
starts the jobs when there is room for them, watches their limits, and writes their exit records. When it is killed, the
jobs go on, and the next one takes them over; when it has had nothing to do for a while, it ends by itself.

It needs nothing but the standard library and the modules beside it (with the pure ones they share with the rest),
so it starts fast and stays small; no site-packages, no environment of the worker.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> int:
    # Last, because nothing of ours may hide a module of the standard library.
    sys.path.append(str(Path(__file__).resolve().parents[3]))
    from ccat_workflow_manager.hpc.supervisor import daemon

    return daemon.start(sys.argv[1], json.loads(sys.argv[2]))


if __name__ == "__main__":
    sys.exit(main())
