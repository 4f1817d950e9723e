"""A JSON Schema costs what the settings allow, whatever it and the parameters are."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event, Thread
from typing import Any

import pytest

from ccat_workflow_manager.definition.compiled import compile_pipeline
from ccat_workflow_manager.definition.parameters import ParameterSchema
from ccat_workflow_manager.definition.spec import parse_pipeline
from ccat_workflow_manager.errors import Invalid
from ccat_workflow_manager.limits import Limits, enforce, limits


@pytest.fixture(autouse=True)
def few_visits() -> Iterator[None]:
    before = limits()
    enforce(Limits(schema_visits=20_000))
    yield
    enforce(before)


def pipeline(schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": "hostile", "parameters": schema, "steps": [{"name": "s", "command": ["true"]}]}


def one(**schema: Any) -> dict[str, Any]:
    return {"properties": {"x": schema}}


def levels(count: int, **level: Any) -> dict[str, Any]:
    """Definitions l0, l1, ...: each is `level`, in which NEXT stands for the next one."""

    def filled(value: Any, number: int) -> Any:
        match value:
            case "NEXT":
                return {"$ref": f"#/$defs/l{number + 1}"}
            case dict():
                return {name: filled(inner, number) for name, inner in value.items()}
            case list():
                return [filled(inner, number) for inner in value]
            case _:
                return value

    last = {f"l{count}": {"properties": {"z": {"default": 1}}}}
    return {"$defs": {f"l{number}": filled(level, number) for number in range(count)} | last}


FAN = levels(15, allOf=["NEXT"] * 6)
TOO_MUCH: list[tuple[str, dict[str, Any], Any]] = [
    ("references fan out", {**FAN, **one(**{"$ref": "#/$defs/l0"})}, "text"),
    ("long text and large pattern", one(pattern="(a{0,500}b?)" * 4 + "$"), "a" * 100_000),
    ("messages that hold the value", one(anyOf=[{"type": "number"}] * 1000), ["text" * 1000] * 100),
    ("empty alternatives for each item", one(items={"allOf": [True] * 1000}), [1] * 1000),
    ("members of a large value", one(items={"enum": [[0] * 1000] * 100}), [[0] * 999 + [1]] * 100),
    ("names by patterns", one(patternProperties={f"^{n}": {} for n in range(90)}), {str(n): 0 for n in range(1000)}),
    ("defaults of each item", one(items={"properties": {"y": {"default": [0] * 1000}}}), [{}] * 1000),
]


@pytest.mark.parametrize(("schema", "value"), [case[1:] for case in TOO_MUCH], ids=[case[0] for case in TOO_MUCH])
def test_a_check_that_takes_too_long_is_refused(schema: dict[str, Any], value: Any) -> None:
    compiled = compile_pipeline(parse_pipeline(pipeline(schema)))
    with pytest.raises(Invalid, match="SCHEMA_VISITS") as refusal:
        compiled.validate_parameters({"x": value})
    assert [fault.path for fault in refusal.value.faults] == ["parameters"]


def test_a_pattern_is_linear_and_leaves_the_lock_of_python_alone() -> None:
    schema = ParameterSchema(one(pattern="^(a+)+$"))
    ticks, over = [0], Event()

    def tick() -> None:
        while not over.wait(0.001):
            ticks[0] += 1

    thread = Thread(target=tick)
    thread.start()
    for _ in range(200):
        with pytest.raises(Invalid, match="must match the pattern"):
            schema.validate({"x": "a" * 10_000 + "!"})
    over.set()
    thread.join()
    assert ticks[0] > 0


AT_APPLY: list[tuple[str, dict[str, Any], str]] = [
    ("a default by references that fan out", {**FAN, **one(**{"$ref": "#/$defs/l0", "default": 1})}, "SCHEMA_VISITS"),
    (
        "defaults that double",
        levels(60, properties={"a": "NEXT", "b": "NEXT"}) | one(**{"$ref": "#/$defs/l0"}),
        "SCHEMA",
    ),
    ("more schemas than can be checked", {"properties": {f"a{n}": {} for n in range(3000)}}, "2000 schemas"),
    ("more names than can be checked", one(required=[f"a{n}" for n in range(20_000)]), "10000 entries"),
    ("more patterns than are kept", one(patternProperties={f"^{n}": {} for n in range(200)}), "100 patterns"),
    ("lookahead", one(pattern="(?=a)b"), "lookahead"),
    ("backreference", one(pattern=r"(a)\1"), "backreference"),
    ("possessive", one(pattern="a++"), "possessive"),
    ("repeated repetitions", one(pattern="(a{1000}){1000}"), "1000 times"),
    ("a program too large", one(pattern="(a{1000})" * 100), "256 KB"),
    (
        "patterns where the library runs its own",
        one(patternProperties={"^a": {}}, unevaluatedProperties=False),
        "beside",
    ),
    ("a validator of the library", one(**{"$schema": "https://json-schema.org/draft/2020-12/schema"}), "not supported"),
]


@pytest.mark.parametrize(("schema", "words"), [case[1:] for case in AT_APPLY], ids=[case[0] for case in AT_APPLY])
def test_a_schema_that_cannot_be_run_is_refused_at_apply(schema: dict[str, Any], words: str) -> None:
    with pytest.raises(Invalid, match=words):
        parse_pipeline(pipeline(schema))


def test_a_dialect_at_the_top_changes_nothing() -> None:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **one(pattern="^a$")}
    compiled = compile_pipeline(parse_pipeline(pipeline(schema)))
    assert compiled.validate_parameters({"x": "a"}) == {"x": "a"}
    with pytest.raises(Invalid, match="pattern"):
        compiled.validate_parameters({"x": "a\n"})


def test_long_names_are_not_compared() -> None:
    for definition in (pipeline({}) | {"n" * 1_000_000: 1}, {**pipeline({}), "steps": [
        {"name": "s", "command": ["true"], "depends_on": ["s" * 1_000_000]},
    ]}):  # fmt: skip
        with pytest.raises(Invalid) as refusal:
            parse_pipeline(definition)
        assert len(refusal.value.message) < 1_002_000
