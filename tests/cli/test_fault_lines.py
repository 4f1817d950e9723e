"""Faults of a file name the line and the step."""

from __future__ import annotations

import json

import pytest

from ccat_workflow_manager.commands.fault_lines import whereabouts

TEXT = """\
name: x
parameters:
  type: object
steps:
  - name: a
    command: [a]
  - name: b
    environment:
      "A B": 1
    command: [b, 3]
"""


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("name", "line 1"),
        ("steps[0].command", "step a, line 6"),
        ("steps[1]", "step b, line 7"),
        ('steps[1].environment["A B"]', "step b, line 9"),
        ("steps[1].command[1]", "step b, line 10"),
        ("steps[1].image", "step b, line 7"),
        ("steps[7].image", "line 4"),
        ("", ""),
    ],
)
def test_a_path_has_a_line(path: str, where: str) -> None:
    assert whereabouts(TEXT, path) == where


def test_json_has_lines_too_and_what_is_no_yaml_has_none() -> None:
    text = json.dumps({"name": "x", "steps": [{"name": "a"}]}, indent=1)
    assert whereabouts(text, "steps[0].command") == "step a, line 4"
    assert whereabouts("a: [", "a") == ""
