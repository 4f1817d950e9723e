"""The types of events as readers outside see them, and the events of runs and backends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType

from ccat_workflow_manager.lifecycle.states import Event

PREFIX = "ccat.wm."
ANY = "*"
"""At the end of a wanted type: all types that begin like it."""


class RunEvent(StrEnum):
    """What happens to a run as a whole."""

    FINISHED = "run_finished"


class BackendEvent(StrEnum):
    """What happens to a backend."""

    AWAY = "backend_away"
    BACK = "backend_back"


_STEP_RUN = {
    Event.CREATED: "created",
    Event.CLAIMED: "claimed",
    Event.RELEASED: "waiting",
    Event.SKIPPED: "skipped",
    Event.JOB_SUBMITTED: "submitted",
    Event.JOB_STARTED: "started",
    Event.JOB_SUCCEEDED: "collecting",
    Event.RESULTS_COLLECTED: "completed",
    Event.FAILED: "failed",
    Event.CANCELLED: "cancelled",
    Event.RETRIED: "retried",
    Event.REUSED: "completed",
    Event.SET_COMPLETED: "completed",
    Event.SET_SKIPPED: "skipped",
}

TYPES: Mapping[str, str] = MappingProxyType(
    {
        **{str(event): f"{PREFIX}step_run.{name}" for event, name in _STEP_RUN.items()},
        RunEvent.FINISHED: f"{PREFIX}run.finished",
        BackendEvent.AWAY: f"{PREFIX}backend.away",
        BackendEvent.BACK: f"{PREFIX}backend.back",
    }
)
"""By the name of an event in the table `events`."""


def events_of(types: Iterable[str]) -> tuple[frozenset[str], list[str]]:
    """The events that these types mean, and the types that mean none. `ccat.wm.run.*` means all of runs."""
    found: set[str] = set()
    unknown = []
    for wanted in types:
        meant = {event for event, name in TYPES.items() if _is_meant(name, wanted)}
        found |= meant
        if not meant:
            unknown.append(wanted)
    return frozenset(found), unknown


def _is_meant(name: str, wanted: str) -> bool:
    return name.startswith(wanted[: -len(ANY)]) if wanted.endswith(ANY) else name == wanted
