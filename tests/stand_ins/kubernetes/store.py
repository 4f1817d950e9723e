"""The objects of the cluster, one counter of versions over all of them, and their latest changes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TypeAlias

from tests.stand_ins.kubernetes import errors
from tests.stand_ins.kubernetes.objects import STORED, Key, Object, Resource, key_of

ADDED, MODIFIED, DELETED = "ADDED", "MODIFIED", "DELETED"

_REMEMBERED = 20_000


@dataclass(frozen=True, slots=True)
class Change:
    """One step of one object."""

    version: int
    type: str
    object: Object
    before: Object | None


Feed: TypeAlias = "SimpleQueue[Change | None]"
"""What a watch reads; None is the end of it."""


class Store:
    """All objects. A caller that reads and then writes holds `lock` in between."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.version = 1
        self.listeners: list[Callable[[Resource, Change], None]] = []
        self._objects: dict[Resource, dict[Key, Object]] = {each: {} for each in STORED}
        self._history: dict[Resource, deque[Change]] = {each: deque() for each in STORED}
        self._oldest: dict[Resource, int] = dict.fromkeys(STORED, 0)
        self._feeds: dict[Resource, set[Feed]] = {each: set() for each in STORED}

    def find(self, resource: Resource, key: Key) -> Object | None:
        with self.lock:
            return self._objects[resource].get(key)

    def get(self, resource: Resource, key: Key) -> Object:
        """Raises NotFound."""
        found = self.find(resource, key)
        if found is None:
            raise errors.not_found(resource, key[1])
        return found

    def all(self, resource: Resource, namespace: str = "") -> list[Object]:
        """In the order of their keys, as etcd has them."""
        with self.lock:
            objects = self._objects[resource]
            return [objects[key] for key in sorted(objects) if not namespace or key[0] == namespace]

    def create(self, resource: Resource, new: Object) -> Object:
        """Raises AlreadyExists."""
        key = key_of(new)
        with self.lock:
            if self.find(resource, key) is not None:
                raise errors.already_exists(resource, key[1])
            return self._put(resource, key, new, None)

    def change(self, resource: Resource, key: Key, how: Callable[[Object], Object]) -> Object | None:
        """Let `how` make a new object of the present one. Returns None if there is none (any more).

        Removes an object that is being deleted when nothing holds it back any more.
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
        """Take an object away at once. Returns its last version."""
        with self.lock:
            before = self._objects[resource].pop(key, None)
            if before is None:
                return None
            self.version += 1
            last = {**before, "metadata": {**before["metadata"], "resourceVersion": str(self.version)}}
            self._publish(resource, Change(self.version, DELETED, last, before))
            return last

    def subscribe(self, resource: Resource, since: int | None) -> Feed:
        """The changes since a version, and all later ones. Raises Expired if that version is too old."""
        feed: Feed = SimpleQueue()
        with self.lock:
            if since is not None:
                if since < self._oldest[resource]:
                    raise errors.expired_version(since, self._oldest[resource])
                for change in self._history[resource]:
                    if change.version > since:
                        feed.put(change)
            self._feeds[resource].add(feed)
        return feed

    def unsubscribe(self, resource: Resource, feed: Feed) -> None:
        with self.lock:
            self._feeds[resource].discard(feed)

    def close_feeds(self) -> None:
        """End all watches that are open now."""
        with self.lock:
            for feed in [feed for feeds in self._feeds.values() for feed in feeds]:
                feed.put(None)

    def forget_history(self) -> None:
        """Compact: nothing from before this moment is known any more."""
        with self.lock:
            # One step further, so that even the present version is one of the past.
            self.version += 1
            for resource in STORED:
                self._history[resource].clear()
                self._oldest[resource] = self.version

    def known_since(self, resource: Resource) -> int:
        with self.lock:
            return self._oldest[resource]

    def _put(self, resource: Resource, key: Key, new: Object, before: Object | None) -> Object:
        self.version += 1
        stored = {**new, "metadata": {**new["metadata"], "resourceVersion": str(self.version)}}
        self._objects[resource][key] = stored
        self._publish(resource, Change(self.version, MODIFIED if before is not None else ADDED, stored, before))
        return stored

    def _publish(self, resource: Resource, change: Change) -> None:
        history = self._history[resource]
        history.append(change)
        if len(history) > _REMEMBERED:
            self._oldest[resource] = history.popleft().version
        for feed in self._feeds[resource]:
            feed.put(change)
        for listener in self.listeners:
            listener(resource, change)
