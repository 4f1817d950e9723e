"""`inputs` of a definition: what is accepted, what is refused, what the substitutions make of them."""

from __future__ import annotations

from typing import Any

import pytest

from ccat_workflow_manager.definition.compiled import compile_pipeline
from ccat_workflow_manager.definition.input_roots import InputRoots
from ccat_workflow_manager.definition.inputs import WantedInput, substituted_inputs
from ccat_workflow_manager.definition.spec import canonical, parse_pipeline
from ccat_workflow_manager.errors import Invalid


def definition(of_step: Any = None, common: Any = None, **step: Any) -> dict[str, Any]:
    own = {"name": "s", "command": ["true"], **({} if of_step is None else {"inputs": of_step}), **step}
    return {"name": "p", **({} if common is None else {"inputs": common}), "steps": [own]}


def test_an_entry_is_kept_as_it_was_written_in_its_shortest_form() -> None:
    given = ["/data/a", {"from": "/data/b"}, {"from": "/data/c/*.fits", "to": "c/"}]
    spec = parse_pipeline(definition(given))
    assert canonical(spec)["steps"] == [{"name": "s", "command": ["true"], "inputs": ["/data/a", "/data/b", given[2]]}]
    assert parse_pipeline(canonical(spec)).content_hash == spec.content_hash


def test_the_inputs_of_the_pipeline_are_those_of_every_step() -> None:
    [step] = compile_pipeline(parse_pipeline(definition(["/data/b"], ["/data/a"]))).steps
    assert [(path, entry.source) for path, entry in step.inputs] == [
        ("inputs[0]", "/data/a"), ("steps[0].inputs[0]", "/data/b"),
    ]  # fmt: skip


def test_other_inputs_are_another_program() -> None:
    programs = [compile_pipeline(parse_pipeline(definition(None, [path]))).steps[0].program for path in ("/a", "/b")]
    assert programs[0] != programs[1]


BAD: list[tuple[Any, str, str]] = [
    ("/data/a", "inputs", "list"),
    ([3], "inputs[0]", "number"),
    (["data/a"], "inputs[0]", "absolute"),
    (["/data/../etc/passwd"], "inputs[0]", ".."),
    (["/data/a\nb"], "inputs[0]", "control"),
    (["/data/a\0"], "inputs[0]", "NUL"),
    ([{"to": "a"}], "inputs[0].from", "required"),
    ([{"from": "/a", "too": "a"}], "inputs[0].too", "did you mean to"),
    ([{"from": "/a", "to": "/etc/a"}], "inputs[0]", "below /workflow/input"),
    ([{"from": "/a", "to": "../a"}], "inputs[0]", ".."),
    ([{"from": "ftp://host/a"}], "inputs[0].from", "ftp"),
    (["s3://bucket"], "inputs[0]", "s3://BUCKET/KEY"),
    (["https://me:secret@host/a"], "inputs[0]", "password"),
    (["/data/${item}"], "inputs[0]", "no foreach"),
    (["/data/${parameters.night}"], "inputs[0]", "night"),
    (["/data/a/x", "/data/b/x"], "inputs", "two inputs have the name x"),
    (["/data/a", {"from": "/data/b", "to": "a/b"}], "inputs", "directory"),
    (["/data/a"] * 1001, "inputs", "1000"),
]


@pytest.mark.parametrize(("inputs", "path", "problem"), BAD, ids=[str(entry)[:40] for entry, *_ in BAD])
@pytest.mark.parametrize("owner", ["pipeline", "step"])
def test_refused(inputs: Any, path: str, problem: str, owner: str) -> None:
    given = definition(inputs) if owner == "step" else definition(None, inputs)
    with pytest.raises(Invalid) as refused:
        parse_pipeline(given)
    assert {fault.path: fault.message for fault in refused.value.faults}.keys() >= {
        f"steps[0].{path}" if owner == "step" else path
    }
    assert problem in refused.value.message


