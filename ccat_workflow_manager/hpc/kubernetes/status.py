"""The state of a job from five witnesses: the Job, its pods, the exit record, the claim and the cancel request. Pure.

tests/backends/kubernetes/test_status.py has the table of cases. Positive evidence counts, silence proves nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from signal import SIGKILL, SIGTERM

from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.claim import NOT_STARTED, Claim
from ccat_workflow_manager.hpc.attempt.record import signal_in
from ccat_workflow_manager.hpc.exit_info import cancelled, elapsed, info_of
from ccat_workflow_manager.hpc.kubernetes.objects import Condition, SeenJob, SeenPod
from ccat_workflow_manager.lifecycle.job_info import UNKNOWN, HPCJobInfo, JobStatus

IMAGE_TROUBLE = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable",
     "SignatureValidationFailed", "InvalidImageName"}
)  # fmt: skip
CONTAINER_TROUBLE = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
"""Reasons of a container that may wait for ever."""

_LOST_AFTER = timedelta(seconds=30)
"""The node of a pod that should have ended so long ago does not answer."""
_VISIBLE_AFTER = timedelta(seconds=30)
"""A shared filesystem shows a new file to another machine only after a while."""
_NEVER = datetime.max.replace(tzinfo=UTC)
_BY_DISRUPTION = {
    "PreemptionByScheduler": FailureReason.PREEMPTED,
    "EvictionByEvictionAPI": FailureReason.PREEMPTED,
    "DeletionByTaintManager": FailureReason.NODE_FAILURE,
    "DeletionByPodGC": FailureReason.NODE_FAILURE,
    "TerminationByKubelet": FailureReason.PREEMPTED,
}
_OWN_DISK = re.compile(
    "exceeded its local ephemeral storage limit|ephemeral local storage usage exceeds the total limit"
)
"""In the words of the kubelet, which evicts a pod for that as for a node that is short of disk."""
_BY_POD_REASON = {
    "DeadlineExceeded": FailureReason.TIME_LIMIT,
    "Evicted": FailureReason.PREEMPTED,
    "Preempting": FailureReason.PREEMPTED,
    "NodeLost": FailureReason.NODE_FAILURE,
    "NodeShutdown": FailureReason.NODE_FAILURE,
    "Shutdown": FailureReason.NODE_FAILURE,
    "Terminated": FailureReason.NODE_FAILURE,
    "NodeAffinity": FailureReason.NODE_FAILURE,
    "UnexpectedAdmissionError": FailureReason.NODE_FAILURE,
}
_NEVER_STARTED = ("StartError", "ContainerCannotRun", "ContainerStatusUnknown")
_NO_SECRET = re.compile(r'secret "[^"]*" not found|^couldn\'t find key \S+ in Secret ')
_CODE_IN_CONDITION = re.compile(r"failed with exit code (\d+)")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the witnesses report."""

    job: SeenJob | None
    pods: Sequence[SeenPod]
    now: datetime
    image_grace_seconds: float
    record: str | None = None
    claim: Claim | None = None
    cancelled_at: float | None = None

    @property
    def owner(self) -> str:
        """The pod that started the attempt. Empty if none has, or if its claim cannot be read."""
        return "" if self.claim is None or self.claim.blocked is not None else self.claim.owner

    @property
    def blocked(self) -> str | None:
        """Why the attempt never starts. A record or an exit code disprove a claim that the program has forged."""
        if self.claim is None or self.record is not None:
            return None
        ended = self.chosen.ended if self.chosen is not None else None
        ran = ended is not None and ended.exit_code != NOT_STARTED and ended.reason not in _NEVER_STARTED
        return None if ran and self.cancelled_at is None else self.claim.blocked

    @property
    def started(self) -> bool:
        return self.claim is not None and self.blocked is None

    @property
    def replaced(self) -> bool:
        """The pod that started the attempt is gone, and another pod has replaced it."""
        return bool(self.owner) and bool(self.pods) and all(pod.name != self.owner for pod in self.pods)

    @property
    def deleted(self) -> bool:
        """The pod of the attempt was deleted."""
        return self.chosen is None or self.replaced or self.chosen.deleting is not None

    @property
    def alive(self) -> SeenPod | None:
        """A pod that may still have processes."""
        return next((pod for pod in self.pods if not pod.over), None)

    @property
    def chosen(self) -> SeenPod | None:
        """The pod that started the attempt, else the newest."""
        own = next((pod for pod in self.pods if pod.name == self.owner), None)
        return own or max(self.pods, key=lambda pod: (pod.created is not None, pod.created), default=None)


