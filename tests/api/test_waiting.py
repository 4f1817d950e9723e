"""Requests that wait for a run, and requests for what the client has already."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest

from ccat_workflow_manager.api import run_watch
from ccat_workflow_manager.api.run_watch import RunWatch
from ccat_workflow_manager.app import create_app
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.queries.runs import RunVersion
from ccat_workflow_manager.errors import ServiceUnavailable
from tests.api.rest import BASE_URL, CHAIN, ONE, V1, Hand, Rest
from tests.support.waiting import PATIENCE, wait_until

OPEN = RunVersion("1", finished=False)
WAIT = f"{PATIENCE:.0f}s"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request may wait for as long as a test."""
    monkeypatch.setattr(run_watch, "LONGEST_WAIT_SECONDS", PATIENCE)


def watch_of(rest: Rest) -> RunWatch:
    app: Any = rest.client.app
    found: RunWatch = app.state.run_watch
    return found


def test_a_request_waits_until_the_run_is_finished(rest: Rest, hand: Hand) -> None:
    run = rest.run()
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(rest.get, f"/runs/{run['id']}", wait=WAIT, until="finished")
        wait_until(lambda: watch_of(rest).waiting == 1)
        (item,) = hand.claim()
        hand.complete(item)
        assert answer.result()["status"] == "COMPLETED"
    assert watch_of(rest).waiting == 0
    assert rest.get(f"/runs/{run['id']}", wait=WAIT)["status"] == "COMPLETED"


def test_a_request_is_answered_when_its_time_is_up(rest: Rest) -> None:
    run = rest.run()
    assert rest.get(f"/runs/{run['id']}", wait="10ms", until="finished")["status"] == "PENDING"
    assert rest.get(f"/runs/{run['id']}", wait="0")["status"] == "PENDING"


def test_a_request_waits_for_a_change(rest: Rest, hand: Hand) -> None:
    run = rest.run()
    known = rest.send("GET", f"/runs/{run['id']}").headers["etag"]
    with ThreadPoolExecutor(1) as threads:
        query = {"wait": WAIT, "until": "changed"}
        answer = threads.submit(rest.send, "GET", f"/runs/{run['id']}", params=query, headers={"If-None-Match": known})
        wait_until(lambda: watch_of(rest).waiting == 1)
        hand.claim()
        assert answer.result().json()["status"] == "RUNNING"
    late = rest.send("GET", f"/runs/{run['id']}", params=query, headers={"If-None-Match": known})
    assert late.json()["status"] == "RUNNING"


@pytest.mark.parametrize("wait", ["", "soon", "-1s", "1y", "1e3s", "nan", "\u0663s", "9999999999s"])
def test_a_nonsensical_wait_is_refused(rest: Rest, wait: str) -> None:
    rest.refused(rest.send("GET", f"/runs/{uuid4()}", params={"wait": wait}), 422, "invalid", "wait")


def test_what_cannot_be_waited_for_is_refused(rest: Rest) -> None:
    run = rest.run()["id"]
    rest.refused(rest.send("GET", f"/runs/{run}", params={"until": "finished"}), 422, "invalid", "wait")
    rest.refused(rest.send("GET", f"/runs/{run}", params={"wait": "1s", "until": "x"}), 422, "invalid", "until")
    rest.refused(rest.send("GET", f"/runs/{uuid4()}", params={"wait": WAIT}), 404, "not_found")


def test_a_crowd_waits_without_threads(context: Context, hand: Hand) -> None:
    """More requests wait than the server has threads, and others are answered meanwhile."""
    app = create_app(context)

    async def crowd() -> list[str]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=BASE_URL, timeout=PATIENCE) as client:
            run = (await client.post(f"{V1}/runs", json={"spec": CHAIN, "parameters": {"scans": []}})).json()
            url = f"{V1}/runs/{run['id']}"
            waiting = [asyncio.create_task(client.get(url, params={"wait": WAIT})) for _ in range(150)]
            while app.state.run_watch.waiting < len(waiting):
                assert (await client.get(url)).json()["status"] == "PENDING"
            (item,) = await asyncio.to_thread(hand.claim)
            await asyncio.to_thread(hand.complete, item)
            return [answer.json()["status"] for answer in await asyncio.gather(*waiting)]

    assert set(asyncio.run(crowd())) == {"COMPLETED"}


def test_only_so_many_requests_wait_and_a_stop_answers_them(context: Context) -> None:
    async def check() -> None:
        watch, run = RunWatch(context, most=1), uuid4()
        first = asyncio.create_task(watch.wait(run, OPEN, "finished", PATIENCE))
        await asyncio.wait([first], timeout=0)
        with pytest.raises(ServiceUnavailable):
            await watch.wait(run, OPEN, "finished", PATIENCE)
        watch.stop()
        await first
        await watch.wait(run, OPEN, "finished", PATIENCE)

    asyncio.run(check())


# --- ETag -------------------------------------------------------------------------------------------------------------


def test_an_unchanged_run_is_not_sent_again(rest: Rest, hand: Hand) -> None:
    """Also what the run waits for is a change."""
    url = f"/runs/{rest.run()['id']}"

    def tag() -> str:
        response = rest.send("GET", url)
        etag = response.headers["etag"]
        assert etag.startswith('W/"')
        again = rest.send("GET", url, headers={"If-None-Match": f'"other", {etag}'})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        return str(etag)

    tags = [tag()]
    hand.execute("INSERT INTO backends (name, problem) VALUES ('noop', 'the site is away')")
    tags.append(tag())
    (item,) = hand.claim()
    tags.append(tag())
    hand.fail(item)
    tags.append(tag())
    rest.post(f"{url}/retry")
    tags.append(tag())
    rest.post(f"{url}/pause")
    tags.append(tag())
    assert len(set(tags)) == len(tags)


def test_the_row_of_a_finished_run_decides_without_its_step_runs(rest: Rest, hand: Hand) -> None:
    run = rest.run()
    (item,) = hand.claim()
    hand.complete(item)
    known = rest.send("GET", f"/runs/{run['id']}").headers["etag"]
    hand.execute("DELETE FROM step_runs")
    assert rest.send("GET", f"/runs/{run['id']}", headers={"If-None-Match": known}).status_code == 304


def test_an_unchanged_list_is_not_sent_again(rest: Rest, hand: Hand) -> None:
    rest.run()
    known = rest.send("GET", "/runs").headers["etag"]
    assert rest.send("GET", "/runs", headers={"If-None-Match": known}).status_code == 304
    assert rest.send("GET", "/runs", headers={"If-None-Match": "*"}).status_code == 304
    hand.claim()
    changed = rest.send("GET", "/runs", headers={"If-None-Match": known})
    assert changed.status_code == 200
    assert changed.headers["etag"] != known


def test_lists_of_their_own_form_are_not_sent_again(rest: Rest) -> None:
    rest.put("/pipelines/one", ONE)
    rest.post("/runs", {"pipeline": "one"})
    for path, change in (
        ("/holds", "/pipelines/one/pause"),
        ("/events", "/runs"),
        ("/pipelines/one/ledger", "/runs"),
    ):
        known = rest.send("GET", path).headers["etag"]
        again = rest.send("GET", path, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", known), path
        assert rest.send("POST", change, json={"why": "x"} if path == "/holds" else {"pipeline": "one"}).is_success
        assert rest.send("GET", path, headers={"If-None-Match": known}).status_code == 200, path
