"""Three witnesses of one job, and what follows from them: the table of cases."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ccat_workflow_manager.failures import FailureReason as Why
from ccat_workflow_manager.hpc.batch.script import RAN_AGAIN
from ccat_workflow_manager.hpc.slurm.listing import Seen
from ccat_workflow_manager.hpc.slurm.status import FINAL, MEANINGS, Evidence, held, needs_no_accounting, resolve_status
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus

START = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
END = START + timedelta(minutes=59)
LONG_AFTER = END + timedelta(minutes=5)
P, R, C, F, X, U = (
    JobStatus.PENDING,
    JobStatus.RUNNING,
    JobStatus.COMPLETED,
    JobStatus.FAILED,
    JobStatus.CANCELLED,
    JobStatus.UNKNOWN,
)


def seen(state: str, **more: Any) -> Seen:
    ended = END if state in FINAL else None
    return replace(Seen(state, "job", started_at=START, ended_at=ended, limit_seconds=3600.0), **more)


def by_node(why: str) -> str:
    return f"slurmstepd: error: *** JOB 5 ON n1 CANCELLED AT 2026-11-21T12:59:00{why} ***\n"


OK = HPCJobInfo(C, exit_code=0, wall_time_seconds=3540.0, cpu_hours=0.5)
BAD = HPCJobInfo(F, exit_code=3, wall_time_seconds=3540.0, reason=Why.PROGRAM_FAILED)
KILLED = HPCJobInfo(F, exit_code=137, signal=9, wall_time_seconds=3540.0, reason=Why.KILLED_BY_SIGNAL)
TERMED = HPCJobInfo(F, exit_code=143, signal=15, wall_time_seconds=3520.0, reason=Why.KILLED_BY_SIGNAL)
RESTARTED = {"controller_started_at": END - timedelta(seconds=20)}
SILENT = {"silent_node": "n1", "claimed_at": START - timedelta(minutes=1)}
CUT = HPCJobInfo(F, reason=Why.EXIT_RECORD_UNREADABLE, message="cut short")

Case = tuple[Seen | None, Seen | None, HPCJobInfo | None, dict[str, Any], JobStatus, Why | None]

CASES: dict[str, Case] = {
    # controller, accounting, record, more -> status, reason
    "no witness": (None, None, None, {}, U, None),
    "no witness, accounting away": (None, None, None, {"accounting_error": "sacct failed"}, P, None),
    "forgotten": (None, None, TERMED, {}, F, Why.KILLED_BY_SIGNAL),
    "forgotten, cancelled by a person": (None, None, TERMED, {"scheduler_log": by_node("")}, X, None),
    "forgotten, over its time": (
        None, None, KILLED, {"scheduler_log": by_node(" DUE TO TIME LIMIT")}, F, Why.TIME_LIMIT,
    ),
    "forgotten, preempted": (None, None, TERMED, {"scheduler_log": by_node(" DUE TO PREEMPTION")}, F, Why.PREEMPTED),
    "forgotten, its node failed": (
        None, None, TERMED,
        {"scheduler_log": by_node(" DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS")}, F, Why.NODE_FAILURE,
    ),
    "forgotten, requeued and ended": (
        None, None, BAD, {"scheduler_log": by_node(" DUE TO JOB REQUEUE")}, F, Why.PROGRAM_FAILED,
    ),
    "forgotten, ended well when it was cancelled": (None, None, OK, {"scheduler_log": by_node("")}, C, None),
    "a task that was taken out of its array": (None, None, None, {"removed": True}, X, None),
    "perhaps taken out, accounting away": (None, None, None, {"removed": True, "accounting_error": "no"}, P, None),
    "not taken out: it ran": (None, seen("COMPLETED"), None, {"removed": True}, C, None),
    "waiting": (seen("PENDING", reason="Priority"), None, None, {}, P, None),
    "waiting, a record of an earlier life": (seen("PENDING", reason="BeginTime"), None, KILLED, {}, P, None),
    "requeued and running, a record of an earlier life": (seen("RUNNING"), None, KILLED, {}, R, None),
    "running, accounting is behind": (seen("RUNNING"), seen("PENDING"), None, {}, R, None),
    "ending": (seen("COMPLETING"), None, OK, {}, R, None),
    "held after it has run": (seen("PENDING", reason="launch failed requeued held"), None, OK, {}, C, None),
    "waiting again after a controller was killed": (seen("PENDING", reason="Resources"), None, OK, {}, C, None),
    "requeued, the command made a clean end": (
        seen("PENDING"), None, OK, {"scheduler_log": by_node(" DUE TO JOB REQUEUE")}, P, None,
    ),
    "the same, it had failed": (seen("PENDING"), None, BAD, {}, F, Why.PROGRAM_FAILED),
    "started again, nothing known of the first start": (
        seen("FAILED"), seen("FAILED", exit_code=75), None, {"starts": ["7 0 on n1 ..."]}, F, Why.BACKEND_FAILED,
    ),
    "started again, the first start was killed": (
        seen("FAILED"), seen("FAILED", exit_code=75), TERMED, {"starts": ["7 0 on n1 ..."]}, F, Why.BACKEND_FAILED,
    ),
    "cancelled by a person": (seen("CANCELLED"), seen("CANCELLED", detail="by 1000"), KILLED, RESTARTED, X, None),
    "cancelled by root, no restart": (seen("CANCELLED"), seen("CANCELLED", detail="by 0"), KILLED, {}, X, None),
    "cancelled by Slurm after a restart": (
        seen("CANCELLED"), seen("CANCELLED", detail="by 0"), KILLED, RESTARTED, F, Why.BACKEND_FAILED,
    ),
    "cancelled after a restart, no accounting": (seen("CANCELLED"), None, None, RESTARTED, F, Why.BACKEND_FAILED),
    "cancelled after a restart, submitted after it too": (
        seen("CANCELLED", submitted_at=END - timedelta(seconds=10)), seen("CANCELLED", detail="by 0"), KILLED,
        RESTARTED, X, None,
    ),
    "cancelled long after a restart": (
        seen("CANCELLED"), seen("CANCELLED", detail="by 0"), KILLED,
        {"controller_started_at": END - timedelta(hours=1)}, X, None,
    ),
    "cancelled by Slurm long after a restart, a start that it has forgotten": (
        seen("CANCELLED"), seen("CANCELLED", detail="by 0"), None,
        {"controller_started_at": END - timedelta(hours=1), "claimed_at": START - timedelta(minutes=1)},
        F, Why.BACKEND_FAILED,
    ),
    "cancelled by root, a start that a requeue has replaced": (
        seen("CANCELLED"), seen("CANCELLED", detail="by 0"), None,
        {"claimed_at": START - timedelta(minutes=1), "starts": [f"7 1 on n1 {RAN_AGAIN}"]}, X, None,
    ),
    "the node of a forgotten start is silent": (seen("FAILED"), None, None, SILENT, R, None),
    "the node is silent, the job unknown": (None, seen("RUNNING"), None, SILENT, R, None),
    "the node is silent, a record of the first start": (seen("FAILED"), None, OK, SILENT, C, None),
    "cancelled by the user of Slurm": (
        None, seen("CANCELLED", detail="by 64030"), None, {"own_users": {0, 64030}}, F, Why.BACKEND_FAILED,
    ),
    "not launched on its node": (
        None, seen("CANCELLED", detail="by 0", node="n1"), None, {"claimed": False}, F, Why.BACKEND_FAILED,
    ),
    "cancelled on request before it was launched": (
        None, seen("CANCELLED", detail="by 0", node="n1"), None, {"claimed": False, "cancel_requested": True}, X, None,
    ),
    "cancelled on request after a restart": (
        seen("CANCELLED"), None, None, {**RESTARTED, "cancel_requested": True}, X, None,
    ),
    "cancelled before it had a node": (None, seen("CANCELLED", detail="by 0"), None, {"claimed": False}, X, None),
    "cancelled after it had ended well": (
        seen("CANCELLED"), None, replace(OK, finished_at=END - timedelta(seconds=1)), {}, C, None,
    ),
    "cancelled, and ended well when it was asked to": (
        seen("CANCELLED"), None, replace(OK, finished_at=END), {}, X, None,
    ),
    "held before it ran": (seen("PENDING", reason="JobHeldUser"), None, None, {}, P, None),
    "a word of tomorrow": (seen("HIBERNATING"), None, None, {}, P, None),
    "completed": (seen("COMPLETED"), seen("COMPLETED"), OK, {}, C, None),
    "completed, accounting is behind for long": (seen("COMPLETED"), seen("RUNNING"), OK, {}, C, None),
    "completed, accounting is behind a little": (
        seen("COMPLETED"), seen("RUNNING"), OK, {"now": END + timedelta(seconds=1)}, R, None,
    ),
    "completed a moment ago, no accounting": (
        seen("COMPLETED"), None, OK, {"now": END, "accounting_expected": False}, C, None,
    ),
    "completed, no record": (seen("COMPLETED"), seen("COMPLETED"), None, {}, C, None),
    "completed, but the record is damaged": (seen("COMPLETED"), None, CUT, {}, F, Why.EXIT_RECORD_UNREADABLE),
    "forgotten by the controller": (None, seen("COMPLETED"), OK, {}, C, None),
    "only the record": (None, None, OK, {}, C, None),
    "only the record, a failure": (None, None, BAD, {}, F, Why.PROGRAM_FAILED),
    "accounting thinks it runs, a record": (None, seen("RUNNING"), OK, {}, C, None),
    "accounting thinks it runs, no record": (None, seen("RUNNING"), None, {}, U, None),
    "failed": (seen("FAILED"), seen("FAILED", exit_code=3), BAD, {}, F, Why.PROGRAM_FAILED),
    "failed, accounting says 0:0 after its outage": (
        None, seen("FAILED", exit_code=0), BAD, {}, F, Why.PROGRAM_FAILED,
    ),
    "failed, the record is late": (seen("FAILED"), seen("FAILED"), None, {"now": END}, R, None),
    "failed without a record": (seen("FAILED"), seen("FAILED", exit_code=1), None, {}, F, Why.BACKEND_FAILED),
    "failed, never started": (
        seen("FAILED"), seen("FAILED", exit_code=0, signal=53), None, {}, F, Why.BACKEND_FAILED,
    ),
    "killed with its script": (
        seen("FAILED"), seen("FAILED", exit_code=0, signal=9), None, {}, F, Why.KILLED_BY_SIGNAL,
    ),
    "killed for its memory without a control group": (
        seen("FAILED"), seen("FAILED", signal=9), None,
        {"scheduler_log": "slurmstepd: error: StepId=1 exceeded memory limit (2 > 1), being killed"},
        F, Why.OUT_OF_MEMORY,
    ),
    "out of memory": (seen("OUT_OF_MEMORY"), seen("OUT_OF_MEMORY", signal=125), KILLED, {}, F, Why.OUT_OF_MEMORY),
    "timeout": (seen("TIMEOUT"), seen("TIMEOUT"), TERMED, {}, F, Why.TIME_LIMIT),
    "timeout, the program made a clean end": (seen("TIMEOUT"), None, OK, {}, F, Why.TIME_LIMIT),
    "ended by the signal before the limit": (
        seen("FAILED"), seen("FAILED"), TERMED, {"signal_seconds": 60}, F, Why.TIME_LIMIT,
    ),
    "ended by the same signal far from the limit": (
        seen("FAILED"), seen("FAILED"), replace(TERMED, wall_time_seconds=60.0), {"signal_seconds": 60},
        F, Why.KILLED_BY_SIGNAL,
    ),
    "the node died": (seen("NODE_FAIL"), seen("NODE_FAIL"), None, {}, F, Why.NODE_FAILURE),
    "the node died after the end": (seen("NODE_FAIL"), None, OK, {}, C, None),
    "preempted": (seen("PREEMPTED"), None, TERMED, {}, F, Why.PREEMPTED),
    "preempted, a clean end": (seen("PREEMPTED"), None, OK, {}, F, Why.PREEMPTED),
    "cancelled": (seen("CANCELLED"), seen("CANCELLED", detail="by 1000"), None, {}, X, None),
    "cancelled, a clean end": (seen("CANCELLED"), None, OK, {}, X, None),
    "deadline": (seen("DEADLINE"), None, None, {}, F, Why.BACKEND_FAILED),
    "revoked": (seen("REVOKED"), None, None, {}, F, Why.BACKEND_FAILED),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_merge(case: Case) -> None:
    controller, accounting, record, more, status, reason = case
    info = resolve_status(replace(Evidence(controller, accounting, record, LONG_AFTER), **more))
    assert (info.status, info.reason) == (status, reason), info


@pytest.mark.parametrize("word", MEANINGS)
def test_every_word_has_a_meaning(word: str) -> None:
    info = resolve_status(Evidence(seen(word), None, None, LONG_AFTER))
    assert info.status is MEANINGS[word].status
    if info.status is F and word != "FAILED":
        assert info.reason is MEANINGS[word].reason is not None


def test_nothing_regresses_when_a_witness_falls_silent() -> None:
    """Once an end is known, losing one witness never turns it into something that goes on."""
    for word in sorted(FINAL):
        for record in (OK, BAD):
            whole = resolve_status(Evidence(seen(word), seen(word), record, LONG_AFTER))
            for partial in (
                Evidence(seen(word), None, record, LONG_AFTER),
                Evidence(None, seen(word), record, LONG_AFTER),
            ):
                assert resolve_status(partial).status is whole.status


def test_words_for_those_who_wait() -> None:
    waiting = resolve_status(Evidence(seen("PENDING", reason="QOSMaxJobsPerUserLimit"), None, None, START))
    assert waiting.message == "queued at Slurm: QOSMaxJobsPerUserLimit"
    stuck = seen("PENDING", reason="JobHeldAdmin")
    assert held(stuck)
    assert (resolve_status(Evidence(stuck, None, None, START)).message or "").startswith("held at Slurm")
    assert "HIBERNATING" in (resolve_status(Evidence(seen("HIBERNATING"), None, None, START)).message or "")
    assert resolve_status(Evidence(stuck, None, None, START)).attention
    assert not waiting.attention
    for hopeless in ("BadConstraints", "AssocMaxWallDurationPerJobLimit", "QOSMaxCpuPerJobLimit", "JobHeldUser",
                     "PartitionDown", "Nodes required for job are DOWN, DRAINED or reserved"):  # fmt: skip
        assert resolve_status(Evidence(seen("PENDING", reason=hopeless), None, None, START)).attention, hopeless
    for passing in ("Priority", "Resources", "QOSMaxCpuPerUserLimit", "AssocGrpCpuLimit", "BeginTime"):
        assert not resolve_status(Evidence(seen("PENDING", reason=passing), None, None, START)).attention, passing
    cancelled = resolve_status(Evidence(seen("CANCELLED"), seen("CANCELLED", detail="by 1000"), None, LONG_AFTER))
    assert cancelled.message == "cancelled at Slurm by 1000"


def test_numbers() -> None:
    accounting = seen("COMPLETED", cpu_seconds=7200.0, peak_bytes=2 << 30)
    info = resolve_status(Evidence(seen("COMPLETED"), accounting, None, LONG_AFTER))
    assert (info.wall_time_seconds, info.cpu_hours, info.peak_memory_gb) == (3540, 2, 2)
    assert (info.started_at, info.finished_at) == (START, END)
    assert info.cpu_hours_allocated is None
    for controller, accounted in ((4, 8), (8, None)):
        had = replace(accounting, allocated_seconds=accounted and 3600.0 * accounted)
        both = Evidence(seen("COMPLETED", allocated_seconds=3600.0 * controller), had, OK, LONG_AFTER)
        assert resolve_status(both).cpu_hours_allocated == 8
    with_record = resolve_status(Evidence(seen("COMPLETED"), accounting, OK, LONG_AFTER))
    assert (with_record.cpu_hours, with_record.peak_memory_gb) == (0.5, 2)
    short = resolve_status(Evidence(seen("COMPLETED"), accounting, OK, LONG_AFTER, sampling_seconds=3600))
    assert short.peak_memory_gb is None


def test_the_accounting_is_not_asked_for_what_the_record_tells() -> None:
    assert needs_no_accounting(seen("COMPLETED"), OK, 30 * 60)
    assert not needs_no_accounting(seen("COMPLETED"), OK, 30)
    for controller, record in (("FAILED", BAD), ("COMPLETED", None), ("COMPLETED", BAD), ("RUNNING", OK),
                               ("COMPLETED", replace(OK, cpu_hours=None))):  # fmt: skip
        assert not needs_no_accounting(seen(controller), record, 30 * 60)
