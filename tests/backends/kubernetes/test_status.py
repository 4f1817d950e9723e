"""The table of cases: evidence of a job, and the status that follows from it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ccat_workflow_manager.errors import BackendConfused
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.claim import CANCELLED as BLOCKED
from ccat_workflow_manager.hpc.attempt.claim import Claim
from ccat_workflow_manager.hpc.kubernetes.objects import Condition, Ended, SeenJob, SeenPod, read_job, read_pod
from ccat_workflow_manager.hpc.kubernetes.status import Evidence, resolve_status
from ccat_workflow_manager.json_values import text_problem
from ccat_workflow_manager.lifecycle.job_info import JobStatus

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
EARLIER = NOW - timedelta(seconds=50)
PENDING, RUNNING, COMPLETED = JobStatus.PENDING, JobStatus.RUNNING, JobStatus.COMPLETED
FAILED, CANCELLED, UNKNOWN = JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.UNKNOWN
R = FailureReason


def record(code: int | None, *, oom: bool = False, finished: datetime = NOW) -> str:
    return json.dumps(
        {"version": 1, "job_name": "j", "exit_code": code, "ended": 12.5, "began": 2.5, "ticks": 200, "host": "pod",
         "started_at": EARLIER.isoformat(), "finished_at": finished.isoformat(), "oom_killed": oom,
         "peak_memory_bytes": 2**29}
    )  # fmt: skip


def job(**conditions: Condition) -> SeenJob:
    return SeenJob("j", "uid", "j", created=EARLIER, conditions=conditions)


def failed(
    reason: str = "BackoffLimitExceeded", message: str = "Job has reached the specified backoff limit"
) -> SeenJob:
    return job(Failed=Condition(reason, message, NOW))


def pod(phase: str, name: str = "j-aaaaa", **more: Any) -> SeenPod:
    return SeenPod(name, "j", phase, node="n1", created=EARLIER, scheduled=EARLIER, **more)


def ended(code: int, reason: str = "Error", message: str = "", **more: Any) -> SeenPod:
    phase = "Failed" if code else "Succeeded"
    return pod(phase, ended=Ended(code, reason, message, EARLIER, NOW), **more)


def waiting(reason: str, message: str = "because") -> SeenPod:
    return pod("Pending", waiting=Condition(reason, message))


LIVE = job()
DONE = job(Complete=Condition())
DELETING = replace(LIVE, deleting=NOW)
BEGAN = {"claim": Claim("j-aaaaa")}
CUT = {"cancelled_at": NOW.timestamp() - 10}
LONG = {"image_grace_seconds": 30}
NODE_GONE = pod("Running", running=EARLIER, deleting=NOW - timedelta(minutes=5))
ENDING = pod("Running", running=EARLIER, deleting=NOW)
OLD = replace(failed(), shows_disruptions=False)
SILENT = pod("Running", running=EARLIER, silent=True)
SECOND = replace(
    pod("Pending", "j-bbbbb", unschedulable="Unschedulable: 0/1 nodes: 1 Insufficient cpu"), created=NOW, node=""
)
LATE = pod("Failed", reason="DeadlineExceeded", message="Pod was active too long", running=EARLIER, grace_seconds=60)
TOO_MUCH_DISK = pod(
    "Failed", reason="Evicted", message='Container step exceeded its local ephemeral storage limit "1Gi". '
)
EVICTED = pod("Failed", reason="Evicted", message="The node was low on resource: memory.")
POLICY = "Container step for pod ns/j-aaaaa failed with exit code 7 matching FailJob rule at index 1"
DISRUPTED = "Pod ns/j-aaaaa has condition DisruptionTarget matching FailJob rule at index 0"


def disrupted(reason: str) -> SeenPod:
    return replace(ended(143), disrupted=Condition(reason, "why"))


CASES: list[tuple[str, SeenJob | None, list[SeenPod], dict[str, Any], JobStatus, FailureReason | None, str]] = [
    # --- not over
    ("no pod yet", LIVE, [], {}, PENDING, None, "not made a pod"),
    ("suspended", replace(LIVE, suspended=True), [], {}, PENDING, None, "suspended"),
    ("unschedulable", LIVE, [pod("Pending", unschedulable="Unschedulable: 0/1 nodes")], {}, PENDING, None, "0/1 nodes"),
    ("just made", LIVE, [pod("Pending")], {}, PENDING, None, "waits for a node"),
    ("being made", LIVE, [waiting("ContainerCreating", "")], {}, PENDING, None, "ContainerCreating"),
    ("image, in grace", LIVE, [waiting("ErrImagePull")], {}, PENDING, None, "ErrImagePull: because (for 50 s)"),
    ("image, too long", LIVE, [waiting("ImagePullBackOff")], LONG, FAILED, R.IMAGE_PULL, "ImagePullBackOff: because"),
    ("image never pulled", LIVE, [waiting("ErrImageNeverPull")], LONG, FAILED, R.IMAGE_PULL, "because"),
    ("image name", LIVE, [waiting("InvalidImageName")], {}, FAILED, R.IMAGE_INVALID, "because"),
    ("config, in grace", LIVE, [waiting("CreateContainerConfigError")], {}, PENDING, None, "because"),
    ("config", LIVE, [waiting("CreateContainerConfigError")], LONG, FAILED, R.CONTAINER_FAILED, "because"),
    ("begun, not reported yet", LIVE, [waiting("ContainerCreating")], BEGAN, RUNNING, None, ""),
    ("running", LIVE, [pod("Running", running=EARLIER)], {}, RUNNING, None, ""),
    ("node silent", LIVE, [pod("Running", reason="NodeLost")], {}, RUNNING, None, "does not answer"),
    ("node silent, not ready", LIVE, [SILENT], BEGAN, RUNNING, None, "n1 does not answer"),
    ("node silent, a second pod waits", LIVE, [SILENT, SECOND], BEGAN, RUNNING, None, "n1 does not answer"),
    ("first pod gone, a second one waits", LIVE, [SECOND], BEGAN, RUNNING, None, "Insufficient cpu"),
    ("phase unknown", LIVE, [pod("Unknown")], {}, RUNNING, None, "does not answer"),
    ("pod over, Job not yet", LIVE, [ended(0)], {}, RUNNING, None, ""),
    ("on its way to failed", job(FailureTarget=Condition()), [ended(7)], {}, RUNNING, None, ""),
    ("being deleted by others", DELETING, [], {}, RUNNING, None, "being deleted"),
    # --- completed
    ("completed", DONE, [ended(0, "Completed")], {**BEGAN, "record": record(0)}, COMPLETED, None, ""),
    ("completed, record not seen yet", DONE, [ended(0, "Completed")], BEGAN, COMPLETED, None, ""),
    ("completed just now, record not seen yet", job(Complete=Condition(since=NOW)), [], BEGAN, RUNNING, None, "record"),
    ("completed, pod gone", DONE, [], BEGAN, COMPLETED, None, ""),
    ("completed, yet the record says no", DONE, [], {"record": record(3)}, FAILED, R.PROGRAM_FAILED, ""),
    ("completed while a cancel was asked for", DONE, [], {"record": record(0), **CUT}, COMPLETED, None, ""),
    ("being deleted after its end", replace(DONE, deleting=NOW), [], {"record": record(0)}, COMPLETED, None, ""),
    # --- failed: the program
    ("exit 7", failed(), [ended(7)], {**BEGAN, "record": record(7)}, FAILED, R.PROGRAM_FAILED, ""),
    ("exit 7, no record", failed(), [ended(7)], BEGAN, FAILED, R.PROGRAM_FAILED, "Error"),
    ("exit 7, only the Job left", failed("PodFailurePolicy", POLICY), [], BEGAN, FAILED, R.PROGRAM_FAILED, "exit code"),
    ("nothing left", failed(), [], BEGAN, FAILED, R.NODE_FAILURE, "backoff limit"),
    ("nothing left, not started", failed(), [], {}, FAILED, R.BACKEND_FAILED, "backoff limit"),
    ("not found", failed(), [ended(127)], {**BEGAN, "record": record(127)}, FAILED, R.COMMAND_NOT_FOUND, ""),
    ("signal", failed(), [ended(139)], {**BEGAN, "record": record(139)}, FAILED, R.KILLED_BY_SIGNAL, ""),
    ("signal, no record", failed(), [ended(137)], BEGAN, FAILED, R.KILLED_BY_SIGNAL, ""),
    ("damaged record", failed(), [ended(1)], {**BEGAN, "record": "{"}, FAILED, R.EXIT_RECORD_UNREADABLE, ""),
    # --- failed: its limits
    ("out of memory", failed(), [ended(137, "OOMKilled")], BEGAN, FAILED, R.OUT_OF_MEMORY, "OOMKilled"),
    ("out of memory, a child", failed(), [ended(137)], {**BEGAN, "record": record(137, oom=True)}, FAILED,
     R.OUT_OF_MEMORY, ""),
    ("time limit", failed(), [pod("Failed", reason="DeadlineExceeded", message="Pod was active too long")],
     {**BEGAN, "record": record(143)}, FAILED, R.TIME_LIMIT, "Pod was active"),
    ("time limit, the container still runs", failed(), [LATE], {**BEGAN}, RUNNING, None, "ending"),
    ("time limit, the container runs on for ever", failed(), [LATE], {**BEGAN, "now": NOW + timedelta(seconds=120)},
     FAILED, R.TIME_LIMIT, "Pod was active"),
    ("Job deadline, had begun", failed("DeadlineExceeded", "Job was active longer"), [], {**BEGAN}, FAILED,
     R.TIME_LIMIT, "longer"),
    ("Job deadline, answered well", failed("DeadlineExceeded", "late"), [], {**BEGAN, "record": record(0)}, FAILED,
     R.TIME_LIMIT, "late"),
    ("Job deadline, not started", failed("DeadlineExceeded", "late"), [], {}, FAILED, R.BACKEND_FAILED, "never"),
    ("Job deadline, still ending", failed("DeadlineExceeded", "late"), [ENDING], BEGAN, RUNNING, None, "ending"),
    # --- failed: the cluster
    ("evicted", failed(), [EVICTED], BEGAN, FAILED, R.PREEMPTED, "Evicted: The node was low"),
    ("too much disk", failed(), [TOO_MUCH_DISK], BEGAN, FAILED, R.DISK_LIMIT, "storage limit"),
    ("evicted after a signal", failed(), [EVICTED], {**BEGAN, "record": record(143)}, FAILED, R.PREEMPTED, "Evicted"),
    ("preempted", failed(), [disrupted("PreemptionByScheduler")], BEGAN, FAILED, R.PREEMPTED, "PreemptionByScheduler"),
    ("drained", failed(), [disrupted("EvictionByEvictionAPI")], BEGAN, FAILED, R.PREEMPTED, "Eviction"),
    ("tainted", failed(), [disrupted("DeletionByTaintManager")], BEGAN, FAILED, R.NODE_FAILURE, "Taint"),
    ("node removed", failed(), [disrupted("DeletionByPodGC")], BEGAN, FAILED, R.NODE_FAILURE, "PodGC"),
    ("disrupted in a new way", failed(), [disrupted("Moonshine")], BEGAN, FAILED, R.PREEMPTED, "Moonshine"),
    ("disrupted, pod gone", failed("PodFailurePolicy", DISRUPTED), [], BEGAN, FAILED, R.PREEMPTED, "DisruptionTarget"),
    ("disrupted, but had ended well", failed(), [disrupted("DeletionByPodGC")], {**BEGAN, "record": record(0)},
     COMPLETED, None, ""),
    ("no room after all", failed(), [pod("Failed", reason="OutOfcpu")], {}, FAILED, R.NODE_FAILURE, "OutOfcpu"),
    ("node shut down", failed(), [pod("Failed", reason="NodeShutdown")], BEGAN, FAILED, R.NODE_FAILURE, "Shutdown"),
    ("node lost", failed(), [NODE_GONE], BEGAN, FAILED, R.NODE_FAILURE, "n1 does not answer"),
    ("node rebooted", failed(), [ended(137, "ContainerStatusUnknown")], BEGAN, FAILED, R.NODE_FAILURE, "Unknown"),
    ("a second pod did not start", failed(), [ended(75, name="j-bbbbb")], BEGAN, FAILED, R.NODE_FAILURE, "j-aaaaa"),
    ("a second pod, the first had ended well", failed(), [ended(75, name="j-bbbbb")], {**BEGAN, "record": record(0)},
     COMPLETED, None, ""),
    ("pod deleted by hand", failed(), [replace(ended(143), deleting=NOW)], {**BEGAN, "record": record(143)}, FAILED,
     R.STOPPED_OUTSIDE, "deleted"),
    ("pod deleted by hand, no record", failed(), [replace(ended(137), deleting=NOW)], BEGAN, FAILED,
     R.STOPPED_OUTSIDE, "deleted"),
    ("pod deleted, an old server", OLD, [replace(ended(143), deleting=NOW)], {**BEGAN, "record": record(143)}, FAILED,
     R.PREEMPTED, "drained"),
    ("pod deleted, an old server, no record", OLD, [replace(ended(137), deleting=NOW)], BEGAN, FAILED, R.PREEMPTED,
     "drained"),
    ("pod deleted and gone, an old server", OLD, [ended(75, name="j-bbbbb")], {**BEGAN, "record": record(143)}, FAILED,
     R.PREEMPTED, "drained"),
    ("pod deleted after a crash, an old server", OLD, [replace(ended(139), deleting=NOW)],
     {**BEGAN, "record": record(139)}, FAILED, R.KILLED_BY_SIGNAL, ""),
    ("node removed, an old server", OLD, [pod("Failed", deleting=NOW)], BEGAN, FAILED, R.NODE_FAILURE, "j-aaaaa"),
    ("the shell is missing", failed(), [ended(128, "StartError", "exec: /bin/sh: no such file")], {}, FAILED,
     R.CONTAINER_FAILED, "no such file"),
    ("the volume is missing", failed(), [ended(127, "Error", "sh: cannot open /a/j.sh")], {}, FAILED,
     R.CONTAINER_FAILED, "cannot open"),
    ("given up", failed(), [ended(75)], {"claim": Claim("nobody: no image")}, FAILED, R.BACKEND_FAILED, "no image"),
    ("a program wrote the claim", failed(), [ended(7)], {"claim": Claim("nobody: me"), "record": record(7)}, FAILED,
     R.PROGRAM_FAILED, ""),
    ("a program wrote the claim, no record", failed(), [ended(7)], {"claim": Claim("nobody: me")}, FAILED,
     R.PROGRAM_FAILED, ""),
    ("cancelled before it began", failed(), [ended(75)], {"claim": Claim(f"nobody: {BLOCKED}"), **CUT}, CANCELLED,
     R.CANCELLED, ""),
    # --- gone
    ("never there", None, [], {}, UNKNOWN, None, ""),
    ("cancel is being carried out", None, [ENDING], {**BEGAN, **CUT}, RUNNING, None, "is being stopped"),
    ("cancelled", None, [], {**BEGAN, **CUT}, CANCELLED, R.CANCELLED, ""),
    ("cancelled, by signal", None, [], {**BEGAN, **CUT, "record": record(143)}, CANCELLED, R.CANCELLED, ""),
    ("cancelled, answered well", None, [], {**BEGAN, **CUT, "record": record(0)}, CANCELLED, R.CANCELLED, ""),
    ("cancelled too late", None, [], {**BEGAN, **CUT, "record": record(0, finished=EARLIER)}, COMPLETED, None, ""),
    ("cancelled, something holds the Job", DELETING, [], {**BEGAN, **CUT}, CANCELLED, R.CANCELLED, ""),
    ("orphaned", None, [pod("Running")], BEGAN, RUNNING, None, "its Job is gone"),
    ("deleted by others", None, [], {**BEGAN, "record": record(143)}, FAILED, R.STOPPED_OUTSIDE, "deleted"),
    ("deleted long after its end", None, [], {**BEGAN, "record": record(0)}, COMPLETED, None, ""),
    ("deleted long after its failure", None, [], {**BEGAN, "record": record(3)}, FAILED, R.PROGRAM_FAILED, ""),
    ("deleted without a trace", None, [], BEGAN, UNKNOWN, None, ""),
]  # fmt: skip


def evidence(seen: SeenJob | None, pods: list[SeenPod], **more: Any) -> Evidence:
    return Evidence(seen, pods, **{"now": NOW, "image_grace_seconds": 120, **more})


@pytest.mark.parametrize(
    ("seen", "pods", "more", "status", "reason", "words"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_case(
    seen: SeenJob | None,
    pods: list[SeenPod],
    more: dict[str, Any],
    status: JobStatus,
    reason: FailureReason | None,
    words: str,
) -> None:
    info = resolve_status(evidence(seen, pods, **more))
    assert (info.status, info.reason) == (status, reason), info
    assert words in (info.message or "")


def test_metrics_of_the_record() -> None:
    info = resolve_status(evidence(DONE, [ended(0, "Completed")], record=record(0), claim=Claim("j-aaaaa")))
    assert (info.exit_code, info.wall_time_seconds, info.peak_memory_gb) == (0, 10, 0.5)
    assert info.cpu_hours == pytest.approx(2 / 3600)
    assert (info.node, info.submitted_at, info.started_at, info.finished_at) == ("n1", EARLIER, EARLIER, NOW)


def test_the_claim_names_the_node_of_a_pod_that_the_watch_does_not_show_yet() -> None:
    claim = Claim("j-aaaaa", host="n7")
    assert resolve_status(evidence(DONE, [], record=record(0), claim=claim)).node == "n7"
    assert resolve_status(evidence(DONE, [], record=record(0), claim=Claim("j-aaaaa"))).node is None


def test_metrics_without_a_record_are_those_of_the_container() -> None:
    for seen, code in ((DONE, 0), (failed(), 7)):
        info = resolve_status(evidence(seen, [ended(code)], claim=Claim("j-aaaaa")))
        assert (info.exit_code, info.wall_time_seconds, info.cpu_hours) == (code, 50, None)


HOSTILE_WORDS = ["a\0b", "a\ud800b", "\udfff", "\0" * 5000, "x" * 10**6, "\N{HANGUL SYLLABLE GA}" * 10**5]


@pytest.mark.parametrize("words", HOSTILE_WORDS, ids=lambda words: f"{len(words)} of {words[:2]!a}")
def test_a_termination_message_can_be_stored(words: str) -> None:
    state = {"terminated": {"exitCode": 7, "reason": words, "message": words}}
    status = {
        "phase": "Failed",
        "reason": words,
        "message": words,
        "containerStatuses": [{"name": "step", "state": state}],
    }
    seen = read_pod({"metadata": {"name": "j-aaaaa", "labels": {"job-name": "j"}}, "status": status})
    for claim in (None, Claim("j-aaaaa")):
        message = resolve_status(evidence(failed(), [seen], claim=claim)).message
        assert message
        assert len(message) < 10_000
        assert text_problem(message) is None


@pytest.mark.parametrize(
    "data", [{}, {"metadata": 1}, {"metadata": {"name": 5}}, {"metadata": {"name": "a"}, "status": 1}]
)
def test_what_cannot_be_read(data: Any) -> None:
    for read in (read_job, read_pod):
        with pytest.raises(BackendConfused):
            read(data)
