"""Pauses on pages: who, why and until when is said, and only who may pause is offered it."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.views import runs as views
from ccat_workflow_manager.db.views.changes import others
from tests.api.rest import BASE_URL, ONE, Rest, Secured
from tests.dashboard.test_actions import send

NIGHTLY = {**ONE, "name": "nightly", "project": "night"}
WHY = "new <b>disks</b>"
FORM = [("why", quote(WHY)), ("mode", "drain"), ("ends", "4h"), ("until", "")]


def reader(secured: Secured, role: str, *projects: str) -> Rest:
    rest = secured.caller(role, *projects)
    rest.client.headers["accept"] = "text/html"
    return rest


def test_the_list_says_of_each_run_what_it_waits_for(rest: Rest) -> None:
    rest.put("/pipelines/nightly", NIGHTLY)
    rest.put("/pipelines/one", ONE)
    paused, other, plain = (rest.post("/runs", {"pipeline": name})["id"] for name in ("nightly", "one", "one"))
    rest.post("/pipelines/nightly/pause", {"why": "new disks"}, status=200)
    rest.post(f"/runs/{other}/pause", {"why": "not tonight"})
    for page in ("/runs", "/ui/runs"):
        rows = {run_id: row(rest.client.get(page).text, run_id) for run_id in (paused, other, plain)}
        assert "the pipeline nightly is paused by anonymous" in rows[paused]
        assert "new disks" in rows[paused]
        assert "the run is paused" in rows[other]
        assert "no worker serves the backend" in rows[plain]


def test_the_list_says_what_a_run_waits_for_that_has_begun(
    rest: Rest, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = {"name": "each", "foreach": ["a", "b", "c"], "command": ["true"]}
    run_id = rest.run({"name": "three", "steps": [step]})["id"]
    assert context.launcher.launch("noop", 1) == 1
    counts = rest.get(f"/runs/{run_id}")["counts"]
    assert (counts["COMPLETED"], counts["PENDING"]) == (1, 2)
    assert "no worker serves the backend" in row(rest.client.get("/runs").text, run_id)
    monkeypatch.setattr(views, "_FEW", 2)
    assert "waits to go on" in row(rest.client.get("/runs").text, run_id)


def row(page: str, run_id: str) -> str:
    """The row of a run in a list."""
    return next(part for part in page.split("<tr") if f"/runs/{run_id}" in part)


@pytest.mark.parametrize(
    ("path", "seen_on"),
    [
        ("/pipelines/nightly", ("/", "/pipelines/nightly", "/ui/pipelines/nightly/head")),
        ("/projects/night", ("/", "/projects/night", "/ui/projects/night", "/pipelines/nightly")),
        ("/backends/noop", ("/", "/backends", "/ui/backends", "/pipelines/nightly")),
        ("/service", ("/", "/ui/overview", "/backends", "/pipelines/nightly")),
    ],
)
def test_it_is_paused_seen_in_words_and_resumed(rest: Rest, path: str, seen_on: tuple[str, ...]) -> None:
    rest.put("/pipelines/nightly", NIGHTLY)
    step_run = rest.post("/runs", {"pipeline": "nightly"})["step_runs"][0]
    assert f'action="{path}/pause"' in rest.client.get(f"{path}/hold").text
    report = send(rest, f"{path}/pause", FORM, **{"x-part": "sheet"})
    assert report.status_code == 200
    assert "is drained" in report.text
    assert "data-done" in report.text
    (hold,) = rest.get("/holds")["items"]
    assert (hold["why"], hold["mode"], hold["until"] is None) == (WHY, "drain", False)
    for page in (*seen_on, f"{path}/hold"):
        text = rest.client.get(page).text
        assert "new &lt;b&gt;disks&lt;/b&gt;" in text, page
        assert "<b>disks" not in text
        assert "is drained" in text
        assert "anonymous" in text
        assert hold["until"][:19] in text, page
        assert "1 step run waits for it." in text
    assert "1 step run waits for what is paused" in rest.client.get("/").text
    for page in (f"/runs/{step_run['run_id']}", f"/step-runs/{step_run['id']}"):
        assert f"the {hold['kind']} {hold['name']}".rstrip() + " is drained by anonymous" in rest.client.get(page).text
    assert f'action="{path}/resume"' in rest.client.get(f"{path}/hold").text
    assert "goes on" in send(rest, f"{path}/resume").text
    assert rest.get("/holds")["items"] == []
    assert all("disks" not in rest.client.get(page).text for page in seen_on)
    assert send(rest, f"{path}/resume").status_code == 404


@pytest.mark.parametrize(
    ("fields", "path", "says"),
    [
        ({"why": ""}, "why", "at least 1"),
        ({"ends": "soon"}, "ends", "not one of the choices"),
        ({"until": "tomorrow"}, "until", "must be a time"),
        ({"until": "2020-01-31T12:00Z"}, "until", "must be in the future"),
        ({"mode": "stop"}, "mode", "pause"),
    ],
)
def test_a_wrong_form_is_shown_again_with_what_was_typed(
    rest: Rest, fields: dict[str, str], path: str, says: str
) -> None:
    sent = {"why": "kept", "mode": "drain", "ends": "7d", "until": "", **fields}
    answer = send(rest, "/backends/noop/pause", list(sent.items()))
    assert answer.status_code == 422
    assert f"<code>{path}</code>" in answer.text
    assert says in answer.text
    assert f'name="until" value="{sent["until"]}"' in answer.text
    assert f'name="why" value="{sent["why"]}"' in answer.text
    assert rest.get("/holds")["items"] == []


def test_a_hold_may_end_at_a_time_or_when_a_person_ends_it(rest: Rest) -> None:
    for ends, until, wanted in (("4h", "2999-01-31T12:00", "2999-01-31T12:00:00Z"), ("", "", None)):
        fields = [("why", "x"), ("mode", "pause"), ("ends", ends), ("until", until)]
        assert send(rest, "/backends/noop/pause", fields).status_code == 200
        assert rest.get("/holds")["items"][0]["until"] == wanted


def test_reason_mode_and_end_of_a_hold_are_changed(rest: Rest) -> None:
    rest.post("/backends/noop/pause", {"why": "first", "until": "2999-01-31T12:00:00Z"}, 200)
    since = rest.get("/holds")["items"][0]["since"]
    assert 'href="/backends/noop/hold?change=1"' in rest.client.get("/backends").text
    page = rest.client.get("/backends/noop/hold?change=1").text
    assert "<h1" in page
    assert 'name="why" value="first"' in page
    assert 'name="until" value="2999-01-31T12:00:00Z"' in page
    wrong = send(rest, "/backends/noop/pause", [("why", ""), ("mode", "pause"), ("ends", ""), ("until", "")])
    assert (wrong.status_code, 'action="/backends/noop/pause"' in wrong.text) == (422, True)
    send(rest, "/backends/noop/pause", [("why", "second"), ("mode", "drain"), ("ends", ""), ("until", "")])
    (hold,) = rest.get("/holds")["items"]
    assert (hold["why"], hold["mode"], hold["until"], hold["since"]) == ("second", "drain", None, since)


def test_what_does_not_exist_has_no_form(rest: Rest) -> None:
    for path in ("/pipelines/none", "/backends/none"):
        assert rest.client.get(f"{path}/hold").status_code == 404
        assert send(rest, f"{path}/pause", FORM).status_code == 404


def test_each_role_may_pause_what_it_is_offered(secured: Secured) -> None:
    secured.caller().put("/pipelines/nightly", NIGHTLY)
    paths = {"/pipelines/nightly": "submitter", "/backends/noop": "operator", "/service": "operator"}
    roles = ("viewer", "submitter", "operator", "admin")
    for role in roles:
        rest = reader(secured, role)
        for path, least in paths.items():
            may = roles.index(role) >= roles.index(least)
            page = rest.client.get("/" if path == "/service" else path if "pipe" in path else "/backends").text
            assert (f'href="{path}/hold"' in page) == may, (role, path)
            assert ('type="submit"' in rest.client.get(f"{path}/hold").text) == may, (role, path)
            assert send(rest, f"{path}/pause", FORM).status_code == (200 if may else 403), (role, path)
            assert (">Resume…</a>" in rest.client.get("/").text) == may
            assert send(rest, f"{path}/resume").status_code == (200 if may else 403), (role, path)
            assert secured.caller().get("/holds")["items"] == []


def test_a_reader_of_one_project_sees_no_hold_of_another(secured: Secured) -> None:
    admin = secured.caller()
    admin.put("/pipelines/nightly", NIGHTLY)
    admin.put("/pipelines/daily", {**ONE, "name": "daily", "project": "day"})
    for pipeline in ("nightly", "daily", "daily"):
        admin.post("/runs", {"pipeline": pipeline})
    for path, why in (("/pipelines/daily", "foreign"), ("/projects/day", "foreign"), ("/backends/noop", "shared")):
        admin.post(f"{path}/pause", {"why": why}, 200)
    mine = reader(secured, "admin", "night")
    for page in ("/", "/backends", "/pipelines/nightly"):
        text = mine.client.get(page).text
        assert "foreign" not in text
        assert "daily" not in text
        assert "3 step runs" not in text
        assert "shared" in text
        assert 'href="/backends/noop/hold"' not in text
        assert "/service/hold" not in text
    assert "1 step run waits for it." in mine.client.get("/").text
    assert send(mine, "/backends/noop/resume").status_code == 403
    for path in ("/pipelines/daily", "/projects/day"):
        assert mine.client.get(f"{path}/hold").status_code == 404
        assert send(mine, f"{path}/resume").status_code == 404
    assert send(mine, "/projects/night/pause", FORM).status_code == 200
    assert "The project night is drained" in mine.client.get("/pipelines/nightly").text


def test_a_pause_with_a_cookie_needs_a_page_of_this_site(secured: Secured) -> None:
    client = secured.client
    client.post("/login", json={"token": secured.token().secret}, headers={"origin": BASE_URL})
    form = {"content-type": "application/x-www-form-urlencoded"}
    for path in ("/backends/noop/pause", "/backends/noop/resume", "/service/pause"):
        foreign = client.post(path, content="why=x", headers={**form, "origin": "https://example.org"})
        assert foreign.status_code == 403
    assert client.post("/backends/noop/pause", content="why=x", headers={**form, "origin": BASE_URL}).status_code == 200


def test_a_change_from_elsewhere_is_news(rest: Rest, context: Context) -> None:
    marks = []
    for call in (None, "pause", "resume"):
        if call:
            rest.post(f"/backends/noop/{call}", {"why": "x"} if call == "pause" else None, 200)
        with context.database.read() as unit:
            marks.append(others(unit).holds)
    assert marks[0] == marks[2] != marks[1]
