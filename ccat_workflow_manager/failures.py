"""The reasons why a step run did not complete, and what each means for retries and for operators."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Blame(StrEnum):
    """Who caused a failure."""

    USER = "user"
    SITE = "site"
    US = "us"


class Retry(StrEnum):
    """How another attempt could do better."""

    NO = "no"
    """The same attempt would fail again. `retry.on` may still ask for a plain repetition."""
    LATER = "later"
    """The same attempt after the back-off."""
    MORE_MEMORY = "more_memory"
    """With memory multiplied by `retry.memory_factor`, up to `retry.memory_cap_gb`."""
    MORE_TIME = "more_time"
    """With the time limit multiplied by `retry.time_factor`."""


class FailureReason(StrEnum):
    """Why a step run is FAILED, SKIPPED or CANCELLED. The values are stored, and `retry.on` may name them."""

    PROGRAM_FAILED = "program_failed"
    KILLED_BY_SIGNAL = "killed_by_signal"
    COMMAND_NOT_FOUND = "command_not_found"
    OUT_OF_MEMORY = "out_of_memory"
    TIME_LIMIT = "time_limit"
    LOG_LIMIT = "log_limit"
    DISK_LIMIT = "disk_limit"
    IMAGE_MISSING = "image_missing"
    IMAGE_INVALID = "image_invalid"
    IMAGE_PULL = "image_pull"
    CONTAINER_FAILED = "container_failed"
    SECRET_MISSING = "secret_missing"
    INPUT_MISSING = "input_missing"
    INPUT_UNREADABLE = "input_unreadable"
    INPUT_CHANGED = "input_changed"
    INPUT_REFUSED = "input_refused"
    INPUT_FETCH = "input_fetch"
    STAGING_FAILED = "staging_failed"
    DISK_FULL = "disk_full"
    REJECTED = "rejected"
    EXIT_RECORD_MISSING = "exit_record_missing"
    EXIT_RECORD_UNREADABLE = "exit_record_unreadable"
    OUTPUT_INVALID = "output_invalid"
    OUTPUT_UNREADABLE = "output_unreadable"
    NODE_FAILURE = "node_failure"
    PREEMPTED = "preempted"
    LOST = "lost"
    BACKEND_FAILED = "backend_failed"
    STOPPED_OUTSIDE = "stopped_outside"
    INTERNAL_ERROR = "internal_error"
    UPSTREAM_FAILED = "upstream_failed"
    UPSTREAM_CANCELLED = "upstream_cancelled"
    CANCELLED = "cancelled"
    SET_BY_HAND = "set_by_hand"


@dataclass(frozen=True, slots=True)
class FailureInfo:
    """What a reason means: who caused it, how a retry could succeed, and the text for operators."""

    blame: Blame
    retry: Retry
    text: str


FAILURES: dict[FailureReason, FailureInfo] = {
    FailureReason.PROGRAM_FAILED: FailureInfo(Blame.USER, Retry.NO, "The program ended with a non-zero exit code."),
    FailureReason.KILLED_BY_SIGNAL: FailureInfo(
        Blame.USER, Retry.NO, "The program was killed by a signal that the workflow manager did not send."
    ),
    FailureReason.COMMAND_NOT_FOUND: FailureInfo(
        Blame.USER, Retry.NO, "The command does not exist or cannot be executed; check `command` and the image."
    ),
    FailureReason.OUT_OF_MEMORY: FailureInfo(
        Blame.USER, Retry.MORE_MEMORY, "The program used more memory than it asked for and was stopped."
    ),
    FailureReason.TIME_LIMIT: FailureInfo(
        Blame.USER, Retry.MORE_TIME, "The program reached its time limit and was stopped."
    ),
    FailureReason.LOG_LIMIT: FailureInfo(
        Blame.USER, Retry.NO, "The program wrote more log than LOG_LIMIT_MB allows and was stopped."
    ),
    FailureReason.DISK_LIMIT: FailureInfo(
        Blame.USER, Retry.NO, "The program used more disk than DISK_LIMIT_GB allows and was stopped."
    ),
    FailureReason.IMAGE_MISSING: FailureInfo(Blame.USER, Retry.NO, "The image does not exist where the step names it."),
    FailureReason.IMAGE_INVALID: FailureInfo(Blame.USER, Retry.NO, "The image is damaged or is not a container image."),
    FailureReason.IMAGE_PULL: FailureInfo(Blame.SITE, Retry.LATER, "The image could not be fetched from its registry."),
    FailureReason.CONTAINER_FAILED: FailureInfo(
        Blame.SITE, Retry.LATER, "The container runtime failed, not the program."
    ),
    FailureReason.SECRET_MISSING: FailureInfo(
        Blame.SITE, Retry.NO, "A secret that the step uses does not exist in its project, or cannot be used."
    ),
    FailureReason.INPUT_MISSING: FailureInfo(Blame.USER, Retry.NO, "An input of the step does not exist."),
    FailureReason.INPUT_UNREADABLE: FailureInfo(Blame.USER, Retry.NO, "An input of the step cannot be read."),
    FailureReason.INPUT_CHANGED: FailureInfo(
        Blame.USER, Retry.NO, "An input is not what the first attempt read; a new run takes what is there now."
    ),
    FailureReason.INPUT_REFUSED: FailureInfo(
        Blame.USER, Retry.NO, "An input is not below INPUT_ROOTS, or there are too many, or two with one name."
    ),
    FailureReason.INPUT_FETCH: FailureInfo(Blame.SITE, Retry.LATER, "An input could not be fetched from its store."),
    FailureReason.STAGING_FAILED: FailureInfo(
        Blame.SITE, Retry.LATER, "The directories or inputs of the attempt could not be prepared."
    ),
    FailureReason.DISK_FULL: FailureInfo(
        Blame.SITE, Retry.LATER, "No space was left on a disk that the attempt wrote to."
    ),
    FailureReason.REJECTED: FailureInfo(
        Blame.USER, Retry.NO, "The backend can never run this job as requested; change its resources or its backend."
    ),
    FailureReason.EXIT_RECORD_MISSING: FailureInfo(
        Blame.SITE, Retry.LATER, "The job ended without an exit record, so its result is unknown."
    ),
    FailureReason.EXIT_RECORD_UNREADABLE: FailureInfo(
        Blame.SITE, Retry.LATER, "The exit record of the job is incomplete or unreadable."
    ),
    FailureReason.OUTPUT_INVALID: FailureInfo(
        Blame.USER,
        Retry.NO,
        "The output directory contains something that cannot be a product, such as a link out of it.",
    ),
    FailureReason.OUTPUT_UNREADABLE: FailureInfo(
        Blame.SITE, Retry.LATER, "The output directory or a file in it could not be read."
    ),
    FailureReason.NODE_FAILURE: FailureInfo(Blame.SITE, Retry.LATER, "The node that ran the job failed."),
    FailureReason.PREEMPTED: FailureInfo(Blame.SITE, Retry.LATER, "The job was preempted by a more urgent one."),
    FailureReason.LOST: FailureInfo(
        Blame.SITE, Retry.LATER, "The backend has not known the job for longer than UNKNOWN_GRACE_SECONDS."
    ),
    FailureReason.BACKEND_FAILED: FailureInfo(
        Blame.SITE, Retry.LATER, "The backend stopped the job for a reason of its own."
    ),
    FailureReason.STOPPED_OUTSIDE: FailureInfo(
        Blame.SITE, Retry.NO, "The job was stopped at the backend, not through the workflow manager."
    ),
    FailureReason.INTERNAL_ERROR: FailureInfo(
        Blame.US, Retry.LATER, "The workflow manager failed while working on this step run; its log has the details."
    ),
    FailureReason.UPSTREAM_FAILED: FailureInfo(
        Blame.USER, Retry.NO, "A step that this one depends on did not complete."
    ),
    FailureReason.UPSTREAM_CANCELLED: FailureInfo(
        Blame.USER, Retry.NO, "A step that this one depends on was cancelled."
    ),
    FailureReason.CANCELLED: FailureInfo(Blame.USER, Retry.NO, "Cancelled on request."),
    FailureReason.SET_BY_HAND: FailureInfo(
        Blame.USER, Retry.NO, "A person has set it to completed or skipped; what depends on it goes on."
    ),
}

RETRYABLE_BY_DEFAULT = frozenset(reason for reason, info in FAILURES.items() if info.retry is not Retry.NO)
"""What is retried if a step has no `retry.on`."""

COMMON = frozenset(
    {
        FailureReason.PROGRAM_FAILED,
        FailureReason.KILLED_BY_SIGNAL,
        FailureReason.COMMAND_NOT_FOUND,
        FailureReason.OUT_OF_MEMORY,
        FailureReason.TIME_LIMIT,
        FailureReason.LOG_LIMIT,
        FailureReason.DISK_LIMIT,
        FailureReason.IMAGE_MISSING,
        FailureReason.IMAGE_INVALID,
        FailureReason.IMAGE_PULL,
        FailureReason.CONTAINER_FAILED,
        FailureReason.SECRET_MISSING,
        FailureReason.REJECTED,
        FailureReason.OUTPUT_INVALID,
    }
)
"""Failures with a cause in the step, its image or its resources: other step runs of the step will probably fail alike.

They count for the circuit breaker. A failed node, a full disk, a missing input or an error of the workflow manager say
nothing about the next step run.
"""


def failure_info(reason: str | None) -> FailureInfo | None:
    """What a stored reason means. None: there is none, or it is not one of ours."""
    return FAILURES[FailureReason(reason)] if reason in set(FailureReason) else None
