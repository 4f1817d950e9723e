"""Figures for other dashboards: shared by all readers, and not sent again while they are the same."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient

from ccat_workflow_manager.app import create_app
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.errors import ServiceUnavailable
from ccat_workflow_manager.services import answers as answers_module
from ccat_workflow_manager.services.answers import Answers
from tests.api.rest import BASE_URL, ONE, Hand, Rest

PATHS = ("/dashboard/summary", "/dashboard/timeseries?span=1h", "/dashboard/attention", "/pipelines/one/stats")


def test_readers_share_an_answer_and_do_not_get_it_twice(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers_module, "time", SimpleNamespace(monotonic=lambda: 0.0))
    with TestClient(create_app(context), base_url=BASE_URL) as client:
        rest = Rest(client)
        rest.post("/pipelines", ONE, 201)
        first = {path: rest.send("GET", path) for path in PATHS}
        reads: list[Database] = []

        def read(database: Database) -> None:
            reads.append(database)

        monkeypatch.setattr(Database, "read", read)
        for path, answer in first.items():
            assert answer.status_code == 200, answer.text
            same = rest.send("GET", path, headers={"If-None-Match": answer.headers["etag"]})
            assert (same.status_code, reads) == (304, [])


def test_figures_tell_what_happened(rest: Rest, hand: Hand) -> None:
    rest.post("/pipelines", ONE, 201)
    rest.post("/runs/bulk", {"runs": [{"pipeline": "one"}] * 3})
    (item,) = hand.claim()
    hand.fail(item)
    hand.count()
    stats = rest.get("/pipelines/one/stats")
    assert rest.get("/dashboard/pipelines/one/stats")["usage"] == stats["usage"]
    assert stats["last_runs"] == {"FAILED": 1, "PENDING": 2}
    assert stats["usage"][0]["mostly"] == "program_failed"
    assert (stats["runs"]["success_rate"], stats["steps"]["only"]["reasons"]) == (0.0, {"program_failed": 1})
    for span in ("1h", "24h", "7d", "30d", "90d"):
        series = rest.get("/dashboard/timeseries", span=span)
        assert (sum(series["runs"]["FAILED"]), sum(series["runs"]["CREATED"])) == (1, 3)
        assert [rate for rate in series["failure_rate"] if rate is not None] == [1.0]
        assert series["totals"]["failure_rate"] == 1.0
        assert {by: sum(parts) for by, parts in series["failed_by"].items()} == {"user": 1, "site": 0, "us": 0}
    hand.open_breaker()
    assert [each["kind"] for each in rest.get("/dashboard/attention")["items"]] == ["breaker"]
    assert rest.send("GET", "/pipelines/none/stats").status_code == 404


def test_no_answer_of_before_stands_in_for_one_that_failed() -> None:
    answers = Answers()

    def fail() -> str:
        raise ServiceUnavailable("away")

    assert answers.get("k", lambda: "before", 60) == "before"
    answers.forget()
    for _ in range(2):
        with pytest.raises(ServiceUnavailable):
            answers.get("k", fail, 60)


def test_a_change_of_this_process_is_seen_at_once() -> None:
    answers, value = Answers(), iter(range(10))
    assert [answers.get("k", lambda: next(value), 60) for _ in range(2)] == [0, 0]
    answers.forget()
    assert answers.get("k", lambda: next(value), 60) == 1

    answers.get("slow", lambda: "before", 60)
    answers.forget(1.0)
    assert answers.get("slow", lambda: "after", 60) == "before"

    def changed_meanwhile() -> int:
        answers.forget()
        return next(value)

    def others_changed_meanwhile() -> str:
        answers.forget(1.0)
        return "kept"

    assert [answers.get("own", others_changed_meanwhile, 60), answers.get("own", lambda: "anew", 60)] == ["kept"] * 2
    answers.forget()
    assert [answers.get("k", changed_meanwhile, 60), answers.get("k", lambda: next(value), 60)] == [2, 3]
