"""The meaning of a failed `sbatch`: the job can never run, has to wait, or may have been taken. Pure text."""

from __future__ import annotations

import re

from ccat_workflow_manager.hpc.batch.refusals import Refusal

_UNSURE = re.compile(
    r"timed? ?out|unable to contact|connect failure|connection (refused|reset|failure)|zero bytes were transmitted"
    r"|transport endpoint|communication|not responding|authentication|credential|munge"
    r"|in standby mode|no route to host|unexpected message"
    r"|slurmdbd|i/o error|write error",
    re.IGNORECASE,
)
TRIES_AGAIN = re.compile(
    r"temporarily unable to accept job|job queue full|job creation temporarily disabled", re.IGNORECASE
)
"""The words of `sbatch` when the cluster takes no more jobs; it then tries again by itself, for two minutes."""
_FULL = re.compile(rf"{TRIES_AGAIN.pattern}|resource temporarily unavailable", re.IGNORECASE)
_NEVER_LIMIT = re.compile(r"\b(QOS|Assoc)(Max\w*Per(Job|Node)(Limit)?|Min\w+)\b|\bMaxWallDuration")
"""Limits on what one job may request."""
_OF_SIZE = re.compile(
    r"\b(QOS|Assoc)?(Max|Grp)(CPU|Mem|Node|GRES|BB|Billing|Energy|License|Wall|Unknown)", re.IGNORECASE
)
_LATER = re.compile(
    r"accounting/QOS policy|(QOS|Assoc)(Max|Grp)\w+|MaxSubmit|MaxJobs|job submit limit|job queue is full"
    r"|job.*count.*limit|MaxJobCount|partition is (down|inactive|drained)|required partition not available"
    r"|reached the limit",
    re.IGNORECASE,
)
_NEVER = re.compile(
    r"batch job submission failed|invalid|unrecogni[sz]ed|not (valid|allowed|permitted|authorized)|unknown"
    r"|can not be satisfied|does not look like a batch script|denied",
    re.IGNORECASE,
)
_NODES_AWAY = re.compile(
    r"PartitionDown|PartitionInactive|Nodes? required for job (is|are) DOWN|ReqNodeNotAvail, UnavailableNodes"
    r"|Required Node not available",
    re.IGNORECASE,
)
"""A partition that was closed, nodes that are down or drained: an administrator has to bring them back."""
_HOPELESS = frozenset({
    "BadConstraints", "PartitionConfig", "PartitionTimeLimit", "PartitionNodeLimit", "InvalidAccount", "InvalidQOS",
    "AccountNotAllowed", "QOSNotAllowed", "ReservationDeleted", "DependencyNeverSatisfied", "MaxMemPerLimit",
})  # fmt: skip


def never_by_itself(reason: str) -> bool:
    """Whether a job that waits for this reason waits until a person changes it or the cluster."""
    return reason in _HOPELESS or bool(_NEVER_LIMIT.fullmatch(reason) or _NODES_AWAY.match(reason))


def refusal(returncode: int, words: str) -> Refusal:
    """The meaning of the words of `sbatch`. Words that are not known mean that the job may have been taken."""
    if _UNSURE.search(words):
        return Refusal.UNSURE
    if _FULL.search(words):
        return Refusal.FULL
    if returncode < 0:
        return Refusal.UNSURE
    if _NEVER_LIMIT.search(words):
        return Refusal.NEVER
    if _LATER.search(words):
        return Refusal.LATER
    return Refusal.NEVER if _NEVER.search(words) else Refusal.UNSURE


def is_of_size(words: str) -> bool:
    """Whether a limit counts what jobs request, so that a smaller job may still fit."""
    return bool(_OF_SIZE.search(words))
