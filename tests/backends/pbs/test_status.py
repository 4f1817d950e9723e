"""What the server and the exit record say together."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ccat_workflow_manager.failures import FailureReason as Why
from ccat_workflow_manager.hpc.pbs.listing import Seen
from ccat_workflow_manager.hpc.pbs.script import Dialect
from ccat_workflow_manager.hpc.pbs.status import Evidence, resolve_status
from ccat_workflow_manager.lifecycle.job_info import UNKNOWN, HPCJobInfo, JobStatus

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
LONG_AGO = NOW - timedelta(minutes=5)
RECORD_0 = HPCJobInfo(JobStatus.COMPLETED, exit_code=0, wall_time_seconds=2)
RECORD_3 = HPCJobInfo(JobStatus.FAILED, exit_code=3, reason=Why.PROGRAM_FAILED, wall_time_seconds=2)
RECORD_TERM = HPCJobInfo(JobStatus.FAILED, exit_code=143, signal=15, reason=Why.KILLED_BY_SIGNAL, wall_time_seconds=2)


def over(exit_status: int | None, substate: int | None = 93, **more: object) -> Seen:
    return replace(Seen("F", substate=substate, exit_status=exit_status, changed_at=LONG_AGO), **more)  # type: ignore[arg-type]


Case = tuple[str, Seen | None, HPCJobInfo | None, JobStatus, Why | None]

CASES: list[Case] = [
    ("no witness", None, None, JobStatus.UNKNOWN, None),
    ("forgotten, recorded", None, RECORD_3, JobStatus.FAILED, Why.PROGRAM_FAILED),
    ("forgotten, recorded well", None, RECORD_0, JobStatus.COMPLETED, None),
    ("well", over(0, 92), RECORD_0, JobStatus.COMPLETED, None),
    ("well, no record", over(0, 92), None, JobStatus.COMPLETED, None),
    ("exit 3", over(3), RECORD_3, JobStatus.FAILED, Why.PROGRAM_FAILED),
    ("exit 3, no record", over(3), None, JobStatus.FAILED, Why.BACKEND_FAILED),
    ("walltime", over(-29), RECORD_TERM, JobStatus.FAILED, Why.TIME_LIMIT),
    ("walltime, but it answered with 0", over(-29), RECORD_0, JobStatus.FAILED, Why.TIME_LIMIT),
    ("memory", over(-27), None, JobStatus.FAILED, Why.OUT_OF_MEMORY),
    ("node", over(-4), None, JobStatus.FAILED, Why.NODE_FAILURE),
    ("node, after the end", over(-4), RECORD_0, JobStatus.COMPLETED, None),
    ("unheard of", over(-99), None, JobStatus.FAILED, Why.BACKEND_FAILED),
    ("SIGKILL", over(265), None, JobStatus.FAILED, Why.KILLED_BY_SIGNAL),
    ("SIGTERM", over(271), None, JobStatus.FAILED, Why.KILLED_BY_SIGNAL),
    ("deleted running", over(271, 91), RECORD_TERM, JobStatus.CANCELLED, None),
    ("deleted, but it answered with 0", over(0, 91), RECORD_0, JobStatus.CANCELLED, None),
    ("deleted held", over(None, 91), None, JobStatus.CANCELLED, None),
    (
        "the server gave up",
        over(None, 91, comment="job held, too many failed attempts to run and terminated"),
        None,
        JobStatus.FAILED,
        Why.BACKEND_FAILED,
    ),
    ("no exit status, but a record", over(None), RECORD_0, JobStatus.COMPLETED, None),
    ("array", Seen("X", exit_status=0), None, JobStatus.COMPLETED, None),
]


@pytest.mark.parametrize(
    ("seen", "record", "status", "reason"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_ends(seen: Seen | None, record: HPCJobInfo | None, status: JobStatus, reason: Why | None) -> None:
    info = resolve_status(Evidence(seen, record, NOW))
    assert (info.status, info.reason) == (status, reason), info


@pytest.mark.parametrize(
    ("state", "comment", "status", "message"),
    [
        ("Q", "", JobStatus.PENDING, "queued at PBS"),
        ("Q", "Not Running: Not enough free nodes available", JobStatus.PENDING, "Not enough free nodes"),
        ("Q", "Can Never Run: Insufficient amount of resource: ncpus", JobStatus.PENDING, "Can Never Run"),
        ("H", "job held", JobStatus.PENDING, "held at PBS until a person releases it: job held"),
        ("W", "", JobStatus.PENDING, "start time"),
        ("T", "", JobStatus.PENDING, "moved"),
        ("M", "", JobStatus.PENDING, "another server"),
        ("B", "", JobStatus.RUNNING, "array"),
        ("E", "", JobStatus.RUNNING, "ending"),
        ("S", "", JobStatus.RUNNING, "suspended"),
        ("U", "", JobStatus.RUNNING, "suspended"),
        ("Z", "", JobStatus.PENDING, "PBS says Z"),
    ],
)
def test_before_the_end(state: str, comment: str, status: JobStatus, message: str) -> None:
    info = resolve_status(Evidence(Seen(state, comment=comment), None, NOW))
    assert info.status is status
    assert message in (info.message or "")


def test_running_says_no_more() -> None:
    assert resolve_status(Evidence(Seen("R", comment="Job run at ..."), None, NOW)) == HPCJobInfo(JobStatus.RUNNING)


def test_a_failure_waits_for_its_record() -> None:
    seen = over(3, changed_at=NOW - timedelta(seconds=2))
    assert resolve_status(Evidence(seen, None, NOW)).status is JobStatus.RUNNING
    assert resolve_status(Evidence(seen, None, NOW + timedelta(seconds=20))).status is JobStatus.FAILED
    assert resolve_status(Evidence(seen, RECORD_3, NOW)).exit_code == 3


def test_torque_has_codes_and_ways_of_its_own() -> None:
    def end(seen: Seen, record: HPCJobInfo | None = None, log: str = "") -> tuple[JobStatus, Why | None]:
        info = resolve_status(Evidence(replace(seen, state="C", substate=None), record, NOW, Dialect.TORQUE, log))
        return info.status, info.reason

    assert end(over(-11)) == (JobStatus.FAILED, Why.TIME_LIMIT)
    assert end(over(-10)) == (JobStatus.FAILED, Why.OUT_OF_MEMORY)
    assert end(over(271)) == (JobStatus.CANCELLED, None)
    assert end(over(271, used_seconds=14, limit_seconds=10)) == (JobStatus.FAILED, Why.TIME_LIMIT)
    killed = "=>> PBS: job killed: walltime 14 exceeded limit 10"
    assert end(over(143), RECORD_TERM, killed) == (JobStatus.FAILED, Why.TIME_LIMIT)
    assert end(over(271), RECORD_TERM) == (JobStatus.CANCELLED, None)
    assert end(over(None), RECORD_TERM) == (JobStatus.CANCELLED, None)
    assert end(over(143), RECORD_TERM) == (JobStatus.FAILED, Why.KILLED_BY_SIGNAL)
    assert end(over(None), RECORD_3) == (JobStatus.FAILED, Why.PROGRAM_FAILED)


def test_the_best_numbers() -> None:
    seen = over(3, used_seconds=3, cpu_seconds=36, memory_bytes=1 << 30)
    info = resolve_status(Evidence(seen, RECORD_3, NOW))
    assert (info.wall_time_seconds, info.cpu_hours, info.peak_memory_gb) == (2, 0.01, None)
    long = resolve_status(Evidence(replace(seen, used_seconds=600), None, NOW))
    assert (long.wall_time_seconds, long.peak_memory_gb) == (600, 1)


def test_silence_proves_nothing() -> None:
    assert resolve_status(Evidence(None, None, NOW)) == UNKNOWN
