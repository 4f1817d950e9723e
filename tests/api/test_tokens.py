"""Tokens: made, used, expired, revoked."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from httpx import Response

from ccat_workflow_manager.api.guard import HEALTH, OPEN
from ccat_workflow_manager.app import create_app
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.services import tokens
from ccat_workflow_manager.services.tokens import FRESH_SECONDS
from tests.api.rest import BASE_URL, V1, Rest, Secured
from tests.support.fixtures_servers import Databases
from tests.support.fixtures_store import ContextMaker
from tests.support.waiting import wait_until


def ask(secured: Secured, authorization: str | bytes) -> Response:
    response: Response = secured.client.get(f"{V1}/runs", headers={"Authorization": authorization})
    return response


def test_a_token_is_made_used_listed_and_revoked(secured: Secured) -> None:
    admin = secured.caller()
    made = admin.post("/tokens", {"name": "nightly", "role": "submitter", "projects": ["night"]}, status=201)
    assert made["token"].startswith(f"ccatwm_{made['prefix']}_")
    assert (made["role"], made["projects"], made["last_used_at"]) == ("submitter", ["night"], None)
    assert ask(secured, f"Bearer {made['token']}").status_code == 200
    listed = {each["name"]: each for each in admin.get("/tokens")["items"]}["nightly"]
    assert listed["last_used_at"] is not None
    secret = made["token"].rpartition("_")[2]
    assert secret not in json.dumps(admin.get("/tokens"))
    revoked = admin.send("DELETE", f"/tokens/{made['id']}").json()
    assert revoked["revoked_at"] is not None
    wait_until(lambda: ask(secured, f"Bearer {made['token']}").status_code == 401, 5, "the token to be refused")
    admin.refused(admin.send("DELETE", f"/tokens/{UUID(int=1)}"), 404, "not_found")


def test_another_manager_refuses_a_revoked_token_within_a_second(secured: Secured, make_context: ContextMaker) -> None:
    token = secured.token("viewer")
    headers = {"Authorization": f"Bearer {token.secret}"}
    with TestClient(create_app(make_context("noop", AUTH_REQUIRED=True)), base_url=BASE_URL) as other:
        assert other.get(f"{V1}/runs", headers=headers).status_code == 200
        secured.caller().send("DELETE", f"/tokens/{json.loads(token.json)['id']}")
        wait_until(lambda: other.get(f"{V1}/runs", headers=headers).status_code == 401, what="the other to refuse it")
    assert FRESH_SECONDS < 1


def test_every_wrong_token_gets_the_same_answer(secured: Secured) -> None:
    good = secured.token("viewer")
    old = secured.token("viewer", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    gone = secured.token("viewer")
    secured.caller().send("DELETE", f"/tokens/{json.loads(gone.json)['id']}")
    scheme, prefix, secret = good.secret.split("_", 2)
    wrong: list[str | bytes] = [
        "", "Bearer", "Bearer x", f"Basic {good.secret}", f"Bearer {old.secret}", f"Bearer {gone.secret}",
        f"Bearer {good.secret}x", f"Bearer {scheme}_{prefix}_", f"Bearer {scheme}_{'0' * 12}_{secret}",
        f"Bearer ccatwm_local_{secret}", b"Bearer \xe9",
    ]  # fmt: skip
    answers = [ask(secured, each) for each in wrong]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.text for answer in answers}) == 1
    assert {answer.headers["www-authenticate"] for answer in answers} == {'Bearer realm="ccat-wm"'}
    assert ask(secured, f"Bearer {good.secret}").status_code == 200


def test_metrics_are_read_while_the_database_is_away(
    secured: Secured, databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, unknown = secured.caller("viewer"), secured.caller("viewer")
    assert known.client.get("/metrics").status_code == 200
    authorization = known.client.headers["Authorization"]
    token = authorization.removeprefix("Bearer ")
    with databases.closed(secured.context.settings.database_url):
        wait_until(lambda: secured.context.tokens.needs_database(token), what="the token to be looked up again")
        assert known.client.get(f"{V1}/runs").status_code == 503
        assert known.client.get("/metrics").status_code == 200
        assert known.client.get("/metrics", headers={"Authorization": f"{authorization}x"}).status_code == 503
        assert unknown.client.get("/metrics").status_code == 503
        monkeypatch.setattr(tokens, "REMEMBERED_SECONDS", 0)
        assert known.client.get("/metrics").status_code == 503


def test_no_call_but_health_and_log_in_is_open(secured: Secured) -> None:
    paths = secured.caller().client.get("/openapi.json").json()["paths"]
    for path, calls in paths.items():
        for method in calls:
            found = secured.client.request(method.upper(), path.replace("{", "").replace("}", ""))
            assert (found.status_code == 401) == (path not in (*HEALTH, *OPEN)), (method, path, found.text)


def test_requests_with_a_known_token_cost_the_database_nothing(
    secured: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = secured.token("viewer")
    tokens = secured.context.tokens
    assert tokens.check(token.secret) is not None
    monkeypatch.setattr("ccat_workflow_manager.services.tokens.FRESH_SECONDS", 3600)

    def never(self: Database) -> Any:
        raise AssertionError("the database was asked")

    monkeypatch.setattr(Database, "read", never)
    assert not tokens.needs_database(token.secret)
    assert tokens.check(token.secret) is not None


@pytest.mark.parametrize(
    ("bad", "path"),
    [
        ({"role": "root"}, "role"),
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"projects": []}, "projects"),
        ({"projects": ["No Name"]}, "projects[0]"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"secret": "mine"}, "secret"),
    ],
)
def test_bad_tokens_are_refused(rest: Rest, bad: dict[str, Any], path: str) -> None:
    body = {"name": "x", "role": "viewer", **bad}
    rest.refused(rest.send("POST", "/tokens", json=body), 422, "invalid", path)


def test_a_token_gives_no_more_than_its_creator_has(secured: Secured) -> None:
    limited = secured.caller("admin", "night", "day")
    assert limited.post("/tokens", {"name": "a", "role": "admin", "projects": ["day"]}, status=201)["projects"] == [
        "day"
    ]
    for projects in (None, ["day", "other"]):
        body = {"name": "b", "role": "viewer", "projects": projects}
        limited.refused(limited.send("POST", "/tokens", json=body), 422, "invalid", "projects")
    assert [each["name"] for each in limited.get("/tokens")["items"] if each["name"] == "admin 2"] == []


def test_a_name_is_taken_until_its_token_is_revoked(rest: Rest) -> None:
    body = {"name": "nightly", "role": "viewer"}
    first = rest.post("/tokens", body, status=201)
    rest.refused(rest.send("POST", "/tokens", json=body), 409, "conflict")
    assert rest.send("DELETE", f"/tokens/{first['id']}").status_code == 200
    rest.post("/tokens", body, status=201)


def test_a_wrong_token_is_refused_where_none_is_needed(rest: Rest) -> None:
    headers = {"Authorization": f"Bearer ccatwm_{'0' * 12}_x"}
    rest.refused(rest.send("GET", "/runs", headers=headers), 401, "unauthorized")


def test_runs_say_which_token_made_them(secured: Secured) -> None:
    made = secured.caller("submitter").run()
    assert made["created_by"].startswith("token submitter ")
