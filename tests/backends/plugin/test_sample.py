"""The sample plug-in needs nothing but its own package: it is found, configured, checked and kept to the contract."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ccat_workflow_manager.settings import PREFIX
from ccat_workflow_manager.testing.backend_contract import Outcome, run_contract
from tests.support import plugin
from tests.support.waiting import PATIENCE

REPOSITORY = Path(__file__).parents[3]
LOOK = """
import json
from ccat_workflow_manager.errors import ConfigurationError
from ccat_workflow_manager.hpc import registry
from ccat_workflow_manager.settings import load_settings, specs

try:
    settings = load_settings()
except ConfigurationError as error:
    found = {"faults": {fault.path: fault.message for fault in error.faults}}
else:
    offered = {"redis_url": "redis://elsewhere", "state_dir": "/x", **settings.for_backend("sample")}
    backend = registry.create_filtered("sample", **offered)
    found = {
        "available": registry.list_backends()["sample"].available, "class": type(backend).__name__,
        "name": backend.name, "given": settings.for_backend("sample"), "max_jobs": backend.max_jobs,
        "documented": [spec.name for spec in specs() if spec.name.startswith("SAMPLE_")],
    }
print(json.dumps(found))
"""


def in_a_fresh_process(plugin_path: Path, *program: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *program],
        env={
            **os.environ,
            **{PREFIX + name: value for name, value in settings.items()},
            "PYTHONPATH": f"{plugin_path}{os.pathsep}{REPOSITORY}",
        },
        cwd=plugin_path.parent,
        capture_output=True,
        text=True,
        timeout=5 * PATIENCE,
    )


def look(plugin_path: Path, **settings: str) -> Mapping[str, Any]:
    done = in_a_fresh_process(plugin_path, "-c", LOOK, **settings)
    assert done.returncode == 0, done.stderr
    found: Mapping[str, Any] = json.loads(done.stdout)
    return found


def test_it_is_found_and_configured_in_a_fresh_process(plugin_path: Path) -> None:
    assert look(plugin_path, SAMPLE_MAX_JOBS="3") == {
        "available": True,
        "class": "SampleBackend",
        "name": "sample",
        "given": {"max_jobs": 3},
        "max_jobs": 3,
        "documented": ["SAMPLE_MAX_JOBS"],
    }
    assert look(plugin_path)["max_jobs"] == 0


def test_its_settings_are_checked_like_ours(plugin_path: Path) -> None:
    faults = look(plugin_path, SAMPLE_MAX_JOBS="-1", SAMPLE_MAX_JOB="3", SLURM_ARRAY_LIMIT="many")["faults"]
    assert faults == {
        f"{PREFIX}SAMPLE_MAX_JOBS": "'-1' is not allowed; allowed: a whole number, 0 or more",
        f"{PREFIX}SAMPLE_MAX_JOB": f"is not a setting; did you mean {PREFIX}SAMPLE_MAX_JOBS?",
        f"{PREFIX}SLURM_ARRAY_LIMIT": "'many' is not allowed; allowed: a whole number, 0 or more",
    }


def test_its_own_tests_pass_with_the_contract_suite_among_them(plugin_path: Path) -> None:
    tests = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(plugin.SOURCE))
    done = in_a_fresh_process(plugin_path, *tests, str(plugin.SOURCE / "tests"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.usefixtures("look_again")
def test_the_suite_runs_without_pytest(plugin_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(plugin_path))
    results = run_contract("sample", {}, tmp_path)
    assert [result for result in results if result.outcome is Outcome.FAILED] == []
    assert all(result.text for result in results)


def test_nothing_in_the_project_names_it() -> None:
    """What docs/contributing/backends.md lists is all that a backend needs."""
    files = [path for path in (REPOSITORY / "ccat_workflow_manager").rglob("*") if path.suffix in (".py", ".toml")]
    others = ("plugin", "support", "docs")
    files += [path for path in (REPOSITORY / "tests").rglob("*.py") if path.parent.name not in others]
    files += [REPOSITORY / "pyproject.toml", *(REPOSITORY / "requirements").iterdir()]
    named = re.compile(r"ccat.wm.sample|SampleBackend|SAMPLE_MAX_JOBS")
    assert [str(path) for path in files if named.search(path.read_text(encoding="utf-8"))] == []
