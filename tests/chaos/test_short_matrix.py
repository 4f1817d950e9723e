"""The most telling cases of the matrix, in every test run; `make chaos` is the whole of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.chaos.matrix import ROWS, Row

SHORT = [row for row in ROWS if row.runtime == "none" and row.backend != "slurm"]
"""Not Slurm: `tests/backends/slurm/test_breakage.py` breaks a cluster that is there already."""
ALWAYS = "local"
"""The other rows pass the same failpoints of the same processes."""

# Nineteen cases, each with time limits of its own: this one only ends a case that hangs.
pytestmark = pytest.mark.timeout(3600)


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=row.name, marks=[] if row.name == ALWAYS else [pytest.mark.slow]) for row in SHORT],
)
def test_what_dies_is_repaired(row: Row) -> None:
    # In a process of its own: it forks managers and workers, which one with threads must not do.
    argv = [sys.executable, "-m", "tests.chaos", "--short", "--row", row.name]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
