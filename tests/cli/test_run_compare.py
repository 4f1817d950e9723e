"""Comparing two runs."""

from __future__ import annotations

from typing import Any

import pytest

from ccat_workflow_manager.commands.run_compare import Change, compared
from tests.cli.commands import answer, invoke
from tests.cli.conftest import Deployment


def run(number: int, *step_runs: dict[str, Any], **more: Any) -> dict[str, Any]:
    base = {"id": str(number), "pipeline": "p", "pipeline_version": 1, "status": "COMPLETED", "backend": None}
    return {**base, "parameters": {}, "step_runs": step_runs, **more}


def step_run(key: str, status: str = "COMPLETED", reason: str | None = None) -> dict[str, Any]:
    facts = {"wall_time_seconds": 2.0, "cpu_hours": None}
    return {"step": "s", "key": key, "status": status, "reason": reason, **facts}


def product(path: str, checksum: str) -> dict[str, Any]:
    return {"step": "s", "key": "a", "path": path, "sha256": checksum}


def test_each_kind_of_difference() -> None:
    a = run(1, step_run("a"), step_run("b"), parameters={"x": 1, "same": [1], "gone": 1})
    b = run(2, step_run("a"), step_run("b", "FAILED", "time_limit"), status="FAILED", pipeline_version=2,
            parameters={"x": 2, "same": [1]})  # fmt: skip
    found = compared(a, b, [product("one", "1"), product("two", "2"), product("old", "3")],
                     [product("one", "1"), product("two", "x"), product("new", "3")])  # fmt: skip
    assert found.facts == [Change("pipeline_version", 1, 2), Change("status", "COMPLETED", "FAILED")]
    assert found.parameters == [Change("x", 1, 2), Change("gone", 1, None)]
    assert found.outcomes == [Change("s/b", "COMPLETED", "FAILED time_limit")]
    assert [found.steps[0][side]["completed"] for side in ("first", "second")] == [2, 1]
    assert (found.equal_products, found.changed_products) == (1, [Change("s/a/two", "2", "x")])
    assert (found.only_first, found.only_second) == (["s/a/old"], ["s/a/new"])


@pytest.mark.usefixtures("greet")
def test_two_runs_of_a_deployment(deployment: Deployment) -> None:
    for names in ('["ada"]', '["ada", "eve"]'):
        answer(
            "run", "submit", "greet", "--backend", "concurrent", "--watch", "-p", f"names={names}", env=deployment.env
        )
    first, second = (one["id"] for one in answer("run", "list", "--limit", "2", env=deployment.env))
    text = invoke("run", "compare", second, first, env=deployment.env)
    assert text.exit_code == 0, text.output
    for words in ("parameter names", '["ada"]', "hello/eve", "products: 1 equal, 0 changed, 0 only in A"):
        assert words in text.stdout
    assert answer("run", "compare", first, "latest", env=deployment.env)["equal_products"] == 1
