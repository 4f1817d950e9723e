"""Torque's commands around Slurm, as Debian packs them, unpacked without being installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.waiting import PATIENCE

PACKAGES = ("slurm-wlm-torque", "libslurm-perl", "libslurmdb-perl", "libswitch-perl", "libslurm38")
CALLED = ("sbatch", "scancel", "squeue", "scontrol")
"""The wrappers call these in their own directory."""
_CACHE = Path(os.environ.get("LAB_CACHE", "/var/cache/ccat-workflow-manager-lab"), "slurm-wlm-torque")


def _packages(into: Path) -> list[Path]:
    """From the cache of the lab, or from where apt gets its packages."""
    for directory in (_CACHE, into):
        if len(found := sorted(directory.glob("*.deb"))) == len(PACKAGES):
            return found
    if shutil.which("apt-get") is not None:
        subprocess.run(["apt-get", "download", *PACKAGES], cwd=into, capture_output=True, timeout=PATIENCE)
    return sorted(into.glob("*.deb"))


@pytest.fixture(scope="session")
def torque_wrappers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which `qsub` and its like are Slurm's."""
    root = tmp_path_factory.mktemp("torque")
    packages = _packages(root)
    if len(packages) != len(PACKAGES):
        if os.environ.get("CI") == "true":
            pytest.fail(f"apt-get could not download {', '.join(PACKAGES)}", pytrace=False)
        pytest.skip("needs slurm-wlm-torque, which this machine does not have")
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
