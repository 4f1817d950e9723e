"""Any JSON is either accepted or refused with a problem document."""

from __future__ import annotations

import json
import string
from typing import Any

import pytest
from httpx import Response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.rest import CHAIN, ONE, Rest

pytestmark = pytest.mark.whole

_SETTINGS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

texts = st.one_of(
    st.text(max_size=8),
    st.text(string.ascii_lowercase + "${}.\0\ud800\U0001f52d/-", max_size=12),
    st.sampled_from(["one", "first", "noop", "key", "${item}", "${parameters.scans}", "parameters", "../x", ""]),
)
whole = st.one_of(st.integers(), st.integers(-5, 2000), st.just(10**25))
numbers = st.one_of(whole, st.floats(allow_nan=False, allow_infinity=False))
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)


@st.composite
def nearly(draw: st.DrawFn, good: st.SearchStrategy[Any]) -> Any:
    """A valid document, or one with up to two faults."""
    document = draw(good)
    for _ in range(draw(st.integers(0, 2))):
        document = _spoilt(draw, document)
    return document


def _spoilt(draw: st.DrawFn, node: Any) -> Any:
    """A copy in which one value is replaced, removed or added."""
    places: list[Any] = (
        list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
    )
    if not places or draw(st.integers(0, 3)) == 0:
        return {**node, draw(texts): draw(values)} if isinstance(node, dict) and draw(st.booleans()) else draw(values)
    place = draw(st.sampled_from(places))
    copy = node.copy()
    if draw(st.integers(0, 5)) == 0:
        del copy[place]
    else:
        copy[place] = _spoilt(draw, node[place])
    return copy


few = st.floats(0.5, 100)
resources = st.fixed_dictionaries({}, optional={"cpu": few, "memory_gb": few, "extra": st.just({"qos": "high"})})
retry = st.fixed_dictionaries({}, optional={"max_attempts": st.integers(1, 5), "on": st.just(["lost", "time_limit"])})
plain = st.text(string.ascii_letters + " é", max_size=8)


def step(name: str, upstream: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {"name": st.just(name), "command": st.lists(plain.filter(bool), min_size=1, max_size=3)},
        optional={
            "foreach": st.one_of(st.just("${parameters.scans}"), st.lists(whole, max_size=4, unique=True)),
            "depends_on": st.lists(st.sampled_from(upstream), max_size=2, unique=True) if upstream else st.just([]),
            "environment": st.dictionaries(st.sampled_from(["A", "B_1"]), plain),
            "resources": resources,
            "retry": retry,
            "backend": st.sampled_from(["noop", "concurrent"]),
        },
    )


definition = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["one", "two"]),
        "parameters": st.just({"type": "object", "properties": {"scans": {"type": "array", "default": [1, 2]}}}),
        "steps": st.tuples(step("a", []), step("b", ["a"]), step("c", ["a", "b"])).map(list),
    },
    optional={"description": plain, "defaults": st.fixed_dictionaries({"resources": resources, "retry": retry})},
)
common: dict[str, st.SearchStrategy[Any]] = {
    "priority": st.integers(-1000, 1000),
    "labels": st.dictionaries(plain.filter(bool), plain, max_size=3),
    "backend": st.sampled_from(["noop", "concurrent"]),
}
scans = st.fixed_dictionaries({"scans": st.lists(st.one_of(whole, plain), min_size=1, max_size=3, unique=True)})
run = st.one_of(
    st.fixed_dictionaries({"pipeline": st.just("chain"), "parameters": scans}, optional=common),
    st.fixed_dictionaries({"pipeline": st.just("one")}, optional={**common, "version": st.just(1)}),
    st.fixed_dictionaries({"spec": definition}, optional={**common, "parameters": scans}),
)
filters = st.fixed_dictionaries(
    {"status": st.sampled_from(["FAILED", "CANCELLED"])}, optional={"label": st.just("a:b"), "q": plain}
)


def send(rest: Rest, method: str, path: str, body: Any) -> Response:
    return rest.send(method, path, content=json.dumps(body), headers={"Content-Type": "application/json"})


def check(rest: Rest, response: Response) -> None:
    if response.is_success:
        assert response.json()
    else:
        assert 400 <= response.status_code < 500, response.text
        rest.refused(response, response.status_code, response.json()["code"])


@_SETTINGS
@given(body=st.one_of(nearly(run), values))
def test_any_json_as_a_run(rest: Rest, body: Any) -> None:
    for name in ("one", "chain"):
        send(rest, "PUT", f"/pipelines/{name}", {"one": ONE, "chain": CHAIN}[name])
    response = send(rest, "POST", "/runs", body)
    check(rest, response)
    if response.is_success:
        made = response.json()
        assert rest.get(f"/runs/{made['id']}")["parameters"] == made["parameters"]
        assert made["counts"]["PENDING"] == len(made["step_runs"]) > 0
    check(rest, send(rest, "POST", "/runs/bulk", {"runs": [body, {"pipeline": "one"}]}))


@_SETTINGS
@given(body=st.one_of(nearly(definition), values))
def test_any_json_as_a_pipeline(rest: Rest, body: Any) -> None:
    for name in ("one", "two"):
        check(rest, send(rest, "PUT", f"/pipelines/{name}", body))


@_SETTINGS
@given(body=st.one_of(nearly(st.fixed_dictionaries({"filter": filters})), values))
def test_any_json_as_a_choice_of_runs(rest: Rest, body: Any) -> None:
    check(rest, send(rest, "POST", "/runs/retry", body))


@_SETTINGS
@given(
    query=st.dictionaries(
        st.sampled_from(["label", "q", "pipeline", "created_after", "cursor", "limit"]), texts, max_size=2
    )
)
def test_any_query(rest: Rest, query: dict[str, str]) -> None:
    sendable = {name: text.encode("utf-8", "surrogatepass") for name, text in query.items()}
    check(rest, rest.send("GET", "/runs", params=sendable))