def resolve_status(evidence: Evidence) -> HPCJobInfo:
    job = evidence.job
    if job is None or (job.deleting is not None and evidence.cancelled_at is not None):
        return _gone(evidence)
    if "Complete" in job.conditions:
        return _complete(evidence, job.conditions["Complete"])
    if job.failed is not None:
        return _failed(evidence, job.failed)
    if job.deleting is not None:
        return HPCJobInfo(JobStatus.RUNNING, message="the Job is being deleted at the cluster")
    return _live(evidence, job)


# --- not over --------------------------------------------------------------------------------------------------------


def _live(evidence: Evidence, job: SeenJob) -> HPCJobInfo:
    pod = evidence.chosen
    if pod is None:
        words = "suspended at the cluster" if job.suspended else "the cluster has not made a pod yet"
        return HPCJobInfo(JobStatus.PENDING, message=words, submitted_at=job.created)
    if pod.phase != "Pending" or evidence.owner == pod.name:
        return _running(pod, "")
    if evidence.replaced:
        return _running(pod, f"its pod {evidence.owner} is gone; {pod.name}, which replaces it, {_wait(pod)}")
    known = HPCJobInfo(JobStatus.PENDING, submitted_at=job.created, node=pod.node or None)
    waiting = pod.waiting
    if waiting is None or (not waiting.reason and not pod.unschedulable):
        return replace(known, message=_wait(pod))
    if waiting.reason in IMAGE_TROUBLE | CONTAINER_TROUBLE:
        return _stuck(evidence, pod, waiting, known)
    return replace(known, message=str(waiting))


def _wait(pod: SeenPod) -> str:
    return pod.unschedulable or "waits for a node"


def _stuck(evidence: Evidence, pod: SeenPod, waiting: Condition, known: HPCJobInfo) -> HPCJobInfo:
    """A container that cannot start has time until the grace is over."""
    since = pod.scheduled or pod.created
    waited = (evidence.now - since).total_seconds() if since is not None else 0
    if waited < evidence.image_grace_seconds and waiting.reason != "InvalidImageName":
        return replace(known, message=f"{waiting} (for {waited:.0f} s)")
    if waiting.reason == "InvalidImageName":
        reason = FailureReason.IMAGE_INVALID
    elif _NO_SECRET.search(waiting.message):
        reason = FailureReason.SECRET_MISSING
    else:
        reason = FailureReason.IMAGE_PULL if waiting.reason in IMAGE_TROUBLE else FailureReason.CONTAINER_FAILED
    return replace(known, status=JobStatus.FAILED, reason=reason, message=str(waiting))


def _running(pod: SeenPod, words: str) -> HPCJobInfo:
    if not words and (pod.silent or pod.reason == "NodeLost" or pod.phase == "Unknown"):
        words = f"the node {pod.node} does not answer"
    started = pod.running or (pod.ended.started if pod.ended is not None else None)
    return HPCJobInfo(JobStatus.RUNNING, message=words or None, started_at=started, node=pod.node or None)


# --- over ------------------------------------------------------------------------------------------------------------


def _gone(evidence: Evidence) -> HPCJobInfo:
    """The Job does not exist: it was cancelled, another user deleted it, or it was removed some time after its end."""
    cancelled_at = evidence.cancelled_at
    if evidence.alive is not None:
        words = "is being stopped" if cancelled_at is not None else "its Job is gone, but its pod is still there"
        return _running(evidence.alive, words)
    if cancelled_at is not None:
        # The times in a record are whole seconds.
        if evidence.record is not None:
            return _placed(info_of(evidence.record, math.floor(cancelled_at)), evidence)
        return cancelled()
    if evidence.record is None:
        return UNKNOWN
    return _placed(_stopped_outside(info_of(evidence.record, None), evidence), evidence)


