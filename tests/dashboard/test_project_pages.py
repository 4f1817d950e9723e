"""The pages of projects: limits with what is used of them, what belongs to a project, changes that end."""

from __future__ import annotations

import re

import pytest

from tests.api.rest import ONE, Hand, Rest, Secured
from tests.dashboard.test_actions import send
from tests.dashboard.test_holds import reader

NIGHTLY = {**ONE, "name": "nightly", "project": "night", "description": "maps <b>of</b> the night"}
LIMITS = {
    "weight": "1",
    "max_live": "1",
    "max_cpus": "",
    "max_queued": "7",
    "why": "<i>slow</i>",
    "ends": "4h",
    "until": "",
}


@pytest.fixture
def night(rest: Rest, hand: Hand) -> str:
    """A project with one pipeline, one live step run, one that waits, and a limit."""
    rest.put("/pipelines/nightly", NIGHTLY)
    rest.put("/projects/night", {"max_live": 1, "max_cpus": 4}, status=200)
    rest.post("/runs/bulk", {"runs": [{"pipeline": "nightly"}] * 2})
    rest.run()
    hand.execute("UPDATE step_runs SET priority = 9 FROM runs r WHERE r.id = run_id AND r.project = 'night'")
    assert len(hand.claim(5)) == 2
    return "/projects/night"


def test_a_project_shows_its_limits_pipelines_and_runs(rest: Rest, night: str) -> None:
    assert f'href="{night}"' in rest.client.get("/projects").text
    assert f'href="{night}"' in rest.client.get("/pipelines/nightly").text
    for path in (night, f"/ui{night}"):
        page = rest.client.get(path).text
        assert "1 step run live on 1 CPU, 1 queued; at its limit of live step runs." in page
        assert "maps &lt;b&gt;of&lt;/b&gt; the night" in page
        assert "3 left" in page
        assert len(re.findall(r'<a class="strong under" href="/runs/[0-9a-f-]+">nightly</a>', page)) == 2
        assert ">one<" not in page
    listed = rest.client.get("/runs?project=night").text
    assert listed.count('data-id="') == 2
    assert rest.client.get("/projects/nothing").status_code == 404


def test_limits_are_changed_until_a_time_and_ended_at_once(rest: Rest, night: str) -> None:
    assert 'name="max_live" value="1"' in rest.client.get(f"{night}/limits").text
    assert send(rest, f"{night}/limits", list(LIMITS.items())).status_code == 200
    found = rest.get("/projects/night")
    assert (found["max_live"], found["max_cpus"], found["max_queued"]) == (1, None, 7)
    page = rest.client.get(night).text
    assert "max_queued of <bdi>the project night</bdi> is 7 until" in page
    assert "&lt;i&gt;slow&lt;/i&gt;</bdi>; then it is none again" in page
    ends = re.findall(r'action="(/overrides/\d+/end)"', page)
    assert len(ends) == 2
    for each in ends:
        answer = send(rest, each)
        assert (answer.status_code, answer.headers["location"]) == (303, night)
    found = rest.get("/projects/night")
    assert (found["max_cpus"], found["max_queued"]) == (4, None)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"max_live": "many"}, "max_live"),
        ({"max_live": "-1"}, "max_live"),
        ({"weight": "0"}, "weight"),
        ({"until": "2020-01-31T12:00Z"}, "until"),
        ({"ends": "soon"}, "ends"),
        ({"max_cpus": "4", "max_queued": ""}, ""),
    ],
)
def test_wrong_limits_are_shown_again_with_what_was_typed(
    rest: Rest, night: str, fields: dict[str, str], path: str
) -> None:
    sent = {**LIMITS, "why": "kept", **fields}
    answer = send(rest, f"{night}/limits", list(sent.items()))
    assert answer.status_code == 422
    assert f"<code>{path}</code>" in answer.text
    assert f'name="max_live" value="{sent["max_live"]}"' in answer.text
    assert 'name="why" value="kept"' in answer.text
    assert rest.get("/overrides")["items"] == []


def test_only_operators_are_offered_limits_and_ends(secured: Secured) -> None:
    admin = secured.caller()
    admin.put("/pipelines/nightly", NIGHTLY)
    admin.put("/projects/night", {"max_live": 3, "until": "2999-01-31T12:00:00Z"}, status=200)
    (override,) = admin.get("/overrides")["items"]
    for role, may in (("viewer", False), ("submitter", False), ("operator", True)):
        rest = reader(secured, role, "night")
        page = rest.client.get("/projects/night").text
        assert ("/limits" in page, f"/overrides/{override['id']}/end" in page) == (may, may)
        status = send(rest, "/projects/night/limits", list(LIMITS.items())).status_code
        assert status == (200 if may else 403)
    other = reader(secured, "admin", "day")
    assert other.client.get("/projects/night").status_code == 404
    assert "night" not in other.client.get("/projects").text
    assert send(other, f"/overrides/{override['id']}/end").status_code == 404


def test_a_priority_and_a_release_end_by_themselves_if_the_form_says_so(rest: Rest, hand: Hand) -> None:
    run = rest.run()["id"]
    term = [("ends", "1h"), ("until", "")]
    assert send(rest, "/act/priority", [("ids", run), ("priority", "5"), *term]).status_code == 200
    breaker = hand.open_breaker()
    wrong = send(rest, "/act/breaker", [("breaker", breaker), ("ends", ""), ("until", "2020-01-31T12:00Z")])
    assert (wrong.status_code, "must be in the future" in wrong.text) == (422, True)
    assert send(rest, "/act/breaker", [("breaker", breaker), ("why", "repaired"), *term]).status_code == 200
    found = {each["kind"]: each for each in rest.get("/overrides")["items"]}
    assert (found["run"]["name"], found["run"]["value"]) == (run, 5)
    assert (found["breaker"]["name"], found["breaker"]["why"]) == (breaker, "repaired")
