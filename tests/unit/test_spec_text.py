"""Definitions as text: YAML by the rules of 1.2, JSON, and what is neither."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccat_workflow_manager.definition.spec import parse_pipeline, parse_pipeline_text
from ccat_workflow_manager.definition.text import MAX_TEXT, MAX_YAML, load_text
from ccat_workflow_manager.errors import Invalid
from tests.unit.definitions import faults_of, pipeline, step


def test_yaml_is_read_by_the_rules_of_1_2() -> None:
    text = (
        "on: yes\noctal: 010\ntime: 12:30\ndate: 2024-01-01\nnumber: 1e3\nhex: 0x1F\nnothing: ~\nempty:\n1: no\nt: True"
    )
    assert load_text(text) == {
        "on": "yes",
        "octal": 10,
        "time": "12:30",
        "date": "2024-01-01",
        "number": 1000.0,
        "hex": 31,
        "nothing": None,
        "empty": None,
        "1": "no",
        "t": True,
    }


def test_anchors_and_merges_are_read() -> None:
    text = "base: &base {a: 1, b: 2}\nmore: {<<: *base, b: 3}\nagain: [*base]"
    assert load_text(text)["more"] == {"a": 1, "b": 3}
    assert load_text(text)["again"] == [{"a": 1, "b": 2}]


def test_json_is_read_as_json() -> None:
    assert load_text('{"a":\t"\\ud83d\\ude00\\/"}') == {"a": "\U0001f600/"}


ALIAS_BOMB = "a0: &a0 [x, x]\n" + "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        ("", "", "empty"),
        ("# only a comment\n", "", "empty"),
        ("name: [a\nsteps: 3", "line 2, column 6", "expected ',' or ']'"),
        ("name: a\nname: b", "line 2, column 1", "given twice"),
        ('{"name": 1, "name": 2}', "", "given twice"),
        ('{"name": ]', "line 1, column 10", "found ']'"),
        ("--- {a: 1}\n--- {b: 1}", "line 2, column 1", "single document"),
        ("a: *b", "line 1, column 4", "undefined alias"),
        ("a: &a [*a]", "line 1, column 4", "contains the alias"),
        (ALIAS_BOMB, "line 7, column 5", "values"),
        ("[" * 10_000, "line 1, column 65", "nested"),
        ('{"a":' * 10_000, "line 1, column 317", "nested"),
        ("a: !!python/object/apply:os.system [ls]", "line 1, column 4", "not allowed"),
        ("a: !!timestamp 2024-01-01", "line 1, column 4", "not allowed"),
        ("a: !!int x", "line 1, column 4", "whole number"),
        ("a: !!float x", "line 1, column 4", "a number"),
        ("a: !!bool x", "line 1, column 4", "boolean"),
        ("a: !!map x", "line 1, column 4", "a mapping"),
        ("a: !!seq {b: c}", "line 1, column 4", "a list"),
        ("? [a]\n: b", "line 1, column 3", "plain text"),
        ("<<: {[a]: b}", "line 1, column 6", "plain text"),
        ("a: 1\nb: \0", "line 2, column 4", "U+0000"),
        ("\tname: a", "line 1, column 1", "\\t"),
        ("n: " + "9" * 5000, "line 1, column 4", "whole number"),
        ("x" * (MAX_YAML + 1), "", "only JSON"),
        ("{" * (MAX_TEXT + 1), "", "longer"),
    ],
)
def test_text_that_is_no_yaml_is_refused_with_line_and_column(text: str, path: str, words: str) -> None:
    faults = faults_of(parse_pipeline_text, text)
    assert list(faults) == [path]
    assert words in faults[path]


@given(st.text() | st.text(alphabet="{}[]:,&*!-?|>'\"#%@`~ \na1<="))
def test_any_text_gives_a_definition_or_invalid(text: str) -> None:
    try:
        load_text(text)
    except Invalid:
        assert faults_of(parse_pipeline_text, text)


@pytest.mark.parametrize("name", ["on", "true", True])
def test_the_key_true_of_a_yaml_1_1_reader_is_read_as_on(name: object) -> None:
    retry: dict[object, object] = {"max_attempts": 3, name: ["lost"]}
    given = pipeline(step(retry=retry), defaults={"retry": {name: ["preempted"]}})
    wanted = pipeline(step(retry={"max_attempts": 3, "on": ["lost"]}), defaults={"retry": {"on": ["preempted"]}})
    assert parse_pipeline(given).content_hash == parse_pipeline(wanted).content_hash
    assert retry == {"max_attempts": 3, name: ["lost"]}


@pytest.mark.parametrize("names", [("on", "true"), ("true", "on"), ("on", True), (True, "true")])
def test_on_by_both_names_is_refused(names: tuple[object, object]) -> None:
    retry = {name: ["lost"] for name in names}
    faults = faults_of(parse_pipeline, pipeline(step(), step("b", retry=retry), defaults={"retry": retry}))
    assert list(faults) == ["defaults.retry.on", "steps[1].retry.on"]
    assert "YAML 1.1" in faults["steps[1].retry.on"]


def test_true_is_on_nowhere_else() -> None:
    faults = faults_of(parse_pipeline, pipeline(step(resources={"true": 1}), retry={"1": 2}))
    assert set(faults) == {"steps[0].resources.true", "retry"}
