"""Pipeline definitions that are refused, and where the finger points."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ccat_workflow_manager.definition.spec import canonical, parse_pipeline
from ccat_workflow_manager.errors import MAX_FAULTS, Invalid
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.json_values import MAX_DEPTH
from tests.unit.definitions import SCHEMA, faults_of, nested, pipeline, step, with_schema

BAD: list[tuple[str, object, set[str]]] = [
    # shape
    ("nothing", None, {""}),
    ("a list", [], {""}),
    ("empty", {}, {"name", "steps"}),
    ("unknown field", pipeline(stepps=1), {"stepps"}),
    ("key that is no string", {1: 2}, {""}),
    ("value that is no JSON", pipeline(description={1, 2}), {"description"}),
    ("too deep", pipeline(parameters={"default": nested(100, "x")}), {"parameters.default" + ".x" * (MAX_DEPTH - 2)}),
    ("huge number", pipeline(step(foreach=[10**5000])), {"steps[0].foreach[0]"}),
    ("NaN", pipeline(step(foreach=[float("nan")])), {"steps[0].foreach[0]"}),
    ("NUL in a value", pipeline(description="a\0b"), {"description"}),
    (
        "NUL in a key",
        pipeline(step(environment={"A\0": "x"})),
        {"steps[0].environment", 'steps[0].environment["A\\u0000"]'},
    ),
    ("half a surrogate pair", pipeline(step(command=["echo", "\ud83d"])), {"steps[0].command[1]"}),
    # names
    ("upper-case name", pipeline(name="Map"), {"name"}),
    ("name with a newline", pipeline(name="map\n"), {"name"}),
    ("long name", pipeline(name="a" * 64), {"name"}),
    ("name that is a path", pipeline(name="../x"), {"name"}),
    ("name null", pipeline(name=None), {"name"}),
    ("step name", pipeline(step("a.b")), {"steps[0].name"}),
    ("duplicate name", pipeline(step("a"), step("b"), step("a")), {"steps[2].name"}),
    ("backend name", pipeline(step(backend="a b")), {"steps[0].backend"}),
    # steps
    ("no steps", pipeline(steps=[]), {"steps"}),
    ("steps as mapping", pipeline(steps={"a": step()}), {"steps"}),
    ("step as text", pipeline("true"), {"steps[0]"}),
    ("too many steps", pipeline(*(step(f"s{n}") for n in range(1001))), {"steps"}),
    ("unknown step field", pipeline(step(depends=[])), {"steps[0].depends"}),
    ("no command", pipeline({"name": "a"}), {"steps[0].command"}),
    ("command as text", pipeline(step(command="echo hello")), {"steps[0].command"}),
    ("empty command", pipeline(step(command=[])), {"steps[0].command"}),
    ("empty program", pipeline(step(command=["", "x"])), {"steps[0].command[0]"}),
    ("number as argument", pipeline(step(command=["sleep", 3])), {"steps[0].command[1]"}),
    ("long argument", pipeline(step(command=["echo", "x" * 200_000])), {"steps[0].command[1]"}),
    ("image as number", pipeline(step(image=3)), {"steps[0].image"}),
    ("empty image", pipeline(step(image="  ")), {"steps[0].image"}),
    *[
        (f"image {image[:30]}", pipeline(step(image=image)), {"steps[0].image"})
        for image in (
            "../x.sif",
            "a/../../x.sif",
            "docker://",
            "oras://",
            "ftp://x",
            "file:///etc/passwd",
            "shub://a",
            "instance://x",
            "http://x/y.sif",
            "name@sha256:xyz",
            f"docker://name@sha256:{'A' * 64}",
            "docker://a b",
            "docker://a/../b",
            "x" * 5000,
            "/",
            ".",
            "ftp://${parameters.text}",
            "../${parameters.text}.sif",
            "docker://a b/${parameters.text}",
            "${parameters.text}/../b.sif",
            "name${parameters.text}@sha256:12",
        )
    ],
    ("image as option", pipeline(step(image="--bind=/")), {"steps[0].image"}),
    # environment
    ("environment as list", pipeline(step(environment=["A=1"])), {"steps[0].environment"}),
    ("number as variable", pipeline(step(environment={"N": 4})), {"steps[0].environment.N"}),
    ("bad variable name", pipeline(step(environment={"1A": "x"})), {"steps[0].environment.1A"}),
    ("variable name with =", pipeline(step(environment={"A=B": "x"})), {'steps[0].environment["A=B"]'}),
    ("reserved variable", pipeline(step(environment={"WORKFLOW_KEY": "x"})), {"steps[0].environment.WORKFLOW_KEY"}),
    # resources and retry
    ("no CPU", pipeline(step(resources={"cpu": 0})), {"steps[0].resources.cpu"}),
    ("negative memory", pipeline(step(resources={"memory_gb": -1})), {"steps[0].resources.memory_gb"}),
    ("endless time", pipeline(step(resources={"time_hours": float("inf")})), {"steps[0].resources.time_hours"}),
    (
        "too much",
        pipeline(step(resources={"cpu": 1e9, "gpu": 10**6})),
        {"steps[0].resources.cpu", "steps[0].resources.gpu"},
    ),
    ("half a GPU", pipeline(step(resources={"gpu": 0.5})), {"steps[0].resources.gpu"}),
    ("boolean as number", pipeline(step(resources={"cpu": True})), {"steps[0].resources.cpu"}),
    ("text as number", pipeline(step(resources={"memory_gb": "4 GB"})), {"steps[0].resources.memory_gb"}),
    ("unknown resource", pipeline(step(resources={"cpus": 2})), {"steps[0].resources.cpus"}),
    ("resources of defaults", pipeline(defaults={"resources": {"cpu": "x"}}), {"defaults.resources.cpu"}),
    (
        "substitution in a resource",
        pipeline(step(resources={"partition": "${item}"})),
        {"steps[0].resources.partition"},
    ),
    ("no attempt", pipeline(step(retry={"max_attempts": 0})), {"steps[0].retry.max_attempts"}),
    ("too many attempts", pipeline(step(retry={"max_attempts": 101})), {"steps[0].retry.max_attempts"}),
    ("negative back-off", pipeline(step(retry={"backoff_seconds": -1})), {"steps[0].retry.backoff_seconds"}),
    ("shrinking memory", pipeline(step(retry={"memory_factor": 0.5})), {"steps[0].retry.memory_factor"}),
    ("unknown reason", pipeline(step(retry={"on": ["lost", "bad_luck"]})), {"steps[0].retry.on[1]"}),
    ("reason that is a decision", pipeline(step(retry={"on": ["lost", "cancelled"]})), {"steps[0].retry.on[1]"}),
    ("cap below the start", pipeline(step(retry={"memory_cap_gb": 1})), {"steps[0].retry.memory_cap_gb"}),
    # graph
    ("unknown dependency", pipeline(step("a"), step("b", depends_on=["c"])), {"steps[1].depends_on[0]"}),
    ("itself", pipeline(step("a", depends_on=["a"])), {"steps[0].depends_on[0]"}),
    ("twice", pipeline(step("a"), step("b", depends_on=["a", {"step": "a"}])), {"steps[1].depends_on[1]"}),
    ("dependency as text", pipeline(step("a"), step("b", depends_on="a")), {"steps[1].depends_on"}),
    (
        "tolerance of its own item",
        pipeline(step("a", foreach=[1]), step("b", foreach=[1], depends_on=[{"step": "a", "tolerate": 1}])),
        {"steps[1].depends_on[0].tolerate"},
    ),
    (
        "tolerance and match: key",
        pipeline(
            step("a", foreach=[1]), step("b", foreach=[1], depends_on=[{"step": "a", "match": "key", "tolerate": "5%"}])
        ),
        {"steps[1].depends_on[0].tolerate"},
    ),
    (
        "weak with tolerance",
        pipeline(step("a"), step("b", depends_on=[{"step": "a", "weak": True, "tolerate": 1}])),
        {"steps[1].depends_on[0].tolerate"},
    ),
    (
        "weak, decided early",
        pipeline(step("a"), step("b", depends_on=[{"step": "a", "weak": True, "wait": "fail_fast"}])),
        {"steps[1].depends_on[0].wait"},
    ),
    (
        "unknown wait",
        pipeline(step("a"), step("b", depends_on=[{"step": "a", "tolerate": 1, "wait": "some"}])),
        {"steps[1].depends_on[0].wait"},
    ),
    (
        "weak as text",
        pipeline(step("a"), step("b", depends_on=[{"step": "a", "weak": "yes"}])),
        {"steps[1].depends_on[0].weak"},
    ),
    ("dependency as number", pipeline(step("a", depends_on=[3])), {"steps[0].depends_on[0]"}),
    ("dependency without step", pipeline(step("a", depends_on=[{"match": "all"}])), {"steps[0].depends_on[0].step"}),
    (
        "unknown match",
        pipeline(step("a"), step("b", depends_on=[{"step": "a", "match": "any"}])),
        {"steps[1].depends_on[0].match"},
    ),
    (
        "match key without items",
        pipeline(step("a"), step("b", foreach=[1], depends_on=[{"step": "a", "match": "key"}])),
        {"steps[1].depends_on[0].match"},
    ),
    (
        "match key with other items",
        pipeline(step("a", foreach=[1, 2]), step("b", foreach=[1], depends_on=[{"step": "a", "match": "key"}])),
        {"steps[1].depends_on[0].match"},
    ),
    (
        "too many dependencies",
        pipeline(*(step(f"s{n}", depends_on=[f"s{m}" for m in range(n)]) for n in range(210))),
        {"steps"},
    ),
    ("cycle", pipeline(step("a", depends_on=["b"]), step("b", depends_on=["a"])), {"steps[0].depends_on[0]"}),
    (
        "two cycles behind a good step",
        pipeline(
            step("ok"),
            step("a", depends_on=["ok", "c"]),
            step("b", depends_on=["a"]),
            step("c", depends_on=["b"]),
            step("d", depends_on=["e", "c"]),
            step("e", depends_on=["d"]),
        ),
        {"steps[1].depends_on[1]", "steps[4].depends_on[0]"},
    ),
    # substitutions
    ("unknown substitution", pipeline(step(command=["x", "${HOME}"])), {"steps[0].command[1]"}),
    ("undeclared parameter", pipeline(step(command=["x", "-${parameters.none}-"])), {"steps[0].command[1]"}),
    ("undeclared part", pipeline(step(command=["${parameters.part.weight}"])), {"steps[0].command[0]"}),
    ("variable of a runtime", pipeline(step(image="a.sif", environment={"HOME": "/x"})), {"steps[0].environment.HOME"}),
    ("CR LF in a container", pipeline(step(image="a.sif", environment={"A": "x\r\ny"})), {"steps[0].environment.A"}),
    ("U+0080 in a container", pipeline(step(image="a.sif", environment={"A": "\x80"})), {"steps[0].environment.A"}),
    ("part of a text", pipeline(step(environment={"A": "${parameters.text.x}"})), {"steps[0].environment.A"}),
    ("no such thing in run", pipeline(step(image="${run.name}.sif")), {"steps[0].image"}),
    ("item without foreach", pipeline(step(command=["x", "${item}"])), {"steps[0].command[1]"}),
    ("part of an item", pipeline(step(command=["${item.x}"], foreach=[1])), {"steps[0].command[0]"}),
    ("never closed", pipeline(step(command=["x", "${item"], foreach=[1])), {"steps[0].command[1]"}),
    ("spaces", pipeline(step(command=["${ item }"], foreach=[1])), {"steps[0].command[0]"}),
    ("all parameters", pipeline(step(command=["${parameters}"])), {"steps[0].command[0]"}),
    ("dot too many", pipeline(step(command=["${parameters.text.}"])), {"steps[0].command[0]"}),
    # foreach
    ("foreach as number", pipeline(step(foreach=3)), {"steps[0].foreach"}),
    ("foreach as mapping", pipeline(step(foreach={"a": 1})), {"steps[0].foreach.a", "steps[0].foreach.glob"}),
    ("foreach as plain text", pipeline(step(foreach="abc")), {"steps[0].foreach"}),
    ("foreach with text around", pipeline(step(foreach="${parameters.items} ")), {"steps[0].foreach"}),
    ("foreach over a text", pipeline(step(foreach="${parameters.text}")), {"steps[0].foreach"}),
    ("foreach over anything", pipeline(step(foreach="${parameters.anything}")), {"steps[0].foreach"}),
    ("foreach over nothing", pipeline(step(foreach="${parameters.none}")), {"steps[0].foreach"}),
    ("item twice", pipeline(step(foreach=["a", {"x": 1, "y": 2}, {"y": 2, "x": 1}])), {"steps[0].foreach[2]"}),
    ("substitution in an item", pipeline(step(foreach=["a", "${run.id}"])), {"steps[0].foreach[1]"}),
    # parameters
    ("parameters as list", pipeline(parameters=["line"]), {"parameters"}),
    ("parameters of type array", pipeline(parameters={"type": "array"}), {"parameters.type"}),
    ("no schema type", with_schema(x={"type": "text"}), {"parameters.properties.x.type"}),
    ("schema as text", with_schema(x="string"), {"parameters.properties.x"}),
    ("required of old", with_schema(x={"required": True}), {"parameters.properties.x.required"}),
    ("minimum as text", with_schema(x={"minimum": "3"}), {"parameters.properties.x.minimum"}),
    ("bad pattern", with_schema(x={"pattern": "(a"}), {"parameters.properties.x.pattern"}),
    ("huge pattern", with_schema(x={"pattern": "a{99999999999999999999}"}), {"parameters.properties.x.pattern"}),
    (
        "bad pattern of names",
        with_schema(x={"patternProperties": {"[": {}}}),
        {'parameters.properties.x.patternProperties["["]'},
    ),
    ("remote reference", with_schema(x={"$ref": "https://example.org/x.json"}), {"parameters.properties.x.$ref"}),
    ("file reference", with_schema(x={"$ref": "other.json#/x"}), {"parameters.properties.x.$ref"}),
    ("reference to nothing", with_schema(x={"$ref": "#/$defs/x"}), {"parameters.properties.x.$ref"}),
    ("reference to no schema", with_schema(x={"$ref": "#/type"}), {"parameters.properties.x.$ref"}),
    ("dynamic reference", with_schema(x={"$dynamicRef": "#x"}), {"parameters.properties.x.$dynamicRef"}),
    (
        "reference to itself",
        with_schema(x={"anyOf": [{"$ref": "#/properties/x"}]}),
        {"parameters.properties.x.anyOf[0].$ref"},
    ),
    (
        "references without end",
        pipeline(parameters={"$defs": {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(33)} | {"d33": {}}}),
        {"parameters.$defs.d0.$ref", "parameters.$defs.d1.$ref"},
    ),
    ("id inside", with_schema(x={"$id": "https://example.org/"}), {"parameters.properties.x.$id"}),
    (
        "old dialect",
        pipeline(parameters={"$schema": "http://json-schema.org/draft-07/schema#"}),
        {"parameters.$schema"},
    ),
    (
        "default of another type",
        with_schema(x={"type": "integer", "default": "1"}),
        {"parameters.properties.x.default"},
    ),
    # several at once
    (
        "everything wrong",
        {
            "name": "A",
            "parameters": {"properties": {"x": {"type": "text"}}},
            "steps": [
                {"name": "a", "command": "x", "depends_on": ["b"], "resources": {"cpu": 0}},
                {"name": "a", "command": ["${parameters.y}", "a\0b"], "foreach": "${parameters.x}"},
            ],
        },
        {
            "name",
            "parameters.properties.x.type",
            "steps[0].command",
            "steps[0].depends_on[0]",
            "steps[0].resources.cpu",
            "steps[1].name",
            "steps[1].command[0]",
            "steps[1].command[1]",
        },
    ),
]


@pytest.mark.parametrize("value", ["101%", "100.1%", -1, "-5%", "5", "five", 0.5, True, [], 10**9])
def test_a_tolerance_is_a_number_or_a_percentage(value: Any) -> None:
    faulty = pipeline(step("a", foreach=[1]), step("b", depends_on=[{"step": "a", "tolerate": value}]))
    assert set(faults_of(parse_pipeline, faulty)) == {"steps[1].depends_on[0].tolerate"}


@pytest.mark.parametrize(("definition", "paths"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_malformed_definition_is_refused_with_the_path_of_each_fault(definition: object, paths: set[str]) -> None:
    assert set(faults_of(parse_pipeline, definition)) == paths


@pytest.mark.parametrize(
    ("definition", "path", "words"),
    [
        (pipeline(step(command="echo a")), "steps[0].command", '["echo", "a"]'),
        (pipeline(step(resource={})), "steps[0].resource", "did you mean resources?"),
        (pipeline(step(environment={"N": 4})), "steps[0].environment.N", 'in quotes: "4"'),
        (pipeline(step("a"), step("b", depends_on=["aa"])), "steps[1].depends_on[0]", "did you mean a?"),
        (
            pipeline(step("a", depends_on=["c"]), step("b", depends_on=["a"]), step("c", depends_on=["b"])),
            "steps[0].depends_on[0]",
            "a -> c -> b -> a",
        ),
        (pipeline(step(resources={"cpu": 0})), "steps[0].resources.cpu", "must be more than 0, not 0"),
        (pipeline(step(resources={"gpu": 1.5})), "steps[0].resources.gpu", "must be a whole number, not 1.5"),
        (pipeline(step(command=["${x}"])), "steps[0].command[0]", "${parameters.NAME}, ${item}, ${run.id}"),
        (with_schema(x={"type": "text"}), "parameters.properties.x.type", "array, boolean, integer"),
        (pipeline(step(retry={"on": ["x"]})), "steps[0].retry.on[0]", "out_of_memory"),
    ],
)
def test_a_fault_says_what_is_allowed(definition: object, path: str, words: str) -> None:
    assert words in faults_of(parse_pipeline, definition)[path]


def test_a_flood_of_faults_is_cut() -> None:
    assert len(faults_of(parse_pipeline, pipeline(step(command=[*"x" * 5, *range(10_000)])))) == MAX_FAULTS + 1


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("${parameters.text}")
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)
names = st.sampled_from(["a", "b", "c", "A", ""])


def mapping(known: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """A mapping that has some of the known fields, mostly of a fitting form."""
    return st.fixed_dictionaries({}, optional={name: value | anything for name, value in known.items()}) | anything


definitions = mapping(
    {
        "name": names,
        "parameters": mapping(
            {"type": st.just("object"), "properties": st.just(SCHEMA["properties"]), "$ref": st.just("#")}
        ),
        "defaults": mapping({"backend": names, "resources": mapping({"cpu": st.floats()}), "retry": anything}),
        "steps": st.lists(
            mapping(
                {
                    "name": names,
                    "command": st.lists(st.text(min_size=1), min_size=1),
                    "foreach": st.lists(anything) | st.just("${parameters.items}"),
                    "depends_on": st.lists(names | mapping({"step": names, "match": st.sampled_from(["key", "all"])})),
                    "environment": st.dictionaries(st.text(), st.text()),
                    "resources": mapping({"cpu": st.floats(), "gpu": st.integers(), "extra": anything}),
                    "retry": mapping({"max_attempts": st.integers(), "on": st.lists(st.sampled_from(FailureReason))}),
                }
            ),
            max_size=4,
        ),
    }
)


@given(definitions)
def test_any_json_gives_a_definition_or_invalid(definition: object) -> None:
    try:
        spec = parse_pipeline(definition)
    except Invalid:
        assert faults_of(parse_pipeline, definition)
    else:
        assert parse_pipeline(canonical(spec)) == spec


def test_without_an_image_any_variable_will_do() -> None:
    parse_pipeline(pipeline(step(environment={"HOME": "/x", "A": "x\r\ny\x80"})))


@pytest.mark.parametrize(
    ("definition", "meant"),
    [
        (pipeline(step(env={})), "environment"),
        (pipeline(step(container="x.sif")), "image"),
        (pipeline(step(script="x.py")), "files"),
        (pipeline(step(needs=["a"])), "depends_on"),
        (pipeline(step(walltime=1)), "resources.time_hours"),
        (pipeline(step(memory=1)), "resources.memory_gb"),
        (pipeline(step(cpus=1)), "resources.cpu"),
        (pipeline(step(resources={"mem": 1})), "memory_gb"),
        (pipeline(step(resources={"walltime": 1})), "time_hours"),
        (pipeline(step(retries=1)), "retry.max_attempts"),
        (pipeline(step(comand=["a"])), "command"),
        (pipeline(tasks=[]), "steps"),
        (pipeline(defaults={"memory_gb": 1}), "resources.memory_gb"),
    ],
)
def test_names_of_other_systems_are_known(definition: object, meant: str) -> None:
    with pytest.raises(Invalid) as refusal:
        parse_pipeline(definition)
    assert f"did you mean {meant}?" in str(refusal.value)


@pytest.mark.parametrize("command", ["python reduce.py ${item}", "a 'b c' 3", 'a "b', ""])
def test_a_suggested_command_can_be_pasted(command: str) -> None:
    with pytest.raises(Invalid) as refusal:
        parse_pipeline(pipeline(step(command=command)))
    suggested = yaml.safe_load(str(refusal.value).partition("such as ")[2])
    assert all(isinstance(word, str) for word in suggested)
    parse_pipeline(pipeline(step(command=suggested, foreach=[1])))
