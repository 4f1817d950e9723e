"""The status of a job from two witnesses: the PBS server and the exit record. Pure.

The server knows the present, and of the past what its history (OpenPBS) or `keep_completed` (Torque) keeps, which may
be nothing. The exit record has the exact end of the command. Silence of a witness proves nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.record import signal_in
from ccat_workflow_manager.hpc.batch.status import (
    Meaning,
    failed,
    is_recent,
    last_words,
    running,
    waiting,
    with_numbers,
)
from ccat_workflow_manager.hpc.pbs.listing import Seen
from ccat_workflow_manager.hpc.pbs.script import Dialect
from ccat_workflow_manager.lifecycle.job_info import UNKNOWN, HPCJobInfo, JobStatus

SAMPLED_SECONDS = 240
"""PBS samples memory every two minutes at most, so a shorter job has too few samples for a maximum."""
DELETED = 91
"""The substate of a job that was ended by `qdel`, or by the server itself."""

_P, _R, _F, _C = JobStatus.PENDING, JobStatus.RUNNING, JobStatus.FAILED, JobStatus.COMPLETED
_TERM = 15
_GAVE_UP = re.compile(r"too many failed attempts", re.IGNORECASE)
_OVER_TIME = re.compile(r"job killed: walltime|exceeded resource walltime", re.IGNORECASE)
_OVER_MEMORY = re.compile(
    r"job killed: (v|p|pv)?mem|exceeded resource v?mem|cgroup mem\w* limit exceeded|oom[-_ ]kill|out of memory",
    re.IGNORECASE,
)


MEANINGS: Mapping[str, Meaning] = {
    "Q": Meaning(_P),
    "H": Meaning(_P, held=True),
    "W": Meaning(_P, text="waiting for its start time, or for files to be staged in"),
    "T": Meaning(_P, text="being moved between queues or servers"),
    "M": Meaning(_P, text="moved to another server"),
    "R": Meaning(_R),
    "B": Meaning(_R, text="an array that has begun"),
    "E": Meaning(_R, text="it is ending"),
    "S": Meaning(_R, text="suspended at PBS"),
    "U": Meaning(_R, text="suspended at PBS, because a person works at the machine"),
    "F": Meaning(_F),
    "X": Meaning(_F),
    "C": Meaning(_F),
}
"""Every state of OpenPBS, PBS Pro and Torque. A state that is not here is shown as it is and decides nothing.

The end of a job that is over (F, X, C) depends on its exit status.
"""

_BOTH: Mapping[int, tuple[FailureReason, str]] = {
    -1: (FailureReason.BACKEND_FAILED, "it could not be started, before its files were there"),
    -2: (FailureReason.BACKEND_FAILED, "it could not be started, after its files were there"),
    -3: (FailureReason.BACKEND_FAILED, "it could not be started and was to be tried again"),
    -4: (FailureReason.NODE_FAILURE, "its node was started anew"),
    -5: (FailureReason.NODE_FAILURE, "its node was started anew, after a checkpoint"),
    -6: (FailureReason.NODE_FAILURE, "its node was started anew, after a checkpoint that may move"),
    -7: (FailureReason.BACKEND_FAILED, "it could not be restarted"),
}

EXIT_STATUSES: Mapping[Dialect, Mapping[int, tuple[FailureReason, str]]] = {
    Dialect.OPENPBS: {
        **_BOTH,
        -10: (FailureReason.BACKEND_FAILED, "its user or group does not exist on the node"),
        -11: (FailureReason.BACKEND_FAILED, "it was to be run again"),
        -12: (FailureReason.BACKEND_FAILED, "it was checkpointed and ended"),
        -13: (FailureReason.BACKEND_FAILED, "a bad password"),
        -14: (FailureReason.NODE_FAILURE, "a sister node failed"),
        -16: (FailureReason.BACKEND_FAILED, "a hook of the site failed"),
        -17: (FailureReason.BACKEND_FAILED, "a hook of the site failed"),
        -18: (FailureReason.BACKEND_FAILED, "a hook of the site ended it, to be run again"),
        -19: (FailureReason.BACKEND_FAILED, "a hook of the site ended it"),
        -20: (FailureReason.NODE_FAILURE, "its first node failed"),
        -21: (FailureReason.BACKEND_FAILED, "a breach of security"),
        -22: (FailureReason.BACKEND_FAILED, "a hook of the site failed"),
        -23: (FailureReason.BACKEND_FAILED, "no Kerberos credentials"),
        -24: (FailureReason.BACKEND_FAILED, "it used more cores at a time than it had asked for"),
        -25: (FailureReason.BACKEND_FAILED, "it used more cores on average than it had asked for"),
        -26: (FailureReason.OUT_OF_MEMORY, "virtual memory"),
        -27: (FailureReason.OUT_OF_MEMORY, ""),
        -28: (FailureReason.TIME_LIMIT, "CPU time"),
        -29: (FailureReason.TIME_LIMIT, ""),
        -30: (FailureReason.NODE_FAILURE, "its nodes could not be joined"),
        -31: (FailureReason.OUT_OF_MEMORY, "huge pages"),
        -32: (FailureReason.NODE_FAILURE, "its node had lost it"),
    },
    Dialect.TORQUE: {
        **_BOTH,
        -8: (FailureReason.BACKEND_FAILED, "its shell could not be started"),
        -9: (FailureReason.BACKEND_FAILED, "its output files could not be opened"),
        -10: (FailureReason.OUT_OF_MEMORY, ""),
        -11: (FailureReason.TIME_LIMIT, ""),
        -12: (FailureReason.TIME_LIMIT, "CPU time"),
        -13: (FailureReason.BACKEND_FAILED, "its control group could not be made"),
        -14: (FailureReason.BACKEND_FAILED, "the prologue of the site failed"),
    },
}
"""Exit statuses below zero. They are the server's own: no command ends with one."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the witnesses report about one job at one moment."""

    seen: Seen | None
    record: HPCJobInfo | None
    """The status according to the exit record."""
    now: datetime
    dialect: Dialect = Dialect.OPENPBS
    scheduler_log: str = ""


