"""A backend that a stranger has packaged: found by its entry point, only the four methods, and within the contract."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from ccat_workflow_manager.hpc import registry
from ccat_workflow_manager.testing.backend_contract import BackendContract, BackendHarness, Outcome, run_contract

PROGRAM = """
import json
from ccat_workflow_manager.hpc import registry
listed = registry.list_backends()
backend = registry.create("example", greeting="good morning")
filtered = registry.create_filtered("example", greeting="good evening", redis_url="redis://nowhere", state_dir="/x")
print(json.dumps({
    "available": listed["example"].available, "class": type(backend).__name__, "name": backend.name,
    "greetings": [backend.greeting, filtered.greeting],
}))
"""


@pytest.fixture
def plugin_installed(plugin_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(plugin_path))


def test_is_found_in_a_fresh_process(plugin_path: Path) -> None:
    root = Path(registry.__file__).parents[2]
    completed = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": f"{plugin_path}{os.pathsep}{root}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert completed.returncode == 0, completed.stderr
    assert json.loads(completed.stdout) == {
        "available": True,
        "class": "ExampleBackend",
        "name": "example",
        "greetings": ["good morning", "good evening"],
    }


@pytest.mark.usefixtures("plugin_installed")
class TestFourMethods(BackendContract):
    """The defaults of the interface do the rest."""

    not_claimed = frozenset(
        {
            "cancelled_by_the_listed_id",
            "cancelled_from_another_process",
            "ends_are_notified",
            "exit_record_is_there",
            "fifty_ids_one_status_call",
            "find_adopts",
            "find_by_name",
            "followed_from_another_process",
            "lists_each_of_many",
            "lists_what_has_not_ended",
            "memory_limit",
            "metrics_are_plausible",
            "service_down_is_unavailable",
            "time_limit",
            "unreadable_answer_is_confused",
        }
    )

    def make_harness(self, workdir: Path) -> BackendHarness:
        return BackendHarness(create=partial(registry.create, "example"), workdir=workdir, factory="example")


@pytest.mark.usefixtures("plugin_installed")
def test_the_suite_runs_without_pytest_against_a_named_backend(tmp_path: Path) -> None:
    results = run_contract("example", {}, tmp_path)
    assert {result.clause for result in results if result.outcome is Outcome.NOT_CLAIMED} == TestFourMethods.not_claimed
    assert [result for result in results if result.outcome is Outcome.FAILED] == []
    assert all(result.text for result in results)
