"""Pipeline definitions that are accepted: what they mean, and when two of them are the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from ccat_workflow_manager.definition.schema_check import DIALECT
from ccat_workflow_manager.definition.spec import (
    PipelineSpec,
    canonical,
    effective_resources,
    effective_retry,
    parse_pipeline,
    parse_pipeline_text,
    stored_pipeline,
)
from ccat_workflow_manager.definition.text import load_text
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.json_values import MAX_DEPTH
from ccat_workflow_manager.lifecycle.models import Resources, RetryPolicy
from tests.unit.definitions import CONTRACT_EXAMPLE, faults_of, nested, pipeline, step, with_schema


def test_the_example_of_the_contract() -> None:
    spec = parse_pipeline_text(CONTRACT_EXAMPLE)
    calibrate, baseline, _ = spec.steps
    assert calibrate.command == ("calibrate", "--scan", "${item}", "--line", "${parameters.line}")
    assert effective_resources(spec, calibrate) == Resources(cpu=4, memory_gb=16, time_hours=2)
    assert effective_resources(spec, baseline) == Resources(cpu=1, memory_gb=2, time_hours=1)
    assert effective_retry(spec, calibrate).max_attempts == 3
    assert effective_retry(spec, calibrate).on == frozenset(
        {
            FailureReason.NODE_FAILURE,
            FailureReason.PREEMPTED,
            FailureReason.LOST,
            FailureReason.OUT_OF_MEMORY,
            FailureReason.TIME_LIMIT,
        }
    )
    assert effective_retry(spec, baseline) == RetryPolicy(max_attempts=2)


def test_defaults_are_merged_field_by_field() -> None:
    spec = parse_pipeline(
        pipeline(
            step(resources={"memory_gb": 8, "extra": {"qos": "high"}}, retry={"on": []}),
            defaults={
                "resources": {"cpu": 2, "memory_gb": 4, "extra": {"qos": "low", "nodes": 1}},
                "retry": {"max_attempts": 5, "on": ["lost"]},
            },
        )
    )
    expected = Resources(cpu=2, memory_gb=8, time_hours=1, extra={"qos": "high", "nodes": 1})
    assert effective_resources(spec, spec.steps[0]) == expected
    assert effective_retry(spec, spec.steps[0]) == RetryPolicy(max_attempts=5, on=frozenset())


def test_without_defaults_the_built_in_values_hold() -> None:
    spec = parse_pipeline(pipeline())
    assert effective_resources(spec, spec.steps[0]) == Resources()
    assert effective_retry(spec, spec.steps[0]) == RetryPolicy()


@pytest.mark.parametrize(
    "fields",
    [
        {"description": ""},
        {"description": None},
        {"image": None},
        {"resources": {}},
        {"resources": None},
        {"resources": {"partition": None, "extra": {}}},
        {"environment": None},
        {"depends_on": []},
        {"retry": {"on": None}},
    ],
)
def test_a_field_that_repeats_a_default_does_not_change_the_hash(fields: dict[str, Any]) -> None:
    assert parse_pipeline(pipeline(step(**fields))).content_hash == parse_pipeline(pipeline()).content_hash


def test_equal_content_in_other_words_has_the_same_hash() -> None:
    one = pipeline(step("a", retry={"on": ["lost", "preempted"]}), step("b", depends_on=["a"], resources={"cpu": 2}))
    other = pipeline(
        step("a", retry={"on": ["preempted", "lost", "lost"]}),
        step("b", depends_on=[{"step": "a"}], resources={"cpu": 2.0}),
    )
    assert parse_pipeline(one).content_hash == parse_pipeline(other).content_hash
    assert parse_pipeline(one).content_hash != parse_pipeline(pipeline(step("a"), step("b"))).content_hash


def test_the_canonical_form_is_read_back_as_the_same_definition() -> None:
    spec = parse_pipeline_text(CONTRACT_EXAMPLE)
    again = parse_pipeline(json.loads(json.dumps(canonical(spec))))
    assert again == spec
    assert again.content_hash == spec.content_hash


def test_a_definition_does_not_change_with_what_it_was_made_of() -> None:
    definition = pipeline(step(foreach=["a"]))
    spec = parse_pipeline(definition)
    before = spec.content_hash
    definition["steps"][0]["foreach"].append("b")
    assert spec.steps[0].foreach == ["a"]
    assert parse_pipeline(definition).content_hash != before


def test_the_escape_is_no_substitution() -> None:
    parse_pipeline(pipeline(step(command=["sh", "-c", "echo $${HOME} $HOME $(ls) {} $$"])))


@pytest.mark.parametrize("keyword", ["items", "not", "additionalProperties"])
def test_a_schema_of_any_allowed_depth_is_read(keyword: str) -> None:
    parse_pipeline(with_schema(x=nested(MAX_DEPTH - 5, keyword)))


def test_parameters_of_open_objects_may_be_referred_to() -> None:
    schema = {
        "$defs": {"position": {"type": "object", "properties": {"ra": {"type": "number"}}}},
        "properties": {"where": {"$ref": "#/$defs/position"}, "open": {"type": "object"}, "any": True},
    }
    command = ["${parameters.where.ra}", "${parameters.open.x.y}", "${parameters.any.x}"]
    parse_pipeline(pipeline(step(command=command), parameters=schema))
    assert set(faults_of(parse_pipeline, pipeline(step(command=["${parameters.where.dec}"]), parameters=schema)))


def test_the_schema_for_editors_agrees_with_the_reader() -> None:
    schema = {"$schema": DIALECT, **PipelineSpec.model_json_schema()}
    Draft202012Validator.check_schema(schema)
    editor = Draft202012Validator(schema)
    assert editor.is_valid(load_text(CONTRACT_EXAMPLE))
    assert editor.is_valid(pipeline(step("a"), step("b", depends_on=["a", {"step": "a", "match": "key"}])))
    for definition in (
        pipeline(name="A"),
        pipeline(step(command="x")),
        pipeline(step(resources={"cpu": 0})),
        pipeline(step(foreach="x")),
        pipeline(step(environment={"WORKFLOW_X": "1"})),
        pipeline(step(extra=1)),
        pipeline(steps=[]),
    ):
        assert not editor.is_valid(definition)


@pytest.mark.parametrize(
    "image",
    [
        "chai.sif",
        "chai/v2 (new).sif",
        "/data/images/chai..sif",
        "./chai.sif",
        f"chai.sif@sha256:{'0a' * 32}",
        f"registry.example.org:5000/chai@sha256:{'0a' * 32}",
        "docker://alpine:3.20",
        f"oras://example.org/chai@sha256:{'0a' * 32}",
        "library://lab/chai/map:1",
        "${parameters.text}",
        "${parameters.text}://${parameters.part.size}",
        "docker://${parameters.text}",
        "docker://chai@sha256:${parameters.text}",
        "chai@${parameters.text}",
        ".${parameters.text}",
    ],
)
def test_image_names_that_are_accepted(image: str) -> None:
    assert parse_pipeline(pipeline(step(image=image))).steps[0].image == image


def test_a_definition_that_was_accepted_before_can_still_be_read() -> None:
    content = pipeline(step(image="../chai.sif"))
    assert stored_pipeline(content).steps[0].image == "../chai.sif"
    sound = parse_pipeline(pipeline())
    assert stored_pipeline(canonical(sound)) == sound
