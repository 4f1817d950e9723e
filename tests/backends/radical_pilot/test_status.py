"""The status that record, claim, end of the task and pilot together give."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.claim import STALE_SECONDS, Claim
from ccat_workflow_manager.hpc.attempt.record import ExitRecord, utc
from ccat_workflow_manager.hpc.radical_pilot.job import TaskEnd
from ccat_workflow_manager.hpc.radical_pilot.pilot import PilotState
from ccat_workflow_manager.hpc.radical_pilot.status import Evidence, needs_pilot, resolve_status
from ccat_workflow_manager.lifecycle.job_info import JobStatus

NOW = 1_000_000.0
NOTHING = Evidence(NOW)
STARTED = replace(NOTHING, claim=Claim("pilot-1", "node7", NOW - 100, touched=NOW - 1))
STALE = replace(STARTED, claim=Claim("pilot-1", "node7", NOW - 100, touched=NOW - STALE_SECONDS - 1))
ENDS_NOW, ENDS_LATER = PilotState(until=NOW + 10), PilotState(until=NOW + 1000)
REFUSED, ENDED = TaskEnd("too many threads", refused=True), TaskEnd("RADICAL-Pilot says FAILED")


def record(exit_code: int | None, stopped_by: str | None = None) -> str:
    return ExitRecord("job", exit_code, stopped_by=stopped_by, finished_at=utc(NOW - 5)).to_json()


F = FailureReason
CASES: list[tuple[str, Evidence, JobStatus, FailureReason | None]] = [
    # The record decides.
    ("completed", replace(STARTED, record=record(0)), JobStatus.COMPLETED, None),
    ("completed, then the pilot ended", replace(STALE, record=record(0), pilot_alive=False), JobStatus.COMPLETED, None),
    ("failed", replace(STARTED, record=record(3)), JobStatus.FAILED, F.PROGRAM_FAILED),
    ("failed at the end of the pilot", replace(STARTED, record=record(3), pilot=ENDS_NOW), JobStatus.FAILED,
     F.PROGRAM_FAILED),
    ("killed by its own site", replace(STARTED, record=record(143), pilot=ENDS_LATER), JobStatus.FAILED,
     F.KILLED_BY_SIGNAL),
    ("killed at the end of the pilot", replace(STARTED, record=record(143), pilot=ENDS_NOW), JobStatus.FAILED,
     F.BACKEND_FAILED),
    ("time limit at the end of the pilot", replace(STARTED, record=record(143, "time_limit"), pilot=ENDS_NOW),
     JobStatus.FAILED, F.TIME_LIMIT),
    ("stopped with its pilot", replace(STALE, record=record(None, "carrier_lost"), pilot_alive=False),
     JobStatus.FAILED, F.BACKEND_FAILED),
    ("cancelled", replace(STARTED, record=record(0, "cancel")), JobStatus.CANCELLED, F.CANCELLED),
    ("half a record", replace(STARTED, record="{"), JobStatus.FAILED, F.EXIT_RECORD_UNREADABLE),
    # Without a record.
    ("waits", NOTHING, JobStatus.PENDING, None),
    ("waits for another pilot", replace(NOTHING, pilot_alive=False), JobStatus.PENDING, None),
    ("cancelled before it started", replace(NOTHING, claim=Claim("nobody: cancelled", at=NOW)), JobStatus.CANCELLED,
     F.CANCELLED),
    ("runs", STARTED, JobStatus.RUNNING, None),
    ("runs, the pilot has ended", replace(STARTED, pilot_alive=False), JobStatus.RUNNING, None),
    ("runs, no heartbeat seen", STALE, JobStatus.RUNNING, None),
    ("lost with its pilot", replace(STALE, pilot_alive=False), JobStatus.UNKNOWN, None),
    # The task has ended.
    ("does not fit", replace(NOTHING, end=REFUSED), JobStatus.FAILED, F.REJECTED),
    ("not started", replace(NOTHING, end=ENDED), JobStatus.FAILED, F.EXIT_RECORD_MISSING),
    ("the record is on its way", replace(STARTED, end=ENDED), JobStatus.RUNNING, None),
    ("no record", replace(STALE, end=ENDED), JobStatus.FAILED, F.EXIT_RECORD_MISSING),
    ("no record, no pilot", replace(STALE, end=ENDED, pilot_alive=False), JobStatus.FAILED, F.BACKEND_FAILED),
]  # fmt: skip


@pytest.mark.parametrize(("evidence", "status", "reason"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_a_job_that(evidence: Evidence, status: JobStatus, reason: FailureReason | None) -> None:
    info = resolve_status(evidence)
    assert (info.status, info.reason) == (status, reason)


def test_a_record_outweighs_everything() -> None:
    for _, evidence, _, _ in CASES:
        assert resolve_status(replace(evidence, record=record(0))).status is JobStatus.COMPLETED


def test_only_a_job_without_a_trace_is_given_to_another_pilot() -> None:
    found = {name for name, evidence, _, _ in CASES if needs_pilot(evidence)}
    assert found == {"waits for another pilot"}
