"""`flow.export`: the definition of what a program would do."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ccat_workflow_manager.definition.spec import parse_pipeline
from ccat_workflow_manager.flow import FlowError, WorkflowEngine
from tests.programs.running import on


def test_a_program_becomes_a_pipeline(tmp_path: Path) -> None:
    async def program(flow: WorkflowEngine) -> str:
        @flow.executable_task(task_description={"memory_gb": 4, "environment": {"LINE": "${x}"}, "max_attempts": 3})
        async def measure(scan: str) -> list[str]:
            return ["sh", "-c", 'touch made; echo "$1"', "sh", f"{scan} ${{y}}"]

        @flow.executable_task(task_description={"ranks": 2, "cores_per_rank": 3, "gpus_per_rank": 1})
        async def combine(*measured: str) -> list[str]:
            return ["printf", "%s+", *[f"it's {each.strip()}" for each in measured]]

        @flow.executable_task
        async def after(*others: Any) -> str:
            return "true"

        @flow.block
        async def whole() -> Any:
            return await combine(measure("a"), measure("b"))

        async def night() -> None:
            await after(after(whole()))

        text = await flow.export(night())
        assert await after() == ""
        return text

    text = on(program, work_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []
    definition = yaml.safe_load(text)
    assert parse_pipeline(definition).name == "night"
    steps = {step["name"]: step for step in definition["steps"]}
    assert {name: step.get("depends_on", []) for name, step in steps.items()} == {
        "measure": [],
        "measure-2": [],
        "combine": ["measure", "measure-2"],
        "after": ["combine"],
        "after-2": ["after"],
    }
    assert (steps["measure"]["resources"], steps["measure"]["retry"]["max_attempts"]) == ({"memory_gb": 4}, 3)
    assert {"program_failed", "preempted"} <= set(steps["measure"]["retry"]["on"])
    assert steps["combine"]["resources"] == {"cpu": 6, "gpu": 2}
    assert steps["measure"]["environment"] == {"LINE": "$${x}"}
    assert executed(definition, tmp_path) == "it's a ${y}+it's b ${y}+"


def executed(definition: dict[str, Any], directory: Path) -> str:
    """Run the steps in their order as a service would. Returns the output of `combine`."""
    shown = ""
    for step in definition["steps"]:
        output = directory / "upstream" / step["name"] / "main"
        output.mkdir(parents=True)
        command = [word.replace("$${", "${") for word in step["command"]]
        variables = {"WORKFLOW_OUTPUT_DIR": str(output), "WORKFLOW_UPSTREAM_DIR": str(directory / "upstream")}
        done = subprocess.run(command, env={**os.environ, **variables}, cwd=directory, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        shown = done.stdout if step["name"] == "combine" else shown
    return shown


def test_what_a_definition_cannot_hold_is_named() -> None:
    async def program(flow: WorkflowEngine) -> None:
        @flow.function_task
        def summed() -> int:
            return 1

        async def uses_a_function() -> None:
            await summed()

        async def empty() -> None: ...

        async def elsewhere() -> None:
            await flow.executable_task(task_description={"cwd": "below"})(lambda: "true")()

        with pytest.raises(FlowError, match=r"summed\.000001"):
            await flow.export(uses_a_function())
        with pytest.raises(FlowError, match="cwd"):
            await flow.export(elsewhere())
        with pytest.raises(FlowError, match="nothing"):
            await flow.export(empty())
        with pytest.raises(FlowError, match="coroutine"):
            await flow.export(summed())  # type: ignore[arg-type]

    on(program)
