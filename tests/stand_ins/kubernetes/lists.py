"""Lists, page by page, and watches."""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Callable, Iterator
from queue import Empty
from typing import TypeAlias

from tests.stand_ins.kubernetes import answers
from tests.stand_ins.kubernetes.answers import Resource, bad_request
from tests.stand_ins.kubernetes.exchange import Cut, Request
from tests.stand_ins.kubernetes.models import Object
from tests.stand_ins.kubernetes.selectors import Selector, selector
from tests.stand_ins.kubernetes.store import (
    ADDED,
    DELETED,
    MODIFIED,
    Change,
    Feed,
    Store,
    key_of,
)

Shape: TypeAlias = Callable[[Object], Object]
"""How an object is shown in a watch: itself, or as a row of a table."""

_LONGEST_WATCH = 1800.0
_BOOKMARK_SECONDS = 60.0


def list_objects(store: Store, resource: Resource, namespace: str, request: Request) -> Object:
    """Raises BadRequest and, for a continue token from before the history was forgotten, Expired."""
    chosen = selector(resource, request.query.get("labelSelector", ""), request.query.get("fieldSelector", ""))
    selective = bool(request.query.get("labelSelector") or request.query.get("fieldSelector"))
    token = request.query.get("continue", "")
    with store.lock:
        version = store.version
        start = ""
        if token:
            version, start = _read_token(token)
            if 0 <= version < store.known_since(resource):
                raise answers.expired_continue(_token(-1, start))
            version = store.version if version < 0 else version
        items = [item for item in store.all(resource, namespace) if chosen(item) and _place(item) >= start]
    limit = request.number("limit") or 0
    metadata: Object = {"resourceVersion": str(version)}
    if limit and len(items) > limit:
        metadata["continue"] = _token(version, _place(items[limit - 1]) + "\0")
        if not selective:
            metadata["remainingItemCount"] = len(items) - limit
        items = items[:limit]
    return {
        "kind": f"{resource.kind}List",
        "apiVersion": resource.api_version,
        "metadata": metadata,
        "items": [{key: value for key, value in item.items() if key not in ("kind", "apiVersion")} for item in items],
    }


def _place(item: Object) -> str:
    return "/".join(key_of(item)) if key_of(item)[0] else key_of(item)[1]


def _token(version: int, start: str) -> str:
    text = json.dumps({"v": "meta.k8s.io/v1", "rv": version, "start": start}, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read_token(token: str) -> tuple[int, str]:
    try:
        content = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        return int(content["rv"]), str(content["start"])
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise bad_request(f"continue key is not valid: {error}") from error


def watch(
    store: Store, resource: Resource, namespace: str, request: Request, expire: str | None, shape: Shape, scale: float
) -> Iterator[bytes]:
    """Events, one a line. Raises BadRequest and (`expire` is "http") Expired before the first one."""
    chosen = selector(resource, request.query.get("labelSelector", ""), request.query.get("fieldSelector", ""))
    since = _since(request)
    seconds = request.number("timeoutSeconds")
    if expire == "http":
        raise answers.expired_version(since or 0, store.version)
    with store.lock:
        try:
            if expire:
                raise answers.expired_version(since or 0, store.version)
            feed = store.subscribe(resource, since)
        except answers.ApiError as error:
            # As the real one does: the answer has begun by then, and an event is all that can be said.
            return iter([_line("ERROR", error.body)])
        first: list[Object] = []
        if since is None:
            first = [item for item in store.all(resource, namespace) if chosen(item)]
        begin = store.version
    watcher = _Watcher(store, resource, namespace, chosen, feed, shape)
    watcher.bookmarks = request.flag("allowWatchBookmarks")
    watcher.pause = _BOOKMARK_SECONDS / scale
    watcher.deadline = time.monotonic() + (seconds if seconds is not None else _LONGEST_WATCH)
    return watcher.lines(first, since or 0, begin, ended_list=request.flag("sendInitialEvents"))


def _since(request: Request) -> int | None:
    text = request.query.get("resourceVersion", "")
    if text in ("", "0") or request.flag("sendInitialEvents"):
        return None
    if not text.isdecimal():
        raise answers.ApiError(
            400, "BadRequest", f'Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax'
        )
    return int(text)


class _Watcher:
    def __init__(
        self, store: Store, resource: Resource, namespace: str, chosen: Selector, feed: Feed, shape: Shape
    ) -> None:
        self.store = store
        self.resource = resource
        self.namespace = namespace
        self.chosen = chosen
        self.feed = feed
        self.shape = shape
        self.bookmarks = False
        self.pause = _BOOKMARK_SECONDS
        self.deadline = 0.0

    def lines(self, first: list[Object], since: int, begin: int, *, ended_list: bool) -> Iterator[bytes]:
        try:
            for item in first:
                yield _line(ADDED, self.shape(item))
            if ended_list:
                yield self._bookmark(begin, {"k8s.io/initial-events-end": "true"})
            while (left := self.deadline - time.monotonic()) > 0:
                try:
                    change = self.feed.get(timeout=min(left, self.pause))
                except Empty:
                    if self.bookmarks and (mark := self._present_bookmark()):
                        yield mark
                    continue
                if change is None:
                    raise Cut
                if change.version > since and (line := self._seen(change)):
                    yield line
            if self.bookmarks and (mark := self._present_bookmark()):
                yield mark
        finally:
            self.store.unsubscribe(self.resource, self.feed)

    def _seen(self, change: Change) -> bytes | None:
        """The change as one who sees only what the selector lets through sees it."""
        if self.namespace and change.object["metadata"].get("namespace") != self.namespace:
            return None
        now = change.type != DELETED and self.chosen(change.object)
        before = change.before is not None and self.chosen(change.before)
        if now:
            return _line(MODIFIED if before else ADDED, self.shape(change.object))
        return _line(DELETED, self.shape(change.object)) if before else None

    def _present_bookmark(self) -> bytes | None:
        with self.store.lock:
            return self._bookmark(self.store.version) if self.feed.empty() else None

    def _bookmark(self, version: int, annotations: Object | None = None) -> bytes:
        metadata: Object = {"resourceVersion": str(version), "creationTimestamp": None}
        if annotations:
            metadata["annotations"] = annotations
        item: Object = {"kind": self.resource.kind, "apiVersion": self.resource.api_version, "metadata": metadata}
        return _line("BOOKMARK", item)


def _line(kind: str, item: Object) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"
