"""Parameters of runs: defaults, and every way not to fit the schema."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccat_workflow_manager.definition.compiled import compile_pipeline
from ccat_workflow_manager.definition.spec import PipelineSpec, parse_pipeline
from ccat_workflow_manager.errors import Invalid
from tests.unit.definitions import faults_of, pipeline


def validate_parameters(spec: PipelineSpec, parameters: Any) -> dict[str, Any]:
    return compile_pipeline(spec).validate_parameters(parameters)


NODE = {"type": "object", "properties": {"size": {"default": 1}, "child": {"$ref": "#/$defs/node"}}}


@pytest.mark.parametrize(
    ("schema", "given_", "filled"),
    [
        ({}, {"anything": 1}, {"anything": 1}),
        ({"properties": {"a": {"default": 1}, "b": {}}}, {"b": 2}, {"a": 1, "b": 2}),
        ({"properties": {"a": {"default": None}}}, {}, {"a": None}),
        ({"required": ["a"], "properties": {"a": {"default": 1}}}, {}, {"a": 1}),
        ({"properties": {"o": {"properties": {"x": {"default": 1}}}}}, {}, {"o": {"x": 1}}),
        ({"properties": {"o": {"properties": {"x": {"default": 1}}}}}, {"o": {"y": 2}}, {"o": {"x": 1, "y": 2}}),
        ({"properties": {"o": {"required": ["y"], "properties": {"x": {"default": 1}}}}}, {}, {}),
        (
            {"properties": {"o": {"default": {"y": 2}, "properties": {"x": {"default": 1}}}}},
            {},
            {"o": {"y": 2, "x": 1}},
        ),
        (
            {"properties": {"l": {"type": "array", "items": {"properties": {"x": {"default": 1}}}}}},
            {"l": [{}, {"x": 2}, 3]},
            {"l": [{"x": 1}, {"x": 2}, 3]},
        ),
        ({"properties": {"a": {"$ref": "#/$defs/d"}}, "$defs": {"d": {"default": 4}}}, {}, {"a": 4}),
        (
            {"properties": {"n": {"$ref": "#/$defs/node"}}, "$defs": {"node": NODE}},
            {"n": {"child": {"child": {}}}},
            {"n": {"size": 1, "child": {"size": 1, "child": {"size": 1}}}},
        ),
        (
            {"$id": "https://example.org/x", "properties": {"a": {"$ref": "#/$defs/d"}}, "$defs": {"d": {}}},
            {"a": 1},
            {"a": 1},
        ),
    ],
)
def test_defaults_are_filled_in(schema: Any, given_: Any, filled: Any) -> None:
    spec = parse_pipeline(pipeline(parameters=schema))
    before = json.dumps(given_)
    assert validate_parameters(spec, given_) == filled
    assert json.dumps(given_) == before


def test_a_default_is_a_fresh_value_for_each_run() -> None:
    spec = parse_pipeline(pipeline(parameters={"properties": {"l": {"default": []}}}))
    validate_parameters(spec, {})["l"].append(1)
    assert validate_parameters(spec, {}) == {"l": []}


@pytest.mark.parametrize(
    ("schema", "given_", "path", "words"),
    [
        ({}, None, "parameters", "mapping"),
        ({}, [], "parameters", "mapping"),
        ({}, {"a": float("nan")}, "parameters.a", "finite"),
        ({}, {"a": [1, float("-inf")]}, "parameters.a[1]", "finite"),
        ({}, {"a": {"b c": "x\0"}}, 'parameters.a["b c"]', "NUL"),
        ({}, {"a\0": 1}, "parameters", "NUL"),
        ({}, {"a": "\ud800"}, "parameters.a", "surrogate"),
        ({}, {"a": 10**200}, "parameters.a", "digits"),
        ({}, {"a": object()}, "parameters.a", "JSON"),
        ({"required": ["a"]}, {}, "parameters.a", "is required"),
        ({"required": ["scans"]}, {"scan": 1}, "parameters.scans", "scan was given"),
        ({"properties": {"o": {"required": ["x"]}}}, {"o": {}}, "parameters.o.x", "is required"),
        ({"properties": {"a": {"type": "string"}}}, {"a": 3}, "parameters.a", "must be a string, not a number"),
        ({"properties": {"a": {"type": "integer"}}}, {"a": 3.5}, "parameters.a", "whole number, not the number 3.5"),
        ({"properties": {"a": {"type": ["integer", "null"]}}}, {"a": []}, "parameters.a", "a whole number or null"),
        ({"properties": {"a": {"enum": ["x", 1]}}}, {"a": "y"}, "parameters.a", 'one of "x", 1; not "y"'),
        ({"properties": {"a": {"const": 1}}}, {"a": 2}, "parameters.a", "must be 1"),
        ({"properties": {"a": {"minimum": 1}}}, {"a": 0}, "parameters.a", "at least 1"),
        ({"properties": {"a": {"exclusiveMaximum": 1}}}, {"a": 1}, "parameters.a", "less than 1"),
        ({"properties": {"a": {"multipleOf": 0.5}}}, {"a": 10**99 + 1}, None, ""),
        ({"properties": {"a": {"multipleOf": 2}}}, {"a": 3}, "parameters.a", "multiple of 2"),
        ({"properties": {"a": {"minLength": 2}}}, {"a": "x"}, "parameters.a", "at least 2 characters"),
        ({"properties": {"a": {"maxItems": 1}}}, {"a": [1, 2]}, "parameters.a", "at most 1 entries; it has 2"),
        ({"properties": {"a": {"pattern": "^x"}}}, {"a": "y"}, "parameters.a", "pattern ^x"),
        ({"properties": {"a": {"uniqueItems": True}}}, {"a": [{"x": 1}, {"x": 1.0}]}, "parameters.a", "twice"),
        ({"properties": {"a": {"uniqueItems": True}}}, {"a": [1, True, "1"]}, None, ""),
        ({"properties": {"a": {"anyOf": [{"type": "null"}, {"minimum": 3}]}}}, {"a": 1}, "parameters.a", "none of the"),
        ({"properties": {"a": {"not": {}}}}, {"a": 1}, "parameters.a", "refused"),
        ({"properties": {"a": False}}, {"a": 1}, "parameters", "holds 1"),
        ({"properties": {"a": {}}, "additionalProperties": False}, {"b": 1}, "parameters.b", "there are a"),
        ({"patternProperties": {"^x": {}}, "additionalProperties": False}, {"x1": 1, "y": 1}, "parameters.y", "no"),
        ({"properties": {"l": {"items": {"type": "string"}}}}, {"l": ["a", 1]}, "parameters.l[1]", "a string"),
        ({"properties": {"a": {"dependentRequired": {"x": ["y"]}}}}, {"a": {"x": 1}}, "parameters.a", "refused"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(schema: Any, given_: Any, path: str | None, words: str) -> None:
    spec = parse_pipeline(pipeline(parameters=schema))
    if path is None:
        assert validate_parameters(spec, given_) == given_
        return
    faults = faults_of(validate_parameters, spec, given_)
    assert list(faults) == [path]
    assert words in faults[path]


def test_all_faults_of_parameters_are_reported_at_once() -> None:
    schema = {"required": ["a", "b"], "properties": {"c": {"type": "string"}, "d": {"type": "integer"}}}
    spec = parse_pipeline(pipeline(parameters=schema))
    paths = {"parameters.a", "parameters.b", "parameters.c", "parameters.d"}
    assert set(faults_of(validate_parameters, spec, {"c": 1, "d": "x"})) == paths


def test_endless_defaults_end() -> None:
    node = {"properties": {"child": {"default": {}, "$ref": "#/$defs/node"}, "other": {"$ref": "#/$defs/node"}}}
    spec = parse_pipeline(pipeline(parameters={"$defs": {"node": node}, "$ref": "#/$defs/node"}))
    assert validate_parameters(spec, {}) == {"child": {}}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
references = st.sampled_from(["#", "#/$defs/a", "#/properties/b", "#/$defs/a/items", "#/%24defs/a", "#x", "x"])


def schemas_of(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    named = st.dictionaries(st.sampled_from("abc"), inner, max_size=2)
    keywords: dict[str, st.SearchStrategy[Any]] = {
        "properties": named,
        "$defs": named,
        "patternProperties": named,
        "dependentSchemas": named,
        "allOf": st.lists(inner, min_size=1, max_size=2),
        "anyOf": st.lists(inner, min_size=1, max_size=2),
        "prefixItems": st.lists(inner, min_size=1, max_size=2),
        "items": inner,
        "not": inner,
        "additionalProperties": inner,
        "unevaluatedProperties": inner,
        "contains": inner,
        "$ref": references,
        "default": json_values,
        "enum": st.lists(json_values, min_size=1, max_size=3),
        "required": st.lists(st.sampled_from("abc"), unique=True),
        "type": st.sampled_from(["object", "array", "integer", "string", "nothing"]),
        "pattern": st.sampled_from(["a", "(", "^$"]),
        "minimum": st.integers() | st.floats(),
        "multipleOf": st.floats(min_value=1e-300) | st.integers(1, 9),
        "uniqueItems": st.booleans(),
    }
    return st.lists(st.sampled_from(sorted(keywords)), max_size=4, unique=True).flatmap(
        lambda chosen: st.fixed_dictionaries({keyword: keywords[keyword] for keyword in chosen})
    )


schemas = st.recursive(
    st.booleans() | st.just({}) | references.map(lambda ref: {"$ref": ref}), schemas_of, max_leaves=8
)


@given(schemas, st.dictionaries(st.sampled_from("abc"), json_values))
def test_any_schema_and_parameters_are_accepted_or_refused(schema: Any, parameters: dict[str, Any]) -> None:
    try:
        spec = parse_pipeline(pipeline(parameters=schema))
        filled = validate_parameters(spec, parameters)
    except Invalid:
        return
    assert parameters.keys() <= filled.keys()