def wanted(source: str, to: str | None = None, item: Any = None, **parameters: Any) -> WantedInput:
    entry: Any = source if to is None else {"from": source, "to": to}
    schema = {"type": "object", "properties": {name: {} for name in parameters}}
    spec = parse_pipeline({**definition([entry], foreach=[item]), "parameters": schema})
    [found] = substituted_inputs(compile_pipeline(spec).steps[0].inputs, parameters, item, "run-7", "s")
    return found


@pytest.mark.parametrize(
    ("found", "source", "name"),
    [
        (wanted("/data/${item}", item="a b"), "/data/a b", "a b"),
        (wanted("/data/${item}", "raw.fits", item="a"), "/data/a", "raw.fits"),
        (wanted("/data/${item}", "raw/", item="a"), "/data/a", "raw/a"),
        (wanted("/data/x", "${item}/x", item="a"), "/data/x", "a/x"),
        (wanted("/data/directory/"), "/data/directory/", "directory"),
        (wanted("/data/${parameters.night}/x", night="2026-11-27"), "/data/2026-11-27/x", "x"),
        (wanted("https://host/a/b.fits?version=2"), "https://host/a/b.fits?version=2", "b.fits"),
        (wanted("/data/${item}", item="a*[b]"), "/data/a*[b]", "a*[b]"),
    ],
)
def test_substitutions_and_names(found: WantedInput, source: str, name: str) -> None:
    assert (found.source, found.is_pattern, found.name_of(found.source)) == (source, False, name)


def test_an_item_stands_for_itself_in_a_pattern_and_a_parameter_may_bring_one() -> None:
    assert wanted("/data/${item}/*.fits", item="a*").source == "/data/a[*]/*.fits"
    found = wanted("/data/${parameters.what}", what="*.fits")
    assert (found.source, found.is_pattern, found.name_of("/data/a.fits")) == ("/data/*.fits", True, "a.fits")
    assert wanted("/data/*.fits", "raw").name_of("/data/a.fits") == "raw/a.fits"


@pytest.mark.parametrize("item", ["../etc/passwd", "a/../../etc", "a\nb"])
def test_a_value_that_leads_elsewhere_is_refused(item: str) -> None:
    with pytest.raises(Invalid, match=r"steps\[0\].inputs\[0\]"):
        wanted("/data/${item}", item=item)


ROOTS = InputRoots.of(["/data/raw", " s3://night/raw/ ", "https://archive.example.org"], free=True)


@pytest.mark.parametrize(
    "source",
    [
        "/data/raw",
        "/data/raw/a",
        "/data/raw//a/",
        "s3://night/raw/a",
        "https://archive.example.org/x",
        "http://other/x",
    ],
)
def test_below_a_root(source: str) -> None:
    assert ROOTS.problem(source) is None


@pytest.mark.parametrize("source", ["/data", "/data/rawer/a", "/etc/passwd", "s3://night/rawer/a", "https://other/x"])
def test_not_below_a_root(source: str) -> None:
    assert source in (ROOTS.problem(source) or "")


@pytest.mark.parametrize(
    ("text", "possible"),
    [
        ("/data/raw/${item}", True), ("/data/${item}", True), ("${parameters.path}", True), ("/d*/x", True),
        ("/etc/${item}", False), ("/data/rawer/${item}", False), ("/etc/*", False), ("s3://other/${item}", False),
    ],
)  # fmt: skip
def test_whether_a_text_can_lead_below_a_root(text: str, possible: bool) -> None:
    assert (ROOTS.template_problem(text) is None) is possible


def test_without_roots_nothing_is_allowed_but_in_localdev_all() -> None:
    closed, free = InputRoots.of([], free=False), InputRoots.of([], free=True)
    for source in ("/data/a", "s3://b/k", "https://h/x"):
        assert "INPUT_ROOTS" in (closed.problem(source) or "")
        assert free.problem(source) is None
