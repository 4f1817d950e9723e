"""The page of events: conditions in the address, pages in both directions, each at a bounded cost."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.queries import feed
from ccat_workflow_manager.db.views import events as view
from tests.api.rest import ONE, Hand, Rest

ROWS = re.compile(r'<tr id="(ev-\d+-\d+)"')


def rows(rest: Rest, address: str) -> list[str]:
    """The events that a page shows, in its order."""
    answer = rest.client.get(address.replace("&amp;", "&"))
    assert answer.status_code == 200, answer.text
    return ROWS.findall(answer.text)


def link(rest: Rest, address: str, rel: str) -> str:
    found = re.search(rf'href="([^"]+)" rel="{rel}"', rest.client.get(address.replace("&amp;", "&")).text)
    return found[1] if found else ""


@pytest.fixture
def history(rest: Rest, hand: Hand) -> dict[str, str]:
    """Some 250 events of many runs; one run of another pipeline has failed."""
    rest.put("/pipelines/one", ONE)
    rest.put("/pipelines/other", {**ONE, "name": "other"})
    rest.post("/runs/bulk", {"runs": [{"pipeline": "one"}] * 120})
    run = rest.post("/runs", {"pipeline": "other"})["id"]
    rest.post("/runs/bulk", {"runs": [{"pipeline": "one"}] * 120})
    while items := hand.claim(200):
        for item in items:
            if str(item.run.run_id) == run:
                hand.fail(item)
    return {"run": run}


def test_each_condition_selects_and_stands_in_the_address(rest: Rest, history: dict[str, str]) -> None:
    mine = rows(rest, f"/events?run={history['run']}")
    assert len(mine) >= 3
    assert set(rows(rest, "/events?pipeline=other")) == set(mine)
    assert len(rows(rest, "/events?type=step_run.failed")) == 1
    assert set(rows(rest, f"/events?run={history['run']}&type=step_run.*")) < set(mine)
    assert rows(rest, "/events?by=nobody-at-all") == []
    assert rows(rest, "/events?since=1h") == rows(rest, "/events")
    assert rows(rest, "/events?until=1h") == []
    page = rest.client.get("/events?type=step_run.failed&by=test&pipeline=other").text
    assert '<option value="step_run.failed" selected>' in page
    assert 'data-src="/ui/events?type=step_run.failed&amp;pipeline=other&amp;by=test"' in page
    assert rows(rest, "/ui/events?pipeline=other") == rows(rest, "/events?pipeline=other")


def test_pages_lead_in_both_directions(rest: Rest, history: dict[str, str]) -> None:
    for address in ("/events", "/events?type=step_run.*", "/events?pipeline=one"):
        pages, here = [], address
        while here:
            pages.append(rows(rest, here))
            last, here = here, link(rest, here, "next")
        shown = [each for page in pages for each in page]
        assert len(shown) == len({*shown}) > 200
        back, here = [pages[-1]], link(rest, last, "prev")
        while here:
            back.insert(0, rows(rest, here))
            here = link(rest, here, "prev")
        assert [each for page in back for each in page] == shown


def test_rare_events_cost_no_more_than_a_part_at_a_time(
    rest: Rest, history: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view, "MOST_LOOKED_AT", 50)
    found, here, turns = [], "/events?pipeline=other&since=7d", 0
    while here:
        found += rows(rest, here)
        more = re.search(r'href="(/events\?[^"]*cursor=[^"]*)"', rest.client.get(here.replace("&amp;", "&")).text)
        here, turns = more[1] if more else "", turns + 1
    assert turns > 4
    assert sorted(found) == sorted(rows(rest, f"/events?run={history['run']}"))


def test_a_time_is_found_without_a_scan(context: Context, history: dict[str, str], hand: Hand) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    with context.database.read() as unit:
        assert view.place_at(unit, later) > feed.head(unit).position - 1
        assert view.place_at(unit, later - timedelta(days=1)) <= 1
    hand.execute("UPDATE events SET at = at - interval '2 hours' WHERE run_id = :id", id=history["run"])
    with context.database.read() as unit:
        page = view.events_page(
            unit, view.EventFilter(until=datetime.now(UTC) - timedelta(hours=1)), 100, None, before=None, after=None
        )
    assert all(str(each["run_id"]) == history["run"] or each["at"] < later for each in page.items)


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("type=step_run.burnt", "type"),
        ("run=x", "run"),
        ("since=soon", "since"),
        ("until=soon", "until"),
        ("cursor=x", "cursor"),
        ("after=9-x", "after"),
        (f"by={'x' * 301}", "by"),
    ],
)
def test_a_wrong_condition_is_named_with_a_way_back(rest: Rest, query: str, path: str) -> None:
    answer = rest.client.get(f"/events?{query}")
    assert answer.status_code == 422
    assert f"<code>{path}</code>" in answer.text
    assert 'href="/events">All events' in answer.text
