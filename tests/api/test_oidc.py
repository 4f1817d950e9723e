"""Log-in by an OpenID Connect provider: the whole way through real HTTP, and everything that must be refused on it."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from fastapi.testclient import TestClient
from httpx import Response
from joserfc import jwt
from joserfc.jwk import OctKey

from ccat_workflow_manager.api.authentication import COOKIE
from ccat_workflow_manager.app import create_app
from ccat_workflow_manager.execution.transfers import tls_context
from ccat_workflow_manager.identity import Grant, Role, granted, grants_of
from tests.api.rest import BASE_URL, V1, Secured
from tests.stand_ins.identity_provider import (
    ALGORITHM,
    CLIENT_ID,
    CLIENT_SECRET,
    IdentityProvider,
    identity_provider,
    new_key,
)
from tests.support.fixtures_store import ContextMaker

Claims = dict[str, Any]
SAME_SITE = {"Origin": BASE_URL}
ROLES = "staff=operator, night-crew=submitter@night, day-crew=submitter@day, /ccat/guests=viewer"


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    with identity_provider() as provider:
        provider.users = {
            "ada": {"groups": ["staff", "other"]},
            "ben": {"groups": ["night-crew", "day-crew", "/ccat/guests"]},
            "eve": {"groups": ["strangers"]},
        }
        yield provider


Door = Callable[..., TestClient]


@pytest.fixture
def door(make_context: ContextMaker, provider: IdentityProvider, tmp_path: Path) -> Door:
    """A service whose people log in with the provider, and a browser that follows no redirect."""
    secret = tmp_path / "client-secret"
    secret.write_text(CLIENT_SECRET + "\n")

    def make(**settings: Any) -> TestClient:
        given = {
            "AUTH_REQUIRED": True, "OIDC_ISSUER": provider.issuer, "OIDC_CLIENT_ID": CLIENT_ID,
            "OIDC_CLIENT_SECRET_FILE": str(secret), "OIDC_ROLES": ROLES, **settings,
        }  # fmt: skip
        context = make_context("noop", **given)
        return TestClient(create_app(context), base_url=BASE_URL, follow_redirects=False)

    return make


def sent_back(browser: TestClient, login: str = "ada", onward: str = "/") -> str:
    """Where the provider sends the browser of this person."""
    begun = browser.get("/login/oidc", params={"next": onward})
    assert begun.status_code == 303, begun.text
    return httpx.get(f"{begun.headers['location']}&login={login}", verify=tls_context()).headers["location"]


def visit(browser: TestClient, url: str) -> Response:
    # As a browser marks a visit that another site has caused.
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    answer: Response = browser.get(url, headers=headers)
    return answer


def refused(browser: TestClient, answer: Response, status: int) -> None:
    assert answer.status_code == status, answer.text
    assert COOKIE not in browser.cookies
    assert browser.get(f"{V1}/runs").status_code == 401


def test_a_person_logs_in_with_the_role_of_a_group_and_out_everywhere(door: Door) -> None:
    browser = door()
    assert 'href="/login/oidc?next=/runs"' in browser.get("/login?next=/runs").text
    answer = visit(browser, sent_back(browser, onward="/runs?q=x"))
    assert answer.status_code == 200, answer.text
    assert 'content="0; url=/runs?q=x"' in answer.text
    assert "samesite=strict" in answer.headers["set-cookie"].lower()
    spec = {"name": "one", "steps": [{"name": "only", "command": ["true"]}]}
    made = browser.post(f"{V1}/runs", json={"spec": spec}, headers=SAME_SITE).json()
    assert made["created_by"] == "person ada"
    changes = browser.get(f"{V1}/audit").json()["items"]
    assert {(each["actor"], each["identity"]) for each in changes} == {("person ada", "person:id of ada")}
    assert {each["action"] for each in changes} == {"log_in", "create_run"}
    other = TestClient(browser.app, base_url=BASE_URL, follow_redirects=False)
    assert visit(other, sent_back(other)).status_code == 200
    assert browser.post("/logout", json={"everywhere": True}, headers=SAME_SITE).status_code == 200
    assert other.get(f"{V1}/runs").status_code == 401


def test_projects_come_with_the_role_and_a_new_role_with_the_next_log_in(
    door: Door, provider: IdentityProvider
) -> None:
    browser = door()
    assert visit(browser, sent_back(browser, "ben")).status_code == 200
    spec = {"name": "x", "steps": [{"name": "s", "command": ["true"]}]}
    for project, status in (("night", 202), ("day", 202), ("default", 404)):
        sent = browser.post(f"{V1}/runs", json={"spec": {**spec, "project": project}}, headers=SAME_SITE)
        assert sent.status_code == status, sent.text
    provider.users["ben"] = {"groups": ["/ccat/guests"]}
    assert visit(browser, sent_back(browser, "ben")).status_code == 200
    assert browser.post(f"{V1}/runs", json={"spec": spec}, headers=SAME_SITE).status_code == 403


def test_a_person_without_a_role_is_told_why(door: Door) -> None:
    browser = door()
    answer = visit(browser, sent_back(browser, "eve"))
    refused(browser, answer, 403)
    assert "knows you as eve" in answer.text
    assert "OIDC_ROLES" in answer.text


def test_groups_are_found_inside_other_claims_and_in_the_information_of_the_user(
    door: Door, provider: IdentityProvider
) -> None:
    provider.users["ada"] = {}
    browser = door(OIDC_ROLE_CLAIM="realm_access.roles")
    provider.user_info = {"realm_access": {"roles": ["staff"]}}
    assert visit(browser, sent_back(browser)).status_code == 200
    provider.user_info = {"sub": "another person", "realm_access": {"roles": ["staff"]}}
    other = TestClient(browser.app, base_url=BASE_URL, follow_redirects=False)
    refused(other, visit(other, sent_back(other)), 403)


# --- what proves nothing --------------------------------------------------------------------------------------------


def unsigned(claims: Claims) -> str:
    parts = [json.dumps(part).encode() for part in ({"alg": "none"}, claims)]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts) + "."


def by_public_key(provider: IdentityProvider) -> Callable[[Claims], str]:
    def sign(claims: Claims) -> str:
        key = OctKey.import_key(json.dumps(provider.keys()["keys"][0]))
        return jwt.encode({"alg": "HS256", "kid": provider.key.kid}, claims, key, algorithms=["HS256"])

    return sign


def by_another_key(provider: IdentityProvider) -> Callable[[Claims], str]:
    return lambda claims: jwt.encode({"alg": ALGORITHM, "kid": provider.key.kid}, claims, new_key())


def with_its_key_inside(claims: Claims) -> str:
    key = new_key()
    return jwt.encode({"alg": ALGORITHM, "jwk": key.as_dict(private=False)}, claims, key)


def test_a_token_with_wrong_claims_proves_nothing(door: Door, provider: IdentityProvider) -> None:
    browser, now = door(), int(time.time())
    changes: tuple[Claims, ...] = (
        {"aud": "another"}, {"aud": [CLIENT_ID, "another"], "azp": "another"}, {"iss": "http://127.0.0.1:1"},
        {"nonce": "forged"}, {"exp": now - 120}, {"iat": now + 3600, "nbf": now + 3600}, {"at_hash": "forged"},
        *({name: None} for name in ("aud", "iss", "nonce", "exp", "sub")),
    )  # fmt: skip
    for more in changes:
        provider.change = partial(_change, more)
        refused(browser, visit(browser, sent_back(browser)), 401)


def _change(more: Claims, claims: Claims) -> None:
    claims.update(more)
    for name in [name for name, value in more.items() if value is None]:
        del claims[name]


def test_a_token_that_another_has_signed_proves_nothing(door: Door, provider: IdentityProvider) -> None:
    browser = door()
    for sign in (
        unsigned,
        by_public_key(provider),
        by_another_key(provider),
        with_its_key_inside,
        lambda claims: "",
        lambda claims: "a.b.c",
    ):
        provider.sign = sign
        refused(browser, visit(browser, sent_back(browser)), 401)


def test_the_keys_of_the_provider_may_change_and_an_old_one_is_forgotten(
    door: Door, provider: IdentityProvider
) -> None:
    browser = door()
    assert visit(browser, sent_back(browser)).status_code == 200
    provider.rotate()
    assert visit(browser, sent_back(browser)).status_code == 200
    browser.cookies.clear()
    provider.published = [new_key()]
    refused(browser, visit(browser, sent_back(browser)), 401)


def test_a_visit_that_this_browser_did_not_begin_is_refused(door: Door) -> None:
    browser = door()
    back = sent_back(browser)
    query = {name: values[0] for name, values in parse_qs(urlsplit(back).query).items()}
    thief = TestClient(browser.app, base_url=BASE_URL, follow_redirects=False)
    refused(thief, visit(thief, back), 401)
    for forged in ({**query, "state": "forged"}, {"code": query["code"]}, {**query, "state": "\u2028"}):
        other = TestClient(browser.app, base_url=BASE_URL, follow_redirects=False)
        other.cookies.update(browser.cookies)
        refused(other, visit(other, f"/login/oidc/callback?{urlencode(forged)}"), 401)
    other = TestClient(browser.app, base_url=BASE_URL, follow_redirects=False)
    other.cookies.set("ccat_wm_log_in", browser.cookies["ccat_wm_log_in"] + "x")
    refused(other, visit(other, back), 401)
    ended = visit(browser, f"/login/oidc/callback?state={query['state']}&error=access_denied")
    refused(browser, ended, 401)
    assert "access_denied" in ended.text


def test_a_code_works_once(door: Door) -> None:
    browser = door()
    back = sent_back(browser)
    kept = browser.cookies["ccat_wm_log_in"]
    assert visit(browser, back).status_code == 200
    assert "ccat_wm_log_in" not in browser.cookies
    other = TestClient(browser.app, base_url=BASE_URL, follow_redirects=False)
    other.cookies.set("ccat_wm_log_in", kept)
    refused(other, visit(other, back), 401)


def test_the_way_back_stays_on_this_site(door: Door) -> None:
    browser = door()
    for given in ("https://evil.example", "//evil.example", "/\\evil.example", "/\t/evil.example", "javascript:1"):
        assert 'content="0; url=/"' in visit(browser, sent_back(browser, onward=given)).text


# --- the provider is away -------------------------------------------------------------------------------------------


def test_a_provider_that_is_away_is_named_and_tokens_still_work(
    make_context: ContextMaker, door: Door, provider: IdentityProvider
) -> None:
    away = door(OIDC_ISSUER="http://127.0.0.1:9")  # the port of `discard`, where nothing listens
    answer = away.get("/login/oidc?next=/runs")
    assert answer.status_code == 503
    assert "127.0.0.1 cannot be asked now" in answer.text
    token = Secured(make_context("noop"), away).token("viewer").secret
    assert away.post("/login", data={"token": token}).headers["location"] == "/"
    assert away.get(f"{V1}/runs").status_code == 200
    provider.status = 500
    assert door().get("/login/oidc").status_code == 503
    provider.status, issuer = 200, provider.issuer
    provider.issuer = f"{issuer}/another"
    assert door(OIDC_ISSUER=issuer).get("/login/oidc").status_code == 503


def test_without_a_provider_there_is_no_such_log_in(secured: Secured) -> None:
    assert "/login/oidc" not in secured.client.get("/login").text
    assert secured.client.get("/login/oidc").status_code == 404


def test_the_highest_role_counts_where_a_group_has_it() -> None:
    grants = grants_of("a=viewer,b=submitter@x+y, b=submitter@z,urn:g=1#h=submitter@w, c=submitter")
    assert granted(grants, ["a", "b"]) == Grant("", Role.SUBMITTER, frozenset("xyz"))
    assert granted(grants, ["urn:g=1#h"]) == Grant("", Role.SUBMITTER, frozenset("w"))
    assert granted(grants, ["b", "c"]) == Grant("", Role.SUBMITTER)
    assert granted(grants, ["a"]) == Grant("", Role.VIEWER)
    assert granted(grants, ["d"]) is None
    for wrong in ("a", "a=", "a=root", "=admin", "a=viewer@", "a=viewer@X"):
        with pytest.raises(ValueError, match=wrong[:1]):
            grants_of(wrong)
