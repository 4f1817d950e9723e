"""Requests made from the OpenAPI document, and what holds for every answer: documented, of its schema, no 5xx."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import FlakyStrategyDefinition
from schemathesis import Case, GenerationMode, Response
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.generation.stateful import APIStateMachine
from schemathesis.schemas import APIOperation, BaseSchema
from schemathesis.specs.openapi import checks

from tests.api.rest import BASE_URL

Ids = Mapping[str, str]
_CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
_SPAN = {"bytes=0-0", "bytes=5-1", "bytes=-1"}
_LONG = ("follow", "wait")
"""Parameters that make an answer wait for something to happen."""


class Conformance:
    """Makes the requests of one document with a client that may do everything."""

    def __init__(self, client: TestClient, ids: Ids, seed: int) -> None:
        """`ids` are values of parameters in paths that name something."""
        self.client = client
        self.ids = ids
        self.seed = seed
        self.statuses: dict[str, set[int]] = {}
        self.wrong: list[BaseException] = []
        """The answers that are not as documented."""
        document = client.get("/openapi.json").json()
        self.schema: BaseSchema = schemathesis.openapi.from_dict(document)

    @property
    def operations(self) -> list[APIOperation[Any, Any, Any, Any]]:
        return [each.ok() for each in self.schema.get_all_operations() if isinstance(each, Ok)]

    def settings(self, examples: int, **more: Any) -> settings:
        return settings(
            max_examples=examples, database=None, deadline=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck), **more,
        )  # fmt: skip

    def try_one(self, operation: APIOperation[Any, Any, Any, Any], examples: int) -> None:
        """Make good and bad requests of one operation, half of them about something that exists."""
        cases = st.one_of(
            operation.as_strategy(generation_mode=GenerationMode.POSITIVE),
            operation.as_strategy(generation_mode=GenerationMode.NEGATIVE),
        )

        @seed(self.seed)
        @self.settings(examples)
        @given(case=cases, exists=st.booleans(), known=st.sampled_from(["", "*"]), span=st.sampled_from(["", *_SPAN]))
        def attempt(case: Case[Any], exists: bool, known: str, span: str) -> None:
            if exists:
                for name in set(case.path_parameters or ()) & self.ids.keys():
                    case.path_parameters[name] = self.ids[name]
            headers = {"If-None-Match": known, "Range": span} if case.method == "GET" else {}
            self.send(case, {name: value for name, value in headers.items() if value})

        attempt()

    def try_sequences(self, examples: int, steps: int) -> None:
        """Make sequences of requests, in which later ones use what earlier ones have answered.

        Hypothesis expects that the same draws lead to the same choices. The service remembers what earlier sequences
        did, so only two at a time are drawn together, and two that do not fit end early.
        """
        send = self.send

        class Sequence(self.schema.as_state_machine()):  # type: ignore[misc]
            def call(self, case: Case[Any], **more: Any) -> Response:
                return send(case, {})

            def validate_response(self, response: Response, case: Case[Any], *rest: Any, **more: Any) -> None:
                """`send` has done it."""

        machine: type[APIStateMachine] = Sequence
        for number in range(0, examples, 2):
            seed(self.seed + number)(machine)
            try:
                machine.run(settings=self.settings(2, stateful_step_count=steps))
            except FlakyStrategyDefinition:
                if self.wrong:
                    raise self.wrong[0] from None

    def send(self, case: Case[Any], headers: Mapping[str, str]) -> Response:
        if isinstance(case.query, dict):
            for name in _LONG:
                case.query.pop(name, None)
            if case.path.endswith("/log"):
                case.query["attempt"] = 99  # or a worker would be asked
        sent = case.as_transport_kwargs(base_url=BASE_URL, headers=dict(headers))
        given: dict[str, Any] = {
            name: sent[name] for name in ("method", "url", "headers", "params", "json", "data") if name in sent
        }
        if isinstance(given.get("data"), bytes | str):
            given["content"] = given.pop("data")
        answer = self.client.request(**given)
        self.statuses.setdefault(case.operation.label, set()).add(answer.status_code)
        response = Response.from_any(answer)
        try:
            assert answer.status_code < 500, f"{case.as_curl_command()}\n{answer.text[:1000]}"
            case.validate_response(response, checks=_CHECKS)
        except (AssertionError, FailureGroup) as error:
            self.wrong.append(error)
            raise
        return response
