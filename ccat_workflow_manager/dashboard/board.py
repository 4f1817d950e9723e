"""What every page needs: the rail with the health of backends and service, the viewer, the address."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any
from uuid import UUID

from fastapi import Request
from starlette.responses import Response

from ccat_workflow_manager.api.authentication import csrf_token, current_identity, who
from ccat_workflow_manager.api.dependencies import Given
from ccat_workflow_manager.api.rights import Thing
from ccat_workflow_manager.api.service import availabilities
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.dashboard import rendering, times, words
from ccat_workflow_manager.db.queries.service import BackendState, backend_states, pipeline_count, worker_counts
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.views.attention import causes
from ccat_workflow_manager.db.views.runs import LIVE, MOST_COUNTED, counts_since
from ccat_workflow_manager.errors import NotFound, ServiceUnavailable
from ccat_workflow_manager.identity import Projects, Role, sees
from ccat_workflow_manager.services import presence
from ccat_workflow_manager.services.answers import Answers
from ccat_workflow_manager.services.disks import Disks

_AWAY_SECONDS = 60
NO_RAIL: dict[str, Any] = {
    "attention": 0,
    "live": "",
    "pipelines": 0,
    "workers": 0,
    "backends": [],
    "service": [],
    "why": "",
}
_STRANGERS = (401, 403)
"""Who gets these must not see how the service is."""


class Board:
    """One request for a page."""

    def __init__(self, request: Request, actor: str) -> None:
        self.request = request
        self.actor = actor
        identity = current_identity(request)
        self.projects: Projects = frozenset() if identity is None else identity.projects
        """The projects that the reader sees."""
        self.context: Context = request.app.state.context
        self.answers: Answers = request.app.state.answers

    def read(self, key: object, view: Callable[[UnitOfWork], Any], seconds: float = 1.0) -> Any:
        """What `view` reads, shared by all readers of the same projects who ask within a second."""

        def compute() -> Any:
            with self.context.database.read() as unit:
                return view(unit)

        return self.answers.get((key, self.projects), compute, seconds)

    def require(self, thing: Thing, key: UUID) -> None:
        """Raise NotFound unless it exists in a project that the reader sees. For what a query or a form names."""
        with self.context.database.read() as unit:
            project = thing.project(unit, key)
        if project is None or not sees(self.projects, project):
            raise NotFound(f"there is no {thing.kind} {key}")

    def causes(self) -> list[dict[str, Any]]:
        """What needs a person."""
        found: list[dict[str, Any]] = self.read("causes", lambda unit: causes(unit, self.projects))
        return [*found, *self.context.disks.causes()]

    def changed(self, topics: Iterable[str]) -> None:
        """Show what this request has changed at once, here and to those who look at it."""
        self.answers.forget()
        self.request.app.state.live.tell(topics)

    @property
    def may(self) -> dict[str, bool]:
        """What the role of the reader allows. Pages leave out the other actions; the routes refuse them."""
        identity = current_identity(self.request)
        return {
            name: identity is not None and identity.role.includes(role)
            for name, role in (("submit", Role.SUBMITTER), ("operate", Role.OPERATOR), ("administer", Role.ADMIN))
        }

    def page(self, template: str, active: str, http_status: int = 200, /, **values: Any) -> Response:
        """A whole page."""
        text = rendering.render(f"pages/{template}.html", {**self._frame(active, http_status), **values})
        return rendering.html(self.request, text, http_status)

    def fragment(self, template: str, http_status: int = 200, /, **values: Any) -> Response:
        """A part of a page, to be put into it."""
        return self.part(template, **values).answer(self.request, http_status)

    def part(self, template: str, /, **values: Any) -> rendering.Rendered:
        """The part itself, which routes that are `shared` return."""
        return rendering.Rendered(rendering.render(f"fragments/{template}.html", {"may": self.may, **values}))

    def _frame(self, active: str, http_status: int) -> dict[str, Any]:
        identity = current_identity(self.request)
        return {
            "active": active,
            "viewer": self.actor,
            "role": "" if identity is None else str(identity.role),
            "may": self.may,
            "has_session": csrf_token(self.request) != "",
            "site": self.context.settings.environment,
            "now": times.now(),
            "rail": NO_RAIL if identity is None or http_status in _STRANGERS else self.rail(),
        }

    def rail(self) -> dict[str, Any]:
        """The health that is seen on every page. The page is shown even if PostgreSQL is away."""
        try:
            number = len(self.causes())
            found: dict[str, Any] = self.answers.get(
                ("rail", self.projects), lambda: rail(self.context, self.projects, number)
            )
        except ServiceUnavailable as error:
            return {**NO_RAIL, "service": [_row("PostgreSQL", "away", "bad")], "why": error.message}
        return found


def rail(context: Context, projects: Projects, attention: int) -> dict[str, Any]:
    """Backends, dependencies, workers and counts, as short texts."""
    start = time.perf_counter()
    with context.database.read() as unit:
        unit.ping()
        postgres = time.perf_counter() - start
        states = backend_states(unit, projects)
        counts = counts_since(unit, None, LIVE, projects)
        workers, seen = worker_counts(unit, _AWAY_SECONDS)
        pipelines = pipeline_count(unit, projects)
    service = [_row("PostgreSQL", _milliseconds(postgres)), *_redis(context)]
    kind = "" if 0 < workers == seen else "warn"
    service.append(_row("Workers", f"{seen} of {workers}" if workers else "none", kind))
    service += _disk(context.disks)
    live = counts["PENDING"] + counts["RUNNING"]
    return {
        "attention": attention,
        "live": f"{MOST_COUNTED:,}+" if live >= MOST_COUNTED else f"{live:,}",
        "pipelines": pipelines,
        "workers": workers,
        "backends": _backends(context, states),
        "service": service,
        "why": "",
    }


def _row(name: str, text: str, kind: str = "", title: str = "") -> dict[str, str]:
    """A line of the rail. `kind` is empty if all is well, else `warn` or `bad`."""
    return {"name": name, "state": "WARN" if kind else "OK", "text": text, "kind": kind, "title": title}


def _redis(context: Context) -> list[dict[str, str]]:
    """Redis, and the managers that it knows."""
    start = time.perf_counter()
    try:
        context.doorbell.ping()
        took = time.perf_counter() - start
        managers = presence.number_alive(context.doorbell)
    except ServiceUnavailable:
        return [_row("Redis", "away", "bad")]
    # Those that serve the API alone are not counted: without loops nothing is repaired or followed.
    return [_row("Redis", _milliseconds(took)), _row("Managers", str(managers or "none"), "" if managers else "warn")]


def _disk(disks: Disks) -> list[dict[str, str]]:
    """The fullest disk; nothing before the first look, which a process without loops never has."""
    if problem := disks.problem:
        return [_row("Disk", "no answer", "bad", problem)]
    title = "; ".join(
        f"{' and '.join(each.names)}: {times.size(each.free)} of {times.size(each.total)} free" for each in disks.seen
    )
    return [_row("Disk", each.percent, "warn" if each.is_full else "", title) for each in disks.seen[:1]]


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _backends(context: Context, states: Mapping[str, BackendState]) -> list[dict[str, Any]]:
    """Backends in use, then the default one; those that are only installed are on their own page."""
    known = availabilities.get(context.settings)
    shown = []
    for name in sorted({*states, context.settings.hpc_backend}):
        state = states.get(name) or BackendState()
        if state.is_unserved:
            shown.append({"name": name, "state": "WARN", "text": "no worker", "kind": "warn"})
        elif not state.workers and not state.problem:
            there = name in known and known[name].available
            shown.append({"name": name, "state": "OFF", "text": "no worker" if there else "not set up", "kind": ""})
        elif state.problem:
            text = f"away {times.age(times.since(state.problem_since))}"
            shown.append({"name": name, "state": "WARN", "text": text, "kind": "warn"})
        else:
            shown.append({"name": name, "state": "OK", "text": words.count(state.live, "job"), "kind": ""})
    return shown


def _board(request: Request) -> Board:
    return Board(request, who(request).name)


B = Annotated[Board, Given(_board)]
