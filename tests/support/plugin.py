"""The sample plug-in of `examples/sample-backend`, built and installed with pip as a site installs a plug-in."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.waiting import PATIENCE

SOURCE = Path(__file__).parents[2] / "examples" / "sample-backend"


def install(target: Path) -> None:
    """Install the sample package into a directory that is to be put on PYTHONPATH, without the network."""
    # pip builds inside the source directory, so it gets a copy.
    copy = target.parent / f"{target.name}-source"
    shutil.copytree(SOURCE, copy)
    completed = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-index", "--no-deps", "--no-build-isolation", "--target", str(target), str(copy)),
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
