"""Parts of pages that many open pages ask for at once."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

from ccat_workflow_manager.dashboard.parts import Parts
from ccat_workflow_manager.dashboard.rendering import Rendered
from ccat_workflow_manager.services.answers import Answers
from tests.api.rest import Rest, Secured

_PATIENCE = 60.0


def numbered(numbers: count[int]) -> Rendered:
    return Rendered(str(next(numbers)))


def test_a_part_is_made_once_for_all_who_ask_until_something_changes() -> None:
    answers, parts, numbers = Answers(), Parts(), count()

    async def ask() -> set[bytes]:
        asked = [parts.get("runs", lambda: numbered(numbers), answers) for _ in range(100)]
        return {part.body for part in await asyncio.gather(*asked)}

    async def twice() -> list[set[bytes]]:
        first = await ask()
        answers.forget(1.0)
        return [first, await ask(), {(await parts.get("others", lambda: numbered(numbers), answers)).body}]

    assert asyncio.run(asyncio.wait_for(twice(), _PATIENCE)) == [{b"0"}, {b"1"}, {b"2"}]


def test_a_part_that_cannot_be_made_is_tried_again() -> None:
    answers, parts = Answers(), Parts()

    def fail() -> Rendered:
        raise LookupError

    async def ask() -> bytes:
        with pytest.raises(LookupError):
            await parts.get("runs", fail, answers)
        return (await parts.get("runs", lambda: Rendered("well"), answers)).body

    assert asyncio.run(asyncio.wait_for(ask(), _PATIENCE)) == b"well"


def test_a_reader_who_has_a_part_is_not_sent_it_again(rest: Rest) -> None:
    rest.run()
    first = rest.client.get("/ui/runs")
    assert first.status_code == 200
    again = rest.client.get("/ui/runs", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    rest.run()
    assert rest.client.get("/ui/runs", headers={"If-None-Match": first.headers["etag"]}).status_code == 200


def test_readers_with_other_rights_share_no_part(secured: Secured) -> None:
    secured.caller().run(project="night")
    address = "/ui/runs"
    texts = [secured.caller(*who).client.get(address).text for who in (("operator",), ("viewer",), ("viewer", "day"))]
    assert len(set(texts)) == 3
    assert 'name="id"' in texts[0]
    assert 'name="id"' not in texts[1]
    assert "/runs/" not in texts[2]
