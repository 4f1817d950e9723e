"""Sessions of people: log-in, cookies, log-out, forged changes; and the limit of requests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from ccat_workflow_manager.api.authentication import COOKIE
from ccat_workflow_manager.api.rate_limit import RateLimit
from ccat_workflow_manager.app import create_app
from ccat_workflow_manager.errors import ConfigurationError
from ccat_workflow_manager.services.sessions import session_key
from tests.api.rest import BASE_URL, ONE, V1, Secured
from tests.support.fixtures_store import ContextMaker
from tests.support.waiting import wait_until

SAME_SITE = {"Origin": BASE_URL}


@pytest.fixture
def browser(secured: Secured) -> TestClient:
    """One that follows no redirect."""
    return TestClient(secured.client.app, base_url=BASE_URL, follow_redirects=False)


def logged_in(browser: TestClient, secured: Secured, role: str = "submitter") -> Any:
    answer = browser.post("/login", json={"token": secured.token(role).secret})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_person_logs_in_with_a_token_and_out_again(secured: Secured, browser: TestClient) -> None:
    assert browser.get(f"{V1}/runs").status_code == 401
    found = logged_in(browser, secured)
    assert (found["role"], found["projects"]) == ("submitter", None)
    assert browser.get(f"{V1}/runs").status_code == 200
    assert browser.post(f"{V1}/runs", json={"spec": ONE}, headers=SAME_SITE).json()["created_by"] == found["name"]
    cookie = browser.cookies[COOKIE]
    assert browser.post("/logout", json={}, headers=SAME_SITE).status_code == 200
    assert COOKIE not in browser.cookies
    assert browser.get(f"{V1}/runs", headers={"Cookie": f"{COOKIE}={cookie}"}).status_code == 401


def test_the_cookie_is_of_no_use_to_scripts_and_other_sites(secured: Secured, browser: TestClient) -> None:
    answer = browser.post("/login", json={"token": secured.token().secret})
    attributes = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/"} <= attributes


def test_a_forged_cookie_is_none(secured: Secured, browser: TestClient) -> None:
    logged_in(browser, secured)
    name, _, signature = browser.cookies[COOKIE].partition(".")
    browser.cookies.clear()
    for forged in ("", "x", name, f"{name}.x", f"{name[::-1]}.{signature}", f"{name}.{signature}x"):
        assert browser.get(f"{V1}/runs", headers={"Cookie": f"{COOKIE}={forged}"}).status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 403), ({"X-CSRF-Token": "x"}, 403), (SAME_SITE, 202), ({"Sec-Fetch-Site": "same-origin"}, 202),
     ({"Origin": "https://evil.example"}, 403), ({"Sec-Fetch-Site": "cross-site"}, 403)],
)  # fmt: skip
def test_a_change_with_a_cookie_must_come_from_a_page_of_ours(
    secured: Secured, browser: TestClient, headers: dict[str, str], status: int
) -> None:
    found = logged_in(browser, secured)
    assert browser.post(f"{V1}/runs", json={"spec": ONE}, headers=headers).status_code == status
    proved = browser.post(f"{V1}/runs", json={"spec": ONE}, headers={"X-CSRF-Token": found["csrf_token"]})
    assert proved.status_code == 202
    assert browser.post(f"{V1}/runs/{proved.json()['id']}/cancel", headers=headers).status_code == status


def test_log_out_everywhere_ends_every_session(secured: Secured, browser: TestClient) -> None:
    token = secured.token("viewer").secret
    other = TestClient(secured.client.app, base_url=BASE_URL)
    for each in (browser, other):
        assert each.post("/login", json={"token": token}).status_code == 200
    assert browser.post("/logout", json={"everywhere": True}, headers=SAME_SITE).status_code == 200
    assert other.get(f"{V1}/runs").status_code == 401


def test_a_session_ends_with_its_token(secured: Secured, browser: TestClient) -> None:
    token = secured.token("viewer")
    assert browser.post("/login", json={"token": token.secret}).status_code == 200
    secured.caller().send("DELETE", f"/tokens/{json.loads(token.json)['id']}")
    wait_until(lambda: browser.get(f"{V1}/runs").status_code == 401, 5, "the session to end")


def test_forms_lead_on_to_pages_of_this_site_only(secured: Secured, browser: TestClient) -> None:
    token = secured.token().secret
    for given, onward in (
        ("/runs?q=x", "/runs?q=x"),
        ("https://evil.example", "/"),
        ("//evil.example", "/"),
        ("", "/"),
    ):
        answer = browser.post("/login", data={"token": token, "next": given})
        assert (answer.status_code, answer.headers["location"]) == (303, onward)
    answer = browser.post("/login", data={"token": "wrong", "next": "/runs"})
    assert answer.headers["location"] == "/login?failed=1&next=%2Fruns"
    assert browser.post("/login", json={"token": "wrong"}).status_code == 401


def test_a_page_without_a_session_leads_to_the_log_in(browser: TestClient) -> None:
    answer = browser.get("/runs?q=x", headers={"Accept": "text/html"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=%2Fruns%3Fq%3Dx")
    headers = {"Accept": "text/html", "Referer": f"{BASE_URL}/runs?q=x"}
    answer = browser.post("/act/cancel", headers=headers)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=%2Fruns%3Fq%3Dx")
    assert browser.post("/act/cancel").status_code == 401


def test_the_page_for_the_log_in_is_open_and_holds_no_markup_of_others(browser: TestClient) -> None:
    answer = browser.get("/login", params={"next": '/"><script>', "failed": "1"})
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    assert "<script>" not in answer.text
    assert 'action="/login"' in answer.text


def test_the_key_of_the_cookies(tmp_path: Path) -> None:
    made = session_key(Path(), tmp_path, make=True)
    assert made is not None
    assert len(made) >= 32
    assert session_key(Path(), tmp_path, make=True) == made
    assert (tmp_path / "session-key").stat().st_mode & 0o777 == 0o600
    assert session_key(Path(), tmp_path, make=False) is None
    (tmp_path / "weak").write_text("x" * 31)
    for file in ("weak", "missing"):
        with pytest.raises(ConfigurationError, match="SESSION_KEY_FILE"):
            session_key(tmp_path / file, tmp_path, make=False)


def test_a_service_with_a_weak_key_does_not_start(make_context: ContextMaker, tmp_path: Path) -> None:
    (tmp_path / "weak").write_text("x")
    with pytest.raises(ConfigurationError, match="at least 32 bytes"):
        create_app(make_context("noop", SESSION_KEY_FILE=str(tmp_path / "weak")))


def test_too_many_requests_are_told_when_to_come_back(make_context: ContextMaker) -> None:
    context = make_context("noop", AUTH_REQUIRED=True, API_REQUESTS_PER_SECOND=0.001)
    with TestClient(create_app(context), base_url=BASE_URL) as client:
        secured = Secured(context, client)
        one, other = secured.caller(), secured.caller()
        assert one.send("GET", "/runs").status_code == 200
        refused = one.send("GET", "/runs")
        one.refused(refused, 429, "too_many_requests")
        assert int(refused.headers["retry-after"]) > 1
        assert other.send("GET", "/runs").status_code == 200


def test_a_bucket_fills_again() -> None:
    limit = RateLimit(2)
    assert [limit.wait_seconds("a", 0) for _ in range(3)] == [0, 0, 1]
    assert limit.wait_seconds("b", 0) == 0
    assert limit.wait_seconds("a", 0.6) == 0
    assert RateLimit(0).wait_seconds("a", 0) == 0
