"""A small observatory reduction: observe, calibrate, baseline, grid. Pure standard library.

    reduce.py observe   --scan NAME --seed N
    reduce.py calibrate --scan NAME
    reduce.py baseline  --scan NAME
    reduce.py grid      --line NAME

Inputs and outputs come from the WORKFLOW_* variables, so it runs with and without a container.
"""

from __future__ import annotations

import os
import sys

import maps
import scans
from workspace import Workspace


def main(arguments: list[str]) -> int:
    """Run one step. Returns exit code 2 for a wrong command line."""
    if not arguments or len(arguments) % 2 == 0:
        sys.stderr.write(__doc__ or "")
        return 2
    step, *rest = arguments
    options = dict(zip(rest[::2], rest[1::2], strict=True))
    work = Workspace()
    key = os.environ["WORKFLOW_KEY"]
    try:
        if step == "observe":
            scans.observe(work, options["--scan"], int(options["--seed"]))
        elif step == "calibrate":
            scans.calibrate(work, options["--scan"], key)
        elif step == "baseline":
            scans.baseline(work, options["--scan"], key)
        elif step == "grid":
            maps.grid(work, options["--line"])
        else:
            sys.stderr.write(f"there is no step {step}\n")
            return 2
    except KeyError as missing:
        sys.stderr.write(f"{step}: {missing} is missing\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
