"""Faults on demand: what goes wrong in a cluster, one method for each."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.stand_ins.kubernetes import errors
from tests.stand_ins.kubernetes.errors import ApiError
from tests.stand_ins.kubernetes.http_server import Answer, Cut, Request

_PROXY_PAGE = b"<html><body><h1>Welcome to the proxy of the site</h1></body></html>"


@dataclass(frozen=True, slots=True)
class ClusterFaults:
    """What breaks other parts of the cluster than its HTTP."""

    close_watches: Callable[[], None]
    forget_history: Callable[[], None]
    expire_tokens: Callable[[bool], None]
    lose_node: Callable[[str], None]
    return_node: Callable[[str], None]
    remove_node: Callable[[str], None]
    evict: Callable[[str, str], None]
    drain: Callable[[str, str], None]


@dataclass(slots=True)
class _Armed:
    """A fault and how many requests it is still to hit."""

    fault: str
    count: int | None
    method: str | None
    path: str | None
    value: Any = None

    def hits(self, request: Request) -> bool:
        return self.method in (None, request.method) and (self.path is None or self.path in request.path)


class FaultInjector:
    """Used by tests and by the threads of all requests at once.

    `method` and `path` (a part of it) choose the requests; without them, the next ones are hit.
    `count` is how many requests are hit; None means all of them until `clear`.
    """

    def __init__(self, cluster: ClusterFaults) -> None:
        self._cluster = cluster
        self._lock = threading.Lock()
        self._armed: list[_Armed] = []
        self._forbidden: set[tuple[str, str]] = set()

    # --- faults of requests ------------------------------------------------------------------------------------------

    def too_many_requests(
        self, count: int | None = 1, *, retry_after: int | str = 1, method: str | None = None, path: str | None = None
    ) -> None:
        """429 as text/plain with Retry-After."""
        self._arm(_Armed("too_many_requests", count, method, path, retry_after))

    def server_error(
        self, count: int | None = 1, *, status: int = 500, method: str | None = None, path: str | None = None
    ) -> None:
        """500, 503, ... with a Status."""
        self._arm(_Armed("server_error", count, method, path, status))

    def drop(self, count: int | None = 1, *, method: str | None = None, path: str | None = None) -> None:
        """Close the connection without an answer, and do nothing."""
        self._arm(_Armed("drop", count, method, path))

    def lose_answer(self, count: int | None = 1, *, method: str | None = "POST", path: str | None = None) -> None:
        """Carry out the request, but close the connection without an answer."""
        self._arm(_Armed("lose_answer", count, method, path))

    def conflict(self, count: int | None = 1, *, method: str, path: str | None = None) -> None:
        """409 Conflict on the next writes."""
        self._arm(_Armed("conflict", count, method, path))

    def deny(self, words: str, count: int | None = 1, *, method: str | None = "POST", path: str | None = None) -> None:
        """403 in the words of an admission webhook or a quota."""
        self._arm(_Armed("deny", count, method, path, words))

    def garbage(self, count: int | None = 1, *, method: str | None = None, path: str | None = None) -> None:
        """200 and a page that is not JSON, as a proxy in front of the cluster might send."""
        self._arm(_Armed("garbage", count, method, path))

    def expire_watches(self, how: str = "event", count: int | None = 1) -> None:
        """410 on the next watches: `event` is an ERROR event on HTTP 200, `http` is HTTP 410."""
        self._arm(_Armed("expire_watches", count, None, None, how))

    def forbid(self, verb: str, resource: str) -> None:
        """403 for this verb (get, list, watch, create, delete, ...) on this resource (jobs, pods/log, ...)."""
        with self._lock:
            self._forbidden.add((verb, resource))

    def clear(self) -> None:
        """No more faults. Lost nodes stay lost, expired tokens stay expired."""
        with self._lock:
            self._armed.clear()
            self._forbidden.clear()

    # --- faults of the cluster ---------------------------------------------------------------------------------------

    def close_watches(self) -> None:
        """Close the connection of every watch that is open now, in the middle of the stream."""
        self._cluster.close_watches()

    def forget_history(self) -> None:
        """Compact: watches from older versions and the continue tokens so far have expired."""
        self._cluster.forget_history()

    def expire_tokens(self, *, renew: bool = True) -> None:
        """401 for every token so far. `renew` writes a new one into the kubeconfig and the token file."""
        self._cluster.expire_tokens(renew)

    def lose_node(self, name: str = "n1") -> None:
        """The kubelet of this node falls silent; its containers go on."""
        self._cluster.lose_node(name)

    def return_node(self, name: str = "n1") -> None:
        """The kubelet of a lost node reports again."""
        self._cluster.return_node(name)

    def remove_node(self, name: str = "n1") -> None:
        """The node is gone for ever, its processes with it, and its pods are removed."""
        self._cluster.remove_node(name)

    def evict(self, pod: str, namespace: str = "default") -> None:
        """The kubelet evicts a pod because memory is short on the node."""
        self._cluster.evict(namespace, pod)

    def drain(self, pod: str, namespace: str = "default") -> None:
        """`kubectl drain` evicts a pod through the Eviction API."""
        self._cluster.drain(namespace, pod)

    # --- asked by the server -----------------------------------------------------------------------------------------

    def forbids(self, verb: str, resource: str) -> bool:
        return (verb, resource) in self._forbidden

    def before(self, request: Request) -> Answer | None:
        """An answer in place of the real one, or None. Raises Cut for no answer at all."""
        if self._take("drop", request):
            raise Cut
        if found := self._take("too_many_requests", request):
            headers = {"Retry-After": str(found.value), "X-Content-Type-Options": "nosniff"}
            text = b"Too many requests, please try again later.\n"
            return Answer(429, text, "text/plain; charset=utf-8", headers)
        if found := self._take("server_error", request):
            return Answer(found.value, errors.unavailable(found.value).body)
        if found := self._take("deny", request):
            return Answer(403, ApiError(403, "Forbidden", found.value, {}).body)
        if self._take("garbage", request):
            return Answer(200, _PROXY_PAGE, "text/html")
        return None

    def after(self, request: Request) -> None:
        """Called when the request has been carried out. Raises Cut if the answer shall be lost."""
        if self._take("lose_answer", request):
            raise Cut

    def conflicts(self, request: Request) -> bool:
        return self._take("conflict", request) is not None

    def on_watch(self, request: Request) -> str | None:
        """How this watch shall have expired (`event` or `http`), or None."""
        found = self._take("expire_watches", request)
        return found.value if found else None

    def _arm(self, fault: _Armed) -> None:
        with self._lock:
            self._armed.append(fault)

    def _take(self, fault: str, request: Request) -> _Armed | None:
        with self._lock:
            found = next((one for one in self._armed if one.fault == fault and one.hits(request)), None)
            if found is not None and found.count is not None:
                found.count -= 1
                if found.count <= 0:
                    self._armed.remove(found)
            return found
