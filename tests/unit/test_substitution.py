"""Substitution of `${...}`."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccat_workflow_manager.definition.spec import parse_pipeline
from ccat_workflow_manager.definition.substitution import SubstitutedStep, substitute_step
from tests.unit.definitions import faults_of, pipeline, step


def substituted(raw: dict[str, Any], parameters: Any, item: Any = None) -> SubstitutedStep:
    spec = parse_pipeline(pipeline(raw))
    return substitute_step(spec.steps[0], parameters, item, "run-1", "a")


def test_every_substitution() -> None:
    raw = step(
        command=["${parameters.anything}", "--${item}--${item}", "${run.id}/${step.name}", "$${item}", "$HOME"],
        environment={"SIZE": "${parameters.part.size}", "PLAIN": "x"},
        image="${parameters.text}.sif",
        foreach=["\u00e9 '"],
    )
    parameters = {"anything": [1, "\u00e9", None], "part": {"size": 3.5}, "text": "img"}
    result = substituted(raw, parameters, "\u00e9 '")
    assert result.command == ['[1, "\u00e9", null]', "--\u00e9 '--\u00e9 '", "run-1/a", "${item}", "$HOME"]
    assert result.environment == {"SIZE": "3.5", "PLAIN": "x"}
    assert result.image == "img.sif"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (None, "null"),
        (3, "3"),
        (3.5, "3.5"),
        ({"a": 1}, '{"a": 1}'),
        ("${item}", "${item}"),
        ("$(rm -rf /)\n", "$(rm -rf /)\n"),
    ],
)
def test_strings_go_in_as_they_are_and_everything_else_as_json(value: Any, text: str) -> None:
    assert substituted(step(command=["x", "${parameters.anything}"]), {"anything": value}).command[1] == text


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_any_item_arrives_intact(text: str) -> None:
    assert substituted(step(command=["x", "<${item}>"], foreach=[1]), {}, text).command[1] == f"<{text}>"


@pytest.mark.parametrize(
    ("raw", "value", "path", "words"),
    [
        (step(command=["x", "${parameters.text}"]), "a\0b", "command[1]", "NUL"),
        (step(command=["x", "${parameters.text}"]), "x" * 140_000, "command[1]", "128 KiB"),
        (step(command=["x", "${parameters.text}"]), "\u5929" * 50_000, "command[1]", "128 KiB"),
        (step(command=["${parameters.text}"]), "", "command[0]", "must name a program"),
        (step(image="${parameters.text}"), "", "image", "empty"),
        (step(image="${parameters.text}"), "--writable", "image", "dash"),
        (step(image="${parameters.text}"), "a\nb", "image", "control character"),
        (step(environment={"A": "${parameters.part.size}"}), "", "environment.A", "part.size"),
    ],
)
def test_a_result_that_no_program_can_take_is_refused(raw: dict[str, Any], value: str, path: str, words: str) -> None:
    faults = faults_of(substituted, raw, {"text": value})
    assert list(faults) == [path]
    assert words in faults[path]
