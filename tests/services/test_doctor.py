"""The doctor reports backends that workers cannot use."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from ccat_workflow_manager.commands import checks
from ccat_workflow_manager.commands.checks import Check
from ccat_workflow_manager.commands.running import Running, running
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.backends import BackendStore
from ccat_workflow_manager.db.workers import WorkerStore
from tests.support.fixtures_store import ContextMaker
from tests.support.waiting import wait_until


def report(context: Context) -> dict[str, list[Check]]:
    found: dict[str, list[Check]] = {}
    for check in checks.all_checks(context.settings):
        found.setdefault(check.name, []).append(check)
    return found


def record_problem(context: Context, backend: str) -> None:
    with context.database.begin() as unit:
        BackendStore(unit).report_problem(backend, "slurmctld does not answer", 15)


def test_an_unavailable_backend_is_not_ok(context: Context) -> None:
    assert report(context)["backend noop"][0].ok is True
    record_problem(context, "noop")
    (check,) = report(context)["backend noop"]
    assert check.ok is False
    assert check.message.startswith("HPC_BACKEND, slurmctld does not answer since 20")
    assert check.hint


def test_an_unavailable_backend_of_other_hosts_is_reported(context: Context) -> None:
    record_problem(context, "elsewhere")
    (check,) = report(context)["backend elsewhere"]
    assert (check.ok, "slurmctld does not answer" in check.message) == (None, True), "no worker serves it"
    with context.database.begin() as unit:
        WorkerStore(unit).register("w", "host", 1, ["elsewhere"])
    (check,) = report(context)["backend elsewhere"]
    assert check.ok is False


def test_queues_that_only_an_administrator_can_open(context: Context) -> None:
    context.heartbeat.beat()
    nodes = {"allocated": 1, "idle": 2, "other": 0, "total": 3}
    whole = {"name": "a", "available": True, "details": {"nodes": nodes}}
    context.doorbell.remember("queues:noop", json.dumps([whole]))
    assert "queues noop" not in report(context)
    closed = {**whole, "name": "b", "available": False}
    drained = {**whole, "name": "c", "details": {"nodes": {**nodes, "other": 2}}}
    context.doorbell.remember("queues:noop", json.dumps([whole, closed, drained]))
    (check,) = report(context)["queues noop"]
    assert check.ok is None
    assert "b is closed" in check.message
    assert "c: 2 of 3" in check.message


def test_an_unavailable_accounting_is_reported(context: Context) -> None:
    context.heartbeat.beat()
    problem = "the accounting does not answer: slurmdbd is down"
    for state in ("ok", "none", "not asked yet"):
        context.doorbell.remember("queues:noop", json.dumps([{"name": "a", "details": {"accounting": state}}]))
        assert "accounting noop" not in report(context)
    both = [{"name": name, "details": {"accounting": problem}} for name in "ab"]
    context.doorbell.remember("queues:noop", json.dumps([*both, {"name": "c", "details": {}}]))
    (check,) = report(context)["accounting noop"]
    assert (check.ok, check.message) == (False, problem)


@pytest.mark.parametrize(
    ("script", "ok", "words"),
    [
        ("echo 'Slurmctld(primary) at head is UP'", True, "answers: Slurmctld(primary) at head is UP"),
        ("echo 'Slurmctld(primary) at head is DOWN'; echo 'Slurmctld(backup) at b is UP'; exit 1", True, "backup"),
        ("echo 'Slurmctld(primary) at head is DOWN'; exit 1", False, "head is DOWN"),
        ("echo 'Could not establish a configuration source' >&2; exit 1", False, "configuration source"),
    ],
)
def test_a_scheduler_is_asked(
    make_context: ContextMaker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, ok: bool, words: str
) -> None:
    for name in ("sbatch", "squeue", "sacct", "scancel", "sinfo", "scontrol"):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{script if name == 'scontrol' else 'exit 1'}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    settings = make_context("slurm").settings
    check = checks.pinged("slurm", settings, "HPC_BACKEND, ", asked=True)
    assert (check.ok, words in check.message) == (ok, True), check
    other = checks.pinged("slurm", settings, "", asked=True)
    assert other.ok is (True if ok else None)
    assert checks.pinged("slurm", settings, "", asked=False).message == "can be used"


def test_settings_without_their_prefix_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(checks.without_prefix()) == []
    monkeypatch.setenv("CONTAINER_RUNTIME", "none")
    (check,) = checks.without_prefix()
    assert (check.ok, "CONTAINER_RUNTIME" in check.message) == (None, True)
    monkeypatch.setenv("CCAT_WORKFLOW_MANAGER_CONTAINER_RUNTIME", "none")
    assert list(checks.without_prefix()) == []


@pytest.mark.parametrize("verb", ["up", "demo"])
def test_a_running_deployment_is_found(tmp_path: Path, verb: str) -> None:
    tmp_path = tmp_path / "ccat-wm-demo"
    tmp_path.mkdir()
    for options in (["--data-dir", str(tmp_path)], [f"--data-dir={tmp_path}"], ["--port", "0"]):
        command = ["/bin/sh", "-c", "read x", "ccat-wm", verb, *options]
        environment = {**os.environ, "CCAT_WORKFLOW_MANAGER_DATA_DIR": "." if "--port" in options else "/nowhere"}
        environment["XDG_DATA_HOME"] = str(tmp_path.parent)
        with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, cwd=tmp_path) as process:
            wait_until(
                lambda: (verb, tmp_path) in {(one, path.resolve()) for one, path in running()}, 10, "it to be found"
            )
            process.communicate()
    assert Running(verb, tmp_path) not in set(running())
