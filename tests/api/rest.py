"""A client that checks the form of responses, and the transitions of a worker as single calls."""

from __future__ import annotations

from itertools import count
from typing import Any
from uuid import UUID

from fastapi.testclient import TestClient
from httpx import Response

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.runs import RunStore
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.identity import ANONYMOUS, Role
from ccat_workflow_manager.lifecycle.breaker import BreakerPolicy
from ccat_workflow_manager.lifecycle.models import Facts, NewProduct, Transition, TransitionEvent, WorkItem
from ccat_workflow_manager.lifecycle.states import Event
from ccat_workflow_manager.managers.loops import FiguresLoop
from ccat_workflow_manager.services.run_request import RunRequest
from ccat_workflow_manager.services.tokens import CreatedToken

V1 = "/api/v1"
BASE_URL = "http://localhost"

ONE: dict[str, Any] = {"name": "one", "steps": [{"name": "only", "command": ["true"]}]}
CHAIN: dict[str, Any] = {
    "name": "chain",
    "description": "Three steps",
    "parameters": {
        "type": "object",
        "required": ["scans"],
        "additionalProperties": False,
        "properties": {"scans": {"type": "array"}, "line": {"type": "string", "default": "CO43"}},
    },
    "steps": [
        {"name": "first", "foreach": "${parameters.scans}", "command": ["a", "${item}"]},
        {"name": "second", "foreach": "${parameters.scans}", "depends_on": ["first"], "command": ["b"]},
        {"name": "last", "depends_on": ["second"], "command": ["c"]},
    ],
}


class Rest:
    """Calls below /api/v1."""

    def __init__(self, client: TestClient) -> None:
        self.client = client

    def send(self, method: str, path: str, **more: Any) -> Response:
        url = path if path.startswith(("/healthz", "/readyz", "/login", "/ga4gh")) else V1 + path
        response: Response = self.client.request(method, url, **more)
        return response

    def get(self, path: str, **query: Any) -> Any:
        response = self.send("GET", path, params=query)
        assert response.status_code == 200, response.text[:1000]
        assert response.headers["content-type"] == "application/json"
        return response.json()

    def post(self, path: str, body: Any = None, status: int = 202, headers: dict[str, str] | None = None) -> Any:
        response = self.send("POST", path, json=body, headers=headers)
        assert response.status_code == status, response.text[:1000]
        return response.json()

    def put(self, path: str, body: Any, status: int = 201) -> Any:
        response = self.send("PUT", path, json=body)
        assert response.status_code == status, response.text[:1000]
        return response.json()

    def refused(self, response: Response, status: int, code: str, *paths: str) -> dict[str, Any]:
        """The problem document of a refusal, with at least these paths of faults."""
        assert response.status_code == status, response.text[:1000]
        assert response.headers["content-type"] == "application/problem+json"
        problem: dict[str, Any] = response.json()
        assert problem.keys() >= {"type", "title", "status", "detail", "code", "faults"}
        assert (problem["status"], problem["code"]) == (status, code), problem
        assert problem["detail"]
        assert set(paths) <= {fault["path"] for fault in problem["faults"]}, problem["faults"]
        return problem

    def run(self, spec: dict[str, Any] = ONE, **more: Any) -> dict[str, Any]:
        """A new run of an inline definition."""
        made: dict[str, Any] = self.post("/runs", {"spec": spec, **more})
        return made

    def items(self, path: str, limit: int, **query: Any) -> list[Any]:
        """A whole list, page by page."""
        found: list[Any] = []
        cursor = None
        while True:
            given = {**query, "limit": limit} if cursor is None else {**query, "limit": limit, "cursor": cursor}
            page = self.get(path, **given)
            assert len(page["items"]) <= limit
            found += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return found


class Secured:
    """An API that wants tokens, and callers of it."""

    def __init__(self, context: Context, client: TestClient) -> None:
        self.context = context
        self.client = client
        self._names = count(1)

    def token(self, role: str = "admin", *projects: str, **more: Any) -> CreatedToken:
        return self.context.tokens.create(
            f"{role} {next(self._names)}",
            Role(role),
            by=ANONYMOUS,
            projects=frozenset(projects) if projects else None,
            **more,
        )

    def caller(self, role: str = "admin", *projects: str) -> Rest:
        """A client with a new token."""
        headers = {"Authorization": f"Bearer {self.token(role, *projects).secret}"}
        return Rest(TestClient(self.client.app, base_url=BASE_URL, headers=headers))


