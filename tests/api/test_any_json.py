"""Whatever JSON arrives: it is carried out, or refused with a problem document. Nothing else ever happens."""

from __future__ import annotations

import json
import string
from typing import Any

from httpx import Response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.rest import CHAIN, ONE, Rest

_SETTINGS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

texts = st.one_of(
    st.text(max_size=8),
    st.text(string.ascii_lowercase + "${}.\0\ud800\U0001f52d/-", max_size=12),
    st.sampled_from(["one", "chain", "first", "noop", "key", "${item}", "${parameters.scans}", "parameters", "../x", ""]),
)
numbers = st.one_of(st.integers(), st.integers(-5, 2000), st.floats(allow_nan=False, allow_infinity=False), st.just(10**25))
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)), max_leaves=12
)


def mostly(good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(good, good, good, values)


def fields(**known: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of these fields, each mostly right, and now and then one that nobody knows."""
    right = st.fixed_dictionaries({}, optional={name: mostly(good) for name, good in known.items()})
    return st.one_of(right, right, st.builds(lambda one, other: {**one, **other}, right, st.dictionaries(texts, values)))


resources = fields(cpu=numbers, memory_gb=numbers, time_hours=numbers, gpu=numbers, extra=st.dictionaries(texts, values))
retry = fields(max_attempts=numbers, backoff_seconds=numbers, on=st.lists(st.sampled_from(["lost", "time_limit"])))
step = fields(
    name=st.sampled_from(["a", "b", "c"]),
    command=st.lists(texts, min_size=1, max_size=3),
    image=texts,
    foreach=st.one_of(st.just("${parameters.scans}"), st.lists(scalars, max_size=4)),
    depends_on=st.lists(st.one_of(st.sampled_from(["a", "b"]), fields(step=texts, match=texts)), max_size=2),
    environment=st.dictionaries(texts, texts, max_size=2),
    resources=resources,
    retry=retry,
    backend=st.sampled_from(["noop", "nonesuch"]),
)
schema = fields(
    type=st.just("object"), properties=st.just({"scans": {"type": "array"}}), required=st.just(["scans"]), default=values
)
definition = fields(
    name=st.sampled_from(["one", "two"]),
    description=texts,
    parameters=schema,
    defaults=fields(backend=texts, resources=resources, retry=retry),
    steps=st.lists(step, min_size=1, max_size=3),
)
run = fields(
    pipeline=st.sampled_from(["one", "chain"]),
    spec=st.one_of(definition, st.just(ONE), st.just(CHAIN)),
    version=st.integers(0, 3),
    parameters=fields(scans=st.lists(scalars, max_size=3), line=texts),
    priority=st.integers(-1100, 1100),
    labels=st.dictionaries(texts, texts, max_size=3),
    backend=st.sampled_from(["noop", "concurrent"]),
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
@given(body=st.one_of(run, values))
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
@given(body=st.one_of(definition, values))
def test_any_json_as_a_pipeline(rest: Rest, body: Any) -> None:
    for name in ("one", "two"):
        check(rest, send(rest, "PUT", f"/pipelines/{name}", body))


@_SETTINGS
@given(body=st.one_of(fields(ids=st.lists(texts), filter=fields(status=texts, label=texts, q=texts)), values))
def test_any_json_as_a_choice_of_runs(rest: Rest, body: Any) -> None:
    check(rest, send(rest, "POST", "/runs/retry", body))


@_SETTINGS
@given(query=st.dictionaries(st.sampled_from(["status", "label", "q", "created_after", "cursor", "limit"]), texts))
def test_any_query(rest: Rest, query: dict[str, str]) -> None:
    sendable = {name: text.encode("utf-8", "surrogatepass") for name, text in query.items()}
    check(rest, rest.send("GET", "/runs", params=sendable))
