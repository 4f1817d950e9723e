"""Each page is there, says what is wrong with its address, and shows what others have written as text."""

from __future__ import annotations

import logging
import re

import pytest

from ccat_workflow_manager.dashboard import times
from tests.api.rest import ONE, Rest

PAGES = ["/", "/runs", "/runs?status=FAILED&created=24h&label=a:b&q=x"]


@pytest.mark.parametrize("path", PAGES)
def test_an_empty_service_has_pages_that_teach_the_next_step(rest: Rest, path: str) -> None:
    answer = rest.client.get(path)
    assert answer.status_code == 200, answer.text
    assert "'unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert 'class="empty"' in answer.text
    again = rest.client.get(path, headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code in (200, 304)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/?span=soon", 422),
        ("/runs?status=LATE", 422),
        ("/runs?cursor=x", 422),
        ("/runs?created=soon", 422),
        ("/runs?colour=red", 422),
        ("/runs?label=x", 422),
        ("/runs?label=a:1&label=a:2", 422),
        ("/runs?project=No+Project", 422),
        ("/runs/x", 422),
        ("/runs/00000000-0000-7000-8000-000000000000", 404),
        ("/runs/00000000-0000-7000-8000-000000000000?order=odd", 422),
        ("/step-runs/00000000-0000-7000-8000-000000000000?part=x", 422),
        ("/events?cursor=x", 422),
        ("/audit?since=soon", 422),
        ("/audit?action=create_rum", 422),
        ("/pipelines/none", 404),
        ("/?colour=red", 422),
        ("/events?colour=red", 422),
        ("/audit?colour=red", 422),
        ("/pipelines?colour=red", 422),
        ("/backends?colour=red", 422),
        ("/workers?span=1h", 422),
        ("/products?colour=red", 422),
        ("/go?query=x", 422),
        ("/nothing", 404),
        ("/runs/", 404),
    ],
)
def test_a_wrong_address_says_what_is_wrong_and_leads_back(rest: Rest, path: str, status: int) -> None:
    answer = rest.client.get(path)
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/html")
    assert 'href="/runs"' in answer.text
    name = path.partition("?")[2].partition("=")[0]
    if name:
        assert answer.text.count(f"<code>{name}</code>") == 1
        assert f'href="{path.partition("?")[0]}"' in answer.text


def test_a_list_that_was_not_looked_up_stays_empty(rest: Rest) -> None:
    """It has no address to be fetched from when runs change: without its conditions, all runs would appear."""
    rest.post("/runs", {"spec": ONE})
    text = rest.client.get("/runs?status=LATE").text
    assert "Nothing was looked up" in text
    assert 'data-src="/ui/runs' not in text
    assert 'data-src="/ui/runs?status=FAILED"' in rest.client.get("/runs?status=FAILED").text


def test_conditions_that_are_typed_become_an_address(rest: Rest) -> None:
    answer = rest.client.get(
        "/runs", params={"add": 'status:failed label:"source:Orion KL" some text', "created": "7d"}
    )
    assert answer.status_code == 303
    assert answer.headers["location"] == "/runs?created=7d&status=FAILED&label=source%3AOrion+KL&q=some+text"


def test_lists_page_in_both_directions(rest: Rest) -> None:
    rest.post("/pipelines", ONE, 201)
    ids = rest.post("/runs/bulk", {"runs": [{"pipeline": "one"}] * 60})["ids"]
    first = rest.client.get("/runs").text
    assert ids[-1] in first
    assert ids[0] not in first
    last = rest.client.get(f"/runs?cursor={ids[10]}").text
    assert ids[0] in last
    assert f"/runs/{ids[10]}" not in last
    assert f"after={ids[9]}" in last
    assert ids[59] in rest.client.get(f"/runs?after={ids[9]}").text


def test_numbers_beside_statuses_count_what_the_list_holds(rest: Rest) -> None:
    for project in ("a", "a", "b"):
        rest.post("/runs", {"spec": {**ONE, "project": project}})
    for query, total in (("", ["3"]), ("?project=a", ["2"]), ("?project=a&created=1h", ["2"]), ("?pipeline=none", [])):
        page = rest.client.get(f"/runs{query}").text
        assert re.findall(r">All(?:<b>(\d+)</b>)?</a>", page) == (total or [""])


@pytest.mark.parametrize(
    ("size", "text"), [(999, "999 B"), (1000, "1 KB"), (999_499, "999 KB"), (999_600, "1 MB"), (9 * 10**18, "9 EB")]
)
def test_sizes_have_no_exponent(size: int, text: str) -> None:
    assert times.size(size) == text


def test_what_others_write_is_text(rest: Rest) -> None:
    hostile = "<img src=x onerror=alert(1)>\u202eevil\u0007"
    rest.post("/runs", {"spec": ONE, "labels": {"note": hostile}})
    text = rest.client.get("/runs").text
    assert "<img src=x" not in text
    assert "&lt;img src=x" in text
    assert "\u0007" not in text


def test_the_api_stays_as_it_is(rest: Rest) -> None:
    answer = rest.client.get("/api/v1/nothing")
    assert answer.headers["content-type"] == "application/problem+json"
    assert not any(path.startswith(("/runs", "/ui")) for path in rest.client.get("/openapi.json").json()["paths"])


def test_a_fault_of_the_service_is_a_page_with_its_incident(
    rest: Rest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("the password is swordfish")

    monkeypatch.setattr("ccat_workflow_manager.db.views.runs.longest_running", broken)
    with caplog.at_level(logging.ERROR):
        answer = rest.client.get("/")
    assert answer.status_code == 500
    assert answer.headers["content-type"].startswith("text/html")
    assert "swordfish" not in answer.text
    (incident,) = re.findall(r"incident ([0-9a-f]{12})", answer.text)
    assert f"incident {incident}" in caplog.text
