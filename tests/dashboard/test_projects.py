"""Pages for readers who are limited to projects: everything of theirs, nothing of others."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import pytest
from httpx import Response

from ccat_workflow_manager.api.rights import RIGHTS, Thing
from ccat_workflow_manager.dashboard.live import visible_topics
from tests.api.rest import BASE_URL, ONE, Hand, Rest, Secured
from tests.api.test_rights import MINE, OTHERS, Belongings

Owned = dict[str, Belongings]
_API = ("/api/", "/ga4gh/", "/v1/", "/healthz", "/readyz", "/metrics", "/login", "/logout")
_STREAM = "/ui/live"
_HOLDS = ("pause", "resume")
PAGES = {
    path: right
    for method, path in (key.split(" ", 1) for key in RIGHTS)
    if method == "GET" and not path.startswith((*_API, _STREAM))
    for right in [RIGHTS[f"GET {path}"]]
}


@pytest.fixture
def owned(secured: Secured) -> Owned:
    admin, hand = secured.caller(), Hand(secured.context)
    found = {project: Belongings(project, admin, hand) for project in (MINE, OTHERS)}
    # A run of another project may bear the name of a pipeline of mine.
    spec = {"name": f"only-{MINE}", "project": OTHERS, "steps": [{"name": "foreign-step", "command": ["a"]}]}
    namesake = admin.post("/runs", {"spec": spec})
    found[OTHERS].texts |= {namesake["id"], "foreign-step"}
    for project, each in found.items():
        admin.post(f"/pipelines/{each.word}/pause", {"why": each.word}, 200)
        admin.post(f"/projects/{project}/pause", {"why": each.word}, 200)
    return found


def reader(secured: Secured, role: str, *projects: str) -> Rest:
    rest = secured.caller(role, *projects)
    rest.client.headers["accept"] = "text/html"
    rest.client.follow_redirects = False
    return rest


def queries(path: str, about: Belongings) -> list[dict[str, str]]:
    """Queries that make a page name something."""
    run, step_run, job = about.ids["run_id"], about.ids["step_run_id"], about.ids["breaker_id"]
    return {
        "/go": [{"q": each} for each in (about.word, run, run[:13], step_run, f"word:{about.word}", about.word[:7])],
        "/runs": [{}, {"pipeline": about.word}, {"label": f"word:{about.word}"}, {"q": about.word}, {"created": "24h"}],
        "/products": [{}, {"run": run}],
        "/act/{verb}": [{"id": run}, {"step_run": step_run}, {"breaker": job}],
        "/act/breaker": [{"id": job}],
        "/runs/{run_id}/compare": [{}, {"with": run}],
        "/pipelines/{name}": [{}, {"from": run}],
        "/runs/{run_id}": [{}, {"tab": "events"}, {"tab": "definition"}, {"keys": "field"}],
        "/ui/runs/{run_id}/keys": [{"step": "0"}],
        "/ui/step-runs/{step_run_id}/log": [{"attempt": "99"}],
        "/ui/step-runs/{step_run_id}/log/search": [{"attempt": "99", "q": "x"}],
    }.get(path, [{}])


def visits(rest: Rest, path: str, about: Belongings, asked: Belongings) -> Iterator[tuple[dict[str, str], Response]]:
    """A page of one project, with queries about what belongs to another."""
    verb = "cancel" if "act" in path else ""
    names = {**about.ids, "verb": verb, "key": "main", "path": "x", "token_id": str(UUID(int=1))}
    if "/steps/" in path:
        names["name"] = about.word
    for query in queries(path, asked):
        yield query, rest.client.get(path.format(**names), params=query)


def leaked(answer: Response, theirs: Belongings, query: dict[str, str]) -> set[str]:
    """What is named that the reader has not typed."""
    shown = answer.text + answer.headers.get("location", "")
    return {text for text in theirs.texts if text in shown and not any(text in value for value in query.values())}


def test_pages_show_nothing_of_other_projects(secured: Secured, owned: Owned) -> None:
    mine, everything = reader(secured, "admin", MINE), reader(secured, "admin")
    revealing = set()
    for path, right in PAGES.items():
        for asked in owned.values():
            for query, answer in visits(mine, path, owned[MINE], asked):
                assert answer.status_code in (200, 303, 404, 422), (path, query, answer.text[:2000])
                assert leaked(answer, owned[OTHERS], query) == set(), (path, query)
                if answer.status_code == 303 and path == "/go":
                    target = mine.client.get(answer.headers["location"])
                    assert leaked(target, owned[OTHERS], query) == set(), (path, query)
        if any(
            leaked(answer, owned[OTHERS], {}) for _, answer in visits(everything, path, owned[OTHERS], owned[OTHERS])
        ):
            revealing.add(path)
        if isinstance(right.about, Thing):
            for query, answer in visits(mine, path, owned[OTHERS], owned[OTHERS]):
                assert answer.status_code in (404, 422), (path, query)
    assert len(revealing) > 15, "the same pages show it to those who see all projects"


def test_pages_show_all_of_their_own_project(secured: Secured, owned: Owned) -> None:
    mine, word = reader(secured, "viewer", MINE), owned[MINE].word
    for path in ("/", "/runs", "/pipelines", "/products", "/events", f"/pipelines/{word}", "/backends", "/workers"):
        answer = mine.client.get(path)
        assert answer.status_code == 200, (path, answer.text[:500])
        assert path in ("/backends", "/workers", "/") or word in answer.text, path
    facets = mine.client.get("/runs").text
    assert facets.count(owned[MINE].ids["run_id"]) > 0
    assert reader(secured, "viewer", "nothing").client.get("/").status_code == 200


def test_causes_are_named_as_they_are_and_with_what_a_reader_can_do(secured: Secured) -> None:
    admin, hand = secured.caller(), Hand(secured.context)
    for project in (MINE, OTHERS):
        admin.put(f"/pipelines/{project}", {**ONE, "name": project, "project": project})
        admin.post("/runs/bulk", {"runs": [{"pipeline": project}] * 2})
    for number, item in enumerate(items := hand.claim(4)):
        hand.submit(item)
        what = ("SET cancel_requested_at = now() - interval '1 hour'", "SET reason = 'disk_full', status = 'FAILED'")
        done = ", finished_at = now()" if number % 2 else ""
        hand.execute(f"UPDATE step_runs {what[number % 2]}{done} WHERE id = :id", id=item.step_run_id)
    assert len(items) == 4
    mine = reader(secured, "viewer", MINE)
    found = {each["kind"]: each for each in mine.get("/dashboard/attention")["items"]}
    assert {kind: each["held_up"] for kind, each in found.items()} == {"cancel": 1, "disk": 1}
    page = mine.client.get("/").text
    assert "cancel is not confirmed" in page
    assert "A disk is full" in page
    for action in ("Make room there", "stop the jobs there", "until an operator acts there"):
        assert action not in page
    assert "Make room there" in reader(secured, "operator").client.get("/").text


def test_actions_reach_no_other_project(secured: Secured, owned: Owned) -> None:
    mine = reader(secured, "operator", MINE)
    theirs, admin = owned[OTHERS], secured.caller()
    form = {"Content-Type": "application/x-www-form-urlencoded", "Origin": BASE_URL}
    before = admin.get(f"/runs/{theirs.ids['run_id']}")
    for path, body in (
        ("/act", f"verb=cancel&id={theirs.ids['run_id']}"),
        ("/act/cancel", f"ids={theirs.ids['run_id']}"),
        ("/act/pause", f"ids={theirs.ids['run_id']}"),
        ("/act/step-run/cancel", f"step_run={theirs.ids['step_run_id']}"),
        ("/act/step-run/retry", f"step_run={theirs.ids['step_run_id']}"),
        ("/act/breaker", f"breaker={theirs.ids['breaker_id']}"),
        (f"/pipelines/{theirs.word}/start", ""),
        (f"/pipelines/{theirs.word}/switch", "enabled=0"),
        (f"/ui/pipelines/{theirs.word}/check", ""),
        *((f"{of}/{verb}", "why=x") for of in (f"/pipelines/{theirs.word}", f"/projects/{OTHERS}") for verb in _HOLDS),
    ):
        answer = mine.client.post(path, content=body, headers=form)
        assert leaked(answer, theirs, {"typed": path + body}) == set(), path
        assert answer.status_code == 404 or "0 runs" in answer.text or "No run" in answer.text, (path, answer.text)
    assert admin.get(f"/runs/{theirs.ids['run_id']}") == before
    assert admin.get(f"/pipelines/{theirs.word}")["enabled"]
    assert {each["why"] for each in admin.get("/holds")["items"]} == {each.word for each in owned.values()}
    assert theirs.ids["breaker_id"] in {each["id"] for each in admin.get("/breakers")["items"]}
    preview = mine.client.post("/act", content="verb=cancel&all=1&conditions=", headers=form)
    assert owned[MINE].ids["run_id"] in preview.text
    assert leaked(preview, theirs, {}) == set()


def test_the_live_stream_follows_no_run_of_another_project(secured: Secured, owned: Owned) -> None:
    names = ["runs", "run:x", *(f"run:{each.ids['run_id']}" for each in owned.values())]
    seen = visible_topics(secured.context, names, frozenset([MINE]))
    assert seen == {"runs", f"run:{owned[MINE].ids['run_id']}"}
    assert visible_topics(secured.context, names, None) == set(names)


def test_an_error_for_a_stranger_shows_nothing_of_the_service(secured: Secured, owned: Owned) -> None:
    answer = secured.client.get("/login/oidc", headers={"accept": "text/html"})
    assert answer.status_code == 404
    assert "noop" not in answer.text
