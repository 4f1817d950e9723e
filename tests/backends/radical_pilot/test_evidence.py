"""What follows from what is written down about a job in a pilot."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.record import ExitRecord
from ccat_workflow_manager.hpc.radical_pilot.evidence import SETTLE_SECONDS, Evidence, judged
from ccat_workflow_manager.hpc.radical_pilot.store import NOBODY, Claim, End
from ccat_workflow_manager.lifecycle.job_info import JobStatus

NOW = 1_000_000.0
CLAIM = Claim("pilot-1", "node7", NOW - 100)


def record(exit_code: int, finished: float = NOW - 5) -> str:
    return ExitRecord("job", exit_code, finished_at=datetime.fromtimestamp(finished, UTC)).to_json()


DEAD = Evidence(claim=CLAIM, pilot_alive=False)
CASES: list[tuple[str, Evidence, JobStatus | None, FailureReason | None]] = [
    ("waits", Evidence(pilot_text="why"), JobStatus.PENDING, None),
    ("waits for a pilot that is gone", Evidence(pilot_alive=False), None, None),
    ("is claimed at this moment", Evidence(claim=Claim("", None, NOW)), JobStatus.PENDING, None),
    ("runs", Evidence(claim=CLAIM), JobStatus.RUNNING, None),
    ("ran when its pilot went", Evidence(claim=CLAIM, pilot_alive=False), JobStatus.UNKNOWN, None),
    ("completed", Evidence(claim=CLAIM, record=record(0)), JobStatus.COMPLETED, None),
    ("completed, and then its pilot went", replace(DEAD, record=record(0)), JobStatus.COMPLETED, None),
    ("failed", Evidence(claim=CLAIM, record=record(3)), JobStatus.FAILED, FailureReason.PROGRAM_FAILED),
    (
        "was killed, nobody knows by whom",
        Evidence(claim=CLAIM, record=record(143), pilot_until=NOW + 1000),
        JobStatus.FAILED,
        FailureReason.KILLED_BY_SIGNAL,
    ),
    (
        "was killed when the time of its pilot was over",
        Evidence(claim=CLAIM, record=record(143), pilot_until=NOW + 10),
        JobStatus.FAILED,
        FailureReason.BACKEND_FAILED,
    ),
    (
        "failed by itself when the time of its pilot was over",
        Evidence(claim=CLAIM, record=record(3), pilot_until=NOW + 10),
        JobStatus.FAILED,
        FailureReason.PROGRAM_FAILED,
    ),
    (
        "ran into its limit",
        Evidence(claim=CLAIM, record=record(143), stopped="time_limit"),
        JobStatus.FAILED,
        FailureReason.TIME_LIMIT,
    ),
    (
        "was stopped with its pilot",
        replace(DEAD, record=record(143), stopped="pilot"),
        JobStatus.FAILED,
        FailureReason.BACKEND_FAILED,
    ),
    (
        "was cancelled and said 0",
        Evidence(claim=CLAIM, record=record(0), stopped="cancel"),
        JobStatus.CANCELLED,
        FailureReason.CANCELLED,
    ),
    (
        "was over when it was cancelled",
        Evidence(claim=CLAIM, record=record(0), cancelled_at=NOW),
        JobStatus.COMPLETED,
        None,
    ),
    (
        "was cancelled before it ran",
        Evidence(claim=Claim(NOBODY, None, NOW), cancelled_at=NOW),
        JobStatus.CANCELLED,
        FailureReason.CANCELLED,
    ),
    (
        "was killed with its script",
        Evidence(claim=CLAIM, over=True),
        JobStatus.FAILED,
        FailureReason.EXIT_RECORD_MISSING,
    ),
    ("was killed with its pilot", replace(DEAD, over=True), JobStatus.FAILED, FailureReason.BACKEND_FAILED),
    (
        "was cancelled and killed with its script",
        Evidence(claim=CLAIM, over=True, stopped="cancel", cancelled_at=NOW - 9),
        JobStatus.CANCELLED,
        FailureReason.CANCELLED,
    ),
    (
        "ran into its limit and was killed with its script",
        Evidence(claim=CLAIM, over=True, stopped="time_limit"),
        JobStatus.FAILED,
        FailureReason.TIME_LIMIT,
    ),
    (
        "does not fit",
        Evidence(end=End(NOW, "too many threads per proc", refused=True)),
        JobStatus.FAILED,
        FailureReason.REJECTED,
    ),
    ("is over a moment ago", Evidence(claim=CLAIM, end=End(NOW, "DONE")), JobStatus.RUNNING, None),
    (
        "is over and left no record",
        Evidence(claim=CLAIM, end=End(NOW - SETTLE_SECONDS - 1, "FAILED")),
        JobStatus.FAILED,
        FailureReason.EXIT_RECORD_MISSING,
    ),
    ("left half a record", Evidence(claim=CLAIM, record="{"), JobStatus.FAILED, FailureReason.EXIT_RECORD_UNREADABLE),
]


@pytest.mark.parametrize(("seen", "status", "reason"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_job_that(seen: Evidence, status: JobStatus | None, reason: FailureReason | None) -> None:
    info = judged(seen, NOW)
    assert (info.status if info else None, info.reason if info else None) == (status, reason)


def test_a_record_outweighs_everything() -> None:
    for _, seen, _, _ in CASES:
        info = judged(replace(seen, record=record(0), stopped=None, cancelled_at=None), NOW)
        assert info is not None
        assert info.status is JobStatus.COMPLETED
