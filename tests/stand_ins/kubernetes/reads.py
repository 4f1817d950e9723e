"""Lists, page by page, and watches."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable, Iterator
from queue import Empty
from typing import TypeAlias

from tests.stand_ins.kubernetes import errors
from tests.stand_ins.kubernetes.errors import bad_request
from tests.stand_ins.kubernetes.http_server import Cut, Request
from tests.stand_ins.kubernetes.objects import Object, Resource, key_of
from tests.stand_ins.kubernetes.store import ADDED, DELETED, MODIFIED, Change, Feed, Store

Selector: TypeAlias = Callable[[Object], bool]

_LONGEST_WATCH = 1800.0
_BOOKMARK_SECONDS = 60.0
_LABEL_IS = re.compile(r"\s*([-A-Za-z0-9_./]+)\s*==?\s*([-A-Za-z0-9_.]*)\s*")


def list_objects(store: Store, resource: Resource, namespace: str, request: Request) -> Object:
    """Raises BadRequest and, for a continue token from before the history was forgotten, Expired."""
    chosen = _selector(request)
    token = request.query.get("continue", "")
    with store.lock:
        version, start = store.version, ""
        if token:
            version, start = _read_token(token)
            if 0 <= version < store.known_since(resource):
                raise errors.expired_continue(_token(-1, start))
            version = store.version if version < 0 else version
        items = [item for item in store.all(resource, namespace) if chosen(item) and _position(item) >= start]
    limit = request.number("limit") or 0
    metadata: Object = {"resourceVersion": str(version)}
    if limit and len(items) > limit:
        metadata["continue"] = _token(version, _position(items[limit - 1]) + "\0")
        if not request.query.get("labelSelector"):
            metadata["remainingItemCount"] = len(items) - limit
        items = items[:limit]
    return {
        "kind": f"{resource.kind}List",
        "apiVersion": resource.api_version,
        "metadata": metadata,
        "items": [{key: value for key, value in item.items() if key not in ("kind", "apiVersion")} for item in items],
    }


def _selector(request: Request) -> Selector:
    """Only equalities, which are all that the backend and the tests use. Raises BadRequest for everything else."""
    wanted: dict[str, str] = {}
    for part in filter(None, request.query.get("labelSelector", "").split(",")):
        match = _LABEL_IS.fullmatch(part)
        if match is None:
            raise bad_request("unable to parse requirement: found '', expected: ',', ')' or identifier")
        wanted[match[1]] = match[2]
    return lambda item: wanted.items() <= (item["metadata"].get("labels") or {}).items()


def _position(item: Object) -> str:
    return "/".join(key_of(item))


def _token(version: int, start: str) -> str:
    text = json.dumps({"v": "meta.k8s.io/v1", "rv": version, "start": start}, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read_token(token: str) -> tuple[int, str]:
    try:
        content = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        return int(content["rv"]), str(content["start"])
    except (ValueError, KeyError, TypeError) as error:
        raise bad_request(f"continue key is not valid: {error}") from error


def watch(
    store: Store, resource: Resource, namespace: str, request: Request, expire: str | None, scale: float
) -> Iterator[bytes]:
    """Events, one a line. Raises BadRequest and (`expire` is "http") Expired before the first one."""
    chosen, since = _selector(request), _since(request)
    seconds = request.number("timeoutSeconds")
    if expire == "http":
        raise errors.expired_version(since or 0, store.version)
    with store.lock:
        try:
            if expire:
                raise errors.expired_version(since or 0, store.version)
            feed = store.subscribe(resource, since)
        except errors.ApiError as error:
            # As a real server does: the answer has begun by then, and an event is all that can be sent.
            return iter([_line("ERROR", error.body)])
        first = [item for item in store.all(resource, namespace) if chosen(item)] if since is None else []
    watcher = _Watcher(store, resource, namespace, chosen, feed)
    watcher.bookmarks = request.flag("allowWatchBookmarks")
    watcher.pause = _BOOKMARK_SECONDS / scale
    watcher.deadline = time.monotonic() + (seconds if seconds is not None else _LONGEST_WATCH)
    return watcher.lines(first, since or 0)


def _since(request: Request) -> int | None:
    text = request.query.get("resourceVersion", "")
    if text in ("", "0"):
        return None
    if not text.isdecimal():
        raise bad_request(f'Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax')
    return int(text)


class _Watcher:
    def __init__(self, store: Store, resource: Resource, namespace: str, chosen: Selector, feed: Feed) -> None:
        self.store = store
        self.resource = resource
        self.namespace = namespace
        self.chosen = chosen
        self.feed = feed
        self.bookmarks = False
        self.pause = _BOOKMARK_SECONDS
        self.deadline = 0.0

    def lines(self, first: list[Object], since: int) -> Iterator[bytes]:
        try:
            for item in first:
                yield _line(ADDED, item)
            while (left := self.deadline - time.monotonic()) > 0:
                try:
                    change = self.feed.get(timeout=min(left, self.pause))
                except Empty:
                    yield from self._bookmark()
                    continue
                if change is None:
                    raise Cut
                if change.version > since and (line := self._shown(change)):
                    yield line
            yield from self._bookmark()
        finally:
            self.store.unsubscribe(self.resource, self.feed)

    def _shown(self, change: Change) -> bytes | None:
        """The change as it looks through the selector."""
        if change.object["metadata"]["namespace"] != self.namespace:
            return None
        now = change.type != DELETED and self.chosen(change.object)
        before = change.before is not None and self.chosen(change.before)
        if now:
            return _line(MODIFIED if before else ADDED, change.object)
        return _line(DELETED, change.object) if before else None

    def _bookmark(self) -> Iterator[bytes]:
        if not self.bookmarks:
            return
        with self.store.lock:
            version = str(self.store.version) if self.feed.empty() else None
        if version is not None:
            metadata = {"resourceVersion": version, "creationTimestamp": None}
            kind = {"kind": self.resource.kind, "apiVersion": self.resource.api_version}
            yield _line("BOOKMARK", {**kind, "metadata": metadata})


def _line(kind: str, item: Object) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"
