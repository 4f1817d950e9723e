"""The status of a job from three witnesses: the controller, the accounting and the exit record. Pure.

The controller knows the present, and forgets a job some minutes after its end. The accounting keeps all jobs but gets
them late, and a site may have none. The exit record has the exact end of the command. The newest positive evidence
counts; silence of a witness proves nothing.

Where Slurm and a whole exit record disagree:
- Slurm says CANCELLED, and the record says that the command ended well before that: the record wins. A command that
  ends well in the same second may have been asked to, so Slurm wins.
- Slurm says FAILED or that a node failed, and the record says that the command ended well: the record wins.
- Slurm says TIMEOUT, OUT_OF_MEMORY or PREEMPTED: Slurm wins.
- Slurm says PENDING, and the record says that the command ended by itself: a controller that was killed has forgotten
  the start. The record wins, unless the log of the scheduler or a death of SIGTERM or SIGKILL shows a requeue.
- Slurm itself cancels jobs, as its user or as root: after a restart of the controller that has forgotten a start, and
  when a node cannot launch a job. That is a failure of the site, not the wish of a person. A cancel that the service
  has recorded is its own, whichever user it acts as.
- Slurm says that the job is over, or does not know it, but has not heard since its restart of the node where the
  attempt was claimed: the command may still run there. The job runs until there is a record, or word of the node.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.record import signal_in
from ccat_workflow_manager.hpc.batch.script import KILLED_BY_SCHEDULER, RAN_AGAIN
from ccat_workflow_manager.hpc.batch.status import (
    Meaning,
    failed,
    is_recent,
    last_words,
    running,
    waiting,
    with_numbers,
)
from ccat_workflow_manager.hpc.exit_info import elapsed
from ccat_workflow_manager.hpc.slurm.listing import Seen
from ccat_workflow_manager.hpc.slurm.refusals import never_by_itself
from ccat_workflow_manager.lifecycle.job_info import UNKNOWN, HPCJobInfo, JobStatus

ACCOUNTING_SECONDS = 3
"""How long an end waits for its numbers from the accounting."""
CLOCKS_APART_SECONDS = 5
"""A claim that is so much older than the start that Slurm shows is of an earlier start."""
FORGOTTEN = "its controller was restarted, has forgotten the start of the job and started it again"
RESTART_SECONDS = 180
"""How long after its start a controller cancels jobs whose start it has forgotten."""
_SIGNAL_EARLY_SECONDS = 70
_OUT_OF_MEMORY = re.compile(r"exceeded (job |step )?memory limit|oom[-_ ]kill|out of memory", re.IGNORECASE)
_REQUEUED = "DUE TO JOB REQUEUE"
_HELD = re.compile(r"held", re.IGNORECASE)
_BY = re.compile(r"by (\d+)")
_CANCELLED_BY_NODE = re.compile(r"CANCELLED AT \S+?(?: DUE TO (?P<why>[A-Z ]+?))?[, ]+(?:SEE .*)?\*\*\*")
_WHY_CANCELLED = {
    None: HPCJobInfo(JobStatus.CANCELLED, message="cancelled at Slurm"),
    "TIME LIMIT": HPCJobInfo(JobStatus.FAILED, reason=FailureReason.TIME_LIMIT),
    "PREEMPTION": HPCJobInfo(JobStatus.FAILED, reason=FailureReason.PREEMPTED),
    "NODE FAILURE": HPCJobInfo(JobStatus.FAILED, reason=FailureReason.NODE_FAILURE),
}
"""By the words that the daemon of a node writes into the log of a job that it ends."""


_P, _R, _F = JobStatus.PENDING, JobStatus.RUNNING, JobStatus.FAILED

MEANINGS: dict[str, Meaning] = {
    "PENDING": Meaning(_P),
    "CONFIGURING": Meaning(_P, text="its nodes are being started"),
    "REQUEUED": Meaning(_P, text="requeued"),
    "REQUEUE_FED": Meaning(_P, text="requeued by the federation"),
    "REQUEUE_HOLD": Meaning(_P, text="requeued", held=True),
    "RESV_DEL_HOLD": Meaning(_P, text="its reservation was deleted", held=True),
    "SPECIAL_EXIT": Meaning(_P, text="requeued in a special state", held=True),
    "RUNNING": Meaning(_R),
    "COMPLETING": Meaning(_R, text="it is ending"),
    "SIGNALING": Meaning(_R, text="it is being signalled"),
    "STAGE_OUT": Meaning(_R, text="its files are being staged out"),
    "RESIZING": Meaning(_R, text="its size is being changed"),
    "SUSPENDED": Meaning(_R, text="suspended at Slurm"),
    "STOPPED": Meaning(_R, text="stopped at Slurm"),
    "COMPLETED": Meaning(JobStatus.COMPLETED),
    "CANCELLED": Meaning(JobStatus.CANCELLED),
    "FAILED": Meaning(_F),
    "TIMEOUT": Meaning(_F, FailureReason.TIME_LIMIT),
    "DEADLINE": Meaning(_F, FailureReason.BACKEND_FAILED, "it could not end before its deadline"),
    "OUT_OF_MEMORY": Meaning(_F, FailureReason.OUT_OF_MEMORY),
    "NODE_FAIL": Meaning(_F, FailureReason.NODE_FAILURE),
    "BOOT_FAIL": Meaning(_F, FailureReason.NODE_FAILURE, "its nodes could not be started"),
    "POWER_UP_NODE": Meaning(_P, text="its nodes are being started"),
    "RECONFIG_FAIL": Meaning(_F, FailureReason.NODE_FAILURE, "its nodes could not be reconfigured"),
    "LAUNCH_FAILED": Meaning(_F, FailureReason.NODE_FAILURE, "it could not be launched on its nodes"),
    "PREEMPTED": Meaning(_F, FailureReason.PREEMPTED),
    "REVOKED": Meaning(_F, FailureReason.BACKEND_FAILED, "taken over by another cluster of the federation"),
}
"""Every state of Slurm. A state that is not here is shown as it is and decides nothing."""

_FINAL = (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)
FINAL = frozenset(word for word, meaning in MEANINGS.items() if meaning.status in _FINAL)
_RECORD_WINS = frozenset({"FAILED", "NODE_FAIL", "BOOT_FAIL", "LAUNCH_FAILED", "RECONFIG_FAIL", "REVOKED"})
"""Ends of a job that may come after its command has ended well."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the witnesses report about one job at one moment."""

    controller: Seen | None
    accounting: Seen | None
    record: HPCJobInfo | None
    """The status according to the exit record."""
    now: datetime
    accounting_error: str = ""
    """Why the accounting could not be asked, if it should have been."""
    accounting_expected: bool = True
    """The site has an accounting, and it answered."""
    removed: bool = False
    """The controller knows the array of this task but not the task, which has never started."""
    claimed: bool = True
    """A start of the job has claimed the attempt."""
    claimed_at: datetime | None = None
    silent_node: str = ""
    """The node of the start that has claimed the attempt, while its controller, just restarted, has no word of it."""
    cancel_requested: bool = False
    """The service has cancelled the job, perhaps as a user as which Slurm acts too."""
    starts: Sequence[str] = ()
    """What each later start of the job has done."""
    own_users: Collection[int] = (0,)
    """The users as which Slurm itself acts."""
    controller_started_at: datetime | None = None
    scheduler_log: str = ""
    signal_seconds: float = 0
    """How long before the limit Slurm was asked to send a signal."""
    sampling_seconds: float = 30
    """How often the accounting looks at memory."""


