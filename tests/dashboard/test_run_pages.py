"""The pages of one run and one step run: graph, keys, waits, attempts, log; secrets are masked."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from uuid import UUID

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.models import Caveat, NewProduct, TransitionEvent
from ccat_workflow_manager.lifecycle.states import Event
from ccat_workflow_manager.services.attempt_texts import masked, without_secrets
from tests.api.rest import CHAIN, Hand, Rest


def test_a_run_shows_its_steps_keys_and_waits(rest: Rest, hand: Hand) -> None:
    rest.post("/pipelines", CHAIN, 201)
    run = rest.post("/runs", {"pipeline": "chain", "parameters": {"scans": ["ab", "c"]}})
    (item,) = hand.claim()
    hand.fail(item)
    for path in ("", "?keys=field", "?order=slowest", "?tab=events", "?tab=parameters", "?tab=definition"):
        answer = rest.client.get(f"/runs/{run['id']}{path}")
        assert answer.status_code == 200, answer.text
    text = rest.client.get(f"/runs/{run['id']}").text
    assert 'class="dag"' in text
    assert "program_failed" in text
    assert rest.client.get(f"/ui/runs/{run['id']}").status_code == 200
    assert rest.client.get(f"/ui/runs/{run['id']}/keys?step=0").json()["keys"] == ["ab", "c"]
    table = rest.client.get(f"/runs/{run['id']}/steps/first?status=FAILED").text
    assert table.count("<tr id=") == 1
    assert rest.client.get(f"/runs/{run['id']}/steps/first/c").headers["location"].startswith("/step-runs/")
    assert rest.client.get(f"/runs/{run['id']}/steps/first?status=LATE").status_code == 422
    assert rest.client.get(f"/runs/{run['id']}/steps/none").status_code == 404
    for path in ("/runs/", "/products?run="):
        assert rest.client.get(f"{path}00000000-0000-7000-8000-000000000000").status_code == 404


def test_pages_of_step_runs_keep_what_they_show(rest: Rest) -> None:
    scans = [f"a&b {number}" for number in range(101)]
    run = rest.post("/runs", {"spec": CHAIN, "parameters": {"scans": ["other", *scans]}})
    key = run["step_runs"][1]["key"]
    page = f"/runs/{run['id']}/steps/first"
    first = rest.client.get(page, params={"q": key[:3], "status": "PENDING"})
    older = _link(first.text, "next")
    last = rest.client.get(page + older)
    assert (first.text.count("<tr id="), last.text.count("<tr id=")) == (100, 1)
    again = rest.client.get(page + _link(last.text, "prev"))
    assert again.text.count("<tr id=") == 100
    assert not re.search(r">other<", again.text)


def _link(text: str, rel: str) -> str:
    found = re.search(rf'href="([^"]*)" rel="{rel}"', text)
    assert found is not None
    return unescape(found[1])


def test_a_step_run_leads_to_those_beside_it_and_names_its_item_if_it_has_one(rest: Rest) -> None:
    run = rest.run(CHAIN, parameters={"scans": ["a", "b", "c"]})
    page = rest.client.get(f"/step-runs/{run['step_runs'][1]['id']}").text
    assert re.findall(r'<span class="sr">(Previous|Next): </span>', page) == ["Previous", "Next"]
    assert "<dt>Item</dt>" in page
    assert "<dt>Item</dt>" not in rest.client.get(f"/step-runs/{run['step_runs'][-1]['id']}").text


def test_a_step_run_shows_attempts_and_its_log(rest: Rest, hand: Hand, context: Context) -> None:
    spec = {
        "name": "one",
        "steps": [{"name": "only", "command": ["true"], "environment": {"API_TOKEN": "s3cret-value"}}],
    }
    run = rest.post("/runs", {"spec": spec})
    step_run = run["step_runs"][0]["id"]
    assert "No attempt" in rest.client.get(f"/step-runs/{step_run}").text
    hand.claim()
    directory = Path(context.settings.pipeline_base_dir) / "one" / run["id"] / "only" / "main" / "attempt-1"
    (directory / "logs").mkdir(parents=True)
    (directory / "logs" / "stdout.log").write_text("first <b>\nWARNING second\n" * 50, encoding="utf-8")
    page = rest.client.get(f"/step-runs/{step_run}").text
    assert "first &lt;b&gt;" in page
    for part in ("command", "manifest", "script", "environment", "events"):
        answer = rest.client.get(f"/step-runs/{step_run}?part={part}")
        assert answer.status_code == 200, answer.text
        assert "s3cret-value" not in answer.text
    piece = rest.client.get(f"/ui/step-runs/{step_run}/log?offset=10").json()
    assert piece["text"].startswith("WARNING second\n")
    assert piece["next_offset"] == piece["size"] == 1250
    found = rest.client.get(f"/ui/step-runs/{step_run}/log/search?q=warning").json()
    assert found["offsets"][:2] == [10, 35]
    assert found["looked"] == 1250
    assert rest.client.get(f"/step-runs/{step_run}?attempt=7").status_code == 404


def test_an_attempt_says_what_it_has_that_the_one_before_had_not(rest: Rest, hand: Hand, context: Context) -> None:
    run = rest.run({"name": "one", "steps": [{"name": "only", "command": ["true"], "resources": {"memory_gb": 4}}]})
    hand.fail(hand.claim()[0], reason=FailureReason.OUT_OF_MEMORY)
    rest.post(f"/runs/{run['id']}/retry", {"step": "only", "resources": {"memory_gb": 8}})
    hand.execute("UPDATE attempts SET finished_at = finished_at - interval '100 seconds'")
    hand.submit(hand.claim()[0])
    page = rest.client.get(f"/step-runs/{run['step_runs'][0]['id']}").text
    assert re.search("with 8 GB, after a pause of 1 min 4[0-9] s", page)
    assert page.count('class="gantt"') == 1
    base = context.settings.pipeline_base_dir
    for attempt, asked in (("2", ""), ("1", "?attempt=1")):
        page = rest.client.get(f"/step-runs/{run['step_runs'][0]['id']}{asked}").text
        assert f"{base}/one/{run['id']}/only/main/attempt-{attempt}</bdi>" in page


def test_a_step_run_that_has_failed_for_good_promises_nothing(rest: Rest, hand: Hand, context: Context) -> None:
    rest.post("/pipelines", CHAIN, 201)
    run = rest.post("/runs", {"pipeline": "chain", "parameters": {"scans": ["ab", "c"]}})
    waiting = f"/step-runs/{run['step_runs'][-1]['id']}"
    parts = re.findall(rf'href="({waiting}[?][^"]*)"', rest.client.get(waiting).text)
    assert len(parts) == 7
    assert {rest.client.get(unescape(part)).status_code for part in parts} == {200}
    item = hand.claim()[0]
    going = rest.client.get(f"/step-runs/{item.step_run_id}").text
    assert 'class="next"' in going
    directory = Path(context.settings.pipeline_base_dir) / "chain" / run["id"] / "first" / item.key / "attempt-1"
    (directory / "logs").mkdir(parents=True)
    (directory / "logs" / "stdout.log").write_text("", encoding="utf-8")
    (directory / "logs" / "stderr.log").write_text("cannot read it", encoding="utf-8")
    assert "cannot read it" not in rest.client.get(f"/step-runs/{item.step_run_id}").text
    hand.fail(item)
    page = rest.client.get(f"/step-runs/{item.step_run_id}").text
    assert 'class="next"' not in page
    assert "None yet" not in page
    assert "cannot read it" in page
    assert "cannot read it" not in rest.client.get(f"/step-runs/{item.step_run_id}?stream=stdout").text


def test_what_a_person_has_completed_says_who_and_why(rest: Rest) -> None:
    step_run = f"/step-runs/{rest.run()['step_runs'][0]['id']}"
    rest.post(f"{step_run}/outcome", {"outcome": "completed", "reason": "by <b>hand</b>"})
    page = rest.client.get(step_run).text
    assert "Completed." in page
    assert "set to completed by anonymous: by &lt;b&gt;hand&lt;/b&gt;" in page
    events = rest.client.get("/events").text
    assert "was set to completed" in events
    assert "run_finished" not in events.partition("<tbody>")[2]


def test_values_with_secret_names_are_masked_wherever_they_stand() -> None:
    environment = {"DB_PASSWORD": "it's 1 secret", "LINE": "CO43"}
    assert masked(environment) == {"DB_PASSWORD": "•••", "LINE": "CO43"}
    script = "DB_PASSWORD='it'\"'\"'s 1 secret' LINE=CO43 prog --token-file x; OTHER_TOKEN=abcd prog"
    shown = without_secrets(script, environment)
    assert "1 secret" not in shown
    assert "abcd" not in shown
    assert "LINE=CO43" in shown


def test_two_runs_of_a_pipeline_are_compared(rest: Rest, hand: Hand) -> None:
    rest.post("/pipelines", CHAIN, 201)
    ids = []
    for scans, checksum in ((["a"], "0"), (["a", "b"], "1")):
        ids.append(rest.post("/runs", {"pipeline": "chain", "parameters": {"scans": scans}})["id"])
        if len(ids) == 1:
            assert "no other run to compare" in rest.client.get(f"/runs/{ids[0]}/compare").text
        item = next(each for each in hand.claim(10) if (each.step, each.key) == ("first", "a"))
        hand.complete(item, NewProduct("map", "PLOT", "map.txt", 3, checksum * 64))
    page = rest.client.get(f"/runs/{ids[1]}/compare").text
    assert ids[0] in page
    assert "first/b" in page
    assert "not in this run" in page
    assert "first/a/map.txt" in page
    assert "other checksum" in page
    assert f"/runs/{ids[1]}/compare" in rest.client.get(f"/runs/{ids[1]}").text
    assert rest.client.get(f"/runs/{ids[1]}/compare?with={UUID(int=7)}").status_code == 404


def test_caveats_are_never_hidden(rest: Rest, hand: Hand) -> None:
    """A run that lacks something does not look like one that lacks nothing."""
    rest.post("/pipelines", CHAIN, 201)
    plain, lacking = (
        rest.post("/runs", {"pipeline": "chain", "parameters": {"scans": ["a"]}, "priority": 1 - n}) for n in range(2)
    )
    for _ in range(3):
        hand.complete(hand.claim()[0])
    product = NewProduct("map", "PLOT", "map.txt", 3, "0" * 64)
    for number in range(3):
        (item,) = hand.claim()
        caveats = [Caveat("partial", "half <of> it")] if number == 0 else []
        notes = [TransitionEvent(each, "t") for each in (Event.JOB_SUBMITTED, Event.JOB_SUCCEEDED)]
        hand.apply(
            item, *notes, TransitionEvent(Event.RESULTS_COLLECTED, "t"), products=[product] if not number else [],
            caveats=caveats,
        )  # fmt: skip
    step_run = lacking["step_runs"][0]["id"]
    (made,) = hand.products(step_run).values()
    pages = (
        "/runs", f"/runs/{lacking['id']}", f"/runs/{lacking['id']}?keys=timeline", f"/step-runs/{step_run}",
        f"/products/{made}",
    )  # fmt: skip
    for path in pages:
        text = rest.client.get(path).text
        assert "half &lt;of&gt; it" in text, path
    assert rest.client.get("/runs").text.count("1 caveat<") == 1
    assert "caveat" not in rest.client.get(f"/ui/runs/{plain['id']}").text
    listed = rest.client.get("/ui/runs?caveats=true").text
    assert (lacking["id"] in listed, plain["id"] in listed) == (True, False)
    listed = rest.client.get("/ui/runs?caveats=false").text
    assert (lacking["id"] in listed, plain["id"] in listed) == (False, True)
    assert rest.client.get("/runs?caveats=perhaps").status_code == 422


def test_a_failed_run_looks_failed_whatever_caveats_it_has(rest: Rest, hand: Hand) -> None:
    run = rest.run({"name": "two", "steps": [{"name": "a", "command": ["a"]}, {"name": "b", "command": ["b"]}]})
    done, failed = hand.claim(2)
    notes = [TransitionEvent(each, "t") for each in (Event.JOB_SUBMITTED, Event.JOB_SUCCEEDED)]
    hand.apply(done, *notes, TransitionEvent(Event.RESULTS_COLLECTED, "t"), caveats=[Caveat("partial", "half of it")])
    hand.fail(failed)
    text = rest.client.get("/ui/runs?status=FAILED").text
    assert (run["id"] in text, "1 caveat<" in text) == (True, True)
    assert re.findall(r'class="st s-FAILED ([^"]*)"', text) == [""]
    assert "<code>partial</code> <span>" in rest.client.get(f"/runs/{run['id']}").text


def test_a_step_of_which_a_part_was_skipped_says_which_part(rest: Rest, hand: Hand) -> None:
    run = rest.run(CHAIN, parameters={"scans": ["a", "b", "c"]})
    first = {item.key: item for item in hand.claim(3)}
    hand.fail(first.pop("a"))
    for item in first.values():
        hand.complete(item)
    for item in hand.claim(3):
        hand.complete(item)
    assert "1 of 3 skipped" in rest.client.get(f"/runs/{run['id']}").text


def test_a_replay_leads_to_what_it_repeats(rest: Rest, hand: Hand) -> None:
    run = rest.run()
    hand.fail(hand.claim()[0])
    again = rest.post("/runs/replay", {"ids": [run["id"]]})["items"][0]["new_run_id"]
    assert f'href="/runs/{run["id"]}"' in rest.client.get(f"/runs/{again}").text
    step_run = rest.get(f"/runs/{again}")["step_runs"][0]["id"]
    assert f'href="/step-runs/{run["step_runs"][0]["id"]}"' in rest.client.get(f"/step-runs/{step_run}").text


def test_why_a_run_does_not_go_on_leads_to_the_root(rest: Rest, hand: Hand) -> None:
    rest.post("/pipelines", CHAIN, 201)
    run = rest.post("/runs", {"pipeline": "chain", "parameters": {"scans": ["a", "b"]}})
    hand.fail(hand.claim()[0], "it <broke>")
    first, last = run["step_runs"][0]["id"], run["step_runs"][-1]["id"]
    for path in (f"/step-runs/{last}?part=why", f"/runs/{run['id']}?tab=why", f"/step-runs/{first}?part=why"):
        text = rest.client.get(path).text
        assert f'href="/step-runs/{first}"' in text, path
        assert "it &lt;broke&gt;" in text, path
        assert "the author&#39;s of the pipeline" in text, path
    assert text.count("program_failed") > 1
    done = rest.run()
    while items := hand.claim(10):
        for item in items:
            hand.complete(item)
    assert "Every step run has completed" in rest.client.get(f"/runs/{done['id']}?tab=why").text
