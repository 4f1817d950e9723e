"""Faults on demand: what goes wrong in a cluster, one method for each.

The same methods work on a server in this process and, through `POST /_faults`, on one in another process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Faults:
    """Asks for faults. `method` and `path` (a part of it) choose the requests; without them, the next ones are hit.

    `count` is how many requests are hit; None means all of them until `clear`.
    """

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        self._send = send

    def too_many_requests(
        self, count: int | None = 1, *, retry_after: int = 1, method: str | None = None, path: str | None = None
    ) -> None:
        """429 as text/plain with Retry-After."""
        self._request("too_many_requests", count, method, path, retry_after=retry_after)

    def server_error(
        self, count: int | None = 1, *, status: int = 500, method: str | None = None, path: str | None = None
    ) -> None:
        """500, 503, ... with a Status."""
        self._request("server_error", count, method, path, status=status)

    def drop(self, count: int | None = 1, *, method: str | None = None, path: str | None = None) -> None:
        """The connection is closed without an answer, and nothing is done."""
        self._request("drop", count, method, path)

    def lose_answer(self, count: int | None = 1, *, method: str | None = "POST", path: str | None = None) -> None:
        """The request is carried out, but the answer never comes: the connection is closed."""
        self._request("lose_answer", count, method, path)

    def slow(
        self, seconds: float, count: int | None = 1, *, method: str | None = None, path: str | None = None
    ) -> None:
        """The answer comes late."""
        self._request("slow", count, method, path, seconds=seconds)

    def conflict(self, count: int | None = 1, *, method: str | None = None, path: str | None = None) -> None:
        """409 Conflict on the next writes."""
        self._request("conflict", count, method, path)

    def deny(self, words: str, count: int | None = 1, *, method: str | None = "POST", path: str | None = None) -> None:
        """403 in the words of what admits objects to the cluster: a webhook, a quota."""
        self._request("deny", count, method, path, words=words)

    def garbage(self, count: int | None = 1, *, method: str | None = None, path: str | None = None) -> None:
        """200 and a page that is not JSON, as a proxy in front of the cluster might send."""
        self._request("garbage", count, method, path)

    def expire_watches(self, how: str = "event", count: int | None = 1) -> None:
        """410 on the next watches: `event` is an ERROR event on HTTP 200, `http` is HTTP 410."""
        self._send({"fault": "expire_watches", "how": how, "count": count})

    def close_watches(self) -> None:
        """Close the connection of every watch that is open now, in the middle of the stream."""
        self._send({"fault": "close_watches"})

    def forget_history(self) -> None:
        """Compact: watches from older versions and continue tokens that were handed out have expired."""
        self._send({"fault": "forget_history"})

    def forbid(self, verb: str, resource: str) -> None:
        """403 for this verb (get, list, watch, create, patch, delete, ...) on this resource (jobs, pods/log, ...)."""
        self._send({"fault": "forbid", "verb": verb, "resource": resource})

    def expire_tokens(self, *, renew: bool = True) -> None:
        """401 for every token known so far; `renew` writes a new one into the kubeconfig and the token file."""
        self._send({"fault": "expire_tokens", "renew": renew})

    def lose_node(self, name: str = "n1") -> None:
        """The kubelet of this node is no longer heard of; what it runs goes on."""
        self._send({"fault": "lose_node", "name": name})

    def return_node(self, name: str = "n1") -> None:
        """The kubelet of a lost node is back."""
        self._send({"fault": "return_node", "name": name})

    def remove_node(self, name: str = "n1") -> None:
        """The node is gone for ever, its processes with it, and its pods are removed."""
        self._send({"fault": "remove_node", "name": name})

    def evict(self, pod: str, namespace: str = "default") -> None:
        """The kubelet evicts a pod because memory is short on the node."""
        self._send({"fault": "evict", "pod": pod, "namespace": namespace})

    def clear(self) -> None:
        """No more faults; lost nodes stay lost, expired tokens stay expired."""
        self._send({"fault": "clear"})

    def _request(self, fault: str, count: int | None, method: str | None, path: str | None, **how: Any) -> None:
        self._send({"fault": fault, "count": count, "method": method, "path": path, **how})