def forgotten_start(seen: Seen, claimed_at: datetime | None, starts: Sequence[str]) -> bool:
    """Whether the attempt was claimed by a start before the one that Slurm shows, which has not run the command."""
    if starts:
        return not starts[-1].endswith(RAN_AGAIN)
    if claimed_at is None or seen.started_at is None:
        return False
    return (seen.started_at - claimed_at).total_seconds() > CLOCKS_APART_SECONDS


def held(seen: Seen) -> bool:
    """Whether a person has to release the job before it can go on."""
    meaning = MEANINGS.get(seen.state)
    return meaning is not None and meaning.status is _P and (meaning.held or bool(_HELD.search(seen.reason)))


def needs_no_accounting(seen: Seen, record: HPCJobInfo | None, sampling_seconds: float) -> bool:
    """Whether the accounting has nothing to add: the command ended well, too soon for its samples of memory."""
    return (
        seen.state == "COMPLETED"
        and record is not None
        and record.status is JobStatus.COMPLETED
        and None not in (record.cpu_hours, record.wall_time_seconds)
        and (record.wall_time_seconds or 0) < 2 * sampling_seconds
    )


def resolve_status(evidence: Evidence) -> HPCJobInfo:
    controller, accounting, record = evidence.controller, evidence.accounting, evidence.record
    if controller is not None and controller.state not in FINAL:
        if record is not None and _forgotten_start(controller, record, evidence.scheduler_log):
            return _warned(_by_record(record, controller, evidence), evidence)
        return _alive(controller)
    seen = controller
    if seen is None and accounting is not None and accounting.state in FINAL:
        seen = accounting
    if record is None and evidence.silent_node:
        text = f"it was started on {evidence.silent_node}, of which its restarted controller has no word yet"
        return HPCJobInfo(JobStatus.RUNNING, message=text, node=evidence.silent_node)
    if seen is None:
        if record is None and accounting is None and evidence.removed and not evidence.accounting_error:
            # A single task that is cancelled while it waits leaves no trace.
            return HPCJobInfo(JobStatus.CANCELLED, message="taken out of its array at Slurm before it started")
        if record is None:
            return _silence(evidence)
        return _warned(_by_record(record, accounting, evidence), evidence)
    if controller is not None and (why := _too_early(controller, evidence)):
        return running(seen, why)
    return _warned(_measured(_ended(seen, evidence), seen, evidence), evidence)


