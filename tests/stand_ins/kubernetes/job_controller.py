"""The job controller: makes pods for Jobs, counts how they end, and decides how the Job ends."""

from __future__ import annotations

import time
from functools import partial

from tests.stand_ins.kubernetes import job_status, pod_status
from tests.stand_ins.kubernetes.answers import JOBS, PODS, Resource
from tests.stand_ins.kubernetes.clock import stamp
from tests.stand_ins.kubernetes.clockwork import Clockwork
from tests.stand_ins.kubernetes.defaults import TRACKING, new_metadata, new_pod, random_name
from tests.stand_ins.kubernetes.deletion import Deletion, uncounted
from tests.stand_ins.kubernetes.models import Object
from tests.stand_ins.kubernetes.recording import Recorder
from tests.stand_ins.kubernetes.store import Change, Key, Store, key_of

_OLD_DELAYS = (0.0, 0.0, 10.0, 40.0, 160.0)
"""Seconds until the n-th failure is acted upon, as recorded from a 1.20 (the last one is a guess)."""
_FIRST_DELAY, _LONGEST_DELAY = 10.0, 360.0


class _Known:
    """What the controller remembers of a Job."""

    def __init__(self) -> None:
        self.pods: set[Key] = set()
        self.counted_failed: dict[str, bool] = {}
        """Uid of a pod that has failed and is counted -> whether it counts against the limit."""
        self.counted_succeeded: set[str] = set()
        self.began = time.monotonic()
        self.held_until = 0.0
        self.deadline_set = False
        self.ttl_set = False


