"""Sentences about the limits of projects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ccat_workflow_manager.dashboard.words.plain import count

PROJECT_LIMITS = {"live": "max_live", "cpus": "max_cpus", "queued": "max_queued"}
"""What is used, and its limit."""
LIMIT_NAMES = {
    "weight": "Weight", "max_live": "Live step runs", "max_cpus": "CPUs", "max_queued": "Queued step runs",
}  # fmt: skip
CHANGE_ENDS = {"": "never", "1h": "in an hour", "4h": "in 4 hours", "1d": "in a day", "7d": "in a week"}
PAUSE_ENDS = {**CHANGE_ENDS, "": "when a person resumes it"}
RELEASE_ENDS = {**CHANGE_ENDS, "": "failures count at once"}
LIMITS_SET = "The limits are set"


def project_text(project: Mapping[str, Any]) -> str:
    """What a project uses, and which limit it is at."""
    full = [
        LIMIT_NAMES[most].lower().replace("cpus", "CPUs")
        for use, most in PROJECT_LIMITS.items()
        if project[most] is not None and project[use] >= project[most]
    ]
    cpus = "1 CPU" if project["cpus"] == 1 else f"{project['cpus']:g} CPUs"
    has = f"{count(project['live'], 'step run')} live on {cpus}, {project['queued']:,} queued"
    return f"{has}; at its limit of {' and of '.join(full)}." if full else f"{has}."


def left_of(used: float, most: float) -> str:
    """How much of a limit is left."""
    return f"{most - used:g} left" if used < most else "at the limit" if used == most else f"{used - most:g} above"


def limits(values: Mapping[str, Any]) -> str:
    shown = ", ".join(
        f"{LIMIT_NAMES[name]} {'without a limit' if value is None else format(value, 'g')}"
        for name, value in values.items()
    )
    return f"{shown}. What waited for a limit starts by its turns."