def _forgotten_start(seen: Seen, record: HPCJobInfo, log: str) -> bool:
    """Whether a job that waits has run: the controller was restarted and has lost that."""
    if _REQUEUED in log and not held(seen):
        return False
    meaning = MEANINGS.get(seen.state)
    waits = meaning is not None and meaning.status is _P
    return waits and (held(seen) or record.exit_code not in (None, *KILLED_BY_SCHEDULER))


def cancelled_by(*witnesses: Seen | None) -> int | None:
    """The user who cancelled the job, as far as a witness names one."""
    for seen in witnesses:
        if seen is not None and (words := _BY.fullmatch(seen.detail)):
            return int(words[1])
    return None


def _warned(info: HPCJobInfo, evidence: Evidence) -> HPCJobInfo:
    if not evidence.starts:
        return info
    text = f"Slurm has started this job {len(evidence.starts) + 1} times; {'; '.join(evidence.starts)}"
    return replace(info, warning="; ".join(each for each in (info.warning, text) if each))


# --- before the end --------------------------------------------------------------------------------------------------


def _alive(seen: Seen) -> HPCJobInfo:
    meaning = MEANINGS.get(seen.state)
    if meaning is None:
        return HPCJobInfo(_P, message=f"Slurm says {seen.state}", submitted_at=seen.submitted_at, node=seen.node)
    if meaning.status is _R:
        return running(seen, meaning.text)
    words = ", ".join(filter(None, (meaning.text, seen.reason)))
    return waiting(seen, "Slurm", words, held=held(seen), hopeless=never_by_itself(seen.reason))


def _silence(evidence: Evidence) -> HPCJobInfo:
    if evidence.accounting_error:
        # The accounting has its end: an outage there must not turn into a lost job.
        return HPCJobInfo(_P, message=f"the controller has forgotten the job, and {evidence.accounting_error}")
    return UNKNOWN


def _too_early(controller: Seen, evidence: Evidence) -> str | None:
    """Why an end that the controller shows is not reported yet."""
    ended, now = controller.ended_at, evidence.now
    accounted = evidence.accounting is not None and evidence.accounting.state in FINAL
    if evidence.accounting_expected and not accounted and is_recent(ended, now, ACCOUNTING_SECONDS):
        return "over; waiting for its accounting"
    if controller.state == "FAILED" and not _explained(evidence) and is_recent(ended, now):
        return "over; waiting for its exit record"
    return None


def _explained(evidence: Evidence) -> bool:
    """Whether another witness than the controller shows a failure."""
    signalled = evidence.accounting is not None and evidence.accounting.signal is not None
    return evidence.record is not None or signalled or bool(evidence.scheduler_log)


# --- the end ---------------------------------------------------------------------------------------------------------


def _ended(seen: Seen, evidence: Evidence) -> HPCJobInfo:
    meaning, record = MEANINGS[seen.state], evidence.record
    if meaning.status is JobStatus.CANCELLED:
        return _cancelled(seen, evidence)
    if meaning.status is JobStatus.COMPLETED:
        return record if record is not None else HPCJobInfo(JobStatus.COMPLETED, exit_code=0)
    if seen.state in _RECORD_WINS and record is not None and record.status is JobStatus.COMPLETED:
        return record
    if seen.state != "FAILED":
        exit_code = record.exit_code if record is not None else None
        return HPCJobInfo(_F, exit_code=exit_code, reason=meaning.reason, message=meaning.text or None)
    if _ran_out_of_time(seen, evidence):
        return failed(record, reason=FailureReason.TIME_LIMIT, message="ended by the signal before its time limit")
    if _OUT_OF_MEMORY.search(evidence.scheduler_log) and (record is None or record.signal == 9):
        return failed(record, reason=FailureReason.OUT_OF_MEMORY)
    if record is None or (evidence.starts and record.exit_code in KILLED_BY_SCHEDULER):
        return _failed_without_record(seen, evidence)
    return record


