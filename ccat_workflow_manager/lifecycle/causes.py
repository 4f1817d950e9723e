"""The causes for which a step run does not go on: whose move each is, and what would free it.

They are the same for all backends. A cause is worked out from stored rows alone (`db.queries.explain`). The words of
the scheduler stand beside ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from ccat_workflow_manager.failures import Blame, FailureReason, failure_info


class Move(StrEnum):
    """Who can do something about it."""

    SYSTEM = "system"
    """It goes on by itself."""
    SITE = "site"
    AUTHOR = "author"
    OPERATOR = "operator"


class Cause(StrEnum):
    """Why a step run is in its status now, the most serious first."""

    ACTION_REQUIRED = "action_required"
    BREAKER = "breaker"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PAUSED = "paused"
    ON_HOLD = "on_hold"
    BACKEND_AWAY = "backend_away"
    NO_WORKER = "no_worker"
    UNKNOWN_JOB = "unknown_job"
    DEAD_WORKER = "dead_worker"
    QUOTA = "quota"
    FULL_PLACE = "full_place"
    DEFERRED = "deferred"
    BACK_OFF = "back_off"
    CANCELLING = "cancelling"
    RESULTS = "results"
    SCHEDULER = "scheduler"
    QUEUED = "queued"
    STAGING = "staging"
    COLLECTING = "collecting"
    RUNNING = "running"
    UPSTREAM = "upstream"
    BLOCKED = "blocked"
    SET_BY_HAND = "set_by_hand"
    COMPLETED = "completed"


SEVERITY = {cause: number for number, cause in enumerate(Cause)}
"""The cause that is named when several keep a step run from going on: that with the lowest number."""
BUSY = frozenset({Cause.STAGING, Cause.COLLECTING, Cause.RUNNING})
"""Something works on the step run: it does not wait."""


@dataclass(frozen=True, slots=True)
class CauseInfo:
    """What a cause means. `{}` in a text is its subject."""

    move: Move
    text: str
    remedy: str


CAUSES: dict[Cause, CauseInfo] = {
    Cause.ACTION_REQUIRED: CauseInfo(
        Move.OPERATOR, "its job waits for an action at the scheduler", "do at the scheduler what its words ask for"
    ),
    Cause.BREAKER: CauseInfo(
        Move.AUTHOR,
        "the circuit breaker {} of its step holds it back",
        "mend the step or its image, apply the pipeline and submit it anew; cancel this run, which keeps the old "
        "definition; if the cause lay elsewhere and is gone: `ccat-wm breakers release {}`",
    ),
    Cause.FAILED: CauseInfo(Move.AUTHOR, "it failed", "retry it once the cause is mended"),
    Cause.CANCELLED: CauseInfo(Move.OPERATOR, "it was cancelled", "retry it"),
    Cause.PAUSED: CauseInfo(Move.OPERATOR, "its run is paused", "resume the run"),
    Cause.ON_HOLD: CauseInfo(
        Move.OPERATOR, "the {} starts nothing now", "wait until the hold ends, or end it: `ccat-wm resume {}`"
    ),
    Cause.BACKEND_AWAY: CauseInfo(
        Move.SITE, "the backend {} is not available", "make the backend {} available; workers try again by themselves"
    ),
    Cause.NO_WORKER: CauseInfo(
        Move.OPERATOR, "no worker serves the backend {}", "start a worker: `ccat-wm worker --backend {}`"
    ),
    Cause.UNKNOWN_JOB: CauseInfo(
        Move.SITE, "{} does not know its job", "it counts as lost after UNKNOWN_GRACE_SECONDS; look why the job is gone"
    ),
    Cause.DEAD_WORKER: CauseInfo(
        Move.SYSTEM, "the worker that held it has stopped answering", "the manager gives it to another worker"
    ),
    Cause.QUOTA: CauseInfo(
        Move.OPERATOR,
        "the project {} is at one of its limits",
        "it goes on when step runs of the project end, or with a higher limit: "
        "`ccat-wm project set {} --max-live N` or `--max-cpus N`",
    ),
    Cause.FULL_PLACE: CauseInfo(
        Move.SITE, "{} takes no more jobs with its resources", "it goes on when jobs there end, or with a higher limit"
    ),
    Cause.DEFERRED: CauseInfo(
        Move.SITE, "its job could not be handed to {} yet", "a worker tries again by itself; mend what its words name"
    ),
    Cause.BACK_OFF: CauseInfo(
        Move.SYSTEM, "it waits for its next attempt", "it goes on by itself when the pause is over"
    ),
    Cause.CANCELLING: CauseInfo(Move.SITE, "it is being cancelled", "it ends when {} confirms that its job is gone"),
    Cause.RESULTS: CauseInfo(Move.SYSTEM, "its results wait to be collected", "a worker of {} collects them"),
    Cause.SCHEDULER: CauseInfo(Move.SITE, "its job is queued at {}", "it starts when the scheduler has room for it"),
    Cause.QUEUED: CauseInfo(
        Move.SYSTEM, "it is queued for a worker of {}", "a worker takes it when those before it are launched"
    ),
    Cause.STAGING: CauseInfo(Move.SYSTEM, "a worker prepares its job", "it goes on by itself"),
    Cause.COLLECTING: CauseInfo(Move.SYSTEM, "a worker collects its results", "it goes on by itself"),
    Cause.RUNNING: CauseInfo(Move.SYSTEM, "its job runs at {}", "it ends when its program ends"),
    Cause.UPSTREAM: CauseInfo(Move.SYSTEM, "it waits for steps before it", "it goes on when these are over"),
    Cause.BLOCKED: CauseInfo(Move.AUTHOR, "a step before it did not complete", "retry that one; this one then goes on"),
    Cause.SET_BY_HAND: CauseInfo(Move.OPERATOR, "a person set its outcome", "nothing need be done"),
    Cause.COMPLETED: CauseInfo(Move.SYSTEM, "it completed", "nothing need be done"),
}

_MOVES = {Blame.USER: Move.AUTHOR, Blame.SITE: Move.SITE, Blame.US: Move.OPERATOR}


def move_of(cause: Cause, reason: str | None) -> Move:
    """Whose move it is. For a failure, and for what failures have opened, its reason decides."""
    info = failure_info(reason) if cause in (Cause.FAILED, Cause.BREAKER) else None
    return _MOVES[info.blame] if info else CAUSES[cause].move


def text_of(cause: Cause, subject: str | None) -> str:
    return CAUSES[cause].text.replace("{}", subject or "")


@dataclass(frozen=True, slots=True)
class Place:
    """The step run that a remedy is for."""

    run: object
    step: str
    key: str


_PLACE = re.compile(r"\b(?:RUN|STEP|KEY)\b")
_RETRY = "`ccat-wm run retry RUN`"
_ANEW = f"apply the pipeline and submit it with `--reuse RUN`; {_RETRY} tries the same again"
_REMEDIES: dict[str, str] = {
    FailureReason.PROGRAM_FAILED: f"read `ccat-wm run logs RUN STEP/KEY`; when the program is mended, {_ANEW}",
    FailureReason.KILLED_BY_SIGNAL: f"read `ccat-wm run logs RUN STEP/KEY`; when the program is mended, {_ANEW}",
    FailureReason.COMMAND_NOT_FOUND: f"correct `command`, the first line of the script or the image; {_ANEW}",
    FailureReason.OUT_OF_MEMORY: "give it more memory: `ccat-wm run retry RUN --step STEP --memory GB`, and "
    "`resources.memory_gb` of the step for later runs",
    FailureReason.TIME_LIMIT: "give it more time: `ccat-wm run retry RUN --step STEP --time HOURS`, and "
    "`resources.time_hours` of the step for later runs",
    FailureReason.DISK_FULL: f"make room on that disk, then {_RETRY}",
    FailureReason.IMAGE_MISSING: f"correct `image` of the step, then {_ANEW}",
    FailureReason.IMAGE_INVALID: f"repair the image or correct `image` of the step, then {_ANEW}",
    FailureReason.INPUT_MISSING: f"put the file there, then {_RETRY}; or submit anew without it",
    FailureReason.INPUT_UNREADABLE: f"let the user of the service read it, then {_RETRY}",
    FailureReason.INPUT_CHANGED: "submit a new run, which reads what is there now, with `--reuse RUN`",
    FailureReason.REJECTED: f"correct `resources` or `backend` of the step, then {_ANEW}",
    FailureReason.OUTPUT_INVALID: f"mend what the program writes, then {_ANEW}",
}
"""What helps after a failure that has a remedy of its own. RUN, STEP and KEY stand for its place."""


def remedy_of(cause: Cause, subject: str | None, reason: str | None = None, place: Place | None = None) -> str:
    """What frees a step run. For a failure its reason decides, and `place` makes the commands complete."""
    if cause is not Cause.FAILED or place is None:
        return CAUSES[cause].remedy.replace("{}", subject or "")
    remedy = _REMEDIES.get(reason or "", f"when the cause is gone, {_RETRY}")
    values = {"RUN": str(place.run), "STEP": place.step, "KEY": place.key}
    return _PLACE.sub(lambda match: values[match[0]], remedy)
