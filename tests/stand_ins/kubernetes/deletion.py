"""Deleting: gracefully for pods; for Jobs in the background, in the foreground, or leaving the pods as orphans."""

from __future__ import annotations

from collections import defaultdict
from functools import partial

from tests.stand_ins.kubernetes import pod_status
from tests.stand_ins.kubernetes.answers import JOBS, PODS, Resource
from tests.stand_ins.kubernetes.clock import stamp
from tests.stand_ins.kubernetes.clockwork import Clockwork
from tests.stand_ins.kubernetes.defaults import TRACKING
from tests.stand_ins.kubernetes.models import Object
from tests.stand_ins.kubernetes.store import Change, Key, Store, key_of

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"


class Deletion:
    """The API's side of deletions and the garbage collector."""

    def __init__(self, store: Store, clockwork: Clockwork) -> None:
        self.store = store
        self.clockwork = clockwork
        self._pods: dict[str, set[Key]] = defaultdict(set)
        """Uid of an owner -> its pods."""

    def hear(self, resource: Resource, change: Change) -> None:
        """Called by the store for every change."""
        metadata = change.object["metadata"]
        if resource is not PODS:
            return
        for owner in metadata.get("ownerReferences", ()):
            if change.type == "ADDED":
                self._pods[owner["uid"]].add(key_of(change.object))
            elif change.type == "DELETED":
                self._pods[owner["uid"]].discard(key_of(change.object))
                key = (metadata["namespace"], owner["name"])
                self.clockwork.soon(("foreground", owner["uid"]), partial(self._foreground, key, owner["uid"]))

    def delete_pod(
        self, key: Key, grace: int | None = None, disruption: tuple[str, str] | None = None
    ) -> Object | None:
        """The pod as it is then; None if there is none."""

        def mark(pod: Object) -> Object:
            metadata, spec = pod["metadata"], pod["spec"]
            seconds = spec["terminationGracePeriodSeconds"] if grace is None else grace
            if not spec.get("nodeName") or pod_status.is_over(pod):
                seconds = 0
            if "deletionTimestamp" in metadata:
                seconds = min(seconds, metadata["deletionGracePeriodSeconds"])
            marks = {
                "deletionTimestamp": metadata.get("deletionTimestamp", stamp()),
                "deletionGracePeriodSeconds": seconds,
            }
            changed = {**pod, "metadata": {**metadata, **marks}}
            if disruption:
                changed["status"] = pod_status.condition(pod["status"], "DisruptionTarget", "True", *disruption)
            return changed

        return self.store.change(PODS, key, mark)

    def delete_job(self, key: Key, policy: str, uid: str | None = None) -> Object | None:
        """The Job as it is then; None if there is none. The pods follow by themselves."""
        with self.store.lock:
            job = self.store.find(JOBS, key)
            if job is None or (uid is not None and job["metadata"]["uid"] != uid):
                return None
            own = job["metadata"]["uid"]
            if policy == "Background":
                self.clockwork.soon(("background", own), partial(self._background, own))
                return self.store.remove(JOBS, key)
            finalizer = FOREGROUND if policy == "Foreground" else ORPHAN
            marked = self.store.change(JOBS, key, partial(_marked, finalizer=finalizer))
            follow = self._foreground if policy == "Foreground" else self._orphan
            self.clockwork.soon((finalizer, own), partial(follow, key, own))
            return marked

    def _background(self, uid: str) -> None:
        for pod in self._owned(uid):
            key = key_of(pod)
            # Nobody will count them any more.
            self.store.change(PODS, key, uncounted)
            self.delete_pod(key)

    def _foreground(self, key: Key, uid: str) -> None:
        job = self.store.find(JOBS, key)
        if job is None or job["metadata"]["uid"] != uid or FOREGROUND not in job["metadata"].get("finalizers", ()):
            return
        pods = self._owned(uid)
        for pod in pods:
            if "deletionTimestamp" not in pod["metadata"]:
                self.delete_pod(key_of(pod))
        if not self._owned(uid):
            # The job controller counts what it sees before the Job goes.
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
        return [pod for pod in pods if pod and any(one["uid"] == uid for one in _owners(pod))]


def _owners(pod: Object) -> list[Object]:
    return list(pod["metadata"].get("ownerReferences", ()))


def _marked(job: Object, finalizer: str) -> Object:
    metadata = job["metadata"]
    finalizers = [*metadata.get("finalizers", ()), finalizer]
    when = metadata.get("deletionTimestamp", stamp())
    marks = {"deletionTimestamp": when, "deletionGracePeriodSeconds": 0, "finalizers": list(dict.fromkeys(finalizers))}
    return {**job, "metadata": {**metadata, **marks}}


def uncounted(pod: Object) -> Object:
    """Without the finalizer by which the job controller holds a pod."""
    finalizers = [one for one in pod["metadata"].get("finalizers", ()) if one != TRACKING]
    metadata = {key: value for key, value in pod["metadata"].items() if key != "finalizers"}
    return {**pod, "metadata": metadata | ({"finalizers": finalizers} if finalizers else {})}


def _without_owner(pod: Object, uid: str) -> Object:
    owners = [one for one in _owners(pod) if one["uid"] != uid]
    metadata = {key: value for key, value in pod["metadata"].items() if key != "ownerReferences"}
    return uncounted({**pod, "metadata": metadata | ({"ownerReferences": owners} if owners else {})})
