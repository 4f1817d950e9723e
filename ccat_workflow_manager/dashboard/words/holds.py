"""Sentences about what is paused or drained."""

from __future__ import annotations

from ccat_workflow_manager.dashboard.words.plain import count
from ccat_workflow_manager.lifecycle.holds import Hold, Kind, Mode

HOLD_MODES = {
    Mode.PAUSE: "Pause: queued jobs come back and wait",
    Mode.DRAIN: "Drain: queued jobs start and end as usual",
}
HELD = {
    Mode.PAUSE: "Nothing of it is launched. Jobs in the queue of a scheduler come back; running jobs go on.",
    Mode.DRAIN: "Nothing of it is launched. Jobs that it has already start and end as usual.",
}
WHEN_HELD = "Nothing of it is launched meanwhile, and running jobs go on. New runs are accepted and wait."
WHEN_RESUMED = "Once it is resumed, they start by their turns."
RESUMED = "What it kept back starts by its turns."
HOLD_ENDS = {
    "1h": "in an hour",
    "4h": "in 4 hours",
    "1d": "in a day",
    "7d": "in a week",
    "": "when a person resumes it",
}
WHO_MAY_HOLD = {
    Kind.PIPELINE: "Your role is viewer. This needs the role submitter: ask an administrator for a token with it.",
    Kind.PROJECT: "This needs the role operator: ask an administrator for a token with it.",
    Kind.BACKEND: "This needs the role operator for all projects, since a backend serves all of them.",
    Kind.SERVICE: "This needs the role operator for all projects, since it stops all of them.",
}


def on_hold(hold: Hold) -> str:
    """For example: the backend slurm is drained."""
    return f"The {hold.subject} is {'drained' if hold.mode is Mode.DRAIN else 'paused'}"


def hold_title(kind: Kind, name: str, is_held: bool) -> str:
    subject = f"the {kind} {name}".rstrip()
    return f"Change the pause of {subject}" if is_held else f"Pause or drain {subject}?"


def goes_on(hold: Hold) -> str:
    return f"The {hold.subject} goes on"


def kept_back(waiting: int) -> str:
    """How many step runs wait because of a hold."""
    if not waiting:
        return "No step run waits for this alone."
    return f"{count(waiting, 'step run')} {'waits' if waiting == 1 else 'wait'} for it."
