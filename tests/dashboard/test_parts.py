"""Parts of pages that many open pages ask for at once."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest
from fastapi.testclient import TestClient

from ccat_workflow_manager import metrics
from ccat_workflow_manager.api import route as route_module
from ccat_workflow_manager.api.guard import REQUEST_ID
from ccat_workflow_manager.dashboard import parts as parts_module
from ccat_workflow_manager.dashboard.parts import Parts
from ccat_workflow_manager.dashboard.rendering import Rendered
from ccat_workflow_manager.errors import Forbidden
from ccat_workflow_manager.services.answers import Answers
from tests.api.rest import Rest, Secured
from tests.support.waiting import PATIENCE


def answered(route: str, status: int) -> float:
    """How often this process has answered so."""
    return (
        metrics._REGISTRY.get_sample_value("ccat_wm_http_seconds_count", {"route": route, "status": str(status)}) or 0.0
    )


def keep(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have parts kept until something changes."""
    client.app.state.answers.longest = PATIENCE  # type: ignore[attr-defined]
    monkeypatch.setattr(parts_module, "_SECONDS", PATIENCE)


def numbered(numbers: count[int]) -> Rendered:
    return Rendered(str(next(numbers)))


def test_a_part_is_made_once_for_all_who_ask_until_something_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_module, "_SECONDS", PATIENCE)
    answers, parts, numbers = Answers(), Parts(), count()

    async def ask() -> set[bytes]:
        asked = [parts.get("runs", lambda: numbered(numbers), answers) for _ in range(100)]
        return {part.body for part in await asyncio.gather(*asked)}

    async def twice() -> list[set[bytes]]:
        first = await ask()
        answers.forget(1.0)
        return [first, await ask(), {(await parts.get("others", lambda: numbered(numbers), answers)).body}]

    assert asyncio.run(asyncio.wait_for(twice(), PATIENCE)) == [{b"0"}, {b"1"}, {b"2"}]


def test_a_part_that_cannot_be_made_is_tried_again() -> None:
    answers, parts = Answers(), Parts()

    def fail() -> Rendered:
        raise LookupError

    async def ask() -> bytes:
        with pytest.raises(LookupError):
            await parts.get("runs", fail, answers)
        return (await parts.get("runs", lambda: Rendered("well"), answers)).body

    assert asyncio.run(asyncio.wait_for(ask(), PATIENCE)) == b"well"


def test_a_reader_who_has_a_part_is_not_sent_it_again(rest: Rest) -> None:
    rest.run()
    first = rest.client.get("/ui/runs")
    assert first.status_code == 200
    again = rest.client.get("/ui/runs", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    rest.run()
    assert rest.client.get("/ui/runs", headers={"If-None-Match": first.headers["etag"]}).status_code == 200


def test_a_part_that_is_kept_needs_no_route_and_is_counted_as_what_it_is(
    rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(rest.client, monkeypatch)
    address = "/ui/rail?active=runs"
    first = rest.client.get(address)

    async def refuse(*_: object) -> None:
        raise Forbidden("the route was asked")

    monkeypatch.setattr(route_module, "authorize", refuse)
    before = answered("/ui/rail", 200), answered("/ui/rail", 304)
    again = rest.client.get(address)
    assert again.text == first.text
    assert {**again.headers, REQUEST_ID: ""} == {**first.headers, REQUEST_ID: ""}
    assert again.headers[REQUEST_ID] != first.headers[REQUEST_ID]
    assert rest.client.get(address, headers={"If-None-Match": first.headers["etag"]}).status_code == 304
    assert (answered("/ui/rail", 200), answered("/ui/rail", 304)) == (before[0] + 1, before[1] + 1)
    assert rest.client.get(address, headers={"Accept-Encoding": "identity"}).text == first.text
    assert rest.client.get("/ui/rail?active=events").status_code == 403
    assert rest.client.get(address, headers={"Origin": "http://elsewhere"}).status_code == 403
    rest.client.app.state.answers.forget()  # type: ignore[attr-defined]
    assert rest.client.get(address).status_code == 403


def test_a_kept_part_is_for_those_who_may_see_it(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(secured.client, monkeypatch)
    run_id = secured.caller().run(project="night")["id"]
    address = f"/ui/runs/{run_id}"
    assert secured.caller("operator").client.get(address).status_code == 200
    assert secured.caller("operator", "day").client.get(address).status_code == 404
    assert secured.caller("operator", "night").client.get(address).status_code == 200
    assert secured.caller("viewer", "day").client.get(address).status_code == 404
    client = secured.caller("operator").client
    del client.headers["authorization"]
    assert client.get(address, headers={"Accept": "*/*"}).status_code == 401


def test_readers_with_other_rights_share_no_part(secured: Secured) -> None:
    secured.caller().run(project="night")
    address = "/ui/runs"
    texts = [secured.caller(*who).client.get(address).text for who in (("operator",), ("viewer",), ("viewer", "day"))]
    assert len(set(texts)) == 3
    assert 'name="id"' in texts[0]
    assert 'name="id"' not in texts[1]
    assert "/runs/" not in texts[2]
