"""The audit of changes."""

from __future__ import annotations

from typing import Any

from tests.api.rest import ONE, Hand, Rest, Secured


def last(rest: Rest, **query: Any) -> dict[str, Any]:
    found: dict[str, Any] = rest.get("/audit", **query)["items"][0]
    return found


def test_each_change_is_written_down_once_with_who_what_and_why(secured: Secured) -> None:
    admin = secured.caller()
    admin.client.headers["X-Request-ID"] = "my-request.1"
    response = admin.send("PUT", "/pipelines/one", json=ONE)
    assert response.headers["x-request-id"] == "my-request.1"
    change = last(admin)
    assert (change["action"], change["object"], change["project"]) == ("put_pipeline", "pipelines/one", "default")
    assert (change["actor"], change["request_id"]) == ("token admin 1", "my-request.1")
    assert change["identity"].startswith("token:")
    assert change["address"] == "testclient"
    admin.send("PATCH", "/pipelines/one", json={"priority": 5})
    assert last(admin)["after"] == {"priority": 5}
    run = admin.post("/runs", {"pipeline": "one"})
    change = last(admin)
    assert (change["action"], change["object"]) == ("create_run", f"runs/{run['id']}")
    assert change["after"] == {"pipeline": "one", "version": 1, "priority": 5}
    assert change["request_id"] == "my-request.1"
    admin.post(f"/runs/{run['id']}/cancel")
    assert [each["action"] for each in admin.get("/audit", object=f"runs/{run['id']}")["items"]] == [
        "cancel_run", "create_run",
    ]  # fmt: skip
    made = admin.post("/tokens", {"name": "t", "role": "viewer"}, status=201)
    change = last(admin)
    assert (change["object"], change["after"]["role"]) == (f"tokens/{made['id']}", "viewer")
    assert made["token"].rpartition("_")[2] not in str(admin.get("/audit"))


def test_each_run_that_one_call_changes_is_written_down_with_its_project(secured: Secured) -> None:
    admin = secured.caller()
    ids = admin.post("/runs/bulk", {"runs": [{"spec": {**ONE, "project": name}} for name in ("a", "b", "a")]})["ids"]
    admin.post("/runs/cancel", {"ids": ids[:2]})
    admin.post("/runs/cancel", {"filter": {"project": "a"}})
    theirs = secured.caller("operator", "a")
    for run_id, project in zip(ids, ("a", "b", "a"), strict=True):
        query = {"object": f"runs/{run_id}", "action": "cancel_runs"}
        assert [each["project"] for each in admin.get("/audit", **query)["items"]] == [project]
        assert len(theirs.get("/audit", **query)["items"]) == (project == "a")
    assert last(admin, action="cancel_runs")["after"] == {"filter": {"project": "a"}}


def test_what_was_asked_for_is_written_down(rest: Rest, hand: Hand) -> None:
    run = rest.post("/runs", {"spec": ONE})
    place, step_run = f"/runs/{run['id']}", f"/step-runs/{run['step_runs'][0]['id']}"
    rest.post(f"{place}/pause", {"why": "storm"})
    assert last(rest)["after"] == {"paused": True, "why": "storm"}
    rest.post(f"{place}/resume")
    hand.fail(hand.claim()[0])
    rest.post(f"{step_run}/retry", {"resources": {"memory_gb": 8}, "reason": "more"})
    assert last(rest)["after"] == {"resources": {"memory_gb": 8}, "reason": "more"}
    hand.fail(hand.claim()[0])
    rest.post(f"{step_run}/outcome", {"outcome": "skipped", "reason": "clouds"})
    assert last(rest)["after"] == {"outcome": "skipped", "reason": "clouds"}
    assert rest.send("DELETE", f"{place}?what=workspaces").status_code == 202
    assert last(rest)["after"] == {"what": "workspaces"}
    made = rest.post("/webhooks", {"url": "https://example.org/secret", "project": "default"}, 201)
    change = last(rest)
    assert (change["object"], change["project"]) == (f"webhooks/{made['id']}", "default")
    assert change["after"] == {"host": "example.org", "types": [], "pipeline": None, "run": None}


def test_reading_and_refused_changes_write_nothing(rest: Rest) -> None:
    rest.get("/runs")
    rest.send("POST", "/runs", json={"pipeline": "missing"})
    rest.send("POST", "/runs", json={})
    rest.send("PUT", "/pipelines/x", json={"name": "x"})
    assert rest.get("/audit")["items"] == []
    run_id = rest.post("/runs", {"spec": ONE})["id"]
    webhook = rest.post("/webhooks", {"url": "https://example.org/"}, 201)
    before = rest.get("/audit")
    rest.refused(rest.send("POST", f"/runs/{run_id}/retry"), 409, "conflict")
    again = rest.send("POST", f"/webhooks/{webhook['id']}/deliveries/{run_id}/redeliver")
    rest.refused(again, 404, "not_found")
    assert rest.get("/audit") == before


def test_each_run_of_a_bulk_call_is_written_down(rest: Rest) -> None:
    ids = rest.post("/runs/bulk", {"runs": [{"spec": ONE}] * 3})["ids"]
    found = rest.get("/audit", action="create_runs")["items"]
    assert [each["object"] for each in found] == [f"runs/{each}" for each in reversed(ids)] or {
        each["object"] for each in found
    } == {f"runs/{each}" for each in ids}
    assert len({each["request_id"] for each in found}) == 1


def test_a_repeated_request_is_no_second_change(rest: Rest) -> None:
    headers = {"Idempotency-Key": "k"}
    rest.post("/runs", {"spec": ONE}, headers=headers)
    rest.post("/runs", {"spec": ONE}, headers=headers, status=200)
    assert len(rest.get("/audit")["items"]) == 1


def test_filters_and_pages(rest: Rest, hand: Hand) -> None:
    for name in ("a", "b", "c"):
        rest.put(f"/pipelines/{name}", {**ONE, "name": name, "project": name})
    assert [each["project"] for each in rest.items("/audit", 2)] == ["c", "b", "a"]
    assert [each["project"] for each in rest.get("/audit", project="b")["items"]] == ["b"]
    assert len(rest.get("/audit", since="2020-01-01T00:00:00Z", actor="anonymous")["items"]) == 3
    assert rest.get("/audit", until="2020-01-01T00:00:00Z")["items"] == []
    rest.refused(rest.send("GET", "/audit", params={"since": "soon"}), 422, "invalid", "since")
    assert rest.get("/audit", action="pause_backend")["items"] == []
    assert rest.get("/audit", action="run.deleted")["items"] == []
    said = rest.refused(rest.send("GET", "/audit", params={"action": "create_runn"}), 422, "invalid", "action")
    assert "create_run?" in said["detail"]


def test_only_operators_and_administrators_read_it(secured: Secured) -> None:
    for role, allowed in (("viewer", False), ("submitter", False), ("operator", True), ("admin", True)):
        assert (secured.caller(role).send("GET", "/audit").status_code == 200) == allowed