def _complete(evidence: Evidence, complete: Condition) -> HPCJobInfo:
    if evidence.record is not None:
        return _placed(info_of(evidence.record, None), evidence)
    if evidence.started and complete.since is not None and evidence.now < complete.since + _VISIBLE_AFTER:
        return HPCJobInfo(JobStatus.RUNNING, message="its exit record is not visible here yet")
    return _placed(_with_end(HPCJobInfo(JobStatus.COMPLETED, exit_code=0), evidence), evidence)


def _failed(evidence: Evidence, failed: Condition) -> HPCJobInfo:
    alive = evidence.alive
    if alive is not None and evidence.now < _lost_at(alive, failed):
        return _running(alive, "its pod is ending")
    if evidence.blocked is not None:
        if evidence.cancelled_at is not None:
            return cancelled()
        return HPCJobInfo(JobStatus.FAILED, reason=FailureReason.BACKEND_FAILED, message=evidence.blocked)
    info = info_of(evidence.record, None) if evidence.record is not None else None
    if failed.reason == "DeadlineExceeded":
        return _placed(_late(evidence, failed, info), evidence)
    reason, words = _cause(evidence, failed)
    # What happens to the pod of a program that has ended well does not matter.
    if info is not None and (info.status is JobStatus.COMPLETED or reason is None):
        return _placed(_stopped_outside(info, evidence) if evidence.deleted else info, evidence)
    info = info or HPCJobInfo(JobStatus.FAILED)
    if reason is not None:
        info = replace(info, status=JobStatus.FAILED, reason=reason, message=words)
        return _placed(_with_end(info, evidence), evidence)
    return _placed(_without_record(evidence, failed), evidence)


def _lost_at(pod: SeenPod, failed: Condition) -> datetime:
    """From when on a pod that has not ended is on a node that does not answer."""
    killed_at = pod.deleting
    if killed_at is None and pod.phase == "Failed" and failed.since is not None:
        killed_at = failed.since + timedelta(seconds=pod.grace_seconds)
    return killed_at + _LOST_AFTER if killed_at is not None else _NEVER


def _late(evidence: Evidence, failed: Condition, info: HPCJobInfo | None) -> HPCJobInfo:
    """The deadline of the whole Job has passed, which counts the time that it waited."""
    if info is None and not evidence.started:
        words = f"the job never started, and was given up: {failed.message}"
        return HPCJobInfo(JobStatus.FAILED, reason=FailureReason.BACKEND_FAILED, message=words)
    known = info or HPCJobInfo(JobStatus.FAILED)
    return replace(known, status=JobStatus.FAILED, reason=FailureReason.TIME_LIMIT, message=failed.message)


def _cause(evidence: Evidence, failed: Condition) -> tuple[FailureReason | None, str]:
    """The reason and the text of an end that Kubernetes itself caused; no reason if it did not."""
    pod = evidence.chosen
    if pod is None:
        if "DisruptionTarget" in failed.message:
            return FailureReason.PREEMPTED, failed.message
        return None, ""
    if pod.ended is not None and pod.ended.reason == "OOMKilled":
        return FailureReason.OUT_OF_MEMORY, "OOMKilled"
    if pod.reason == "Evicted" and _OWN_DISK.search(pod.message):
        return FailureReason.DISK_LIMIT, str(pod)
    if pod.reason in _BY_POD_REASON:
        return _BY_POD_REASON[pod.reason], str(pod)
    if pod.disrupted is not None:
        reason = _BY_DISRUPTION.get(pod.disrupted.reason, FailureReason.PREEMPTED)
        return reason, str(pod.disrupted)
    if pod.reason.startswith("OutOf"):  # OutOfcpu, OutOfmemory: the node had less room than the scheduler thought
        return FailureReason.NODE_FAILURE, str(pod)
    if not pod.over:
        return FailureReason.NODE_FAILURE, f"the node {pod.node} does not answer"
    if pod.ended is not None and pod.ended.reason == "ContainerStatusUnknown":
        return FailureReason.NODE_FAILURE, f"{pod.ended.reason}: {pod.ended.message}".rstrip(": ")
    return None, ""


