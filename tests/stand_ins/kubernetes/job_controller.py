"""The job controller: makes pods for Jobs, counts how they end, and decides how the Job ends."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from tests.stand_ins.kubernetes import pod_status
from tests.stand_ins.kubernetes.admission import TRACKING, new_pod
from tests.stand_ins.kubernetes.clockwork import Clockwork, stamp
from tests.stand_ins.kubernetes.deletion import Deletion, uncounted
from tests.stand_ins.kubernetes.events import Recorder
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
from tests.stand_ins.kubernetes.store import DELETED, Change, Store

Why: TypeAlias = tuple[str, str]
"""Reason and message of a condition."""

_BACKOFF: Why = ("BackoffLimitExceeded", "Job has reached the specified backoff limit")
_DEADLINE: Why = ("DeadlineExceeded", "Job was active longer than specified deadline")
_COMPLETE: Why = ("CompletionsReached", "Reached expected number of succeeded pods")
_OLD_DELAYS = (0.0, 0.0, 10.0, 40.0, 160.0)
"""Seconds until the n-th failure is acted upon, as recorded from a 1.20 (the last one is a guess)."""
_FIRST_DELAY, _LONGEST_DELAY = 10.0, 360.0


@dataclass(slots=True)
class _Known:
    """What the controller remembers of a Job."""

    pods: set[Key] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    """Uids of the pods that are counted as failed."""
    succeeded: set[str] = field(default_factory=set)
    began: float = 0.0
    held_until: float = 0.0
    deadline_set: bool = False
    ttl_set: bool = False


@dataclass(frozen=True, slots=True)
class _Count:
    """The pods of a Job, counted."""

    pods: list[Object]
    active: list[Object]
    succeeded: int
    failed: int


class JobController:
    """Runs in the one thread of the clockwork. `old`: behaves as the one of a 1.20."""

    def __init__(
        self, store: Store, clockwork: Clockwork, recorder: Recorder, deletion: Deletion, *, old: bool
    ) -> None:
        self.store = store
        self.clockwork = clockwork
        self.recorder = recorder
        self.deletion = deletion
        self.old = old
        self._known: dict[str, _Known] = {}

    def on_change(self, resource: Resource, change: Change) -> None:
        """Called by the store for every change."""
        key, uid = key_of(change.object), change.object["metadata"]["uid"]
        if resource is JOBS:
            if change.type == DELETED:
                self._known.pop(uid, None)
            else:
                self._wake(uid, key)
        elif resource is PODS:
            for owner in (*owners_of(change.object), *(owners_of(change.before) if change.before else ())):
                self._known.setdefault(owner["uid"], _Known()).pods.add(key)
                self._wake(owner["uid"], (key[0], owner["name"]))

    def _wake(self, uid: str, key: Key) -> None:
        self.clockwork.soon(("job", uid), partial(self._sync, uid, key))

    def _wake_after(self, seconds: float, job: Object) -> None:
        self.clockwork.after(seconds, partial(self._wake, job["metadata"]["uid"], key_of(job)))

    def _sync(self, uid: str, key: Key) -> None:
        job = self.store.find(JOBS, key)
        if job is None or job["metadata"]["uid"] != uid:
            return
        known = self._known.setdefault(uid, _Known())
        found = [self.store.find(PODS, key) for key in sorted(known.pods)]
        pods = [pod for pod in found if pod is not None and is_owned(pod, uid)]
        if _has(job, "Complete", "Failed"):
            self._release(pods)
            self._watch_ttl(job, known)
            return
        deadline = job["spec"].get("activeDeadlineSeconds")
        if deadline is not None and not known.deadline_set:
            known.deadline_set = True
            known.began = time.monotonic()
            self._wake_after(deadline, job)
        (self._sync_old if self.old else self._sync_new)(job, known, pods)

    def _late(self, job: Object, known: _Known) -> bool:
        deadline = job["spec"].get("activeDeadlineSeconds")
        passed = (time.monotonic() - known.began) * self.clockwork.scale
        return deadline is not None and passed >= deadline - 0.01

    # --- as a 1.20 does ----------------------------------------------------------------------------------------------

    def _sync_old(self, job: Object, known: _Known, pods: list[Object]) -> None:
        """Everything is counted from the pods that are there, and the second failure on is acted upon late."""
        spec = job["spec"]
        active = [pod for pod in pods if pod_status.is_active(pod)]
        phases = [pod["status"]["phase"] for pod in pods]
        count = _Count(pods, active, phases.count("Succeeded"), phases.count("Failed"))
        new_failure = count.failed > job["status"].get("failed", 0)
        if new_failure and not self._may_act(job, known, count.failed):
            return
        end: Why | None = None
        if new_failure and len(active) != spec["parallelism"] and count.failed > spec["backoffLimit"]:
            end = _BACKOFF
        elif self._late(job, known):
            end = _DEADLINE
        if end is not None:
            self._delete_pods(job, active)
            self.recorder.record(job, "Warning", *end, component="job-controller")
            self._write(job, count, active=0, failed=count.failed + len(active), conditions=[_condition("Failed", end)])
            return
        number = len(active)
        if not is_being_deleted(job):
            number = self._make_pods(job, number, _wanted(spec, count.succeeded))
        if spec.get("completions") is not None and count.succeeded >= spec["completions"] and number == 0:
            self.recorder.record(job, "Normal", "Completed", "Job completed", component="job-controller")
            self._write(job, count, active=0, completed=True, conditions=[_condition("Complete")])
        else:
            self._write(job, count, active=number)

    def _may_act(self, job: Object, known: _Known, failed: int) -> bool:
        delay = _OLD_DELAYS[min(failed, len(_OLD_DELAYS) - 1)]
        if known.held_until == 0.0 and delay:
            known.held_until = self.clockwork.deadline(delay)
            self._wake_after(delay, job)
        if time.monotonic() < known.held_until:
            return False
        known.held_until = 0.0
        return True

    # --- as current servers do ---------------------------------------------------------------------------------------

    def _sync_new(self, job: Object, known: _Known, pods: list[Object]) -> None:
        """Pods are counted once and released. The end is announced first, and final when no pod is left."""
        spec = job["spec"]
        failed = [pod for pod in pods if _failed(pod, spec["podReplacementPolicy"] == "TerminatingOrFailed")]
        fresh = {pod["metadata"]["uid"] for pod in failed} - known.failed
        known.failed |= fresh
        known.succeeded |= {pod["metadata"]["uid"] for pod in pods if pod["status"]["phase"] == "Succeeded"}
        if fresh:
            delay = min(_FIRST_DELAY * 2 ** (len(known.failed) - 1), _LONGEST_DELAY)
            known.held_until = self.clockwork.deadline(delay)
            self._wake_after(delay, job)
        active = [pod for pod in pods if pod_status.is_active(pod) and pod["metadata"]["uid"] not in known.failed]
        count = _Count(pods, active, len(known.succeeded), len(known.failed))
        if is_being_deleted(job):
            self._write(job, count)
        elif _has(job, "FailureTarget", "SuccessCriteriaMet"):
            self._conclude(job, count)
        elif end := self._failure(job, known, failed):
            self._announce(job, "FailureTarget", end, count)
        elif spec.get("completions") is not None and count.succeeded >= spec["completions"]:
            self._announce(job, "SuccessCriteriaMet", _COMPLETE, count)
        else:
            self._fill(job, known, count)
        self._release([pod for pod in pods if pod_status.is_over(pod) or pod["metadata"]["uid"] in known.failed])

    def _failure(self, job: Object, known: _Known, failed: list[Object]) -> Why | None:
        if why := _failure_by_policy(job, failed):
            return why
        if len(known.failed) > job["spec"]["backoffLimit"]:
            return _BACKOFF
        return _DEADLINE if self._late(job, known) else None

    def _announce(self, job: Object, kind: str, why: Why, count: _Count) -> None:
        self._delete_pods(job, count.active)
        self._write(job, count, active=0, conditions=[_condition(kind, why)])

    def _conclude(self, job: Object, count: _Count) -> None:
        if any(not pod_status.is_over(pod) for pod in count.pods):
            self._write(job, count)
            return
        before = job["status"]["conditions"]
        why = before[0]["reason"], before[0]["message"]
        good = before[0]["type"] == "SuccessCriteriaMet"
        event = ("Normal", "Completed", "Job completed") if good else ("Warning", *why)
        self.recorder.record(job, *event, component="job-controller")
        final = _condition("Complete" if good else "Failed", why)
        self._write(job, count, active=0, completed=good, conditions=[*before, final])

    def _fill(self, job: Object, known: _Known, count: _Count) -> None:
        spec = job["spec"]
        number = len(count.active)
        wanted = 0 if spec.get("suspend") else _wanted(spec, count.succeeded)
        if spec["podReplacementPolicy"] == "Failed":
            wanted -= sum(pod_status.is_ending(pod) for pod in count.pods)
        if time.monotonic() >= known.held_until:
            number = self._make_pods(job, number, wanted)
        self._write(job, count, active=number)

    # --- what both do ------------------------------------------------------------------------------------------------

    def _make_pods(self, job: Object, number: int, wanted: int) -> int:
        """Returns how many there are then."""
        for _ in range(wanted - number):
            made = self.store.create(PODS, new_pod(job, old=self.old))
            message = f"Created pod: {made['metadata']['name']}"
            self.recorder.record(job, "Normal", "SuccessfulCreate", message, component="job-controller")
        return max(number, wanted)

    def _delete_pods(self, job: Object, pods: list[Object]) -> None:
        for pod in pods:
            self.deletion.delete_pod(key_of(pod))
            message = f"Deleted pod: {pod['metadata']['name']}"
            self.recorder.record(job, "Normal", "SuccessfulDelete", message, component="job-controller")

    def _release(self, pods: list[Object]) -> None:
        """Take the finalizer away from pods that are counted."""
        for pod in pods:
            if TRACKING in pod["metadata"].get("finalizers", ()):
                self.store.change(PODS, key_of(pod), uncounted)

    def _write(
        self,
        job: Object,
        count: _Count,
        *,
        active: int | None = None,
        failed: int | None = None,
        conditions: list[Object] | None = None,
        completed: bool = False,
    ) -> None:
        """Write the status. As in the real one, a count of nothing is left out."""
        numbers = {
            "active": len(count.active) if active is None else active,
            "succeeded": count.succeeded,
            "failed": count.failed if failed is None else failed,
        }
        status: Object = {key: value for key, value in numbers.items() if value}
        if not self.old:
            present = [self.store.find(PODS, key_of(pod)) or pod for pod in count.pods]
            ready = sum(pod_status.is_active(pod) and pod_status.is_ready(pod) for pod in present)
            ending = sum(pod_status.is_ending(pod) for pod in present)
            status |= {"ready": ready, "terminating": ending, "uncountedTerminatedPods": {}}
        if conditions is not None:
            status["conditions"] = conditions
        if completed:
            status["completionTime"] = stamp()

        def change(job: Object) -> Object:
            kept = {key: value for key, value in job["status"].items() if key not in numbers}
            return {**job, "status": {"startTime": stamp(), **kept, **status}}

        self.store.change(JOBS, key_of(job), change)

    def _watch_ttl(self, job: Object, known: _Known) -> None:
        ttl = job["spec"].get("ttlSecondsAfterFinished")
        if ttl is not None and not known.ttl_set:
            known.ttl_set = True
            self.clockwork.after(ttl, partial(self._outlived, key_of(job), job["metadata"]["uid"]))

    def _outlived(self, key: Key, uid: str) -> None:
        self.deletion.delete_job(key, "Foreground", uid=uid)


def _wanted(spec: Object, succeeded: int) -> int:
    completions = spec.get("completions")
    if completions is None:
        return 0 if succeeded else int(spec["parallelism"])
    return int(min(spec["parallelism"], max(0, completions - succeeded)))


def _failed(pod: Object, counts_deleted: bool) -> bool:
    phase = pod["status"]["phase"]
    return phase == "Failed" or (counts_deleted and phase != "Succeeded" and is_being_deleted(pod))


def _condition(kind: str, why: Why | None = None) -> Object:
    now = stamp()
    found: Object = {"type": kind, "status": "True", "lastProbeTime": now, "lastTransitionTime": now}
    return found | ({"reason": why[0], "message": why[1]} if why else {})


def _has(job: Object, *kinds: str) -> bool:
    return any(one["type"] in kinds and one["status"] == "True" for one in job["status"].get("conditions", ()))


def _failure_by_policy(job: Object, pods: list[Object]) -> Why | None:
    """Why podFailurePolicy fails the Job at once. Of its actions, the backend uses only FailJob."""
    rules = (job["spec"].get("podFailurePolicy") or {}).get("rules") or ()
    for pod in pods:
        for index, rule in enumerate(rules):
            if (what := _matches(rule, pod)) is not None:
                return "PodFailurePolicy", f"{what} matching FailJob rule at index {index}"
    return None


def _matches(rule: Object, pod: Object) -> str | None:
    status, name = pod["status"], "/".join(key_of(pod))
    if codes := rule.get("onExitCodes"):
        for one in status.get("containerStatuses", ()):
            code = one["state"].get("terminated", {}).get("exitCode", 0)
            if code == 0 or codes.get("containerName") not in (None, one["name"]):
                continue
            if (code in codes["values"]) == (codes["operator"] == "In"):
                return f"Container {one['name']} for pod {name} failed with exit code {code}"
    for wanted in rule.get("onPodConditions") or ():
        for one in status.get("conditions", ()):
            if one["type"] == wanted["type"] and one["status"] == wanted.get("status", "True"):
                return f"Pod {name} has condition {wanted['type']}"
    return None
