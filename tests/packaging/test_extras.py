"""Without the packages of an extra: registry and commands of a fresh interpreter name what to install."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

import ccat_workflow_manager
from tests.packaging import environments
from tests.packaging.environments import normal
from tests.support.waiting import PATIENCE

OURS = "ccat-workflow-manager"
PACKAGES = {
    "kubernetes": "kubernetes", "aws_batch": "boto3", "dask": "distributed", "radical_pilot": "radical.pilot",
}  # fmt: skip
"""Backends with an extra, and the package that each needs."""
HEAVY = ("kubernetes", "distributed", "dask", "radical.pilot", "radical.utils")
"""What is not loaded for a list of backends. Of AWS, only botocore can tell whether there are credentials."""

ASK = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from ccat_workflow_manager.errors import BackendUnavailable
from ccat_workflow_manager.hpc import registry

listed = {name: [one.available, one.reason, one.installation_hint] for name, one in registry.list_backends().items()}
loaded = [name for name in sys.argv[2].split() if name in sys.modules]
refused = {}
for name, (available, _, _) in listed.items():
    if not available:
        try:
            registry.create(name)
        except BackendUnavailable as error:
            refused[name] = error.message
best = registry.detect()
from ccat_workflow_manager import cli
sys.argv = ["ccat-wm", "backends", "--json"]
print(json.dumps({"listed": listed, "loaded": loaded, "refused": refused, "best": best}), flush=True)
cli.main()
"""


SETTINGS = ("KUBERNETES_CONTEXT", "AWS_BATCH_REGION", "DASK_RESOURCES", "RADICAL_PILOT_QUEUE")
"""They are known and checked whether the package of their backend is there or not."""


def install(site: Path, names: Collection[str]) -> None:
    """Link the package and these distributions into a new directory."""
    site.mkdir()
    (site / "ccat_workflow_manager").symlink_to(Path(ccat_workflow_manager.__file__).parent)
    environments.install(site, names)


def closure(extras: Collection[str]) -> set[str]:
    """All distributions that an installation with these extras has."""
    return environments.closure([(OURS, tuple(extras))])


def ask(site: Path, **environment: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What the registry says in a fresh interpreter, and what `ccat-wm backends` prints."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", ASK, str(site), " ".join(HEAVY)],
        env={"PATH": "/usr/bin:/bin", "HOME": str(site.parent), "LANG": "C.UTF-8", **environment},
        cwd=site.parent,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    reported, _, printed = done.stdout.partition("\n")
    return json.loads(reported), {one["name"]: one for one in json.loads(printed)}


@pytest.mark.parametrize(
    "backend", [pytest.param(each, marks=[] if each == "kubernetes" else [pytest.mark.slow]) for each in PACKAGES]
)
def test_a_missing_extra_is_named_with_its_hint(backend: str, tmp_path: Path) -> None:
    names = closure(PACKAGES) - {normal(PACKAGES[backend])}
    install(tmp_path / "site", names)
    reported, printed = ask(tmp_path / "site")
    reason, hint = f"not installed: {PACKAGES[backend]}", f"pip install '{OURS}[{backend}]'"
    assert reported["listed"][backend] == [False, reason, hint]
    assert reason in reported["refused"][backend]
    assert hint in reported["refused"][backend]
    assert (printed[backend]["available"], printed[backend]["reason"]) == (False, reason)
    assert printed[backend]["installation_hint"] == hint
    others = {name: one for name, one in reported["listed"].items() if name != backend}
    assert not [name for name, (_, why, _) in others.items() if "not installed" in why or "imported" in why], others
    assert reported["loaded"] == [], "a list needs none of these"


def test_with_no_extra_at_all(tmp_path: Path) -> None:
    install(tmp_path / "site", closure(()))
    reported, _ = ask(tmp_path / "site", PATH="", **{f"CCAT_WORKFLOW_MANAGER_{name}": "lab" for name in SETTINGS})
    for backend, package in PACKAGES.items():
        assert reported["listed"][backend] == [False, f"not installed: {package}", f"pip install '{OURS}[{backend}]'"]
    assert reported["listed"]["local"][0]
    assert reported["listed"]["concurrent"][0]
    assert reported["best"] == "local"


PROGRAMS = {
    "slurm": ("sbatch", "squeue", "sacct", "scancel", "sinfo", "scontrol"),
    "pbs": ("qsub", "qstat", "qdel", "qselect"),
}


def test_the_best_is_chosen_from_what_is_there(tmp_path: Path) -> None:
    """Slurm before PBS before Kubernetes before this machine."""
    install(tmp_path / "site", closure(PACKAGES))
    environment = {"PATH": ""}
    assert ask(tmp_path / "site", **environment)[0]["best"] == "local"
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text("apiVersion: v1\nkind: Config\n")
    environment["KUBECONFIG"] = str(kubeconfig)
    assert ask(tmp_path / "site", **environment)[0]["best"] == "kubernetes"
    for backend in ("pbs", "slurm"):
        directory = tmp_path / backend
        directory.mkdir()
        for program in PROGRAMS[backend]:
            (directory / program).write_text("#!/bin/sh\nexit 1\n")
            (directory / program).chmod(0o755)
        environment["PATH"] = f"{directory}:{environment['PATH']}"
        assert ask(tmp_path / "site", **environment)[0]["best"] == backend
