"""Lists: filters, order, and pages that neither repeat nor leave out anything."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db import session
from ccat_workflow_manager.db.queries import runs
from ccat_workflow_manager.db.queries.run_filter import RunFilter
from tests.api.rest import CHAIN, ONE, Hand, Rest


def test_pages_are_complete_and_stable_while_runs_are_added(rest: Rest) -> None:
    there = rest.post("/runs/bulk", {"runs": [{"spec": ONE}] * 25})["ids"]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = rest.get("/runs", **({"limit": 7} if cursor is None else {"limit": 7, "cursor": cursor}))
        seen += [run["id"] for run in page["items"]]
        rest.run()
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == sorted(there, reverse=True)


def test_a_list_ends_without_an_empty_page(rest: Rest) -> None:
    rest.post("/runs/bulk", {"runs": [{"spec": ONE}] * 4})
    page = rest.get("/runs", limit=2)
    page = rest.get("/runs", limit=2, cursor=page["next_cursor"])
    assert (len(page["items"]), page["next_cursor"]) == (2, None)
    assert rest.get("/runs", pipeline="nothing") == {"items": [], "next_cursor": None}


def test_items_are_runs_without_step_runs(rest: Rest) -> None:
    made = rest.run(labels={"a": "b"})
    (item,) = rest.get("/runs")["items"]
    del made["step_runs"], made["step_runs_next"]
    assert item == made


def test_filters(rest: Rest, hand: Hand) -> None:
    rest.put("/pipelines/one", ONE)
    first = rest.post("/runs", {"pipeline": "one", "labels": {"source": "Orion KL", "100%": "_x"}})["id"]
    (item,) = hand.claim()
    hand.fail(item, "the antenna fell over")
    second = rest.run(CHAIN, parameters={"scans": [1]}, labels={"source": "W3(OH)", "night": "2026-01-31"})["id"]
    third = rest.run(labels={"source": "Orion KL", "night": "2026-01-31"})["id"]

    def found(**query: object) -> list[str]:
        return [run["id"] for run in rest.get("/runs", **query)["items"]]

    assert found() == [third, second, first]
    assert found(status="FAILED") == [first]
    assert found(status=["FAILED", "PENDING"]) == [third, second, first]
    assert found(pipeline="chain") == [second]
    assert found(label="source:Orion KL") == [third, first]
    assert found(label=["source:Orion KL", "night:2026-01-31"]) == [third]
    assert found(label=["source:Orion KL", "source:Orion KL"]) == [third, first]
    assert found(q="ORION") == [third, first]
    assert found(q="night:2026") == [third, second]
    assert found(q="antenna") == [first]
    assert found(q="hai") == [second]
    assert found(q="100%") == [first]
    assert found(q="%") == [first]
    assert found(q="W3(") == [second]
    assert found(q=third[:30], pipeline="one") == ([third] if third[:30] != first[:30] else [third, first])
    assert found(q=second.upper()) == [second]
    assert found(q="nowhere") == []


def test_created_after(rest: Rest) -> None:
    run = rest.run()
    created = datetime.fromisoformat(run["created_at"])
    for moment, expected in [
        ((created - timedelta(seconds=1)).isoformat(), 1),
        ((created + timedelta(seconds=1)).isoformat(), 0),
        (run["created_at"], 0),
        ((created - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ"), 1),
        ((created - timedelta(hours=1)).astimezone(UTC).replace(tzinfo=None).isoformat(), 1),
        ("0001-01-01T00:00:00Z", 1),
        ("9999-12-31", 0),
    ]:
        assert len(rest.get("/runs", created_after=moment)["items"]) == expected, moment


@pytest.mark.parametrize("wrong_by", [-3600, 3600])
def test_created_after_uses_the_clock_of_the_database(
    rest: Rest, monkeypatch: pytest.MonkeyPatch, wrong_by: int
) -> None:
    """Ids hold the time of the clock of a manager, which may be wrong."""
    monkeypatch.setattr(session, "uuid7", lambda: UUID(int=uuid7().int + (1000 * wrong_by << 80)))
    run = rest.run()
    created = datetime.fromisoformat(run["created_at"])
    assert abs((UUID(run["id"]).int >> 80) / 1000 - created.timestamp()) > 3000
    for seconds, expected in ((-60, [run["id"]]), (60, [])):
        after = (created + timedelta(seconds=seconds)).isoformat()
        assert [each["id"] for each in rest.get("/runs", created_after=after)["items"]] == expected
        assert rest.post("/runs/cancel", {"filter": {"created_after": after}})["ids"] == expected


def test_runs_since_a_moment_are_found_by_an_index(context: Context, rest: Rest) -> None:
    """The query does not scan all runs, whether few or many match."""
    run_id = rest.run()["id"]
    columns = "spec_id, pipeline, parameters, labels, priority, created_by, n_completed, finished_at"
    with context.database.begin() as unit:
        unit.execute(
            f"INSERT INTO runs (id, created_at, {columns}) SELECT gen_random_uuid(), now() - n * interval '1 minute',"
            " spec_id, pipeline, parameters, labels, priority, created_by, 1, now()"
            " FROM runs, generate_series(1, 20000) n WHERE id = :id",
            {"id": run_id},
        )
        unit.execute("ANALYZE runs")
        for minutes, index in (
            (0, "ix_runs_created_at_status"),
            (20, "ix_runs_created_at_status"),
            (15_000, "pk_runs"),
        ):
            wanted = RunFilter(created_after=datetime.now(UTC) - timedelta(minutes=minutes))
            sql, values = runs._chosen("r.id", wanted, None, 50)
            plan = [row[0] for row in unit.execute(f"EXPLAIN {sql}", values)]
            assert any(index in line for line in plan), plan
            assert not any("Seq Scan" in line for line in plan), plan


def test_every_list_can_be_read_page_by_page(rest: Rest, hand: Hand) -> None:
    for name in ("b", "a", "c"):
        for text in ("first", "second", "third"):
            rest.put(f"/pipelines/{name}", {**ONE, "name": name, "description": text})
    assert [each["name"] for each in rest.items("/pipelines", 1)] == ["a", "b", "c"]
    versions = rest.items("/pipelines/a/versions", 2)
    assert [(each["version"], each["description"]) for each in versions] == [(3, "third"), (2, "second"), (1, "first")]
    step_run_id = rest.run()["step_runs"][0]["id"]
    for _ in range(3):
        (item,) = hand.claim()
        hand.fail(item)
        rest.post(f"/step-runs/{step_run_id}/retry")
    assert [each["number"] for each in rest.items(f"/step-runs/{step_run_id}/attempts", 2)] == [1, 2, 3]
    events = rest.items(f"/step-runs/{step_run_id}/events", 4)
    assert [each["event"] for each in events] == ["created", *["claimed", "job_submitted", "failed", "retried"] * 3]
    assert [each["id"] for each in events] == sorted(each["id"] for each in events)
    names = [each["name"] for each in rest.items("/backends", 1)]
    assert names == sorted(names)
    assert {"noop", "concurrent"} <= set(names)
    hand.execute(
        "INSERT INTO workers (id, host, pid, backends) SELECT 'w' || n, 'h', n, '{noop}' FROM generate_series(1, 3) n"
    )
    assert [each["id"] for each in rest.items("/workers", 2)] == ["w1", "w2", "w3"]
