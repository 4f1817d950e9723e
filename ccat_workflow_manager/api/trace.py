"""What is observed of each request: its time, and its span, whose trace its runs keep."""

from __future__ import annotations

import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ccat_workflow_manager import metrics, tracing
from ccat_workflow_manager.api.metrics import route_of

_NO_SPANS = ("/healthz", "/readyz", "/metrics", "/static/")
_FAILED = 500


class Observed:
    """Middleware: measures the time until a response begins, by the template of its route.

    Continues the trace of the header `traceparent`, or begins one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, span = time.perf_counter(), tracing.Span()

        async def send_and_note(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = route_of(scope)
                metrics.http_answered(route, message["status"], time.perf_counter() - began)
                span.name = f"{scope['method']} {route}"
                span.attributes = {
                    "http.request.method": scope["method"],
                    "http.route": route,
                    "http.response.status_code": message["status"],
                }
                span.failed = message["status"] >= _FAILED
            await send(message)

        if scope["path"].startswith(_NO_SPANS):
            await self._app(scope, receive, send_and_note)
            return
        span.name = f"{scope['method']} unanswered"
        with tracing.request(Headers(scope=scope).get("traceparent"), span):
            await self._app(scope, receive, send_and_note)
