"""Items that bring their key, and items that a pattern of paths finds."""

from __future__ import annotations

from typing import Any

import pytest

from ccat_workflow_manager.definition.compiled import Edge, compile_pipeline
from ccat_workflow_manager.definition.items import patterns_of
from ccat_workflow_manager.definition.keys import item_keys
from ccat_workflow_manager.definition.planning import plan
from ccat_workflow_manager.definition.spec import parse_pipeline
from ccat_workflow_manager.errors import Fault, Invalid


def definition(foreach: Any, *more: dict[str, Any]) -> dict[str, Any]:
    schema = {"properties": {"night": {"type": "string"}, "scans": {"type": "array"}}}
    first = {"name": "a", "command": ["true", "${item}"], "foreach": foreach}
    return {"name": "p", "parameters": {"type": "object", **schema}, "steps": [first, *more]}


def step_runs(foreach: Any, globs: dict[str, list[str]] | None = None, **parameters: Any) -> list[tuple[str, Any]]:
    compiled = compile_pipeline(parse_pipeline(definition(foreach)))
    [step] = plan(compiled, parameters, globs=globs or {}).steps
    return [(each.key, each.item) for each in step.step_runs]


def faults(foreach: Any, **parameters: Any) -> list[Fault]:
    with pytest.raises(Invalid) as refused:
        step_runs(foreach, **parameters)
    return list(refused.value.faults)


def test_an_item_may_bring_its_key() -> None:
    given = [{"key": "west", "value": {"ra": 1}}, {"key": "east", "value": [2]}, "plain", {"key": "x"}]
    expected = [("west", {"ra": 1}), ("east", [2]), ("plain", "plain")]
    assert step_runs(given)[:3] == expected
    assert step_runs("${parameters.scans}", scans=given)[:3] == expected


@pytest.mark.parametrize(
    ("items", "path", "problem"),
    [
        ([{"key": "a/b", "value": 1}], "[0].key", "letters"),
        ([{"key": 3, "value": 1}], "[0].key", "letters"),
        ([{"key": "..", "value": 1}], "[0].key", "letters"),
        ([{"key": "a", "value": 1}, {"key": "a", "value": 2}], "[1].key", "item 0"),
        (["a", {"key": "a", "value": 2}], "[1].key", "item 0"),
        ([{"key": "a", "value": 2}, "a"], "[1]", "item 0"),
    ],
)
def test_keys_that_cannot_be(items: Any, path: str, problem: str) -> None:
    for owner, found in (
        ("steps[0].foreach", faults(items)),
        ("parameters.scans", faults("${parameters.scans}", scans=items)),
    ):
        assert found[0].path == owner + path
        assert problem in found[0].message


def test_the_key_of_a_path_is_the_name_of_its_file() -> None:
    assert item_keys(["/raw/scan_1.fits", "/raw/scan_2.fits.gz", "/raw/2026-11-27"]) == [
        "scan_1",
        "scan_2",
        "2026-11-27",
    ]
    one, other, third = item_keys(["/a/x.fits", "/b/x.fits", "/a/y.fits"])
    assert third == "y"
    assert one.startswith("a_x--")
    assert one != other
    assert item_keys(["/a/x.fits", "x"])[1] == "x"


def test_the_key_of_a_match_is_the_part_in_which_it_differs() -> None:
    paths = ["/raw/n1/scan_1.fits", "/raw/n2/scan_1.fits"]
    assert step_runs({"glob": "/raw/*/scan_1.fits"}, {"/raw/*/scan_1.fits": paths}) == [
        ("n1", paths[0]),
        ("n2", paths[1]),
    ]
    assert [key for key, _ in step_runs({"glob": "/raw/**/*.fits"}, {"/raw/**/*.fits": paths})] == [
        "n1_scan_1", "n2_scan_1",
    ]  # fmt: skip
    assert step_runs({"glob": "/raw/a.fits"}, {"/raw/a.fits": ["/raw/a.fits"]}) == [("a", "/raw/a.fits")]


def test_a_parameter_in_a_pattern() -> None:
    compiled = compile_pipeline(parse_pipeline(definition({"glob": "/raw/${parameters.night}/*.fits"})))
    found: list[Fault] = []
    assert list(patterns_of(compiled, {"night": "n1"}, found)) == ["/raw/n1/*.fits"]
    assert found == []
    for parameters in ({}, {"night": "../../etc"}):
        found = []
        patterns_of(compiled, parameters, found)
        assert len(found) == 1


def test_two_steps_with_one_pattern_wait_by_key() -> None:
    glob = {"glob": "/raw/*"}
    after = {"name": "b", "command": ["true"], "foreach": glob, "depends_on": ["a"]}
    compiled = compile_pipeline(parse_pipeline(definition(glob, after)))
    planned = plan(compiled, {}, globs={"/raw/*": ["/raw/1", "/raw/2"]})
    assert planned.total == 4
    assert planned.steps[1].dependencies == (Edge(0, "key"),)


@pytest.mark.parametrize(
    ("foreach", "path"),
    [
        ({}, "glob"), ({"glob": 3}, "glob"), ({"glob": "raw/*"}, "glob"), ({"glob": "/raw/../*"}, "glob"),
        ({"glob": "/raw/*", "glub": 1}, "glub"), ({"glob": "/raw/${item}"}, "glob"), ({"glob": "/r/${run.id}"}, "glob"),
        ({"glob": "/raw/${parameters.nights}"}, "glob"), ({"glob": "s3://bucket/*"}, "glob"),
        ({"glob": "/a\nb"}, "glob"),
    ],
)  # fmt: skip
def test_patterns_that_are_refused(foreach: Any, path: str) -> None:
    assert f"steps[0].foreach.{path}" in [fault.path for fault in faults(foreach)]
