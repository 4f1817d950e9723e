"""Where faults wait for their requests."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from tests.stand_ins.kubernetes import answers
from tests.stand_ins.kubernetes.answers import ApiError, Resource
from tests.stand_ins.kubernetes.exchange import Answer, Cut, Request

_PAGE = b"<html><body><h1>Welcome to the proxy of the site</h1></body></html>"


@dataclass(slots=True)
class Waiting:
    """One fault and how many requests it is still to hit."""

    fault: str
    count: int | None
    method: str | None = None
    path: str | None = None
    how: dict[str, Any] = field(default_factory=dict)

    def fits(self, request: Request) -> bool:
        if self.fault == "conflict" and request.method not in ("POST", "PUT", "PATCH", "DELETE"):
            return False
        return self.method in (None, request.method) and (self.path is None or self.path in request.path)


class FaultInjector:
    """Used by the threads of all requests at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Waiting] = []
        self._forbidden: set[tuple[str, str]] = set()

    def put(self, order: dict[str, Any]) -> None:
        """A fault for requests, as `Faults` sends it."""
        known = {"fault", "count", "method", "path"}
        how = {key: value for key, value in order.items() if key not in known}
        with self._lock:
            self._waiting.append(
                Waiting(order["fault"], order.get("count", 1), order.get("method"), order.get("path"), how)
            )

    def forbid(self, verb: str, resource: str) -> None:
        with self._lock:
            self._forbidden.add((verb, resource))

    def forbids(self, verb: str, resource: str) -> bool:
        return (verb, resource) in self._forbidden

    def clear(self) -> None:
        with self._lock:
            self._waiting.clear()
            self._forbidden.clear()

    def before(self, request: Request) -> Answer | None:
        """An answer in place of the real one, or None. Raises Cut for none at all."""
        if found := self._take("slow", request):
            threading.Event().wait(found.how["seconds"])
        if self._take("drop", request):
            raise Cut
        if found := self._take("too_many_requests", request):
            headers = {"Retry-After": str(found.how["retry_after"]), "X-Content-Type-Options": "nosniff"}
            text = b"Too many requests, please try again later.\n"
            return Answer(429, text, "text/plain; charset=utf-8", headers)
        if found := self._take("server_error", request):
            return Answer(found.how["status"], _trouble(found.how["status"]).body)
        if found := self._take("deny", request):
            return Answer(403, ApiError(403, "Forbidden", found.how["words"], {}).body)
        if self._take("garbage", request):
            return Answer(200, _PAGE, "text/html")
        return None

    def after(self, request: Request) -> None:
        """Once the request has been carried out. Raises Cut if nobody shall hear of it."""
        if self._take("lose_answer", request):
            raise Cut

    def on_write(self, request: Request, resource: Resource, name: str) -> None:
        """Raises Conflict."""
        if self._take("conflict", request):
            raise answers.stale(resource, name)

    def on_watch(self, request: Request) -> str | None:
        """How this watch shall have expired: `event`, `http`, or None for not."""
        found = self._take("expire_watches", request)
        return str(found.how["how"]) if found else None

    def _take(self, fault: str, request: Request) -> Waiting | None:
        with self._lock:
            for one in self._waiting:
                if one.fault == fault and one.fits(request):
                    if one.count is not None:
                        one.count -= 1
                        if one.count <= 0:
                            self._waiting.remove(one)
                    return one
        return None


def _trouble(status: int) -> ApiError:
    if status == 503:
        return ApiError(503, "ServiceUnavailable", "the server is currently unable to handle the request", {})
    if status == 504:
        return ApiError(504, "Timeout", "Timeout: request did not complete within the allotted timeout", {})
    return ApiError(status, "InternalError", "Internal error occurred: etcdserver: request timed out", {})
