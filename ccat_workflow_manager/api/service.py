"""The service itself: whether it is well, what it works with, and everything at one glance."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from threading import Lock
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from ccat_workflow_manager import __version__
from ccat_workflow_manager.api import models
from ccat_workflow_manager.api import openapi as documented
from ccat_workflow_manager.api.dependencies import Ctx
from ccat_workflow_manager.api.paging import (
    DEFAULT_LIMIT,
    Cursor,
    Limit,
    decode,
    json_response,
    page,
    text_key,
    uuid_key,
)
from ccat_workflow_manager.api.problems import RETRY_AFTER_SECONDS, problem
from ccat_workflow_manager.api.queue_models import AttentionPage
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.migrate import require_current
from ccat_workflow_manager.db.views import fleet as views
from ccat_workflow_manager.db.views.attention import attention_count, attention_page
from ccat_workflow_manager.db.views.fleet import BackendState
from ccat_workflow_manager.db.views.sql import Row
from ccat_workflow_manager.errors import WorkflowError
from ccat_workflow_manager.hpc import registry
from ccat_workflow_manager.hpc.base import Availability
from ccat_workflow_manager.services.queues import stored_queues
from ccat_workflow_manager.settings import Settings

health = APIRouter(tags=["service"])
router = APIRouter(tags=["service"])

_AVAILABILITY_SECONDS = 60


@health.get("/healthz", response_model=models.Health)
async def healthz() -> Response:
    """The process is alive."""
    return json_response(json.dumps({"status": "ok", "version": __version__}))


@health.get("/readyz", response_model=models.Readiness, responses={503: documented.not_ready})
def readyz(context: Ctx) -> Response:
    """Each thing that the service needs: whether it is well, how long its answer took, what is wrong."""
    checks = {
        "postgres": lambda: _ask_postgres(context),
        "redis": context.doorbell.ping,
        "migrations": lambda: require_current(context.database),
    }
    found = {name: _checked(check) for name, check in checks.items()}
    bad = [name for name, each in found.items() if not each["ok"]]
    if not bad:
        return json_response(json.dumps({"ready": True, "dependencies": found}))
    detail = "; ".join(f"{name}: {found[name]['message']}" for name in bad)
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return problem(503, "not_ready", detail, headers=headers, ready=False, dependencies=found)


def _ask_postgres(context: Context) -> None:
    with context.database.read() as unit:
        unit.execute("SELECT 1")


def _checked(check: Callable[[], None]) -> dict[str, Any]:
    start = time.perf_counter()
    try:
        check()
    except WorkflowError as error:
        ok, message = False, error.message
    else:
        ok, message = True, "ok"
    return {"ok": ok, "latency": round(time.perf_counter() - start, 6), "message": message}


# --- backends and workers -------------------------------------------------------------------------------------------


class _Availabilities:
    """Whether backends can be used in this process, asked for once a minute at most: it imports their libraries."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: dict[str, Availability] = {}
        self._until = 0.0

    def get(self, settings: Settings) -> dict[str, Availability]:
        with self._lock:
            if time.monotonic() >= self._until:
                self._known = registry.list_backends(settings.for_backend)
                self._until = time.monotonic() + _AVAILABILITY_SECONDS
            return self._known


_availabilities = _Availabilities()


@router.get("/backends", response_model=models.BackendPage)
def list_backends(context: Ctx, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> Response:
    """Every backend: whether it can be used, who serves it, what waits for it, what is wrong."""
    after = decode("backends", cursor, text_key)
    with context.database.read() as unit:
        states = views.backend_states(unit)
    available = _availabilities.get(context.settings)
    found = [
        Row(name, json.dumps(_backend(name, context, available.get(name), states.get(name))))
        for name in sorted(available.keys() | states.keys())
        if after is None or name > after
    ]
    return page("backends", found[: limit + 1], limit)


def _backend(name: str, context: Context, known: Availability | None, state: BackendState | None) -> dict[str, Any]:
    known = known or Availability(False, "is not installed where this process runs")
    return {
        "name": name,
        "default": name == context.settings.hpc_backend,
        "available": known.available,
        "reason": known.reason,
        "installation_hint": known.installation_hint,
        **asdict(state or BackendState()),
        "queues": stored_queues(context.doorbell, name),
    }


@router.get("/attention", response_model=AttentionPage)
def list_attention(context: Ctx, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> Response:
    """Step runs that wait for something that only a person can do, such as releasing a held job; the oldest first.

    Also those whose cancel is not confirmed for long, and those that have left a job which does not stop.
    """
    after = decode("attention", cursor, uuid_key)
    with context.database.read() as unit:
        found = attention_page(unit, after, limit + 1)
    return page("attention", found, limit)


@router.get("/workers", response_model=models.WorkerPage)
def list_workers(context: Ctx, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> Response:
    """Every worker that has given a sign of life lately."""
    after = decode("workers", cursor, text_key)
    with context.database.read() as unit:
        found = views.workers_page(unit, after, limit + 1)
    return page("workers", found, limit)


@router.get("/dashboard/summary", response_model=models.Summary)
def get_summary(context: Ctx) -> Response:
    """Runs of the last 24 hours, what is going on, what waits longest, what failed last."""
    with context.database.read() as unit:
        text = views.summary(unit)
        states = views.backend_states(unit)
        attention = attention_count(unit)
    backends = json.dumps([{"name": name, **asdict(state)} for name, state in states.items()])
    return json_response(f'{text[:-1]}, "attention": {attention}, "backends": {backends}}}')
