"""A web page in the browser of a user cannot call the API, under any name."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from ccat_workflow_manager.app import create_app
from ccat_workflow_manager.context import Context
from tests.api.rest import V1
from tests.support.fixtures_store import ContextMaker

RUN = {"spec": {"name": "x", "steps": [{"name": "s", "command": ["true"]}]}}
SECRET = "ccatwm_local_secret"


def send(context: Context, method: str, path: str, headers: dict[str, Any], **more: Any) -> tuple[int, str]:
    with TestClient(create_app(context, secret=SECRET), base_url="http://127.0.0.1:8000") as client:
        given = {"Authorization": f"Bearer {SECRET}", **headers}
        response = client.request(
            method, path if path[1:] in ("healthz", "readyz") else V1 + path, headers=given, **more
        )
        return response.status_code, response.json().get("code", "")


@pytest.mark.parametrize(
    "name", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "a@127.0.0.1", "", "[::1"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_name_that_was_bound_again_to_loopback_reads_nothing(context: Context, method: str, name: str) -> None:
    assert send(context, method, "/runs", {"Host": name}, json=RUN) == (421, "misdirected_request")


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1:9000", "[::1]:8000", "LOCALHOST.:1", "127.1.2.3"])
def test_the_names_of_loopback_are_known(context: Context, name: str) -> None:
    assert send(context, "GET", "/runs", {"Host": name}) == (200, "")


def test_a_site_adds_names(make_context: ContextMaker) -> None:
    context = make_context("noop", API_HOSTS="wm.example.org, wm2.example.org")
    origin = {"Origin": "https://wm.example.org"}
    for host in ("wm.example.org", "wm2.example.org:443"):
        assert send(context, "POST", "/runs", {"Host": host, **origin}, json=RUN)[0] == 202
    assert send(context, "POST", "/runs", {"Host": "wm3.example.org", **origin}, json=RUN)[0] == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:3000"},
        {"Origin": "http://127.0.0.1.evil.example:8000"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://127.0.0.1:8000"},
    ],
)
@pytest.mark.parametrize(("method", "path"), [("POST", "/runs"), ("PUT", "/pipelines/x"), ("POST", "/runs/cancel")])
def test_a_page_of_another_site_changes_nothing(
    context: Context, method: str, path: str, headers: dict[str, str]
) -> None:
    assert send(context, method, path, headers, json=RUN) == (403, "forbidden")


def test_a_page_of_another_site_reads_nothing_but_may_link_here(context: Context) -> None:
    foreign = {"Sec-Fetch-Site": "cross-site"}
    assert send(context, "GET", "/runs", {**foreign, "Sec-Fetch-Mode": "no-cors"}) == (403, "forbidden")
    assert send(context, "GET", "/runs", {"Origin": "https://evil.example"}) == (403, "forbidden")
    assert send(context, "GET", "/runs", {**foreign, "Sec-Fetch-Mode": "navigate"})[0] == 200


@pytest.mark.parametrize("headers", [{"Origin": "http://127.0.0.1:8000"}, {"Sec-Fetch-Site": "same-origin"}])
def test_a_page_of_this_site_may(context: Context, headers: dict[str, str]) -> None:
    assert send(context, "POST", "/runs", headers, json=RUN)[0] == 202


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer x", f"Basic {SECRET}", f"Bearer {SECRET}x", b"Bearer \xe9"])
def test_without_the_secret_nothing_is_answered_but_health(context: Context, given: str | bytes) -> None:
    headers: dict[str, Any] = {"Authorization": given}
    for method, path in (("GET", "/runs"), ("POST", "/runs"), ("GET", "/nothing")):
        assert send(context, method, path, headers, json=RUN) == (401, "unauthorized")
    for path in ("/healthz", "/readyz"):
        assert send(context, "GET", path, {"Host": "10.1.2.3:8000", **headers})[0] == 200