def _without_record(evidence: Evidence, failed: Condition) -> HPCJobInfo:
    """The program failed, or never started, and left no exit record."""
    pod = evidence.chosen
    ended = pod.ended if pod is not None else None
    if ended is None:
        code = _CODE_IN_CONDITION.search(failed.message)
        if code is None:
            return _vanished(evidence, failed)
        return _by_code(int(code[1]), str(failed))
    words = ended.message or ended.reason
    if ended.exit_code == NOT_STARTED and evidence.owner and pod is not None and evidence.owner != pod.name:
        words = f"the pod {evidence.owner}, which had started, is gone; {pod.name} replaced it and did not start"
        return HPCJobInfo(JobStatus.FAILED, reason=FailureReason.NODE_FAILURE, message=words)
    if not evidence.started or ended.reason in _NEVER_STARTED:
        words = f"the job script did not start: {words}"
        return HPCJobInfo(JobStatus.FAILED, reason=FailureReason.CONTAINER_FAILED, message=words)
    info = _by_code(ended.exit_code, words)
    return _with_end(_stopped_outside(info, evidence) if evidence.deleted else info, evidence)


def _vanished(evidence: Evidence, failed: Condition) -> HPCJobInfo:
    """Without an exit code: a pod that had started went away with its node."""
    if not evidence.started:
        return HPCJobInfo(JobStatus.FAILED, reason=FailureReason.BACKEND_FAILED, message=str(failed))
    words = f"its pod {evidence.owner} is gone, and its end was not reported; {failed}"
    return HPCJobInfo(JobStatus.FAILED, reason=FailureReason.NODE_FAILURE, message=words)


def _by_code(code: int, words: str) -> HPCJobInfo:
    signal = signal_in(code)
    reason = FailureReason.KILLED_BY_SIGNAL if signal is not None else FailureReason.PROGRAM_FAILED
    return HPCJobInfo(JobStatus.FAILED, exit_code=code, signal=signal, reason=reason, message=words or None)


def _stopped_outside(info: HPCJobInfo, evidence: Evidence) -> HPCJobInfo:
    """The state of a program that was stopped by the deletion of its pod.

    Kubernetes marks a pod that it deletes itself, but not before 1.26. Without such marks a drained node, a node that
    came back and a user look the same; a job is then retried, unless its Job was deleted, too.
    """
    if info.reason is not FailureReason.KILLED_BY_SIGNAL or info.signal not in (SIGTERM, SIGKILL):
        return info
    if evidence.job is None or evidence.job.shows_disruptions:
        text = "the Job or its pod was deleted at the cluster"
        return replace(info, reason=FailureReason.STOPPED_OUTSIDE, message=text)
    text = "its pod was deleted, and its Job was not: the node was drained, or did not answer for a while"
    return replace(info, reason=FailureReason.PREEMPTED, message=text)


def _with_end(info: HPCJobInfo, evidence: Evidence) -> HPCJobInfo:
    """With exit code and times of the container, where the record has none."""
    ended = evidence.chosen.ended if evidence.chosen is not None else None
    if ended is None:
        return info
    return replace(
        info,
        exit_code=info.exit_code if info.exit_code is not None else ended.exit_code,
        signal=info.signal if info.exit_code is not None else signal_in(ended.exit_code),
        wall_time_seconds=info.wall_time_seconds or elapsed(ended.started, ended.finished),
        started_at=info.started_at or ended.started,
        finished_at=info.finished_at or ended.finished,
    )


def _placed(info: HPCJobInfo, evidence: Evidence) -> HPCJobInfo:
    """With the node. The exit record does not contain it, and the watch of pods may be behind that of Jobs."""
    seen = evidence.chosen.node if evidence.chosen is not None else ""
    node = seen or (evidence.claim.host if evidence.claim is not None and evidence.owner else "")
    submitted = evidence.job.created if evidence.job is not None else None
    return replace(info, node=node or None, submitted_at=info.submitted_at or submitted)
