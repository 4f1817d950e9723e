"""Torque's commands around Slurm, as Debian packs them, unpacked without being installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.waiting import PATIENCE

CALLED = ("sbatch", "scancel", "squeue", "scontrol")
"""The wrappers call these in their own directory."""
_PACKAGES = Path(os.environ.get("LAB_CACHE", "/var/cache/ccat-workflow-manager-lab"), "slurm-wlm-torque")
"""Where `make lab` keeps them."""


@pytest.fixture(scope="session")
def torque_wrappers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which `qsub` and its like are Slurm's."""
    root = tmp_path_factory.mktemp("torque")
    packages = sorted(_PACKAGES.glob("*.deb"))
    if not packages:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{_PACKAGES} has no packages: run `make lab`", pytrace=False)
        pytest.skip("needs slurm-wlm-torque, which this machine does not have; `make lab` gets it")
    for package in packages:
        subprocess.run(["dpkg", "-x", str(package), str(root)], check=True, timeout=PATIENCE)
    for program in CALLED:
        real = shutil.which(program)
        assert real is not None
        (root / "usr" / "bin" / program).symlink_to(real)
    [library] = (root / "usr" / "lib").glob("*-linux-gnu")
    return {
        "PATH": f"{root}/usr/bin:{os.environ['PATH']}",
        "PERL5LIB": ":".join(str(path) for path in (*library.glob("perl5/*"), root / "usr" / "share" / "perl5")),
        "LD_LIBRARY_PATH": str(library),
    }