class JobController:
    """Runs in the one thread of the clockwork. `old`: as the one of a 1.20 behaves."""

    def __init__(
        self, store: Store, clockwork: Clockwork, recorder: Recorder, deletion: Deletion, *, old: bool
    ) -> None:
        self.store = store
        self.clockwork = clockwork
        self.recorder = recorder
        self.deletion = deletion
        self.old = old
        self._known: dict[str, _Known] = {}

    def hear(self, resource: Resource, change: Change) -> None:
        """Called by the store for every change."""
        metadata = change.object["metadata"]
        if resource is JOBS:
            uid = metadata["uid"]
            self._wake(uid, key_of(change.object), gone=change.type == "DELETED")
        elif resource is PODS:
            before = (change.before or {}).get("metadata", {})
            for owner in [*metadata.get("ownerReferences", ()), *before.get("ownerReferences", ())]:
                if owner["kind"] == "Job":
                    known = self._known.setdefault(owner["uid"], _Known())
                    known.pods.add(key_of(change.object))
                    self._wake(owner["uid"], (metadata["namespace"], owner["name"]))

    def _wake(self, uid: str, key: Key, *, gone: bool = False) -> None:
        if gone:
            self._known.pop(uid, None)
        else:
            self.clockwork.soon(("job", uid), partial(self._sync, uid, key))

    def pods_of(self, uid: str) -> list[Object]:
        """The pods that belong to a Job, as they are now."""
        known = self._known.get(uid)
        found = [] if known is None else [pod for key in sorted(known.pods) if (pod := self.store.find(PODS, key))]
        return [pod for pod in found if any(one["uid"] == uid for one in pod["metadata"].get("ownerReferences", ()))]

    def _sync(self, uid: str, key: Key) -> None:
        job = self.store.find(JOBS, key)
        if job is None or job["metadata"]["uid"] != uid:
            return
        known = self._known.setdefault(uid, _Known())
        pods = self.pods_of(uid)
        if job_status.is_finished(job):
            self._release(pods)
            self._watch_ttl(job, known)
            return
        self._start_clock(job, known)
        (self._sync_old if self.old else self._sync_new)(job, known, pods)

    def _start_clock(self, job: Object, known: _Known) -> None:
        deadline = job["spec"].get("activeDeadlineSeconds")
        if deadline is not None and not known.deadline_set:
            known.deadline_set = True
            known.began = time.monotonic()
            self.clockwork.after(deadline, lambda: self._wake(job["metadata"]["uid"], key_of(job)))

    def _late(self, job: Object, known: _Known) -> bool:
        deadline = job["spec"].get("activeDeadlineSeconds")
        passed = (time.monotonic() - known.began) * self.clockwork.scale
        return deadline is not None and passed >= deadline - 0.01

    def _sync_old(self, job: Object, known: _Known, pods: list[Object]) -> None:
        """Everything is counted from the pods that are there, and the second failure on is acted upon late."""
        spec, metadata = job["spec"], job["metadata"]
        active = [pod for pod in pods if pod_status.is_active(pod)]
        failed = sum(pod["status"]["phase"] == "Failed" for pod in pods)
        succeeded = sum(pod["status"]["phase"] == "Succeeded" for pod in pods)
        new_failure = failed > job["status"].get("failed", 0)
        if new_failure and not self._may_act(job, known, failed):
            return
        wanted = self._wanted(spec, succeeded)
        end: tuple[str, str] | None = None
        if (new_failure and len(active) != spec["parallelism"] and failed > spec["backoffLimit"]) or self._restarts(
            spec, pods
        ):
            end = job_status.BACKOFF
        elif self._late(job, known):
            end = job_status.DEADLINE
        if end is not None:
            self._delete_pods(job, active)
            self.recorder.tell(job, "Warning", *end, component="job-controller")
            self._write(job, active=0, succeeded=succeeded, failed=failed + len(active),
                        conditions=[job_status.condition("Failed", *end)])  # fmt: skip
            return
        count = len(active)
        if "deletionTimestamp" not in metadata:
            for _ in range(wanted - count):
                self._make_pod(job)
            count = max(count, wanted)
        done = spec.get("completions") is not None and succeeded >= spec["completions"]
        if done and count == 0:
            self.recorder.tell(job, "Normal", "Completed", "Job completed", component="job-controller")
            self._write(job, active=0, succeeded=succeeded, failed=failed, completed=True,
                        conditions=[job_status.condition("Complete")])  # fmt: skip
        else:
            self._write(job, active=count, succeeded=succeeded, failed=failed)

    def _sync_new(self, job: Object, known: _Known, pods: list[Object]) -> None:
        """Pods are counted once and let go; the end is announced first, and final when no pod is left."""
        spec = job["spec"]
        counts_deleted = spec["podReplacementPolicy"] == "TerminatingOrFailed"
        failed_pods = [pod for pod in pods if _failed(pod, counts_deleted)]
        cause, ignored = job_status.failure_by_policy(job, failed_pods)
        fresh = False
        for pod in failed_pods:
            uid = pod["metadata"]["uid"]
            if uid not in known.counted_failed:
                known.counted_failed[uid] = uid not in ignored
                fresh = fresh or uid not in ignored
        known.counted_succeeded |= {pod["metadata"]["uid"] for pod in pods if pod["status"]["phase"] == "Succeeded"}
        failed, succeeded = sum(known.counted_failed.values()), len(known.counted_succeeded)
        if fresh:
            delay = min(_FIRST_DELAY * 2 ** (failed - 1), _LONGEST_DELAY)
            known.held_until = time.monotonic() + delay / self.clockwork.scale
            self.clockwork.after(delay, lambda: self._wake(job["metadata"]["uid"], key_of(job)))
        active = [
            pod for pod in pods if pod_status.is_active(pod) and pod["metadata"]["uid"] not in known.counted_failed
        ]
        if "deletionTimestamp" in job["metadata"]:
            self._write(job, active=len(active), succeeded=succeeded, failed=failed, pods=pods)
        elif job_status.has(job, "FailureTarget", "SuccessCriteriaMet"):
            self._conclude(job, pods, active, succeeded, failed)
        else:
            end = cause or self._end(job, known, pods, failed)
            if end is not None:
                self._announce(job, "FailureTarget", end, pods, active, succeeded, failed)
            elif spec.get("completions") is not None and succeeded >= spec["completions"]:
                self._announce(job, "SuccessCriteriaMet", job_status.COMPLETE, pods, active, succeeded, failed)
            else:
                self._fill(job, known, pods, active, succeeded, failed)
        self._release(
            [pod for pod in pods if pod_status.is_over(pod) or pod["metadata"]["uid"] in known.counted_failed]
        )

    def _end(self, job: Object, known: _Known, pods: list[Object], failed: int) -> tuple[str, str] | None:
        if failed > job["spec"]["backoffLimit"] or self._restarts(job["spec"], pods):
            return job_status.BACKOFF
        return job_status.DEADLINE if self._late(job, known) else None

    def _announce(
        self,
        job: Object,
        kind: str,
        end: tuple[str, str],
        pods: list[Object],
        active: list[Object],
        succeeded: int,
        failed: int,
    ) -> None:
        self._delete_pods(job, active)
        self._write(job, active=0, succeeded=succeeded, failed=failed, pods=pods,
                    conditions=[job_status.condition(kind, *end)])  # fmt: skip

    def _conclude(self, job: Object, pods: list[Object], active: list[Object], succeeded: int, failed: int) -> None:
        if any(not pod_status.is_over(pod) for pod in pods):
            self._write(job, active=len(active), succeeded=succeeded, failed=failed, pods=pods)
            return
        before = job["status"]["conditions"]
        reason, message = before[0]["reason"], before[0]["message"]
        kind = "Failed" if before[0]["type"] == "FailureTarget" else "Complete"
        told = ("Warning", reason, message) if kind == "Failed" else ("Normal", "Completed", "Job completed")
        self.recorder.tell(job, *told, component="job-controller")
        self._write(job, active=0, succeeded=succeeded, failed=failed, pods=pods, completed=kind == "Complete",
                    conditions=[*before, job_status.condition(kind, reason, message)])  # fmt: skip

    def _fill(
        self, job: Object, known: _Known, pods: list[Object], active: list[Object], succeeded: int, failed: int
    ) -> None:
        count = len(active)
        wanted = 0 if job["spec"].get("suspend") else self._wanted(job["spec"], succeeded)
        if job["spec"]["podReplacementPolicy"] == "Failed":
            wanted -= sum("deletionTimestamp" in pod["metadata"] and not pod_status.is_over(pod) for pod in pods)
        if wanted > count and time.monotonic() >= known.held_until:
            for _ in range(wanted - count):
                self._make_pod(job)
            count = wanted
        self._write(job, active=count, succeeded=succeeded, failed=failed, pods=pods)

    @staticmethod
    def _wanted(spec: Object, succeeded: int) -> int:
        completions = spec.get("completions")
        if completions is None:
            return 0 if succeeded else int(spec["parallelism"])
        return int(min(spec["parallelism"], max(0, completions - succeeded)))

    @staticmethod
    def _restarts(spec: Object, pods: list[Object]) -> bool:
        """With restartPolicy OnFailure, restarts count as failures."""
        if spec["template"]["spec"]["restartPolicy"] != "OnFailure":
            return False
        statuses = [one for pod in pods if pod["status"]["phase"] in ("Running", "Pending")
                    for one in pod["status"].get("containerStatuses", ())]  # fmt: skip
        total = sum(int(one["restartCount"]) for one in statuses)
        return total > 0 if spec["backoffLimit"] == 0 else total >= spec["backoffLimit"]

    def _may_act(self, job: Object, known: _Known, failed: int) -> bool:
        delay = _OLD_DELAYS[min(failed, len(_OLD_DELAYS) - 1)]
        if known.held_until == 0.0 and delay:
            known.held_until = time.monotonic() + delay / self.clockwork.scale
            self.clockwork.after(delay, lambda: self._wake(job["metadata"]["uid"], key_of(job)))
        if time.monotonic() < known.held_until:
            return False
        known.held_until = 0.0
        return True

    def _make_pod(self, job: Object) -> None:
        template, metadata = job["spec"]["template"], job["metadata"]
        prefix = f"{metadata['name']}-"
        pod: Object = {
            "kind": "Pod",
            "apiVersion": "v1",
            "metadata": {
                "name": random_name(prefix),
                "generateName": prefix,
                "labels": template["metadata"]["labels"],
                "ownerReferences": [
                    {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"],
                     "controller": True, "blockOwnerDeletion": True}
                ],
            },
            "spec": template["spec"],
        }  # fmt: skip
        if annotations := template["metadata"].get("annotations"):
            pod["metadata"]["annotations"] = annotations
        if not self.old:
            pod["metadata"]["finalizers"] = [TRACKING]
        made = self.store.create(PODS, new_pod(new_metadata(pod, metadata["namespace"])))
        message = f"Created pod: {made['metadata']['name']}"
        self.recorder.tell(job, "Normal", "SuccessfulCreate", message, component="job-controller")

    def _delete_pods(self, job: Object, pods: list[Object]) -> None:
        for pod in pods:
            self.deletion.delete_pod(key_of(pod))
            message = f"Deleted pod: {pod['metadata']['name']}"
            self.recorder.tell(job, "Normal", "SuccessfulDelete", message, component="job-controller")

    def _release(self, pods: list[Object]) -> None:
        """Take the finalizer away from pods that are counted."""
        for pod in pods:
            if TRACKING in pod["metadata"].get("finalizers", ()):
                self.store.change(PODS, key_of(pod), uncounted)

    def _write(
        self, job: Object, *, active: int, succeeded: int, failed: int, pods: list[Object] | None = None,
        conditions: list[Object] | None = None, completed: bool = False,
    ) -> None:  # fmt: skip
        extra: Object | None = None
        if not self.old:
            alive = [self.store.find(PODS, key_of(pod)) or pod for pod in pods or ()]
            ready = sum(_ready(pod) for pod in alive if pod_status.is_active(pod))
            leaving = sum("deletionTimestamp" in pod["metadata"] and not pod_status.is_over(pod) for pod in alive)
            extra = {"ready": ready, "terminating": leaving, "uncountedTerminatedPods": {}}

        def change(old: Object) -> Object:
            status = job_status.counted(old["status"], active=active, succeeded=succeeded, failed=failed, extra=extra)
            status.setdefault("startTime", stamp())
            if conditions is not None:
                status["conditions"] = conditions
            if completed:
                status["completionTime"] = stamp()
            return {**old, "status": status}

        self.store.change(JOBS, key_of(job), change)

    def _watch_ttl(self, job: Object, known: _Known) -> None:
        ttl = job["spec"].get("ttlSecondsAfterFinished")
        if ttl is not None and not known.ttl_set:
            known.ttl_set = True
            self.clockwork.after(ttl, partial(self._outlived, key_of(job), job["metadata"]["uid"]))

    def _outlived(self, key: Key, uid: str) -> None:
        self.deletion.delete_job(key, "Foreground", uid=uid)


def _failed(pod: Object, counts_deleted: bool) -> bool:
    phase = pod["status"]["phase"]
    return phase == "Failed" or (counts_deleted and phase != "Succeeded" and "deletionTimestamp" in pod["metadata"])


def _ready(pod: Object) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", ()))
