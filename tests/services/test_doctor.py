"""The doctor reports backends that workers cannot use."""

from __future__ import annotations

import json

from ccat_workflow_manager.commands import checks
from ccat_workflow_manager.commands.checks import Check
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.backends import BackendStore
from ccat_workflow_manager.db.workers import WorkerStore


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
    context.alive()
    nodes = {"allocated": 1, "idle": 2, "other": 0, "total": 3}
    whole = {"name": "a", "available": True, "details": {"nodes": nodes}}
    context.doorbell.remember_queues("noop", json.dumps([whole]))
    assert "queues noop" not in report(context)
    closed = {**whole, "name": "b", "available": False}
    drained = {**whole, "name": "c", "details": {"nodes": {**nodes, "other": 2}}}
    context.doorbell.remember_queues("noop", json.dumps([whole, closed, drained]))
    (check,) = report(context)["queues noop"]
    assert check.ok is None
    assert "b is closed" in check.message
    assert "c: 2 of 3" in check.message


def test_an_unavailable_accounting_is_reported(context: Context) -> None:
    context.alive()
    problem = "the accounting does not answer: slurmdbd is down"
    for state in ("ok", "none", "not asked yet"):
        context.doorbell.remember_queues("noop", json.dumps([{"name": "a", "details": {"accounting": state}}]))
        assert "accounting noop" not in report(context)
    both = [{"name": name, "details": {"accounting": problem}} for name in "ab"]
    context.doorbell.remember_queues("noop", json.dumps([*both, {"name": "c", "details": {}}]))
    (check,) = report(context)["accounting noop"]
    assert (check.ok, check.message) == (False, problem)
