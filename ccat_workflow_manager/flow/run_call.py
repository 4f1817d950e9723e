"""`python -m ccat_workflow_manager.flow.run_call CALL RESULT`: a function task inside the job of a backend."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ccat_workflow_manager.flow.functions import run_packed


def main(call: str, result: str) -> None:
    """Do the packed call of a file and write its outcome, whole or not at all."""
    outcome = run_packed(Path(call).read_bytes())
    part = Path(f"{result}.part")
    part.write_bytes(outcome)
    os.replace(part, result)


if __name__ == "__main__":
    main(*sys.argv[1:])
