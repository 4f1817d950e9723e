"""The span of each request, whose trace its runs keep."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ccat_workflow_manager import tracing
from ccat_workflow_manager.api.metrics import route_of

_NO_SPANS = ("/healthz", "/readyz", "/metrics", "/static/")
_FAILED = 500


class Traced:
    """Middleware: continues the trace of the header `traceparent`, or begins one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(_NO_SPANS):
            await self._app(scope, receive, send)
            return
        with tracing.request(Headers(scope=scope).get("traceparent")) as span:

            async def send_and_note(message: Message) -> None:
                if message["type"] == "http.response.start":
                    route = route_of(scope)
                    span.name = f"{scope['method']} {route}"
                    span.attributes = {
                        "http.request.method": scope["method"],
                        "http.route": route,
                        "http.response.status_code": message["status"],
                    }
                    span.failed = message["status"] >= _FAILED
                await send(message)

            span.name = f"{scope['method']} unanswered"
            await self._app(scope, receive, send_and_note)
