"""Programs that stand before Slurm's own on the search path, and do to it what a bad day does."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

TIMED_OUT = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"


def shim(directory: Path, program: str, text: str) -> Path:
    """A shell script in the place of a program, which it can call as "$real"."""
    directory.mkdir(parents=True, exist_ok=True)
    real = shutil.which(program) or shutil.which(program, path=os.defpath)
    assert real is not None
    path = directory / program
    path.write_text(f"#!/bin/sh\nreal={real}\n{text}\n")
    path.chmod(0o755)
    return path


def accepts_and_times_out(directory: Path) -> Path:
    """An `sbatch` whose job is taken, and which then reports that the controller did not answer."""
    return shim(directory, "sbatch", f'"$real" "$@" >/dev/null\necho \'{TIMED_OUT}\' >&2\nexit 1')


def noting_calls(directory: Path) -> None:
    """Slurm's programs; each notes its name in the file `calls` beside the directory when it is called."""
    for program in ("sbatch", "squeue", "sacct", "scancel", "sinfo", "scontrol"):
        shim(directory, program, f'echo {program} >>\'{directory.with_name("calls")}\'\nexec "$real" "$@"')
