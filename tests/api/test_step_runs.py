"""Step runs: detail, history, logs, and why they wait."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.backends import BackendStore
from ccat_workflow_manager.db.workers import WorkerStore
from ccat_workflow_manager.execution.logs import MAX_BYTES
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.models import TransitionEvent
from ccat_workflow_manager.lifecycle.states import Event
from ccat_workflow_manager.testing.fake_backend import FakeBackend
from tests.api.rest import CHAIN, ONE, Hand, Rest


def waits(rest: Rest, run_id: str) -> dict[str, str | None]:
    """What each step run waits for, in the run and in its own resource."""
    found = {f"{s['step']}/{s['key']}": s for s in rest.get(f"/runs/{run_id}")["step_runs"]}
    for step_run in found.values():
        assert rest.get(f"/step-runs/{step_run['id']}")["waiting_for"] == step_run["waiting_for"]
    return {name: step_run["waiting_for"] for name, step_run in found.items()}


def test_a_life_from_the_first_event_to_the_last(rest: Rest, hand: Hand) -> None:
    step_run_id = rest.run()["step_runs"][0]["id"]
    assert rest.get(f"/step-runs/{step_run_id}/attempts") == {"items": [], "next_cursor": None}
    (item,) = hand.claim()
    hand.fail(item, "no such antenna")
    failed = rest.get(f"/step-runs/{step_run_id}")
    assert (failed["status"], failed["reason"]) == ("FAILED", "program_failed")
    assert failed["reason_text"] == "no such antenna"
    assert (failed["attempt"], failed["exit_code"], failed["pipeline"]) == (1, 3, "one")
    assert failed["resources"] | {"cpu": 1} == failed["resources"]
    retried = rest.post(f"/step-runs/{step_run_id}/retry")
    assert (retried["status"], retried["exit_code"], retried["job_id"]) == ("PENDING", None, None)
    (item,) = hand.claim()
    hand.complete(item)
    done = rest.get(f"/step-runs/{step_run_id}")
    assert (done["status"], done["wall_time_seconds"], done["cpu_hours"]) == ("COMPLETED", 1.5, 0.25)
    first, second = rest.get(f"/step-runs/{step_run_id}/attempts")["items"]
    assert (first["reason"], first["reason_text"], first["exit_code"]) == ("program_failed", "no such antenna", 3)
    assert (second["number"], second["reason"], second["worker"]) == (2, None, "by hand")
    assert (first["cpu_hours_allocated"], second["cpu_hours_allocated"]) == (None, 0.5)
    events = rest.get(f"/step-runs/{step_run_id}/events")["items"]
    assert [(e["event"], e["to_status"]) for e in events][-2:] == [
        ("job_succeeded", "COLLECTING_RESULTS"), ("results_collected", "COMPLETED"),
    ]  # fmt: skip
    assert next(e for e in events if e["event"] == "retried")["actor"] == "anonymous"
    rest.refused(rest.send("POST", f"/step-runs/{step_run_id}/retry"), 409, "conflict")


def test_cancelling_one_skips_what_depends_on_it(rest: Rest) -> None:
    run = rest.run(CHAIN, parameters={"scans": [1, 2]})
    cancelled = rest.post(f"/step-runs/{run['step_runs'][0]['id']}/cancel")
    assert (cancelled["status"], cancelled["reason"]) == ("CANCELLED", "cancelled")
    assert cancelled["reason_text"] == "cancelled by anonymous"
    found = {f"{s['step']}/{s['key']}": s["status"] for s in rest.get(f"/runs/{run['id']}")["step_runs"]}
    assert found["first/2"] == found["second/2"] == "PENDING"
    assert found["second/1"] == found["last/main"] == "SKIPPED"


def test_a_cancel_that_is_not_confirmed_is_stated(rest: Rest, hand: Hand) -> None:
    """In place of why the job waits, from the request on, and without any worker."""
    step_run_id = rest.run(ONE)["step_runs"][0]["id"]
    (item,) = hand.claim()
    hand.submit(item)
    hand.execute("UPDATE step_runs SET waiting_for = 'capacity: 2 of 2 CPUs in use' WHERE id = :id", id=step_run_id)
    assert rest.post(f"/step-runs/{step_run_id}/cancel")["waiting_for"].startswith("is being cancelled: no worker")
    hand.execute("INSERT INTO workers (id, host, pid, backends) VALUES ('w', 'h', 1, '{noop}')")
    assert rest.get(f"/step-runs/{step_run_id}")["waiting_for"] == "is being cancelled"
    hand.execute("UPDATE step_runs SET waiting_for = 'asked noop to stop the job' WHERE id = :id", id=step_run_id)
    assert rest.get(f"/step-runs/{step_run_id}")["waiting_for"] == "asked noop to stop the job"


def test_every_wait_has_its_reason(rest: Rest, hand: Hand, context: Context) -> None:
    run_id = rest.run(CHAIN, parameters={"scans": [1, 2]})["id"]
    assert waits(rest, run_id) == {
        "first/1": "no worker serves the backend noop", "first/2": "no worker serves the backend noop",
        "second/1": "waits for first", "second/2": "waits for first", "last/main": "waits for second",
    }  # fmt: skip
    hand.execute("INSERT INTO workers (id, host, pid, backends) VALUES ('w', 'h', 1, '{noop}')")
    assert waits(rest, run_id)["first/1"] == "queued for a worker of backend noop"
    with context.database.begin() as unit:
        BackendStore(unit).report_problem("noop", "the scheduler is down for maintenance", 60)
    assert waits(rest, run_id)["first/1"] == (
        "the backend noop is not available: the scheduler is down for maintenance"
    )
    hand.execute("UPDATE backends SET retry_at = now()")
    first, second = hand.claim(2)
    hand.apply(first, TransitionEvent(Event.RELEASED, "w", text="the disk is full", delay_seconds=3600))
    hand.submit(second)
    hand.execute("UPDATE step_runs SET waiting_for = 'Priority' WHERE id = :id", id=second.step_run_id)
    found = waits(rest, run_id)
    released = found[f"first/{first.key}"] or ""
    assert released.startswith("not before 2")
    assert released.endswith("Z: the disk is full")
    away = "the backend noop is not available: the scheduler is down for maintenance"
    assert found[f"first/{second.key}"] == f"{away}; before that: Priority"
    hand.execute("UPDATE backends SET problem = NULL, problem_since = NULL")
    assert waits(rest, run_id)[f"first/{second.key}"] == "Priority"
    rest.post(f"/runs/{run_id}/pause")
    assert waits(rest, run_id)["last/main"] == "the run is paused by anonymous"


def test_an_upstream_step_is_named_only_where_that_is_certain(rest: Rest, hand: Hand) -> None:
    both = {
        "name": "both",
        "steps": [
            {"name": "a", "foreach": [1, 2], "command": ["a"]},
            {"name": "b", "foreach": [1, 2], "command": ["b"]},
            {"name": "c", "foreach": [1, 2], "depends_on": ["a", "b"], "command": ["c"]},
        ],
    }
    run_id = rest.run(both)["id"]
    assert waits(rest, run_id)["c/1"] == "waits for a, b"
    done = next(item for item in hand.claim(4) if (item.step, item.key) == ("a", "1"))
    hand.complete(done)
    assert waits(rest, run_id) | {"c/1": "waits for 1 step that it depends on", "c/2": "waits for a, b"} == (
        waits(rest, run_id)
    )


def test_a_finished_step_run_waits_for_nothing(rest: Rest, hand: Hand) -> None:
    run_id = rest.run()["id"]
    (item,) = hand.claim()
    hand.apply(item, TransitionEvent(Event.FAILED, "w", FailureReason.DISK_FULL, "the disk is full"))
    assert waits(rest, run_id) == {"only/main": None}


def test_logs(rest: Rest, hand: Hand, base_dir: Path) -> None:
    run = rest.run()
    step_run_id = run["step_runs"][0]["id"]
    address = f"/step-runs/{step_run_id}/log"
    rest.refused(rest.send("GET", address), 404, "not_found")
    (item,) = hand.claim()
    hand.fail(item)
    logs = base_dir / "one" / run["id"] / "only" / "main" / "attempt-1" / "logs"
    logs.mkdir(parents=True)
    (logs / "stdout.log").write_text("one\ntwo\nthréé\n", encoding="utf-8")
    (logs / "stderr.log").write_bytes(b"not \xff UTF-8\n")

    def read(**query: Any) -> str:
        response = rest.send("GET", address, params=query)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
        return response.text

    assert read() == "one\ntwo\nthréé\n"
    assert read(tail=1) == "thréé\n"
    assert read(tail=0) == ""
    assert read(stream="stderr", attempt=1) == "not � UTF-8\n"
    rest.refused(rest.send("GET", address, params={"attempt": 2}), 404, "not_found")
    (logs / "stdout.log").unlink()
    (logs / "stdout.log").symlink_to("/etc/passwd")
    rest.refused(rest.send("GET", address), 404, "output_error")
    assert read(stream="stderr")


_LINE = "0123456789 héllo\n"


def serve(context: Context) -> None:
    """Have a worker registered."""
    with context.database.begin() as unit:
        WorkerStore(unit).register("w", "host", 1, ["noop"])


@pytest.fixture(params=["seen here", "seen by a worker"])
def long_log(
    request: pytest.FixtureRequest,
    rest: Rest,
    hand: Hand,
    base_dir: Path,
    context: Context,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[str, bytes]:
    """The URL and content of a log of more than two pieces."""
    run = rest.run()
    (item,) = hand.claim()
    hand.fail(item)
    logs = base_dir / "one" / run["id"] / "only" / "main" / "attempt-1" / "logs"
    logs.mkdir(parents=True)
    data = (_LINE * 600_000).encode()
    assert len(data) > 2 * MAX_BYTES
    (logs / "stdout.log").write_bytes(data)
    if request.param == "seen by a worker":

        def ask(backend: str, question: Any, timeout: float) -> Any:
            assert backend == "noop"
            return json.loads(json.dumps(context.answers.answer(json.loads(json.dumps(question)))))

        monkeypatch.setattr(context.logs, "_base_dir", "/nowhere")
        serve(context)
        monkeypatch.setattr(context.doorbell, "ask", ask)
    return f"/step-runs/{run['step_runs'][0]['id']}/log", data


def test_a_long_log_is_served_completely(rest: Rest, long_log: tuple[str, bytes]) -> None:
    address, data = long_log
    whole = rest.send("GET", address)
    assert whole.content == data
    assert (whole.headers["X-Log-Size"], whole.headers["X-Log-Truncated"]) == (str(len(data)), "false")


def test_a_long_log_is_read_by_offset(rest: Rest, long_log: tuple[str, bytes]) -> None:
    address, data = long_log
    found, offset = b"", 0
    while offset < len(data):
        piece = rest.send("GET", address, params={"offset": offset})
        assert 0 < len(piece.content) <= MAX_BYTES
        found, offset = found + piece.content, int(piece.headers["X-Log-Next-Offset"])
        assert int(piece.headers["X-Log-Size"]) == len(data)
    assert found == data
    beyond = rest.send("GET", address, params={"offset": 2**63 - 1})
    assert (beyond.text, beyond.headers["X-Log-Next-Offset"]) == ("", str(len(data)))
    rest.refused(rest.send("GET", address, params={"offset": 1, "tail": 1}), 422, "invalid", "offset")


def test_a_long_tail_is_marked_as_truncated(rest: Rest, long_log: tuple[str, bytes]) -> None:
    address, data = long_log
    few, many = (rest.send("GET", address, params={"tail": lines}) for lines in (2, 500_000))
    assert (few.text, few.headers["X-Log-Truncated"]) == (_LINE * 2, "false")
    assert few.headers["X-Log-Next-Offset"] == str(len(data))
    assert data.endswith(many.content[10:])
    assert many.headers["X-Log-Truncated"] == "true"


def test_a_log_that_only_the_backend_has(
    rest: Rest, hand: Hand, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Told(FakeBackend):
        def tail_logs(self, job_id: str, *, stream: str = "stdout", lines: int = 100) -> str:
            return "line\n" * min(lines, 12_000)

    run = rest.run()
    (item,) = hand.claim()
    hand.submit(item)
    context.use_backend("noop", Told())
    address = f"/step-runs/{run['step_runs'][0]['id']}/log"
    assert "no worker serves noop" in rest.refused(rest.send("GET", address), 503, "service_unavailable")["detail"]
    serve(context)
    monkeypatch.setattr(context.doorbell, "ask", lambda backend, question, timeout: context.answers.answer(question))
    whole = rest.send("GET", address)
    assert (whole.text, whole.headers["X-Log-Truncated"]) == ("line\n" * 10_000, "true")
    assert not {"x-log-size", "x-log-next-offset"} & set(whole.headers)
    assert rest.send("GET", address, params={"tail": 3}).text == "line\n" * 3
    assert rest.send("GET", address, params={"tail": 0}).text == ""
