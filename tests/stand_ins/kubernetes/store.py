"""The objects of the cluster, one counter of versions over all of them, and what has changed lately."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TypeAlias

from tests.stand_ins.kubernetes import answers
from tests.stand_ins.kubernetes.answers import Resource
from tests.stand_ins.kubernetes.models import Object

Key: TypeAlias = "tuple[str, str]"
"""Namespace (empty for what has none) and name."""

ADDED, MODIFIED, DELETED = "ADDED", "MODIFIED", "DELETED"

_REMEMBERED = 20_000


@dataclass(frozen=True, slots=True)
class Change:
    """One step of one object. Objects are never changed in place, so both sides can be kept."""

    version: int
    type: str
    object: Object
    before: Object | None


Feed: TypeAlias = "SimpleQueue[Change | None]"
"""What a watch reads; None is the end of it."""


class Store:
    """All objects. Whoever reads and then writes holds `lock` in between."""

    def __init__(self, remembered: int = _REMEMBERED) -> None:
        self.lock = threading.RLock()
        self.version = 1
        self.listeners: list[Callable[[Resource, Change], None]] = []
        self._remembered = remembered
        self._objects: dict[str, dict[Key, Object]] = {}
        self._history: dict[str, deque[Change]] = {}
        self._oldest: dict[str, int] = {}
        self._feeds: dict[str, set[Feed]] = {}

    def find(self, resource: Resource, key: Key) -> Object | None:
        with self.lock:
            return self._objects.get(resource.plural, {}).get(key)

    def get(self, resource: Resource, key: Key) -> Object:
        found = self.find(resource, key)
        if found is None:
            raise answers.not_found(resource, key[1])
        return found

    def all(self, resource: Resource, namespace: str = "") -> list[Object]:
        """In the order of their keys, as etcd has them."""
        with self.lock:
            objects = self._objects.get(resource.plural, {})
            return [objects[key] for key in sorted(objects) if not namespace or key[0] == namespace]

    def create(self, resource: Resource, new: Object) -> Object:
        key = key_of(new)
        with self.lock:
            if self.find(resource, key) is not None:
                raise answers.already_exists(resource, key[1])
            return self._put(resource, key, new, None)

    def change(self, resource: Resource, key: Key, how: Callable[[Object], Object]) -> Object | None:
        """Let `how` make a new object of the present one; None if there is none (any more).

        An object that is being deleted goes when nothing holds it back any more.
        """
        with self.lock:
            before = self.find(resource, key)
            if before is None:
                return None
            after = how(before)
            if after == before:
                return before
            stored = self._put(resource, key, after, before)
            metadata = stored["metadata"]
            gone = metadata.get("deletionTimestamp") and metadata.get("deletionGracePeriodSeconds") == 0
            if gone and not metadata.get("finalizers"):
                return self.remove(resource, key)
            return stored

    def remove(self, resource: Resource, key: Key) -> Object | None:
        """Take an object away at once; the last of it."""
        with self.lock:
            before = self._objects.get(resource.plural, {}).pop(key, None)
            if before is None:
                return None
            self.version += 1
            last = {**before, "metadata": {**before["metadata"], "resourceVersion": str(self.version)}}
            self._tell(resource, Change(self.version, DELETED, last, before))
            return last

    def subscribe(self, resource: Resource, since: int | None) -> Feed:
        """What has changed since a version, and what will. Raises Expired for a version of too long ago."""
        feed: Feed = SimpleQueue()
        with self.lock:
            if since is not None:
                oldest = self._oldest.get(resource.plural, 0)
                if since < oldest:
                    raise answers.expired_version(since, oldest)
                for change in self._history.get(resource.plural, ()):
                    if change.version > since:
                        feed.put(change)
            self._feeds.setdefault(resource.plural, set()).add(feed)
        return feed

    def unsubscribe(self, resource: Resource, feed: Feed) -> None:
        with self.lock:
            self._feeds.get(resource.plural, set()).discard(feed)

    def close_feeds(self) -> None:
        """End all watches that are open now."""
        with self.lock:
            for feeds in self._feeds.values():
                for feed in feeds:
                    feed.put(None)

    def forget_history(self) -> None:
        """Compact: nothing from before this moment is known any more."""
        with self.lock:
            # One step further, so that even the present version is one of the past.
            self.version += 1
            for resource in answers.RESOURCES:
                self._history.pop(resource.plural, None)
                self._oldest[resource.plural] = self.version

    def known_since(self, resource: Resource) -> int:
        with self.lock:
            return self._oldest.get(resource.plural, 0)

    def _put(self, resource: Resource, key: Key, new: Object, before: Object | None) -> Object:
        self.version += 1
        stored = {**new, "metadata": {**new["metadata"], "resourceVersion": str(self.version)}}
        self._objects.setdefault(resource.plural, {})[key] = stored
        self._tell(resource, Change(self.version, MODIFIED if before is not None else ADDED, stored, before))
        return stored

    def _tell(self, resource: Resource, change: Change) -> None:
        history = self._history.setdefault(resource.plural, deque())
        history.append(change)
        if len(history) > self._remembered:
            self._oldest[resource.plural] = history.popleft().version
        for feed in self._feeds.get(resource.plural, ()):
            feed.put(change)
        for listener in self.listeners:
            listener(resource, change)


def key_of(item: Object) -> Key:
    metadata = item["metadata"]
    return metadata.get("namespace", ""), metadata["name"]
