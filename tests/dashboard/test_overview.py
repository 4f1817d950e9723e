"""The overview names what waits, what failed and whose doing it was, over the span of its address."""

from __future__ import annotations

from ccat_workflow_manager.failures import FailureReason
from tests.api.rest import CHAIN, ONE, Hand, Rest


def test_a_full_disk_needs_a_person(rest: Rest, hand: Hand) -> None:
    hand.serve()
    rest.post("/runs/bulk", {"runs": [{"spec": ONE}] * 3})
    for item in hand.claim(2):
        hand.fail(item, "/scratch: no space left", FailureReason.DISK_FULL)
    hand.fail(hand.claim()[0])
    hand.count()
    (cause,) = rest.get("/dashboard/attention")["items"]
    assert (cause["kind"], cause["held_up"], cause["backend"]) == ("disk", 2, "noop")
    hand.execute("UPDATE step_runs SET status = 'PENDING', finished_at = NULL WHERE reason = 'disk_full'")
    (waiting,) = rest.get("/dashboard/attention")["items"]
    assert waiting["since"] is not None, "they wait to be tried again"
    page = rest.client.get("/").text
    assert "/scratch: no space left" in page
    assert "/runs?reason=disk_full" in page
    for reason, doing in (("disk_full", "site"), ("program_failed", "pipeline")):
        row = page.split(f"<code>{reason}</code>")[1].split("</tr>")[0]
        assert f">{doing}<" in row


def test_each_cause_of_a_wait_is_one_line_with_the_age_of_the_oldest(rest: Rest, hand: Hand) -> None:
    ids = [rest.run(CHAIN, parameters={"scans": [1, 2, 3]})["id"] for _ in range(2)]
    (item,) = hand.claim()
    hand.submit(item)
    hand.execute("UPDATE step_runs SET created_at = created_at - interval '2 hours' WHERE run_id = :id", id=ids[0])
    waits = rest.client.get("/").text.split("What waits")[1].split("</section>")[0]
    assert waits.count("no worker serves") + waits.count("No worker serves") == 1
    assert "2 h 00 min" in waits
    assert waits.count("<tr>") == 3, "the head, what could start, and what waits for steps before it"


def test_charts_cover_the_span_of_the_address(rest: Rest, hand: Hand) -> None:
    rest.run(ONE)
    hand.complete(hand.claim()[0])
    hand.count()
    for span in ("1h", "24h", "7d"):
        page = rest.client.get("/", params={"span": span}).text
        assert f'href="/?span={span}" aria-current="true"' in page
        assert f'data-src="/ui/overview?span={span}"' in page
        assert "Step runs that ended: 1 completed, 0 failed" in rest.client.get(f"/ui/overview?span={span}").text


def test_what_needs_a_person_by_run(rest: Rest, hand: Hand) -> None:
    hand.serve()
    held, full = (rest.run(CHAIN, parameters={"scans": scans})["id"] for scans in ([1], [1, 2]))
    for item in hand.claim(3):
        hand.submit(item)
    quiet, unserved = rest.run(ONE)["id"], rest.run(ONE, backend="local")["id"]
    for run, text in ((held, "action required: held at the scheduler"), (full, "action required: requeue it")):
        hand.execute(
            "UPDATE step_runs SET waiting_for = :text WHERE run_id = :id AND status = 'SUBMITTED'", id=run, text=text
        )
    page = rest.client.get("/?by=run").text
    shown = page.split('aria-labelledby="h-att"')[1].split("</section>")[0]
    assert "3 runs" in shown
    assert shown.index(f"/runs/{full}") < shown.index(f"/runs/{held}"), "the one with most step runs first"
    assert "held at the scheduler" in shown
    assert "no worker serves the backend local" in shown.split(f"/runs/{unserved}")[1]
    assert f"/runs/{quiet}" not in shown
    assert 'data-src="/ui/overview?span=1h&amp;by=run"' in page
    assert rest.client.get("/?by=owner").status_code == 422


def test_work_that_no_worker_serves_needs_a_person(rest: Rest, hand: Hand) -> None:
    """Only an operator can start a worker: the service is not well, and nothing could start."""
    rest.post("/runs/bulk", {"runs": [{"spec": ONE}] * 2})
    (cause,) = rest.get("/dashboard/attention")["items"]
    assert (cause["kind"], cause["id"], cause["backend"], cause["held_up"]) == ("worker", "noop", "noop", 2)
    page = rest.client.get("/").text
    assert "One thing needs a person" in page
    assert "ccat-wm worker --backend noop" in page
    assert "could start now" not in page
    assert "No worker serves noop" in rest.client.get("/backends").text
    assert '<b class="warn">no worker</b>' in rest.client.get("/ui/rail").text
    hand.serve()
    assert rest.get("/dashboard/attention")["items"] == []
