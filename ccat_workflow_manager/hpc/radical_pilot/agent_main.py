"""The process of a pilot agent, between a worker and RADICAL-Pilot.

    python -I agent_main.py STATE_DIR PILOT SETTINGS         (settings as JSON; jobs as lines of JSON on its input)

RADICAL-Pilot brings threads, signal handlers and changes of the environment, which no worker should have, and it writes
into HOME, which is another one for this process. When the input ends, the worker has ended: the agent stops the jobs
and closes pilot and session. When the pilot ends, the agent ends.
"""

from __future__ import annotations

import sys
from pathlib import Path

import radical.pilot  # noqa: F401 - first: a module that imports `logging` before it may hang in forked processes


def main() -> int:
    # Last, so that no module of the package hides one of the standard library.
    sys.path.append(str(Path(__file__).resolve().parents[3]))
    from ccat_workflow_manager.hpc.radical_pilot import pilot_agent

    return pilot_agent.run(*sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
