"""The process that looks after one pilot: between a worker, which writes jobs into its input, and RADICAL-Pilot.

    python -I agent_main.py STATE_DIR PILOT         (the options and then the jobs as lines of JSON on its input)

RADICAL-Pilot brings threads, handlers of signals and changes to the environment, which no worker should have; and it
writes into HOME, which is another one for this process. When the input ends, the worker has ended, however it went:
the jobs are stopped, the pilot and the session closed. When the pilot ends, this process ends.
"""

from __future__ import annotations

import sys
from pathlib import Path

import radical.pilot  # noqa: F401 - first: what imports `logging` before it may stand still for ever in its forks


def main() -> int:
    # Last, because nothing of ours may hide a module of the standard library.
    sys.path.append(str(Path(__file__).resolve().parents[3]))
    from ccat_workflow_manager.hpc.radical_pilot import pilot_agent

    return pilot_agent.run(Path(sys.argv[1]), sys.argv[2])


if __name__ == "__main__":
    sys.exit(main())
