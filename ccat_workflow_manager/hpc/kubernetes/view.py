"""The Jobs and pods of a namespace, kept up to date by a watch for each kind, or by lists of both.

One view serves all jobs of a process. It answers without a call as long as the watches stand and it has every job that
is asked for; otherwise it lists both kinds once, for all jobs together.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar

from ccat_workflow_manager.errors import BackendConfused, BackendError
from ccat_workflow_manager.hpc.base import JobSeen
from ccat_workflow_manager.hpc.kubernetes.answers import Expired
from ccat_workflow_manager.hpc.kubernetes.client import KubernetesClient, Watching
from ccat_workflow_manager.hpc.kubernetes.manifest import SELECTOR
from ccat_workflow_manager.hpc.kubernetes.objects import JobKey, SeenJob, SeenPod, read_job, read_pod
from ccat_workflow_manager.hpc.note_store import REMEMBERED
from ccat_workflow_manager.lifecycle.models import JOB_PREFIX

log = logging.getLogger(__name__)

S = TypeVar("S", SeenJob, SeenPod)
OnJob: TypeAlias = "Callable[[str], None]"
"""Gets the name of a Job that has ended or is gone, with all of its pods."""

_PAUSES = (0.2, 1.0, 5.0, 15.0)
_SHORTEST_POLL = 0.5


@dataclass(slots=True)
class _Kind(Generic[S]):
    """All objects of one kind, by Job and then by name."""

    kind: str
    read: Callable[[Mapping[str, Any]], S]
    groups: dict[str, dict[str, S]] = field(default_factory=dict)
    version: str | None = None
    """The resource version of `groups`; None: it has to be listed."""
    generation: int = 0
    """Counts the lists. Events of a watch that began before the last list are dropped."""
    connected: bool = False
    watching: Watching | None = None

    def put(self, seen: S) -> None:
        self.groups.setdefault(seen.group, {})[seen.name] = seen

    def drop(self, seen: S) -> None:
        group = self.groups.get(seen.group, {})
        group.pop(seen.name, None)
        if not group:
            self.groups.pop(seen.group, None)


class View:
    """Cached Jobs and pods of this service in one namespace."""

    def __init__(self, client: KubernetesClient, namespace: str, *, poll_seconds: float, watch: bool) -> None:
        self.namespace = namespace
        self._client = client
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
        """Removed pods of Jobs that are still there: their ends are not in a later list."""
        self._missing: set[str] = set()
        """Jobs that a list did not contain."""

    # --- asking ------------------------------------------------------------------------------------------------------

    def look(self, names: Collection[str]) -> None:
        """Bring these Jobs up to date, those that do not exist included. Raises BackendError."""
        is_good = self._is_good(names)
        if self._threads or (self._listed_at is not None and not is_good):
            self.begin_watching()
        if is_good:
            return
        self.refresh()
        with self._lock:
            if len(self._missing) > REMEMBERED:
                self._missing.clear()
            self._missing.update(name for name in names if name not in self._jobs.groups)

    def of(self, name: str) -> tuple[SeenJob | None, list[SeenPod]]:
        """A Job and its pods."""
        with self._lock:
            job = self._jobs.groups.get(name, {}).get(name)
            pods = self._departed.get(name, {}) | self._pods.groups.get(name, {})
        return job, list(pods.values())

    def all(self) -> list[tuple[SeenJob | None, list[SeenPod]]]:
        """Every Job with its pods, and the pods whose Job is gone."""
        with self._lock:
            names = [*self._jobs.groups, *(name for name in self._pods.groups if name not in self._jobs.groups)]
        return [self.of(name) for name in names]

    def living(self) -> list[JobSeen]:
        """The jobs of this service that are not over, and those whose Job is gone and whose pods still run."""
        found = []
        for job, pods in self.all():
            alive = any(not pod.over for pod in pods)
            name = job.job_name if job is not None else pods[0].group
            if name.startswith(JOB_PREFIX) and (alive or (job is not None and not job.over)):
                key = JobKey(self.namespace, job.name if job is not None else name)
                found.append(JobSeen(str(key), name, (job or pods[0]).created))
        return found

    def add(self, data: Mapping[str, Any]) -> None:
        """Add a Job that was just created, before the watch shows it."""
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
        """Whether the last list is young enough, or the watches stand."""
        fresh = self._listed_at is not None and time.monotonic() - self._listed_at < self._poll_seconds
        return fresh or self.watched

    def _is_good(self, names: Collection[str]) -> bool:
        with self._lock:
            known = self._jobs.groups.keys() | self._missing
            return self.is_recent and all(name in known for name in names)

    def refresh(self) -> None:
        """List both kinds. One thread at a time does this."""
        with self._listing:
            for kind in (self._jobs, self._pods):
                self._list(kind)
            self._listed_at = time.monotonic()

    def _list(self, kind: _Kind[Any]) -> None:
        listed = self._client.list(kind.kind, self.namespace, SELECTOR)
        seen = [kind.read(item) for item in listed.items]
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
            # The next watch goes on from the version of the list, so that it misses nothing.
            watching.cut()
        self._notify(touched)

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
        """Start the threads that watch, and start those again that have died."""
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
        """Find changes for listeners without a watch."""
        while not self._closed.wait(max(self._poll_seconds, _SHORTEST_POLL)):
            try:
                if self._listeners and not self.is_recent:
                    self.refresh()
            except BackendError as error:
                log.debug("not listing: %s", error)
            except Exception:  # the tick of a loop
                log.exception("listing the jobs in %s failed", self.namespace)

    def _keep_watching(self, kind: _Kind[Any]) -> None:
        failures = 0
        try:
            while not self._closed.is_set():
                failures = 0 if self._watched_again(kind, failures) else failures + 1
        finally:
            # Without this thread a silent watch no longer means that nothing has changed.
            self._disconnect(kind)

    def _watched_again(self, kind: _Kind[Any], failures: int) -> bool:
        """Watch once, from beginning to end. Returns False after a failure and its pause."""
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

    def _watch_once(self, kind: _Kind[Any]) -> None:
        """Watch until the server or a list ends it. At its regular end the view still counts as connected."""

        def connected() -> None:
            with self._lock:
                kind.connected = kind.generation == generation

        with self._lock:
            version, generation = kind.version or "", kind.generation
            kind.watching = watching = Watching(connected)
        for event in self._client.watch(kind.kind, self.namespace, SELECTOR, version, watching):
            if self._closed.is_set() or not self._apply(kind, event, generation):
                return

    def _apply(self, kind: _Kind[Any], event: Mapping[str, Any], generation: int) -> bool:
        """Take in one event. Returns False if a list has made this watch obsolete."""
        data = event["object"]
        try:
            version = data["metadata"]["resourceVersion"]
            seen = kind.read(data) if event["type"] != "BOOKMARK" else None
        except (KeyError, TypeError) as error:
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
            self._notify([seen.group])
        return True

    def _note_departure(self, seen: SeenJob | SeenPod) -> None:
        if isinstance(seen, SeenJob):
            self._departed.pop(seen.name, None)
        elif seen.group in self._jobs.groups:
            over = seen if seen.over else replace(seen, phase="Failed", running=None)
            self._departed.setdefault(seen.group, {})[seen.name] = over

    def _disconnect(self, kind: _Kind[Any]) -> None:
        with self._lock:
            kind.connected = False

    def _notify(self, names: Iterable[str]) -> None:
        """Call the listeners for the Jobs that have ended, or are gone, with all of their pods."""
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
