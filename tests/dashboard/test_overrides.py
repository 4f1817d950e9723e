"""What a person has changed of one run or step run until a time: set, seen and ended on its page."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ccat_workflow_manager.failures import FailureReason
from tests.api.rest import CHAIN, Hand, Rest, Secured
from tests.dashboard.test_actions import send
from tests.dashboard.test_holds import reader

STEP = {"name": "only", "command": ["true"], "resources": {"memory_gb": 4}}
SMALL: dict[str, Any] = {"name": "small", "steps": [STEP]}
UNTIL = "2999-01-31T12:00:00Z"


def ends_on(page: str) -> list[str]:
    return re.findall(r'action="(/overrides/\d+/end)"', page)


def test_a_pause_of_a_run_says_who_why_and_until_when(rest: Rest) -> None:
    run = rest.run()
    form = rest.client.get(f"/act/pause?id={run['id']}").text
    assert 'name="why"' in form
    assert 'name="until"' in form
    fields = [("ids", run["id"]), ("why", "<i>bad</i>"), ("ends", ""), ("until", UNTIL)]
    wrong = send(rest, "/act/pause", [*fields[:3], ("until", "2020-01-31T12:00Z")])
    assert (wrong.status_code, "<code>until</code>" in wrong.text) == (422, True)
    assert 'value="&lt;i&gt;bad&lt;/i&gt;"' in wrong.text
    assert send(rest, "/act/pause", fields).status_code == 200
    for path in (f"/runs/{run['id']}", f"/step-runs/{run['step_runs'][0]['id']}"):
        page = rest.client.get(path).text
        assert f'datetime="{UNTIL[:16]}' in page
        assert "&lt;i&gt;bad&lt;/i&gt;" in page
        assert f"/act/resume?id={run['id']}" in page
    assert send(rest, "/act/resume", fields[:1]).status_code == 200
    assert "&lt;i&gt;bad" not in rest.client.get(f"/runs/{run['id']}").text


def test_a_priority_until_a_time_is_seen_and_ended(rest: Rest) -> None:
    run = rest.run()
    assert 'name="why"' in rest.client.get(f"/act/priority?id={run['id']}").text
    fields = [("ids", run["id"]), ("priority", "9"), ("why", "deadline"), ("ends", "4h"), ("until", "")]
    assert send(rest, "/act/priority", fields).status_code == 200
    for path in (f"/runs/{run['id']}", f"/ui/runs/{run['id']}", f"/step-runs/{run['step_runs'][0]['id']}"):
        page = rest.client.get(path).text
        assert ("deadline" in page, len(ends_on(page))) == (True, 1)
    answer = send(rest, ends_on(page)[0])
    assert (answer.status_code, answer.headers["location"]) == (303, f"/runs/{run['id']}")
    assert rest.get(f"/runs/{run['id']}")["priority"] == 0


@pytest.mark.parametrize("of_run", [False, True])
def test_the_next_attempt_gets_other_resources_until_a_time(rest: Rest, hand: Hand, of_run: bool) -> None:
    run = rest.run(SMALL)
    (step_run,) = (each["id"] for each in run["step_runs"])
    hand.fail(hand.claim()[0], reason=FailureReason.OUT_OF_MEMORY)
    where, fields = f"/act/retry?step_run={step_run}", [("step_run", step_run)]
    act = "/act/step-run/retry"
    if of_run:
        where, fields, act = f"/act/retry?id={run['id']}", [("ids", run["id"]), ("step", "only")], "/act/retry"
    form = rest.client.get(where).text
    for name in ("memory_gb", "cpu", "time_hours", "backend", "why", "ends", "until"):
        assert f'name="{name}"' in form
    fields += [("cpu", ""), ("time_hours", ""), ("backend", ""), ("why", "large <map>"), ("ends", "")]
    if of_run:
        nowhere = send(rest, act, [fields[0], ("memory_gb", "8")])
        assert (nowhere.status_code, "<code>step</code>" in nowhere.text) == (422, True)
    wrong = send(rest, act, [*fields, ("memory_gb", "much"), ("until", "")])
    assert (wrong.status_code, 'value="much"' in wrong.text, "memory_gb</code>" in wrong.text) == (422, True, True)
    assert rest.get(f"/step-runs/{step_run}")["status"] == "FAILED"
    assert send(rest, act, [*fields, ("memory_gb", "8.5"), ("until", UNTIL)]).status_code == 200
    found = rest.get(f"/step-runs/{step_run}")
    assert (found["status"], found["resources"]["memory_gb"]) == ("PENDING", 8.5)
    for path in (f"/step-runs/{step_run}", f"/ui/step-runs/{step_run}", f"/runs/{run['id']}"):
        page = rest.client.get(path).text
        assert ("memory_gb 8.5" in page, "large &lt;map&gt;" in page, len(ends_on(page))) == (True, True, 1)
    answer = send(rest, ends_on(page)[0])
    assert answer.headers["location"] == f"/step-runs/{step_run}"
    assert rest.get(f"/step-runs/{step_run}")["resources"]["memory_gb"] == 4


def test_many_step_runs_with_one_change_are_one_line(rest: Rest, hand: Hand) -> None:
    rest.post("/pipelines", CHAIN, 201)
    run = rest.post("/runs", {"pipeline": "chain", "parameters": {"scans": list(range(30))}})
    for item in hand.claim(30):
        hand.fail(item)
    rest.post(f"/runs/{run['id']}/retry", {"step": "first", "resources": {"cpu": 3}, "until": UNTIL})
    page = rest.client.get(f"/runs/{run['id']}").text
    assert page.count("cpu 3") == 1
    assert "30 step runs of first" in page
    assert len(ends_on(page)) == 0


def test_an_open_breaker_is_released_from_the_pages_that_it_holds_back(secured: Secured) -> None:
    hand = Hand(secured.context)
    breaker = hand.open_breaker()
    ((run, step_run),) = hand.execute("SELECT run_id, id FROM step_runs WHERE status = 'PENDING' LIMIT 1")
    for role, may in (("submitter", False), ("operator", True)):
        rest = reader(secured, role)
        for path in (f"/runs/{run}", f"/step-runs/{step_run}"):
            assert (f"/act/breaker?id={breaker}" in rest.client.get(path).text) is may
    fields = [("breaker", breaker), ("why", "repaired"), ("ends", "4h"), ("until", "")]
    assert send(rest, "/act/breaker", fields).status_code == 200
    for path in (f"/runs/{run}", f"/step-runs/{step_run}"):
        page = rest.client.get(path).text
        assert f"/act/breaker?id={breaker}" not in page
        assert ("repaired" in page, len(ends_on(page))) == (True, 1)