def _cancelled(seen: Seen, evidence: Evidence) -> HPCJobInfo:
    record, cancelled_at = evidence.record, seen.ended_at
    if record is not None and record.status is JobStatus.COMPLETED:
        finished_at = record.finished_at
        if finished_at is not None and cancelled_at is not None and finished_at < cancelled_at:
            return record
    user = cancelled_by(seen, evidence.accounting)
    by = "cancelled at Slurm" + (f" by {user}" if user is not None else "")
    why = _why_cancelled_by_site(user, seen, evidence)
    if why is None:
        return HPCJobInfo(JobStatus.CANCELLED, message=by)
    message = "; ".join(filter(None, (by, why, last_words(evidence.scheduler_log))))
    return HPCJobInfo(_F, reason=FailureReason.BACKEND_FAILED, message=message)


def _why_cancelled_by_site(user: int | None, seen: Seen, evidence: Evidence) -> str | None:
    """Why Slurm itself has cancelled the job; None if a person has."""
    if evidence.cancel_requested or (user is not None and user not in evidence.own_users):
        return None
    started, ended = evidence.controller_started_at, seen.ended_at
    older = started is not None and (seen.submitted_at is None or seen.submitted_at < started)
    if older and ended is not None and is_recent(started, ended, RESTART_SECONDS):
        return f"its controller was restarted at {started:%H:%M:%S} UTC"
    if forgotten_start(seen, evidence.claimed_at, evidence.starts):
        return FORGOTTEN
    if user is not None and seen.node is not None and not evidence.claimed:
        return f"it could not be launched on {seen.node}"
    return "by the user of Slurm itself" if user else None


def _failed_without_record(seen: Seen, evidence: Evidence) -> HPCJobInfo:
    """A job script that has started its command leaves a record, unless it is killed too."""
    accounting = evidence.accounting
    words = last_words(evidence.scheduler_log) or None
    if evidence.starts or forgotten_start(seen, evidence.claimed_at, evidence.starts):
        return HPCJobInfo(_F, reason=FailureReason.BACKEND_FAILED, message=FORGOTTEN)
    if accounting is not None and accounting.signal in range(1, 32):
        return HPCJobInfo(_F, signal=accounting.signal, reason=FailureReason.KILLED_BY_SIGNAL, message=words)
    codes = f"Slurm says {accounting.exit_code}:{accounting.signal or 0}" if accounting is not None else None
    return HPCJobInfo(_F, reason=FailureReason.BACKEND_FAILED, message=words or codes)


def _ran_out_of_time(seen: Seen, evidence: Evidence) -> bool:
    """Whether the signal before the time limit ended the command."""
    record = evidence.record
    limit = seen.limit_seconds or (evidence.accounting.limit_seconds if evidence.accounting is not None else None)
    if not evidence.signal_seconds or record is None or limit is None or record.wall_time_seconds is None:
        return False
    signal = record.signal or signal_in(record.exit_code)
    return signal == 15 and record.wall_time_seconds >= limit - evidence.signal_seconds - _SIGNAL_EARLY_SECONDS


def _by_record(record: HPCJobInfo, seen: Seen | None, evidence: Evidence) -> HPCJobInfo:
    """The end of a job that Slurm has forgotten; the log of the scheduler may have its reason."""
    if seen is not None:
        return replace(record, submitted_at=seen.submitted_at, node=seen.node or record.node)
    words = _CANCELLED_BY_NODE.search(evidence.scheduler_log) if record.status is _F else None
    why = _WHY_CANCELLED.get(words["why"]) if words is not None else None
    return record if why is None else replace(record, status=why.status, reason=why.reason, message=why.message)


def _measured(info: HPCJobInfo, seen: Seen, evidence: Evidence) -> HPCJobInfo:
    """Add the numbers, the best of each."""
    accounting = evidence.accounting
    started = seen.started_at if seen.ended_at is not None else None
    reported = [each.allocated_seconds for each in (accounting, seen) if each is not None]
    allocated = next((seconds for seconds in reported if seconds is not None), None)
    return with_numbers(
        info,
        evidence.record,
        wall=elapsed(started, seen.ended_at),
        cpu_seconds=accounting.cpu_seconds if accounting is not None else None,
        peak_bytes=accounting.peak_bytes if accounting is not None else None,
        sampled_seconds=2 * evidence.sampling_seconds,
        cpu_hours_allocated=None if allocated is None else allocated / 3600,
        submitted_at=seen.submitted_at,
        started_at=started or info.started_at,
        finished_at=seen.ended_at or info.finished_at,
        node=seen.node or info.node,
    )
