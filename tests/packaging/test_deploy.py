"""The files under deploy/, by the tools that read them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
EXPOSURE = {"ccat-wm-manager.service": 20, "ccat-wm-worker@.service": 32, "ccat-wm-up.service": 32}
"""Tenths. What starts local jobs must leave them the namespaces and mounts of their containers."""


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize("unit", sorted(path.name for path in UNITS.glob("*.service")))
def test_a_unit_gives_its_process_no_more_than_it_needs(unit: str) -> None:
    threshold = f"--threshold={EXPOSURE[unit]}"
    argv = ["systemd-analyze", "security", "--offline=yes", "--no-pager", threshold, str(UNITS / unit)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
