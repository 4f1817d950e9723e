"""No route, page, loop or task reads a large table as a whole, however many runs there are.

The test calls every route that has a right, every loop of a manager and every task of a worker, on a database whose
statistics pretend a million runs. The server logs the plan of each statement that it executes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from fastapi.testclient import TestClient

from ccat_workflow_manager import tasks
from ccat_workflow_manager.api.rights import RIGHTS
from ccat_workflow_manager.app import create_app
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.doorbell import Bell, Doorbell
from ccat_workflow_manager.embedded import EmbeddedPostgres
from ccat_workflow_manager.errors import ServiceUnavailable
from ccat_workflow_manager.lifecycle.states import RunStatus
from ccat_workflow_manager.processes import loops
from ccat_workflow_manager.services.answers import Answers
from ccat_workflow_manager.services.verify import Progress, Verification
from tests.api.rest import BASE_URL, CHAIN, ONE, Hand, Rest
from tests.bench.filling import fill
from tests.bench.million import count_figures
from tests.support.fixtures_servers import Databases
from tests.support.plans import logged, watch

RUNS = 1000
ENDLESS = {"GET /ui/live"}
"""Streams. What they read, `GET /api/v1/events` and the pages read, too."""
_SINCE = "2026-01-01T00:00:00Z"
_OF_PROJECTS = ("attention", "breakers", "dashboard/attention", "explain", "webhooks")
_OF_RUNS = [
    {},
    *({"status": str(status)} for status in RunStatus),
    {"pipeline": "chai-map"},
    {"project": "gevas"},
    {"label": "source:source-3"},
    {"label": "campaign:rare"},
    {"label": "there:none"},
    {"q": "source-17"},
    {"q": "converge"},
    {"pipeline": "chai-map", "status": "FAILED"},
    {"cursor": "%cursor%"},
]
QUERIES: dict[str, list[dict[str, str]]] = {
    "GET /api/v1/runs": [
        *_OF_RUNS, {"created_after": _SINCE}, {"created_before": _SINCE}, {"caveats": "true"},
        {"created_after": _SINCE, "status": "FAILED"},
    ],
    "GET /runs": [
        *_OF_RUNS[:-1], {"reason": "converge"}, {"by": "astrid"}, {"created": "24h"}, {"cursor": "%run_id%"},
        {"after": "%run_id%"},
    ],
    "GET /api/v1/dashboard/timeseries": [{"span": span} for span in ("1h", "24h", "7d", "30d", "90d")],
    "GET /api/v1/events": [{}, {"run": "%run_id%"}, {"pipeline": "chai-map"}, {"type": "ccat.wm.run.*"}],
    **{f"GET /api/v1/{name}": [{}, {"project": "gevas"}] for name in _OF_PROJECTS},
    "GET /api/v1/audit": [{}, {"actor": "astrid"}, {"object": "runs/%run_id%"}, {"action": "create_run"}],
    "GET /events": [
        {}, {"run": "%run_id%"}, {"pipeline": "chai-map"}, {"type": "run.*"}, {"by": "astrid"}, {"since": "24h"},
        {"until": _SINCE}, {"after": "1-1"}, {"cursor": "9000-1", "type": "step_run.failed"},
    ],
    "GET /audit": [{}, {"actor": "astrid"}, {"on": "runs/%run_id%"}, {"action": "create_run"}, {"since": "24h"}],
    "GET /go": [{"q": each} for each in ("%run_id%", "%start%", "%job_id%", "chai", "source:source-3", "nothing")],
    "GET /runs/{run_id}/compare": [{"with": "%run_id%"}],
    "GET /": [{}, {"by": "run"}],
    "GET /act/{verb}": [{"id": "%run_id%"}, {"step_run": "%step_run_id%"}],
    "GET /api/v1/pipelines/{name}/ledger": [{}, {"label": "night:2026-03-01"}, {"created_after": _SINCE}],
}  # fmt: skip
"""The queries of a route; of others, the one without any."""


@pytest.fixture
def migrated_url(databases: Databases) -> Iterator[str]:
    """A database with a history, in place of an empty one."""
    url = databases.create()
    fill(url, RUNS)
    count_figures(url)
    watch(url)
    yield url
    databases.drop(url)


def names_in(url: str) -> dict[str, str]:
    """What stands in addresses: the ids of a run that has failed, and of what belongs to it."""
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        row = connection.execute(
            "SELECT s.run_id::text, s.id::text, s.step, a.job_id, p.id::text FROM runs r"
            " JOIN step_runs s ON s.run_id = r.id JOIN attempts a ON a.step_run_id = s.id"
            " JOIN products p ON p.step_run_id = s.id WHERE r.pipeline = 'chai-map' AND r.status = 'FAILED' LIMIT 1"
        ).fetchone()
    assert row is not None
    run_id, step_run_id, step, job_id, product_id = row
    return {
        "run_id": run_id, "step_run_id": step_run_id, "product_id": product_id, "job_id": job_id, "key": "main",
        "name": "chai-map", "start": run_id[:10], "path": "x", "verb": "cancel", "step": step,
        "project": "gevas",
    }  # fmt: skip


def read_everything(rest: Rest, names: dict[str, str], called: set[str]) -> set[str]:
    """Call every route that only reads and was not called. Returns the routes."""
    read = {route for route in RIGHTS if route.startswith("GET ")} - ENDLESS - called
    names = {**names, "cursor": rest.get("/runs", limit=3)["next_cursor"]}
    for route in read:
        path = re.sub(r"{(\w+)}", lambda match: names[match[1]], route.removeprefix("GET "))
        path = path.replace("/steps/chai-map", f"/steps/{names['step']}")
        for query in QUERIES.get(route, [{}]):
            values = {name: re.sub(r"%(\w+)%", lambda match: names[match[1]], each) for name, each in query.items()}
            answer = rest.client.get(path, params=values)
            assert answer.status_code in (200, 303, 304, 404, 409, 410, 422, 503), (
                f"{route} {values}: {answer.text[:500]}"
            )
    return read


def change_everything(rest: Rest, hand: Hand) -> set[str]:
    """Call every route that changes something, on runs of its own. Returns the routes."""
    called: set[str] = set()

    def call(
        route: str, body: Any = None, form: str | None = None, headers: dict[str, str] | None = None, **names: str
    ) -> Any:
        method, _, path = route.partition(" ")
        called.add(route)
        sent = {"content-type": "application/x-www-form-urlencoded"} if form is not None else headers
        answer = rest.client.request(method, path.format(**names), json=body, content=form, headers=sent)
        assert answer.is_success or answer.status_code in (303, 409), f"{route}: {answer.text[:500]}"
        return answer.json() if "json" in answer.headers.get("content-type", "") else answer

    v1 = "/api/v1"
    call(f"POST {v1}/pipelines", ONE)
    call(f"PUT {v1}/pipelines/{{name}}", CHAIN, name="chain")
    call(f"PATCH {v1}/pipelines/{{name}}", {"priority": 1}, name="one")
    ids = call(f"POST {v1}/runs/bulk", {"runs": [{"pipeline": "one"}] * 9})["ids"]
    run_id = call(f"POST {v1}/runs", {"pipeline": "chain", "parameters": {"scans": [1, 2]}})["id"]
    for verb in ("pause", "resume", "cancel", "retry"):
        call(f"POST {v1}/runs/{{run_id}}/{verb}", run_id=ids[0])
    for verb in ("cancel", "retry"):
        call(f"POST {v1}/runs/{verb}", {"ids": ids[1:3]})
        call(f"POST {v1}/runs/{verb}", {"filter": {"pipeline": "one", "label": "there:none"}})
        call("POST /act/{verb}", form=f"ids={ids[3]}", verb=verb)
        call("POST /act", form=f"verb={verb}&all=1&conditions=%3Fpipeline%3Dchai-map")
    call(f"POST {v1}/runs/replay", {"ids": ids[1:3]})
    first, second, third, *_ = [
        row[0] for row in hand.execute("SELECT id FROM step_runs WHERE run_id = :id", id=run_id)
    ]
    for verb in ("cancel", "retry"):
        call(f"POST {v1}/step-runs/{{step_run_id}}/{verb}", step_run_id=first)
        call("POST /act/step-run/{verb}", form=f"step_run={second}", verb=verb)
    call(f"POST {v1}/step-runs/{{step_run_id}}/outcome", {"outcome": "skipped", "reason": "x"}, step_run_id=third)
    call(f"DELETE {v1}/runs/{{run_id}}", run_id=hand.finished_run())
    for at in ("", "/ga4gh/tes"):
        task = call(f"POST {at}/v1/tasks", {"executors": [{"image": "a.sif", "command": ["true"]}]})["id"]
        call(f"POST {at}/v1/tasks/{{run_id}}:cancel", run_id=task)
    held = {"pipelines/{name}": "one", "projects/{project}": "default", "backends/{name}": "noop", "service": ""}
    for path, name in held.items():
        for verb in ("pause", "resume"):
            call(f"POST {v1}/{path}/{verb}", {"why": "x"} if verb == "pause" else None, name=name, project=name)
        for verb in ("pause", "resume"):
            call(f"POST /{path}/{verb}", form="why=x", name=name, project=name)
    call(f"PUT {v1}/projects/{{project}}", {"weight": 2}, project="default")
    limit = {"max_live": 9, "until": "2999-01-31T12:00:00Z"}
    call(f"PATCH {v1}/projects/{{project}}", limit, project="night")
    override = call(f"GET {v1}/overrides")["items"][0]["id"]
    call(f"DELETE {v1}/overrides/{{override_id}}", override_id=override)
    call(f"POST {v1}/runs/{{run_id}}/priority", {"priority": 5, "until": limit["until"]}, run_id=ids[4])
    hand.execute("INSERT INTO workers (id, host, pid, backends) VALUES ('w', 'h', 1, '{strange}')")
    for verb in ("drain", "resume"):
        call(f"POST {v1}/workers/{{worker}}/{verb}", worker="w")
    for verb in ("drain", "resume"):
        call(f"POST /workers/{{worker}}/{verb}", worker="w")
    form = "weight=2&max_live=3&max_cpus=&max_queued=&why=x&ends=1h&until="
    call("POST /projects/{project}/limits", form=form, project="night")
    override = call(f"GET {v1}/overrides")["items"][-1]["id"]
    call("POST /overrides/{override_id}/end", override_id=override)
    call("POST /ui/pipelines/{name}/check", form="labels=", name="one")
    call("POST /pipelines/{name}/start", form="labels=", name="one")
    call("POST /pipelines/{name}/switch", form="enabled=1", name="one")
    call("POST /act/breaker", form=f"breaker={hand.open_breaker()}")
    breaker = hand.open_breaker()
    call(f"GET {v1}/breakers/{{breaker_id}}/events", breaker_id=breaker)
    call(f"POST {v1}/breakers/{{breaker_id}}/release", breaker_id=breaker)
    token = call(f"POST {v1}/tokens", {"name": "a", "role": "viewer"})
    csrf = call("POST /login", {"token": token["token"]})["csrf_token"]
    call("POST /logout", {}, headers={"X-CSRF-Token": csrf})
    call(f"DELETE {v1}/tokens/{{token_id}}", token_id=token["id"])
    call("POST /tokens", form="name=b&role=viewer")
    call("POST /tokens/{token_id}/revoke", token_id=str(hand.execute("SELECT id FROM tokens WHERE name = 'b'")[0][0]))
    wanted = {"pipeline": "one", "run": ids[4]}
    hook = call(f"POST {v1}/webhooks", {"url": "https://example.org/hook", "filter": wanted})["id"]
    hand.execute(
        "INSERT INTO webhook_deliveries (id, webhook_id, event, type, body, give_up_at)"
        " VALUES (:id, :id, 'e', 't', 'b', now())",
        id=hook,
    )
    for tail in ("", "/deliveries"):
        call(f"GET {v1}/webhooks/{{webhook_id}}{tail}", webhook_id=hook)
    call(f"POST {v1}/webhooks/{{webhook_id}}/deliveries/{{delivery_id}}/redeliver", webhook_id=hook, delivery_id=hook)
    call(f"POST {v1}/webhooks/{{webhook_id}}/redeliver", webhook_id=hook)
    call(f"POST {v1}/webhooks/{{webhook_id}}/test", webhook_id=hook)
    call(f"DELETE {v1}/webhooks/{{webhook_id}}", webhook_id=hook)
    call("POST /pipelines/{name}/pause", form="why=x", name="chain")  # what is called afterwards finds a hold
    return called


def change_more(rest: Rest, names: dict[str, str], called: set[str]) -> set[str]:
    """Call what changes something and was not called, without a body. Returns the routes.

    A route that needs a body belongs into `change_everything`.
    """
    more = {route for route in RIGHTS if not route.startswith("GET ")} - called
    for route in more:
        method, _, path = route.partition(" ")
        answer = rest.client.request(method, path.format(**names))
        assert answer.status_code not in (415, 422, 500), f"{route}: {answer.text[:500]}"
    return more


def work(context: Context) -> None:
    """Every loop and every task, twice: what the first has begun, the second goes on with."""
    tasks.bind(context)
    for _ in range(2):
        for loop in loops(context):
            loop.tick_once()
        for bell in set(Bell) - {Bell.ASK}:
            getattr(tasks, bell)("noop", [])
    verify(context)


def verify(context: Context) -> None:
    base_dir = str(context.settings.pipeline_base_dir)
    list(Verification(context.database, base_dir, rest=lambda seconds: None).findings(Progress()))


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is verified at once is a small part of the tables, as it is of large ones."""
    for portion, size in (("verify._SLICE", RUNS // 50), ("verify_figures._PORTION", RUNS // 8)):
        monkeypatch.setattr(f"ccat_workflow_manager.services.{portion}", size)


def no_worker(*question: object) -> None:
    raise ServiceUnavailable("no worker is there to read files")


@pytest.mark.usefixtures("small_slices")
def test_nothing_reads_a_large_table_as_a_whole(
    context: Context, migrated_url: str, server_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Doorbell, "ask", no_worker)  # else each log takes half a minute
    app = create_app(context)
    app.state.answers = Answers(longest=0)
    hand = Hand(context)
    log = EmbeddedPostgres(server_dir).log_file
    with TestClient(app, base_url=BASE_URL, follow_redirects=False) as client, logged(log, migrated_url) as plans:
        rest = Rest(client)
        names = names_in(migrated_url)
        changed = change_everything(rest, hand)
        changed |= change_more(rest, names, changed)
        work(context)
        read = read_everything(rest, names, changed)
    assert set(RIGHTS) - read - changed == ENDLESS, "the test must call each route"
    assert len(plans.found) > 200
    faults = plans.faults()
    assert faults == [], "\n\n".join(faults)
    with logged(log, migrated_url) as plans, context.database.read() as unit:
        unit.execute("SELECT count(*) FROM runs WHERE created_by = 'astrid'")
        unit.execute("SELECT max(created_at) FROM step_runs WHERE id > :first", {"first": UUID(int=0)})
    assert [fault.partition(":")[0] for fault in plans.faults()] == [
        "sequential scan of runs",
        "sequential scan of step_runs",
    ]


@pytest.mark.usefixtures("small_slices")
def test_a_verification_reads_each_month_once_for_many_step_runs(
    context: Context, migrated_url: str, server_dir: Path
) -> None:
    log = EmbeddedPostgres(server_dir).log_file
    with logged(log, migrated_url) as plans:
        verify(context)
    repeated = plans.repeated()
    assert repeated == [], "\n\n".join(repeated)
    with logged(log, migrated_url) as plans, context.database.begin() as unit:
        unit.execute("SET LOCAL enable_seqscan = off")  # a month may have few events, as far as PostgreSQL knows
        unit.execute("SELECT (SELECT min(at) FROM events WHERE step_run_id = s.id) FROM step_runs s")
    [fault] = plans.repeated()
    assert fault.startswith("repeated Index Scan of events_")
