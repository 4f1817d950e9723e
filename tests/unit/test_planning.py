"""From definition and parameters to step runs, and what each of them waits for."""

from __future__ import annotations

from typing import Any

import pytest

from ccat_workflow_manager.definition.compiled import CompiledPipeline, compile_pipeline
from ccat_workflow_manager.definition.planning import Plan, plan
from ccat_workflow_manager.definition.spec import parse_pipeline, parse_pipeline_text
from ccat_workflow_manager.limits import Limits
from tests.unit.definitions import CONTRACT_EXAMPLE, faults_of, pipeline, step


def compiled(*steps: Any, **fields: Any) -> CompiledPipeline:
    return compile_pipeline(parse_pipeline(pipeline(*steps, **fields)))


def keys_of(planned: Plan, position: int) -> list[str]:
    return [step_run.key for step_run in planned.steps[position].step_runs]


def edges(planned: Plan, position: int) -> list[tuple[int, str]]:
    return [(edge.upstream, edge.match) for edge in planned.steps[position].dependencies]


def test_the_example_of_the_contract() -> None:
    pipeline_ = compile_pipeline(parse_pipeline_text(CONTRACT_EXAMPLE))
    parameters = pipeline_.validate_parameters({"scans": ["s1", "s2"]})
    assert parameters == {"scans": ["s1", "s2"], "line": "CO43"}
    planned = plan(pipeline_, parameters)
    assert planned.total == 5
    assert [planned_step.name for planned_step in planned.steps] == ["calibrate", "baseline", "grid"]
    assert [edges(planned, position) for position in range(3)] == [[], [(0, "key")], [(1, "all")]]
    assert [keys_of(planned, position) for position in range(3)] == [["s1", "s2"], ["s1", "s2"], ["main"]]
    assert [[one.unmet for one in planned_step.step_runs] for planned_step in planned.steps] == [[0, 0], [1, 1], [1]]
    assert planned.steps[0].resources.memory_gb == 16
    assert planned.steps[0].retry.max_attempts == 3


def test_steps_are_planned_in_topological_order_otherwise_as_written() -> None:
    planned = plan(
        compiled(step("z", depends_on=["b", "a"]), step("b", depends_on=["a"]), step("c"), step("a")),
        {},
    )
    assert [(one.position, one.name) for one in planned.steps] == [(0, "c"), (1, "a"), (2, "b"), (3, "z")]
    assert edges(planned, 3) == [(2, "all"), (1, "all")]
    assert planned.steps[3].step_runs[0].unmet == 2


def test_match_says_which_of_the_two_is_meant() -> None:
    items = "${parameters.items}"
    planned = plan(
        compiled(
            step("a", foreach=items),
            step("b", foreach=items, depends_on=[{"step": "a", "match": "all"}]),
            step("c", foreach=items, depends_on=[{"step": "a", "match": "key"}]),
            step("d", foreach=["x"], depends_on=["a"]),
        ),
        {"items": ["x", "y"]},
    )
    assert [edges(planned, position) for position in (1, 2, 3)] == [[(0, "all")], [(0, "key")], [(0, "all")]]


def test_a_literal_list_is_compared_by_content() -> None:
    first, second = step("a", foreach=[{"x": 1, "y": 2}]), step("b", foreach=[{"y": 2, "x": 1}], depends_on=["a"])
    assert edges(plan(compiled(first, second), {}), 1) == [(0, "key")]


def test_a_step_without_items_is_not_waited_for() -> None:
    planned = plan(compiled(step("a", foreach="${parameters.items}"), step("b", depends_on=["a"])), {"items": []})
    assert planned.steps[0].step_runs == ()
    assert planned.steps[0].name == "a"
    assert edges(planned, 1) == [(0, "all")]
    assert planned.steps[1].step_runs[0].unmet == 0


def test_only_a_step_that_names_its_backend_is_bound_to_it() -> None:
    pipeline_ = compiled(step("a", backend="noop"), step("b"), defaults={"backend": "slurm"})
    assert [one.backend for one in plan(pipeline_, {}).steps] == ["noop", None]
    assert pipeline_.default_backend == "slurm"
    assert pipeline_.step("b").position == 1


@pytest.mark.parametrize(
    ("steps", "parameters", "path", "words"),
    [
        ([step(foreach="${parameters.items}")], {"items": []}, "parameters.items", "nothing to run"),
        ([step(foreach=[])], {}, "parameters", "nothing to run"),
        ([step(foreach="${parameters.items}")], {}, "parameters.items", "steps[0].foreach needs one"),
        ([step(foreach="${parameters.items}")], {"items": "abc"}, "parameters.items", "must be a list"),
        ([step(foreach="${parameters.items}")], {"items": ["a", "b", "a"]}, "parameters.items[2]", "once"),
        ([step(foreach="${parameters.part.list}")], {"part": {"list": [1, 1]}}, "parameters.part.list[1]", "once"),
        ([step(command=["x", "${parameters.text}"])], {}, "parameters.text", "steps[0].command[1] needs one"),
        ([step(image="${parameters.part.size}")], {"part": {}}, "parameters.part.size", "steps[0].image needs one"),
        (
            [step(image="${parameters.text}")],
            {"text": "../x.sif"},
            "steps[0].image",
            "with these parameters contains '..'",
        ),
        ([step(image="docker://a:${parameters.text}")], {"text": "b c"}, "steps[0].image", "not a reference"),
        ([step(image="a@${parameters.text}")], {"text": "sha256:12"}, "steps[0].image", "no digest"),
        (
            [step(image="${parameters.text}://${item}", foreach=["a", "b c"])],
            {"text": "docker"},
            "steps[0].foreach[1]",
            "makes an image of steps[0].image that is not a reference",
        ),
        (
            [step(image="${item}.sif", foreach="${parameters.items}")],
            {"items": ["a", "../b"]},
            "parameters.items[1]",
            "contains '..'",
        ),
        (
            [step("a", foreach="${parameters.items}"), step("b", foreach="${parameters.items}")],
            {"items": list(range(Limits().request_step_runs // 2 + 1))},
            "parameters.items",
            "100002 step runs",
        ),
        (
            [step(foreach="${parameters.items}")],
            {"items": list(range(Limits().request_step_runs + 1))},
            "parameters.items",
            "100001",
        ),
    ],
)
def test_an_impossible_run_is_refused(steps: list[Any], parameters: Any, path: str, words: str) -> None:
    faults = faults_of(plan, compiled(*steps), parameters)
    assert list(faults) == [path]
    assert words in faults[path]


def test_a_parameter_is_not_missed_by_a_step_that_has_no_step_runs() -> None:
    steps = [step("a", foreach="${parameters.items}", command=["${parameters.text}"]), step("b")]
    assert plan(compiled(*steps), {"items": []}).total == 1


def test_ten_thousand_step_runs_are_planned() -> None:
    pipeline_ = compile_pipeline(parse_pipeline_text(CONTRACT_EXAMPLE))
    parameters = {"line": "x", "scans": [f"scan {number}" for number in range(5_000)]}
    assert plan(pipeline_, parameters).total == 10_001


def test_a_definition_is_compiled_once() -> None:
    assert compile_pipeline(parse_pipeline(pipeline())) is compile_pipeline(parse_pipeline(pipeline()))
