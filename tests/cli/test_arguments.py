"""Parameters and labels on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccat_workflow_manager.commands.arguments import (
    labels,
    moment_before_now,
    naming_the_at_sign,
    parameters,
    warn_of_undeclared,
)
from ccat_workflow_manager.commands.exit_codes import WrongUsage
from ccat_workflow_manager.errors import Fault, Invalid
from tests.cli.commands import invoke, refused


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("x=CO43", "CO43"),
        ("x=3", 3),
        ("x=03", "03"),
        ("x=-1.5e3", -1500.0),
        ('x="3"', "3"),
        ("x=true", True),
        ("x=True", "True"),
        ("x=null", None),
        ("x=NaN", "NaN"),
        ("x=Infinity", "Infinity"),
        ("x=", ""),
        ("x=a=b", "a=b"),
        ("x=[1,2]", [1, 2]),
        ("x=[1,2", "[1,2"),
        ('x={"a": [null]}', {"a": [None]}),
        ("x=" + "[" * 5000, "[" * 5000),
        ("x=\u00e9 $(id) 'q'", "\u00e9 $(id) 'q'"),
    ],
)
def test_a_value_is_json_if_it_can_be(typed: str, value: Any) -> None:
    assert parameters([typed], None) == {"x": value}


@pytest.mark.parametrize("typed", ["345", "true", "null", "[1]", "1e3", "text"])
def test_a_parameter_declared_as_text_is_text(typed: str) -> None:
    properties = {"x": {"type": "string"}, "y": {"type": ["string"]}, "z": {"type": ["string", "null"]}, "a": True}
    found = parameters(
        [f"{name}={typed}" for name in "xyzab"], None, lambda: {"parameters": {"properties": properties}}
    )
    plain = parameters([f"x={typed}"], None)["x"]
    assert found == {"x": typed, "y": typed, "z": plain, "a": plain, "b": plain}


def test_a_text_in_quotes_is_the_text() -> None:
    assert parameters(['x="3"'], None, lambda: {"parameters": {"properties": {"x": {"type": "string"}}}}) == {"x": "3"}


@pytest.mark.parametrize("definition", [None, 3, {}, {"parameters": []}, {"parameters": {"properties": None}}])
def test_a_definition_that_declares_nothing(definition: Any) -> None:
    assert parameters(["x=3"], None, lambda: definition) == {"x": 3}


def test_p_overrides_the_file(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("line: CO43\nscans: [a, b]\nwhen: 12:30\n")
    assert parameters(["line=CI21"], str(file)) == {"line": "CI21", "scans": ["a", "b"], "when": "12:30"}


def test_a_label_may_hold_colons() -> None:
    assert labels(["at:12:30", "empty:"]) == {"at": "12:30", "empty": ""}


@given(st.text(min_size=1).filter(lambda name: "=" not in name), st.text())
def test_any_text_is_a_value_or_refused(name: str, value: str) -> None:
    try:
        assert name in parameters([f"{name}={value}"], None)
    except WrongUsage:
        assert value.startswith("@") or any(0xD800 <= ord(letter) < 0xE000 for letter in name + value)


def test_a_file_with_a_fault_is_named_once(tmp_path: Path) -> None:
    missing = str(tmp_path / "nothing.yaml")
    assert refused("pipeline", "validate", missing).count(missing) == 1
    (tmp_path / "bad.yaml").write_text("name: x\nfiles: {a.py: ./a.py}\nsteps: [{name: a, command: [a]}]\n")
    said = refused("pipeline", "validate", str(tmp_path / "bad.yaml"))
    assert (said.count("bad.yaml"), said.count("(line ")) == (1, 1)


def test_a_file_that_is_missing_hides_no_other_fault(tmp_path: Path) -> None:
    text = "name: x\nfiles: {a.py: ./a.py}\nsteps: [{name: a, comand: [a]}, {name: b, command: [b], depends_on: [c]}]\n"
    (tmp_path / "bad.yaml").write_text(text)
    said = refused("pipeline", "validate", str(tmp_path / "bad.yaml"))
    assert all(path in said for path in ('files["a.py"]', "steps[0].comand", "steps[0].command", "depends_on[0]"))


@pytest.mark.parametrize(
    ("script", "words"),
    [("print()\n", "#!/usr/bin/env python3"), ("#!/bin/sh\r\n", "Windows"), ("#!/bin/sh\n", ""), ("\x7fELF\0", "")],
)
def test_a_script_that_cannot_start_is_noticed_before_it_runs(tmp_path: Path, script: str, words: str) -> None:
    (tmp_path / "a.py").write_bytes(script.encode())
    file = tmp_path / "pipeline.yaml"
    file.write_text("name: x\nsteps: [{name: a, files: {a.py: ./a.py}, command: [/workflow/code/a.py]}]\n")
    checked = invoke("pipeline", "validate", str(file))
    assert checked.exit_code == 0
    assert (words in checked.stderr) if words else checked.stderr == ""


def test_a_mistyped_parameter_is_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    definition: dict[str, Any] = {"parameters": {"properties": {"nights": {}}}}
    warn_of_undeclared(["nights"], lambda: definition)
    assert capsys.readouterr().err == ""
    warn_of_undeclared(["night"], lambda: definition)
    assert "did you mean nights?" in capsys.readouterr().err
    warn_of_undeclared(["night"], lambda: {"parameters": {}})
    assert capsys.readouterr().err == ""


def test_a_time_that_is_none_is_refused_here() -> None:
    for text in ("10x", "yesterday"):
        with pytest.raises(WrongUsage, match="24h"):
            moment_before_now(text)
    assert moment_before_now("2026-01-31T12:00:00Z") == "2026-01-31T12:00:00Z"


def test_a_refused_relative_path_brings_the_at_sign(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = Invalid(faults=[Fault("parameters.scans[0]", "must be an absolute path, or s3://BUCKET/KEY")])
    with pytest.raises(Invalid), naming_the_at_sign(['scans=["a.txt"]']):
        raise wrong
    assert "=@" in capsys.readouterr().err
    with pytest.raises(Invalid), naming_the_at_sign([]):
        raise wrong
    assert capsys.readouterr().err == ""
