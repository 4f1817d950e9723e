"""Every role, in its own project and in another, tries every call of the OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from fastapi import APIRouter

from ccat_workflow_manager.api.rights import RIGHTS, WHOLE_SERVICE, Thing
from ccat_workflow_manager.api.route import declare
from ccat_workflow_manager.identity import Role
from ccat_workflow_manager.lifecycle.models import NewProduct
from tests.api.rest import Hand, Rest, Secured

MINE, OTHERS = "night", "day"
_NO_ID = UUID(int=1)


class Belongings:
    """A pipeline, a run, a step run, a product and a breaker of a project. All texts hold a word of it."""

    def __init__(self, project: str, admin: Rest, hand: Hand) -> None:
        self.word = f"only-{project}"
        step = {"name": self.word, "command": ["a"]}
        definition = {
            "name": self.word,
            "project": project,
            "steps": [step, {**step, "name": "b", "depends_on": [self.word]}],
        }
        admin.put(f"/pipelines/{self.word}", definition)
        run = admin.post("/runs", {"pipeline": self.word, "labels": {"word": self.word}, "priority": 9})
        (item,) = hand.claim()
        hand.complete(item, NewProduct(self.word, "PLOT", "a", 1, "0" * 64))
        (item,) = hand.claim()
        hand.submit(item)
        hand.execute(
            "UPDATE step_runs SET cancel_requested_at = now() - interval '1 hour' WHERE id = :id", id=item.step_run_id
        )
        breaker = hand.execute(
            "INSERT INTO breakers (breaker_key, project, pipeline, step, opened_at, failure_signature, reason_text)"
            " VALUES (gen_random_uuid(), :project, :word, :word, now(), 'x', :word) RETURNING breaker_key",
            project=project, word=self.word,
        )  # fmt: skip
        webhook = hand.execute(
            "INSERT INTO webhooks (id, url, secret, types, project, created_by, position, event_id)"
            " VALUES (gen_random_uuid(), :word, 'x', '{}', :project, 'test', 0, 0) RETURNING id",
            project=project, word=self.word,
        )  # fmt: skip
        step_run = run["step_runs"][0]["id"]
        product = admin.get(f"/step-runs/{step_run}/products")["items"][0]["id"]
        self.ids = {"name": self.word, "run_id": run["id"], "step_run_id": step_run, "product_id": product}
        self.ids["breaker_id"] = str(breaker[0][0])
        self.ids["webhook_id"] = str(webhook[0][0])
        self.texts = {self.word, *self.ids.values()}
        self.ids["project"] = project
        limit = {"max_queued": 10**6, "until": "2999-01-31T12:00:00Z", "why": self.word}
        admin.send("PATCH", f"/projects/{project}", json=limit)
        overrides = admin.get("/overrides")["items"]
        self.ids["override_id"] = str(next(each["id"] for each in overrides if each["name"] == project))


@pytest.fixture
def owned(secured: Secured) -> dict[str, Belongings]:
    admin, hand = secured.caller(), Hand(secured.context)
    return {project: Belongings(project, admin, hand) for project in (MINE, OTHERS)}


def calls(rest: Rest) -> Iterator[tuple[str, str]]:
    for path, methods in rest.client.get("/openapi.json").json()["paths"].items():
        for method in methods:
            yield method.upper(), path


def call(rest: Rest, method: str, path: str, ids: dict[str, str]) -> Any:
    body: Any = {} if method in ("POST", "PUT", "PATCH") else None
    query = {"attempt": "99"} if path.endswith("/log") else {}  # or a worker would be asked
    return rest.client.request(
        method,
        path.format(**{"token_id": _NO_ID, "delivery_id": _NO_ID, "worker": "nothing", **ids}),
        json=body,
        params=query,
    )


def test_each_role_in_each_project_on_each_route(secured: Secured, owned: dict[str, Belongings]) -> None:
    nowhere = {name: "nothing" if name == "name" else str(UUID(int=7)) for name in owned[MINE].ids}
    roles = {role: secured.caller(role, MINE) for role in Role}
    tried = 0
    for method, path in calls(roles[Role.ADMIN]):
        right = RIGHTS[f"{method} {path}"]
        for role, caller in roles.items():
            allowed = right.role is None or (role.includes(right.role) and right.about != WHOLE_SERVICE)
            mine = call(caller, method, path, owned[MINE].ids)
            assert (mine.status_code == 403) == (not allowed), (role, method, path, mine.text)
            assert mine.status_code != 401
            if isinstance(right.about, Thing):
                others = call(caller, method, path, owned[OTHERS].ids)
                missing = call(caller, method, path, nowhere)
                assert others.status_code == 404, (role, method, path, others.text)
                if missing.status_code == 404:  # a pipeline that does not exist may be put
                    named = owned[OTHERS].ids[right.about.parameter]
                    assert others.json()["detail"] == missing.json()["detail"].replace(
                        nowhere[right.about.parameter], named
                    ), (method, path)
            tried += 1
    assert tried > 150


def test_lists_and_counters_show_nothing_of_other_projects(secured: Secured, owned: dict[str, Belongings]) -> None:
    mine, everything = secured.caller("operator", MINE), secured.caller("operator")
    shown = set()
    for method, path in calls(mine):
        if method != "GET" or "token" in path:
            continue
        seen = call(mine, method, path, owned[MINE].ids)
        if RIGHTS[f"{method} {path}"].about == WHOLE_SERVICE:
            assert seen.status_code == 403, (path, seen.text)
            continue
        assert seen.status_code in (200, 404, 503), (path, seen.text)
        leaked = {text for text in owned[OTHERS].texts if text in seen.text}
        assert leaked == set(), (path, leaked)
        if any(text in call(everything, method, path, owned[OTHERS].ids).text for text in owned[OTHERS].texts):
            shown.add(path)
    assert len(shown) > 10, "the same lists show it to others"
    for path in ("/runs", "/pipelines", "/audit", "/attention", "/breakers"):
        assert [each["project"] for each in mine.get(path)["items"] if each["project"] != MINE] == [], path
    for path in ("/runs", "/attention", "/breakers", "/overrides", "/webhooks"):
        assert mine.get(path, project=OTHERS)["items"] == [], path
    summary = mine.get("/dashboard/summary")
    assert (summary["live"]["RUNNING"], summary["attention"]) == (1, 1)
    assert {each["name"]: each["live"] for each in summary["backends"]} == {"noop": 1}


def test_nothing_is_submitted_into_another_project(secured: Secured, owned: dict[str, Belongings]) -> None:
    caller = secured.caller("submitter", MINE)
    spec = {"name": "x", "steps": [{"name": "s", "command": ["true"]}]}
    for body in (
        {"pipeline": owned[OTHERS].word},
        {"pipeline": owned[MINE].word, "project": OTHERS},
        {"spec": spec},
        {"spec": {**spec, "project": OTHERS}},
    ):
        caller.refused(caller.send("POST", "/runs", json=body), 404, "not_found")
        caller.refused(caller.send("POST", "/runs/bulk", json={"runs": [body]}), 404, "not_found")
    said = caller.send("PUT", "/pipelines/x", json=spec).json()["faults"]
    assert f"write `project: {MINE}`" in said[0]["message"]
    assert caller.run({**spec, "project": MINE})["project"] == MINE
    assert caller.run(spec, project=MINE)["project"] == MINE
    caller.refused(caller.send("PUT", "/pipelines/x", json={**spec, "project": OTHERS}), 404, "not_found")
    taken = {**spec, "name": owned[OTHERS].word, "project": MINE}
    caller.refused(caller.send("POST", "/pipelines", json=taken), 409, "conflict")


def test_bulk_changes_reach_no_other_project(secured: Secured, owned: dict[str, Belongings]) -> None:
    caller = secured.caller("submitter", MINE)
    theirs, mine = owned[OTHERS].ids["run_id"], owned[MINE].ids["run_id"]
    for verb in ("cancel", "retry"):
        refused = caller.send("POST", f"/runs/{verb}", json={"ids": [mine, theirs]})
        caller.refused(refused, 404, "not_found", "ids[1]")
    assert caller.post("/runs/cancel", {"filter": {"status": ["PENDING", "RUNNING"]}})["ids"] == [mine]


def test_an_application_with_an_undeclared_route_is_not_built(secured: Secured) -> None:
    router = APIRouter()

    @router.get("/secrets")
    def secrets() -> None:
        raise AssertionError

    app: Any = secured.client.app
    app.include_router(router)
    with pytest.raises(LookupError, match="GET /secrets"):
        declare(app)
