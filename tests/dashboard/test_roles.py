"""What a role may not do is not offered: pages of viewers have no actions, and the routes refuse them."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from fastapi.testclient import TestClient

from tests.api.rest import CHAIN, Hand, Rest, Secured
from tests.dashboard.test_actions import send

PAGES = (
    "/", "/runs", "/runs/{run}", "/step-runs/{step_run}", "/pipelines/chain", "/act/cancel?id={run}",
    "/backends", "/pipelines/chain/hold", "/backends/noop/hold", "/service/hold",
    "/projects/default", "/projects/default/limits", "/projects/default/hold",
)  # fmt: skip


@pytest.fixture
def ids(secured: Secured) -> dict[str, str]:
    admin = secured.caller()
    admin.post("/pipelines", CHAIN, 201)
    run = admin.post("/runs", {"pipeline": "chain", "parameters": {"scans": ["a"]}})
    hand = Hand(secured.context)
    hand.open_breaker()
    for path in ("/pipelines/chain", "/service"):
        admin.post(f"{path}/pause", {"why": "a new calibration"}, 200)
    return {"run": run["id"], "step_run": run["step_runs"][0]["id"]}


def as_page_reader(caller: Rest) -> TestClient:
    caller.client.headers["accept"] = "text/html"
    return caller.client


class _Actions(HTMLParser):
    """The addresses of previews, and of forms that change something and can be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._form = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "form":
            self._form = (given.get("action") or "") if given.get("method") == "post" else ""
        elif tag == "button" and self._form and given.get("type") != "button":
            self.found.append(self._form)
        elif tag == "a" and "data-sheet" in given:
            self.found.append(given["href"] or "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._form = ""


def offers(page: str) -> list[str]:
    """What a page offers to change, but for the log-out."""
    parser = _Actions()
    parser.feed(page)
    return [each for each in parser.found if each != "/logout"]


def test_a_viewer_is_offered_no_action(secured: Secured, ids: dict[str, str]) -> None:
    viewer, submitter = secured.caller("viewer"), secured.caller("submitter")
    for path in PAGES:
        address = path.format(**ids)
        page = as_page_reader(viewer).get(address)
        assert page.status_code == 200, page.text
        assert offers(page.text) == [], path
        assert 'type="checkbox" class="check" name="id"' not in page.text
        assert 'href="/audit"' not in page.text
        assert 'href="/tokens"' not in page.text
    assert "Your role is viewer" in as_page_reader(viewer).get("/pipelines/chain").text
    assert offers(as_page_reader(submitter).get(f"/runs/{ids['run']}").text) != []
    assert "Release" not in as_page_reader(submitter).get("/").text
    operator = as_page_reader(secured.caller("operator")).get("/").text
    assert "Release" in operator
    assert 'href="/audit"' in operator


def test_a_viewer_is_refused_with_a_page_that_names_the_role(secured: Secured, ids: dict[str, str]) -> None:
    viewer = secured.caller("viewer")
    as_page_reader(viewer)
    for path, fields in (("/act/cancel", [("ids", ids["run"])]), ("/pipelines/chain/switch", [("enabled", "0")])):
        answer = send(viewer, path, fields)
        assert answer.status_code == 403
        assert "needs the role submitter" in answer.text
        assert "<html" in answer.text
    for path in ("/audit", "/tokens"):
        assert viewer.client.get(path).status_code == 403
