"""The supervisor of local jobs: a small process of its own, one for each state directory.

    python -I -S start.py STATE_DIR OPTIONS-AS-JSON

The `local` backend starts it when first needed. It detaches itself and outlives the worker. It starts the jobs when
there is room for them, watches their limits, and writes their exit records. When it is killed, the jobs go on, and the
next supervisor takes them over. When it was idle for a while, it ends.

It needs only the standard library and pure modules of the package, so it starts fast and stays small: no site-packages,
no environment of the worker.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> int:
    # Last, so that no module of the package hides one of the standard library.
    sys.path.append(str(Path(__file__).resolve().parents[3]))
    from ccat_workflow_manager.hpc.supervisor import daemon

    return daemon.start(sys.argv[1], json.loads(sys.argv[2]))


if __name__ == "__main__":
    sys.exit(main())
