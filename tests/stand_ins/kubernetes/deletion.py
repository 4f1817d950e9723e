"""Deleting: gracefully for pods; for Jobs in the background, in the foreground, or leaving the pods as orphans."""

from __future__ import annotations

from collections import defaultdict
from functools import partial

from tests.stand_ins.kubernetes import pod_status
from tests.stand_ins.kubernetes.admission import TRACKING
from tests.stand_ins.kubernetes.clockwork import Clockwork, stamp
from tests.stand_ins.kubernetes.objects import (
    JOBS,
    PODS,
    Key,
    Object,
    Resource,
    is_being_deleted,
    is_owned,
    key_of,
    owners_of,
)
from tests.stand_ins.kubernetes.store import ADDED, DELETED, Change, Store

_FOREGROUND, _ORPHAN = "foregroundDeletion", "orphan"


class Deletion:
    """Deletions as the API begins them, and the garbage collector."""

    def __init__(self, store: Store, clockwork: Clockwork) -> None:
        self.store = store
        self.clockwork = clockwork
        self._pods: dict[str, set[Key]] = defaultdict(set)
        """Uid of an owner -> its pods."""

    def on_change(self, resource: Resource, change: Change) -> None:
        """Called by the store for every change."""
        if resource is not PODS:
            return
        key = key_of(change.object)
        for owner in owners_of(change.object):
            uid = owner["uid"]
            if change.type == ADDED:
                self._pods[uid].add(key)
            elif change.type == DELETED:
                self._pods[uid].discard(key)
                self.clockwork.soon(("foreground", uid), partial(self._foreground, (key[0], owner["name"]), uid))

    def delete_pod(
        self, key: Key, grace: int | None = None, disruption: tuple[str, str] | None = None
    ) -> Object | None:
        """Returns the pod as it is then, or None if there is none."""

        def mark(pod: Object) -> Object:
            metadata, spec = pod["metadata"], pod["spec"]
            seconds = spec["terminationGracePeriodSeconds"] if grace is None else grace
            if not spec.get("nodeName") or pod_status.is_over(pod):
                seconds = 0
            if is_being_deleted(pod):
                seconds = min(seconds, metadata["deletionGracePeriodSeconds"])
            when = metadata.get("deletionTimestamp", stamp())
            marks = {"deletionTimestamp": when, "deletionGracePeriodSeconds": seconds}
            changed = {**pod, "metadata": {**metadata, **marks}}
            if disruption:
                changed["status"] = pod_status.condition(pod["status"], "DisruptionTarget", "True", *disruption)
            return changed

        return self.store.change(PODS, key, mark)

    def delete_job(self, key: Key, policy: str, uid: str | None = None) -> Object | None:
        """Returns the Job as it is then, or None if there is none. Its pods follow later."""
        with self.store.lock:
            job = self.store.find(JOBS, key)
            if job is None or (uid is not None and job["metadata"]["uid"] != uid):
                return None
            own = job["metadata"]["uid"]
            if policy == "Background":
                self.clockwork.soon(("background", own), partial(self._background, own))
                return self.store.remove(JOBS, key)
            finalizer, follow = (_FOREGROUND, self._foreground) if policy == "Foreground" else (_ORPHAN, self._orphan)
            marked = self.store.change(JOBS, key, partial(_marked, finalizer=finalizer))
            self.clockwork.soon((finalizer, own), partial(follow, key, own))
            return marked

    def _background(self, uid: str) -> None:
        for pod in self._owned(uid):
            # Without its Job, a pod is not counted any more.
            self.store.change(PODS, key_of(pod), uncounted)
            self.delete_pod(key_of(pod))

    def _foreground(self, key: Key, uid: str) -> None:
        job = self.store.find(JOBS, key)
        if job is None or job["metadata"]["uid"] != uid or _FOREGROUND not in job["metadata"].get("finalizers", ()):
            return
        for pod in self._owned(uid):
            if not is_being_deleted(pod):
                self.delete_pod(key_of(pod))
        if not self._owned(uid):
            # The job controller counts the pods before the Job goes.
            self.clockwork.soon(("gone", uid), partial(self._gone, key))

    def _orphan(self, key: Key, uid: str) -> None:
        for pod in self._owned(uid):
            self.store.change(PODS, key_of(pod), partial(_without_owner, uid=uid))
        self.clockwork.soon(("gone", uid), partial(self._gone, key))

    def _gone(self, key: Key) -> None:
        self.store.remove(JOBS, key)

    def _owned(self, uid: str) -> list[Object]:
        with self.store.lock:
            pods = [self.store.find(PODS, key) for key in sorted(self._pods.get(uid, ()))]
        return [pod for pod in pods if pod is not None and is_owned(pod, uid)]


def uncounted(pod: Object) -> Object:
    """The pod without the finalizer by which the job controller holds it."""
    return _with_list(pod, "finalizers", [one for one in pod["metadata"].get("finalizers", ()) if one != TRACKING])


def _without_owner(pod: Object, uid: str) -> Object:
    return uncounted(_with_list(pod, "ownerReferences", [one for one in owners_of(pod) if one["uid"] != uid]))


def _with_list(item: Object, name: str, values: list[object]) -> Object:
    """An empty list in the metadata is left out."""
    metadata = {key: value for key, value in item["metadata"].items() if key != name}
    return {**item, "metadata": metadata | ({name: values} if values else {})}


def _marked(job: Object, finalizer: str) -> Object:
    metadata = job["metadata"]
    finalizers = list(dict.fromkeys([*metadata.get("finalizers", ()), finalizer]))
    when = metadata.get("deletionTimestamp", stamp())
    marks = {"deletionTimestamp": when, "deletionGracePeriodSeconds": 0, "finalizers": finalizers}
    return {**job, "metadata": {**metadata, **marks}}