def over(seen: Seen) -> bool:
    """Whether the job has ended, according to the server."""
    meaning = MEANINGS.get(seen.state)
    return meaning is not None and meaning.status is _F


def resolve_status(evidence: Evidence) -> HPCJobInfo:
    seen, record = evidence.seen, evidence.record
    if seen is None:
        return record if record is not None else UNKNOWN
    if not over(seen):
        return _alive(seen)
    info = _ended(seen, evidence)
    return info if info.status is _R else _measured(info, seen, record)


def _alive(seen: Seen) -> HPCJobInfo:
    meaning = MEANINGS.get(seen.state) or Meaning(_P, text=f"PBS says {seen.state}")
    if meaning.status is _R:
        return running(seen, meaning.text)
    words = ", ".join(filter(None, (meaning.text, seen.comment)))
    return waiting(seen, "PBS", words, held=meaning.held, hopeless=seen.comment.startswith("Can Never Run"))


# --- the end ---------------------------------------------------------------------------------------------------------


def _ended(seen: Seen, evidence: Evidence) -> HPCJobInfo:
    record, status = evidence.record, seen.exit_status
    words = seen.comment or None
    if seen.substate == DELETED:
        if _GAVE_UP.search(seen.comment):
            return HPCJobInfo(_F, reason=FailureReason.BACKEND_FAILED, message=words)
        return HPCJobInfo(JobStatus.CANCELLED, message=f"deleted at PBS: {words}" if words else "deleted at PBS")
    if status is not None and status < 0:
        return _by_server(status, evidence, words)
    texts = f"{seen.comment}\n{evidence.scheduler_log}"
    stopped = _signal(status) is not None or (record is not None and record.signal is not None)
    if stopped and _OVER_TIME.search(texts):
        return failed(record, reason=FailureReason.TIME_LIMIT)
    if stopped and _OVER_MEMORY.search(texts):
        return failed(record, reason=FailureReason.OUT_OF_MEMORY)
    if evidence.dialect is Dialect.TORQUE and _was_terminated(status, record):
        return _terminated(seen, record)
    if record is not None:
        return record
    if status == 0:
        return HPCJobInfo(_C, exit_code=0)
    return _unexplained(seen, evidence, words)


def _by_server(status: int, evidence: Evidence, words: str | None) -> HPCJobInfo:
    unlisted = (FailureReason.BACKEND_FAILED, f"exit status {status}")
    reason, text = EXIT_STATUSES[evidence.dialect].get(status, unlisted)
    record = evidence.record
    limits = (FailureReason.TIME_LIMIT, FailureReason.OUT_OF_MEMORY)
    if record is not None and record.status is _C and reason not in limits:
        # The command had ended well before the server failed.
        return record
    return failed(record, reason=reason, message="; ".join(filter(None, (text, words))) or None)


def _was_terminated(status: int | None, record: HPCJobInfo | None) -> bool:
    """Whether all of a job got SIGTERM. The wrappers around Slurm show no exit status."""
    if record is None:
        return status == 256 + _TERM
    return record.signal == _TERM and status in (None, 256 + _TERM)


def _terminated(seen: Seen, record: HPCJobInfo | None) -> HPCJobInfo:
    """Torque ends jobs that exceed their time in the same way as deleted ones."""
    if seen.limit_seconds and seen.used_seconds is not None and seen.used_seconds >= seen.limit_seconds:
        return failed(record, signal=_TERM, reason=FailureReason.TIME_LIMIT)
    return failed(record, signal=_TERM, status=JobStatus.CANCELLED, message="deleted at PBS")


def _unexplained(seen: Seen, evidence: Evidence, words: str | None) -> HPCJobInfo:
    """A failure without an exit record: the job was killed together with its script, or never began."""
    if is_recent(seen.changed_at, evidence.now):
        return HPCJobInfo(_R, message="over; waiting for its exit record", started_at=seen.started_at, node=seen.node)
    number = _signal(seen.exit_status)
    log = last_words(evidence.scheduler_log)
    if number is not None:
        message = log or words
        return HPCJobInfo(_F, signal=number, reason=FailureReason.KILLED_BY_SIGNAL, message=message)
    code = "nothing about its end" if seen.exit_status is None else f"exit status {seen.exit_status}"
    return HPCJobInfo(_F, reason=FailureReason.BACKEND_FAILED, message=log or words or f"PBS says {code}")


def _signal(status: int | None) -> int | None:
    """The signal in an exit status: PBS adds 256, a shell 128."""
    return status - 256 if status is not None and status > 256 else signal_in(status)


def _measured(info: HPCJobInfo, seen: Seen, record: HPCJobInfo | None) -> HPCJobInfo:
    """Add the numbers, the best of each."""
    return with_numbers(
        info,
        record,
        wall=seen.used_seconds,
        cpu_seconds=seen.cpu_seconds or None,
        peak_bytes=seen.memory_bytes,
        sampled_seconds=SAMPLED_SECONDS,
        submitted_at=seen.submitted_at,
        started_at=info.started_at or seen.started_at,
        finished_at=info.finished_at or seen.changed_at,
        node=seen.node or info.node,
    )
