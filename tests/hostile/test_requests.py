"""Requests that were not meant well cost no more than others."""

from __future__ import annotations

import json

import pytest

from ccat_workflow_manager.definition.text import load_text
from ccat_workflow_manager.errors import Invalid
from ccat_workflow_manager.json_values import duplicate_name
from tests.support.fixtures_service import Service


def test_a_body_without_a_type_is_refused(service: Service) -> None:
    """Any web page can make a browser send one, without a question to the server before."""
    body = json.dumps({"spec": {"name": "x", "steps": [{"name": "s", "command": ["true"]}]}}).encode()
    for headers in ({}, {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}):
        response = service.client.post("/runs", content=body, headers=headers)
        assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")


def test_a_duplicate_name_is_found_in_one_pass() -> None:
    class Counted(str):
        __slots__ = ()
        compared = 0

        def __eq__(self, other: object) -> bool:
            Counted.compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    names = [Counted(number) for number in range(10_000)]
    assert duplicate_name((name, None) for name in [*names, Counted("9999")]) == "9999"
    assert Counted.compared < 2 * len(names)


def test_a_definition_with_a_duplicate_name_is_refused() -> None:
    names = ",".join(f'"k{number}":1' for number in range(50_000))
    with pytest.raises(Invalid, match="z"):
        load_text(f'{{{names},"z":1,"z":1}}')
