"""What the doctor says about backends that workers could not use."""

from __future__ import annotations

import json

from ccat_workflow_manager.commands import checks
from ccat_workflow_manager.commands.checks import Check
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.backends import BackendStore
from ccat_workflow_manager.db.workers import WorkerStore


def told(context: Context) -> dict[str, list[Check]]:
    found: dict[str, list[Check]] = {}
    for check in checks.all_checks(context.settings):
        found.setdefault(check.name, []).append(check)
    return found


def trouble(context: Context, backend: str) -> None:
    with context.database.begin() as unit:
        BackendStore(unit).report_problem(backend, "slurmctld does not answer", 15)


def test_a_backend_that_is_away_is_not_ok(context: Context) -> None:
    assert told(context)["backend noop"][0].ok is True
    trouble(context, "noop")
    (check,) = told(context)["backend noop"]
    assert check.ok is False
    assert check.message.startswith("HPC_BACKEND, slurmctld does not answer since 20")
    assert check.hint


def test_one_that_is_not_installed_here_is_told_too(context: Context) -> None:
    trouble(context, "elsewhere")
    (check,) = told(context)["backend elsewhere"]
    assert (check.ok, "slurmctld does not answer" in check.message) == (None, True), "nobody needs it"
    with context.database.begin() as unit:
        WorkerStore(unit).register("w", "host", 1, ["elsewhere"])
    (check,) = told(context)["backend elsewhere"]
    assert check.ok is False


def test_an_accounting_that_is_away_is_told(context: Context) -> None:
    context.alive()
    words = "the accounting does not answer: slurmdbd is down"
    for said in ("ok", "none", "not asked yet"):
        context.doorbell.remember_queues("noop", json.dumps([{"name": "a", "details": {"accounting": said}}]))
        assert "accounting noop" not in told(context)
    both = [{"name": name, "details": {"accounting": words}} for name in "ab"]
    context.doorbell.remember_queues("noop", json.dumps([*both, {"name": "c", "details": {}}]))
    (check,) = told(context)["accounting noop"]
    assert (check.ok, check.message) == (False, words)
