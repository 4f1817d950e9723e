"""The status that record, claim and scheduler together give."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.claim import STALE_SECONDS, Claim
from ccat_workflow_manager.hpc.attempt.record import ExitRecord
from ccat_workflow_manager.hpc.dask.status import (
    FORGOTTEN,
    RESTARTED,
    DaskError,
    Evidence,
    is_forgotten,
    resolve_status,
)
from ccat_workflow_manager.lifecycle.job_info import JobStatus

NOW = 1_000_000.0
NOTHING = Evidence(record=None, claim=None, state=None, same_scheduler=True, workers=1, now=NOW)
STARTED = Claim("tcp://node7:1", "node7", NOW - 100, touched=NOW - 1)
STALE = replace(STARTED, touched=NOW - STALE_SECONDS - 1)
KILLED = DaskError("Dask gave up (KilledWorker)", killed_workers=True)
TAKEN = DaskError("Dask could not run the task: started before")


def record(exit_code: int | None, stopped_by: str | None = None) -> str:
    text = "its worker ended" if stopped_by == "carrier_lost" else None
    return ExitRecord("j", exit_code=exit_code, stopped_by=stopped_by, stopped_text=text).to_json()


LOST = record(None, "carrier_lost")

CASES: list[tuple[str, Evidence, JobStatus, FailureReason | None, str]] = [
    # The record decides, whatever Dask says.
    ("ended well", replace(NOTHING, record=record(0), state="erred", error=KILLED), JobStatus.COMPLETED, None, ""),
    ("ended badly", replace(NOTHING, record=record(3)), JobStatus.FAILED, FailureReason.PROGRAM_FAILED, ""),
    ("cancelled", replace(NOTHING, record=record(143, "cancel")), JobStatus.CANCELLED,
     FailureReason.CANCELLED, ""),
    ("unreadable", replace(NOTHING, record="{"), JobStatus.FAILED, FailureReason.EXIT_RECORD_UNREADABLE, ""),
    ("its worker ended", replace(NOTHING, record=LOST), JobStatus.FAILED,
     FailureReason.NODE_FAILURE, "its worker ended"),
    ("killed workers", replace(NOTHING, record=LOST, error=KILLED), JobStatus.FAILED,
     FailureReason.NODE_FAILURE, "KilledWorker"),
    ("the scheduler was restarted", replace(NOTHING, record=LOST, same_scheduler=False),
     JobStatus.FAILED, FailureReason.BACKEND_FAILED, RESTARTED),
    # Not started.
    ("queued", replace(NOTHING, state="queued"), JobStatus.PENDING, None, "busy"),
    ("no worker fits", replace(NOTHING, state="no-worker"), JobStatus.PENDING, None, "no Dask worker has"),
    ("no workers", replace(NOTHING, state="no-worker", workers=0), JobStatus.PENDING, None, "has no workers"),
    ("on a worker", replace(NOTHING, state="processing"), JobStatus.PENDING, None, "until there is room"),
    ("workers died", replace(NOTHING, state="erred", error=KILLED), JobStatus.FAILED, FailureReason.NODE_FAILURE,
     "KilledWorker"),
    ("Dask failed", replace(NOTHING, state="erred", error=TAKEN), JobStatus.FAILED, FailureReason.BACKEND_FAILED, ""),
    ("done without a trace", replace(NOTHING, state="memory"), JobStatus.UNKNOWN, None, ""),
    ("forgotten", NOTHING, JobStatus.UNKNOWN, None, ""),
    ("cancelled before", replace(NOTHING, claim=Claim("nobody: cancelled", at=NOW), state="processing"),
     JobStatus.CANCELLED, FailureReason.CANCELLED, ""),
    ("dropped", replace(NOTHING, claim=Claim(f"nobody: {FORGOTTEN}")), JobStatus.FAILED,
     FailureReason.STOPPED_OUTSIDE, FORGOTTEN),
    ("dropped by a restart", replace(NOTHING, claim=Claim(f"nobody: {RESTARTED}")), JobStatus.FAILED,
     FailureReason.BACKEND_FAILED, RESTARTED),
    # Started, and no record yet.
    ("runs", replace(NOTHING, claim=STARTED, state="processing"), JobStatus.RUNNING, None, ""),
    ("runs, unknown to Dask", replace(NOTHING, claim=STARTED), JobStatus.RUNNING, None, ""),
    ("runs, its task given to another", replace(NOTHING, claim=STARTED, state="erred", error=TAKEN),
     JobStatus.RUNNING, None, ""),
    ("runs behind a slow filesystem", replace(NOTHING, claim=STALE, state="processing"), JobStatus.RUNNING, None, ""),
    ("its host is gone", replace(NOTHING, claim=STALE, state="erred", error=TAKEN), JobStatus.FAILED,
     FailureReason.NODE_FAILURE, "node7"),
    ("its host is gone, the only one", replace(NOTHING, claim=STALE, state="no-worker"), JobStatus.FAILED,
     FailureReason.NODE_FAILURE, "was lost"),
    ("everything is gone", replace(NOTHING, claim=STALE, same_scheduler=False), JobStatus.FAILED,
     FailureReason.BACKEND_FAILED, RESTARTED),
    ("silence", replace(NOTHING, claim=STALE), JobStatus.UNKNOWN, None, ""),
    ("the record is late", replace(NOTHING, claim=STALE, state="memory"), JobStatus.UNKNOWN, None, ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("evidence", "status", "reason", "words"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_status(evidence: Evidence, status: JobStatus, reason: FailureReason | None, words: str) -> None:
    info = resolve_status(evidence)
    assert (info.status, info.reason) == (status, reason)
    assert words in (info.message or "")


def test_a_job_with_a_trace_is_not_forgotten() -> None:
    assert is_forgotten(NOTHING)
    for other in (
        replace(NOTHING, state="processing"),
        replace(NOTHING, claim=STARTED),
        replace(NOTHING, record=record(0)),
    ):
        assert not is_forgotten(other)
