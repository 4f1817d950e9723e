"""What a namespace holds, kept up to date by a watch for Jobs and one for pods, or by listing both.

One view serves all jobs of a process. It answers without a call as long as the watches stand and every job that is
asked for is in it; otherwise both kinds are listed once, for all jobs together.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

from ccat_workflow_manager.errors import BackendConfused, BackendError
from ccat_workflow_manager.hpc.kubernetes.answers import Expired
from ccat_workflow_manager.hpc.kubernetes.calls import Calls, Watching
from ccat_workflow_manager.hpc.kubernetes.manifest import SELECTOR
from ccat_workflow_manager.hpc.kubernetes.observed import SeenJob, SeenPod, read_job, read_pod

log = logging.getLogger(__name__)

Seen: TypeAlias = "SeenJob | SeenPod"
OnJob: TypeAlias = "Callable[[str], None]"
"""Told the name of a Job that is over or gone, or whose pod is."""

_PAUSES = (0.2, 1.0, 5.0, 15.0)
_REMEMBERED = 20_000
_SHORTEST_POLL = 0.5


@dataclass(slots=True)
class _Kind:
    """All objects of one kind, by the Job that they belong to and then by name."""

    kind: str
    read: Callable[[Mapping[str, Any]], Seen]
    groups: dict[str, dict[str, Seen]] = field(default_factory=dict)
    version: str | None = None
    """Up to which `groups` is right; None: to be listed."""
    generation: int = 0
    """Counts the lists: what a watch says that was begun before the last one is not heard."""
    connected: bool = False
    watching: Watching | None = None

    def put(self, seen: Seen) -> None:
        self.groups.setdefault(seen.group, {})[seen.name] = seen

    def drop(self, seen: Seen) -> None:
        group = self.groups.get(seen.group, {})
        group.pop(seen.name, None)
        if not group:
            self.groups.pop(seen.group, None)


class View:
    """One namespace, as far as it is ours."""

    def __init__(self, calls: Calls, namespace: str, *, poll_seconds: float, watch: bool) -> None:
        self.namespace = namespace
        self._calls = calls
        self._poll_seconds = poll_seconds
        self._watch = watch
        self._jobs = _Kind("Job", read_job)
        self._pods = _Kind("Pod", read_pod)
        self._lock = threading.Lock()
        self._listing = threading.Lock()
        self._listed_at: float | None = None
        self._threads: dict[str, threading.Thread] = {}
        self._closed = threading.Event()
        self._listeners: list[OnJob] = []
        self._departed: dict[str, dict[str, SeenPod]] = {}
        """Pods that are gone, of Jobs that are not: how they ended is not said again."""
        self._missing: set[str] = set()
        """Jobs of which a list said that they are not there."""

    # --- asking ------------------------------------------------------------------------------------------------------

    def look(self, names: Collection[str]) -> None:
        """Make sure that these Jobs are known as they are now, or known not to be there. Raises BackendError."""
        if self._is_good(names):
            return
        if self._listed_at is not None:
            self.begin_watching()
        self.refresh()
        with self._lock:
            if len(self._missing) > _REMEMBERED:
                self._missing.clear()
            self._missing.update(name for name in names if name not in self._jobs.groups)

    def of(self, name: str) -> tuple[SeenJob | None, list[SeenPod]]:
        """A Job and its pods."""
        with self._lock:
            job = self._jobs.groups.get(name, {}).get(name)
            pods = self._departed.get(name, {}) | self._pods.groups.get(name, {})
        assert job is None or isinstance(job, SeenJob)
        return job, [pod for pod in pods.values() if isinstance(pod, SeenPod)]

    def all(self) -> list[tuple[SeenJob | None, list[SeenPod]]]:
        """Every Job, and what is left of pods whose Job is gone."""
        with self._lock:
            names = [*self._jobs.groups, *(name for name in self._pods.groups if name not in self._jobs.groups)]
        return [self.of(name) for name in names]

    def add(self, data: Mapping[str, Any]) -> None:
        """A Job that was just created, which the watch may not have told of yet."""
        seen = read_job(data)
        with self._lock:
            if seen.name not in self._jobs.groups:
                self._jobs.put(seen)
                self._missing.discard(seen.name)

    @property
    def watched(self) -> bool:
        return self._jobs.connected and self._pods.connected

    @property
    def is_recent(self) -> bool:
        """Whether there is no need for another list only because time has passed."""
        fresh = self._listed_at is not None and time.monotonic() - self._listed_at < self._poll_seconds
        return fresh or self.watched

    def _is_good(self, names: Collection[str]) -> bool:
        with self._lock:
            known = self._jobs.groups.keys() | self._missing
            return self.is_recent and all(name in known for name in names)

    def refresh(self) -> None:
        """List both kinds. Whoever comes while that is being done waits for it, and then does it again."""
        with self._listing:
            for kind in (self._jobs, self._pods):
                self._list(kind)
            self._listed_at = time.monotonic()

    def _list(self, kind: _Kind) -> None:
        listed = self._calls.list(kind.kind, self.namespace, SELECTOR)
        try:
            seen = [kind.read(item) for item in listed.items]
        except ValueError as error:
            raise BackendConfused(f"the list of {kind.kind}s cannot be read: {error}", backend="kubernetes") from error
        with self._lock:
            before = kind.groups.keys()
            kind.groups = {}
            for each in seen:
                kind.put(each)
            if kind is self._jobs:
                self._missing -= kind.groups.keys()
                for name in self._departed.keys() - kind.groups.keys():
                    del self._departed[name]
            touched = before | kind.groups.keys()
            kind.version = listed.version
            kind.generation += 1
            watching = kind.watching
        if watching is not None:
            # It goes on from the version of the list, so that nothing is missed in between.
            watching.cut()
        self._tell(touched)

    # --- watching ----------------------------------------------------------------------------------------------------

    def listen(self, on_job: OnJob) -> Callable[[], None]:
        with self._lock:
            self._listeners.append(on_job)
        self.begin_watching()

        def stop() -> None:
            with self._lock:
                self._listeners.remove(on_job)

        return stop

    def begin_watching(self) -> None:
        """Start the threads for it; one that has died is started again."""
        duties: dict[str, Callable[[], None]] = {"list jobs": self._keep_listing}
        if self._watch:
            duties = {f"watch {kind.kind}s": partial(self._keep_watching, kind) for kind in (self._jobs, self._pods)}
        with self._lock:
            if self._closed.is_set() or not (self._watch or self._listeners):
                return
            for name, duty in duties.items():
                known = self._threads.get(name)
                if known is None or not known.is_alive():
                    self._threads[name] = threading.Thread(target=duty, name=name, daemon=True)
                    self._threads[name].start()

    def _keep_listing(self) -> None:
        """For listeners, where nothing is watched."""
        while not self._closed.wait(max(self._poll_seconds, _SHORTEST_POLL)):
            try:
                if self._listeners and not self.is_recent:
                    self.refresh()
            except BackendError as error:
                log.debug("not listing: %s", error)
            except Exception:  # the tick of a loop
                log.exception("listing the jobs in %s failed", self.namespace)

    def _keep_watching(self, kind: _Kind) -> None:
        failures = 0
        try:
            while not self._closed.is_set():
                failures = 0 if self._watched_again(kind, failures) else failures + 1
        finally:
            # Whatever ends this thread: nobody may take the silence after it for "nothing has changed".
            self._disconnect(kind)

    def _watched_again(self, kind: _Kind, failures: int) -> bool:
        """One watch, from its beginning to its end; False if it failed and its pause is over."""
        try:
            if kind.version is None:
                self._list(kind)
            began = time.monotonic()
            self._watch_once(kind)
            if time.monotonic() - began < _SHORTEST_POLL:
                self._closed.wait(_SHORTEST_POLL)
            return True
        except Expired:
            log.info("the watch of %ss in %s has to begin anew", kind.kind, self.namespace)
            self._disconnect(kind)
            kind.version = None
            return True
        except BackendError as error:
            log.log(logging.INFO if failures == 0 else logging.DEBUG, "not watching %ss: %s", kind.kind, error)
        except Exception:  # the tick of a loop
            log.exception("watching the %ss in %s failed", kind.kind, self.namespace)
            kind.version = None
        self._disconnect(kind)
        self._closed.wait(_PAUSES[min(failures, len(_PAUSES) - 1)])
        return False

    def _watch_once(self, kind: _Kind) -> None:
        """Until the server or a list ends it. A watch that merely came of age stays connected in between."""

        def connected() -> None:
            with self._lock:
                kind.connected = kind.generation == generation

        with self._lock:
            version, generation = kind.version or "", kind.generation
            kind.watching = watching = Watching(connected)
        for event in self._calls.watch(kind.kind, self.namespace, SELECTOR, version, watching):
            if self._closed.is_set() or not self._apply(kind, event, generation):
                return

    def _apply(self, kind: _Kind, event: Mapping[str, Any], generation: int) -> bool:
        """Take in one event; False if it is none of ours any more."""
        data = event["object"]
        try:
            version = data["metadata"]["resourceVersion"]
            seen = kind.read(data) if event["type"] != "BOOKMARK" else None
        except (ValueError, KeyError, TypeError) as error:
            raise BackendConfused(f"an event cannot be read: {error!r}", backend="kubernetes") from error
        with self._lock:
            if generation != kind.generation:
                return False
            kind.version = version
            if seen is not None and event["type"] == "DELETED":
                kind.drop(seen)
                self._note_departure(seen)
            elif seen is not None:
                kind.put(seen)
                if kind is self._jobs:
                    self._missing.discard(seen.group)
        if seen is not None:
            self._tell([seen.group])
        return True

    def _note_departure(self, seen: Seen) -> None:
        if isinstance(seen, SeenJob):
            self._departed.pop(seen.name, None)
        elif seen.group in self._jobs.groups:
            over = seen if seen.over else replace(seen, phase="Failed")
            self._departed.setdefault(seen.group, {})[seen.name] = over

    def _disconnect(self, kind: _Kind) -> None:
        with self._lock:
            kind.connected = False

    def _tell(self, names: Iterable[str]) -> None:
        """Tell of those that are over, or gone, with all of their pods."""
        listeners = list(self._listeners)
        if not listeners:
            return
        for name in names:
            job, pods = self.of(name)
            if (job is None or job.over) and all(pod.over for pod in pods):
                for listener in listeners:
                    listener(name)

    def close(self) -> None:
        self._closed.set()
        for kind in (self._jobs, self._pods):
            self._disconnect(kind)
            if kind.watching is not None:
                kind.watching.cut()
