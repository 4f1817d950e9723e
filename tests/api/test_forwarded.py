"""Whom the API believes about where a request came from: the proxies of the site, and nobody else."""

from __future__ import annotations

import pytest
from fastapi import Request
from fastapi.testclient import TestClient

from ccat_workflow_manager.api.forwarded import base_url_of
from tests.api.conftest import fresh_app
from tests.api.rest import BASE_URL, ONE
from tests.support.fixtures_store import ContextMaker

PROXIES = "127.0.0.1, 10.9.0.0/16, ::1"


@pytest.mark.parametrize(
    ("peer", "claims", "address"),
    [
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", ["192.0.2.7"], "192.0.2.7"),
        ("::ffff:127.0.0.1", ["2001:db8::7"], "2001:db8::7"),
        ("10.9.1.1", ["192.0.2.66, 192.0.2.7, 10.9.2.2"], "192.0.2.7"),
        ("10.9.1.1", ["192.0.2.66", "192.0.2.7"], "192.0.2.7"),
        ("::1", ["10.9.2.2,127.0.0.1"], "10.9.2.2"),
        ("::1", ["192.0.2.66, <script>"], "::1"),
        ("::1", ["192.0.2.66, fe80::1%<b>x"], "::1"),
        ("10.10.1.1", ["192.0.2.66"], "10.10.1.1"),
    ],
)
def test_the_audit_has_the_address_before_the_proxies(
    make_context: ContextMaker, peer: str, claims: list[str], address: str
) -> None:
    app = fresh_app(make_context("noop", API_PROXIES=PROXIES))
    with TestClient(app, base_url=BASE_URL, client=(peer, 50000)) as client:
        given = [("X-Forwarded-For", claim) for claim in claims]
        assert client.put("/api/v1/pipelines/one", json=ONE, headers=given).status_code == 201
        assert client.get("/api/v1/audit").json()["items"][0]["address"] == address


@pytest.mark.parametrize(
    ("proxies", "claim", "expected"),
    [(PROXIES, "https", "https"), (PROXIES, "javascript", "http"), ("", "https", "http")],
)
def test_the_scheme_of_own_addresses(make_context: ContextMaker, proxies: str, claim: str, expected: str) -> None:
    scope = {
        "type": "http", "scheme": "http", "path": "/", "client": ("127.0.0.1", 50000),
        "headers": [(b"host", b"wm.example.org:8443"), (b"x-forwarded-proto", claim.encode())],
        "app": fresh_app(make_context("noop", API_PROXIES=proxies)),
    }  # fmt: skip
    assert base_url_of(Request(scope)) == f"{expected}://wm.example.org:8443"