class Hand:
    """Applies the transitions of a worker to step runs."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def serve(self) -> None:
        """Register a worker, which does nothing."""
        self.execute("INSERT INTO workers (id, host, pid, backends) VALUES ('w', 'h', 1, '{noop}')")

    def claim(self, limit: int = 1) -> list[WorkItem]:
        with self._context.database.begin() as unit:
            return RunStore(unit).claim("noop", "by hand", limit, 60)

    def apply(self, item: WorkItem, *notes: TransitionEvent, **more: Any) -> None:
        with self._context.database.begin() as unit:
            done = RunStore(unit).apply([Transition(item.step_run_id, notes, item.token, **more)])
        assert done.refused == {}

    def count(self) -> None:
        """Count what has happened into the figures, as managers do every second."""
        FiguresLoop(self._context.database).tick()

    def submit(self, item: WorkItem) -> None:
        self.apply(item, _note(Event.JOB_SUBMITTED), facts=Facts(job_id=f"job {item.job_name}"))

    def complete(self, item: WorkItem, *products: NewProduct) -> None:
        notes = [_note(event) for event in (Event.JOB_SUBMITTED, Event.JOB_SUCCEEDED, Event.RESULTS_COLLECTED)]
        facts = Facts(
            job_id=f"job {item.job_name}",
            exit_code=0,
            wall_time_seconds=1.5,
            cpu_hours=0.25,
            cpu_hours_allocated=0.5,
        )
        self.apply(item, *notes, facts=facts, products=products)

    def fail(
        self, item: WorkItem, text: str = "it broke", reason: FailureReason = FailureReason.PROGRAM_FAILED
    ) -> None:
        note = TransitionEvent(Event.FAILED, "test", reason, text)
        self.apply(item, _note(Event.JOB_SUBMITTED), note, facts=Facts(job_id=f"job {item.job_name}", exit_code=3))

    def finished_run(self) -> str:
        """A run that was cancelled before anything started."""
        run_id, *_ = self._context.submitter.submit(RunRequest(spec=ONE), actor="test")
        self._context.requests.cancel([run_id], actor="test")
        return str(run_id)

    def open_breaker(self, step_runs: int = 3) -> str:
        """Open a breaker: this many step runs of a step fail the same way. Returns the id of the breaker."""
        spec = {
            "name": "fan",
            "steps": [{"name": "out", "image": "a.sif", "foreach": list(range(10)), "command": ["a"]}],
        }
        run_id, *_ = self._context.submitter.submit(RunRequest(spec=spec, priority=1000), actor="test")
        failed = TransitionEvent(Event.FAILED, "test", FailureReason.PROGRAM_FAILED, "it broke")
        claimed: list[WorkItem] = []
        while len(claimed) < step_runs:  # other pipelines have their turns too
            claimed += [item for item in self.claim() if item.run.run_id == run_id]
        for item in claimed:
            facts = Facts(job_id=f"job {item.job_name}", exit_code=3)
            transition = Transition(item.step_run_id, [_note(Event.JOB_SUBMITTED), failed], item.token, facts)
            with self._context.database.begin() as unit:
                RunStore(unit, BreakerPolicy(failures=step_runs)).apply([transition])
        found = self.execute("SELECT DISTINCT breaker_key FROM step_runs WHERE run_id = :id", id=run_id)
        return str(found[0][0])

    def execute(self, statement: str, **values: Any) -> Any:
        with self._context.database.begin() as unit:
            return unit.execute(statement, values).all()

    def products(self, step_run_id: UUID) -> dict[str, UUID]:
        found = self.execute("SELECT name, id FROM products WHERE step_run_id = :id", id=step_run_id)
        return {row[0]: row[1] for row in found}


def _note(event: Event) -> TransitionEvent:
    return TransitionEvent(event, "test")
