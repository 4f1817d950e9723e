"""Preview, act, report: for one run and for many, and what changed meanwhile is left alone."""

from __future__ import annotations

import re
from typing import Any

from httpx import Response

from tests.api.rest import ONE, Hand, Rest

NO_NUMBERS = ("--5", "5-", "9" * 5000)


def send(rest: Rest, path: str, fields: list[tuple[str, str]] | None = None, **headers: str) -> Response:
    body = "&".join(f"{name}={value}" for name, value in fields or [])
    sent = {"content-type": "application/x-www-form-urlencoded", **headers}
    answer: Response = rest.client.post(path, content=body, headers=sent)
    return answer


def hidden_ids(page: Response) -> str:
    match = re.search(r'name="ids" value="([^"]+)"', page.text)
    assert match, page.text
    return match[1]


def run_of(rest: Rest, run_id: str) -> Any:
    return rest.get(f"/runs/{run_id}")


def test_five_hundred_runs_are_cancelled_as_the_preview_said(rest: Rest) -> None:
    rest.post("/pipelines", ONE, 201)
    ids = rest.post("/runs/bulk", {"runs": [{"pipeline": "one", "labels": {"k": "v"}}] * 500})["ids"]
    rest.post("/runs", {"pipeline": "one"})
    preview = send(rest, "/act", [("verb", "cancel"), ("all", "1"), ("conditions", "%3Flabel%3Dk%253Av")])
    assert "Cancel 500 runs" in preview.text
    rest.post(f"/runs/{ids[7]}/cancel")  # one of them ends before the button is pressed
    report = send(rest, "/act/cancel", [("ids", hidden_ids(preview))], **{"x-part": "sheet"})
    assert "499 runs" in report.text
    assert "<html" not in report.text
    statuses = [run["status"] for run in rest.get("/runs", limit=1000)["items"]]
    assert statuses.count("CANCELLED") == 500
    assert statuses.count("PENDING") == 1


def test_pause_resume_priority_and_retry(rest: Rest, hand: Hand) -> None:
    rest.post("/pipelines", ONE, 201)
    run_id = rest.post("/runs", {"pipeline": "one"})["id"]
    for verb, field, wanted in (("pause", "paused", True), ("resume", "paused", False)):
        assert "1 run" in rest.client.get(f"/act/{verb}?id={run_id}").text
        assert send(rest, f"/act/{verb}", [("ids", run_id)]).status_code == 200
        assert run_of(rest, run_id)[field] is wanted
    assert send(rest, "/act/priority", [("ids", run_id), ("priority", "77")]).status_code == 200
    assert run_of(rest, run_id)["priority"] == 77
    written = rest.get("/audit", object=f"runs/{run_id}")["items"]
    names = ["set_run_priority", "resume_run", "pause_run", "create_run"]
    assert [each["action"] for each in written] == names
    assert {each["project"] for each in written} == {"default"}
    assert send(rest, "/act/priority", [("ids", run_id), ("priority", "high")]).status_code == 422
    (item,) = hand.claim()
    assert item.priority == 77
    hand.fail(item)
    preview = rest.client.get(f"/act/retry?id={run_id}")
    assert "program_failed" in preview.text
    assert "Retry 1 run" in preview.text
    send(rest, "/act/retry", [("ids", hidden_ids(preview))])
    assert run_of(rest, run_id)["status"] == "PENDING"
    step_run = run_of(rest, run_id)["step_runs"][0]["id"]
    assert "Cancel 1 step run" in rest.client.get(f"/act/cancel?step_run={step_run}").text
    assert send(rest, "/act/step-run/cancel", [("step_run", step_run)]).status_code == 200
    assert run_of(rest, run_id)["status"] == "CANCELLED"


def test_labels_of_one_and_of_many_runs_are_set_and_removed(rest: Rest) -> None:
    rest.post("/pipelines", ONE, 201)
    ids = [rest.post("/runs", {"pipeline": "one", "labels": {"night": n, "old": "x"}})["id"] for n in "ab"]
    rest.post(f"/runs/{ids[0]}/cancel")  # a finished run may have labels, too
    preview = rest.client.get(f"/act/label?id={ids[0]}").text
    assert "Label 1 run" in preview
    assert "night, old" in preview
    fields = [("ids", ",".join(ids)), ("labels", "night: 27%0Asource: Orion:KL"), ("remove", "old, none")]
    assert "2 runs are labelled" in send(rest, "/act/label", fields).text
    assert [run_of(rest, each)["labels"] for each in ids] == [{"night": "27", "source": "Orion:KL"}] * 2
    assert ids[0] in rest.client.get("/runs?label=source:Orion:KL").text
    wrong = send(rest, "/act/label", [("ids", ids[0]), ("labels", "no colon")])
    assert wrong.status_code == 422
    assert ">no colon</textarea>" in wrong.text
    many = "%0A".join(f"name{n}: x" for n in range(49))
    assert "would have too many labels" in send(rest, "/act/label", [("ids", ids[0]), ("labels", many)]).text
    assert len(run_of(rest, ids[0])["labels"]) == 2


def test_a_breaker_is_released(rest: Rest, hand: Hand) -> None:
    hand.serve()
    rest.post("/pipelines", ONE, 201)
    breaker = hand.open_breaker()
    assert "fails for everybody" in rest.client.get("/").text
    assert rest.client.get(f"/act/breaker?id={breaker}").status_code == 200
    assert send(rest, "/act/breaker", [("breaker", str(breaker))]).status_code == 200
    assert "Everything is well" in rest.client.get("/").text


def test_nonsense_is_refused_with_a_page_and_changes_nothing(rest: Rest) -> None:
    rest.post("/pipelines", ONE, 201)
    run_id = rest.post("/runs", {"pipeline": "one"})["id"]
    assert send(rest, "/act", [("verb", "cancel")]).status_code == 422
    assert send(rest, "/act", [("verb", "explode"), ("id", run_id)]).status_code == 404
    assert send(rest, "/act", [("verb", "cancel"), ("id", "x")]).status_code == 422
    assert send(rest, "/act", [("verb", "cancel"), ("all", "1"), ("conditions", "?status=LATE")]).status_code == 422
    assert send(rest, "/act/cancel", []).status_code == 422
    for text in NO_NUMBERS:
        assert send(rest, "/act/priority", [("ids", run_id), ("priority", text)]).status_code == 422
    assert rest.client.get(f"/act/breaker?id={run_id}").status_code == 404
    assert rest.client.post("/act/cancel", json={"ids": [run_id]}).status_code == 422
    sheet = {"x-part": "sheet"}
    none = [("verb", "retry"), ("all", "1"), ("conditions", "")]
    resume = "/pipelines/one/resume"
    for refusal, status in ((send(rest, "/act", none, **sheet), 409), (send(rest, resume, [], **sheet), 404)):
        assert (refusal.status_code, "<html" in refusal.text, "data-part" in refusal.text) == (status, False, True)
    assert "<html" in send(rest, "/act", none).text
    foreign = send(rest, "/act/cancel", [("ids", run_id)], origin="http://evil.example")
    assert foreign.status_code == 403
    assert run_of(rest, run_id)["status"] == "PENDING"
