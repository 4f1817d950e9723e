"""Holds and limits in words: what starts nothing now because a person wants it so, and what is at its limit."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from ccat_workflow_manager.lifecycle.overrides import Term
from ccat_workflow_manager.lifecycle.waiting import utc_text


class Kind(StrEnum):
    """What a hold holds."""

    PIPELINE = "pipeline"
    PROJECT = "project"
    BACKEND = "backend"
    SERVICE = "service"


class Mode(StrEnum):
    """What becomes of jobs that wait in the queue of a scheduler. In both modes no step run is launched."""

    PAUSE = "pause"
    """They come back, so nothing begins to run. What runs already goes on."""
    DRAIN = "drain"
    """They stay, and end as usual."""


_DONE = {Mode.PAUSE: "paused", Mode.DRAIN: "drained"}


@dataclass(frozen=True, slots=True)
class Hold:
    """A hold that is active."""

    kind: Kind
    name: str
    """Empty for the service."""
    mode: Mode
    why: str
    actor: str
    since: datetime
    until: datetime | None
    """It ends by itself. None: a person has to end it."""

    @property
    def subject(self) -> str:
        """As in `ccat-wm resume SUBJECT`."""
        return f"{self.kind} {self.name}".rstrip()

    def text(self) -> str:
        ends = f" until {utc_text(self.until)}" if self.until else ""
        return (
            f"the {self.subject} is {_DONE[self.mode]} by {self.actor} since {utc_text(self.since)}{ends}: {self.why}; "
            f"{who_may_lift(self.kind)} may lift it with `ccat-wm resume {self.subject}`"
        )


def who_may_lift(kind: Kind) -> str:
    return "an operator or a submitter of its project" if kind is Kind.PIPELINE else "an operator"


def pause_text(term: Term) -> str:
    """Why a paused run starts nothing."""
    by = f" by {term.actor}" if term.actor else ""
    ends = f" until {utc_text(term.until)}" if term.until else ""
    return f"the run is paused{by}{ends}" + (f": {term.why}" if term.why else "")


@dataclass(frozen=True, slots=True)
class LimitUse:
    """The limits of a project on what has a job, and how much of each is used."""

    project: str
    max_live: int | None
    live: int
    max_cpus: float | None
    cpus: float

    def text(self, needs: float) -> str:
        """Which limit keeps a step run waiting that needs so many CPUs."""
        raise_it = f"raise it with `ccat-wm project set {self.project}"
        if self.max_live is not None and self.live >= self.max_live:
            used = f"the project {self.project} has {self.live} of {self.max_live} live step runs (max_live)"
            return f"{used}; {raise_it} --max-live N`"
        used = f"the project {self.project} uses {self.cpus:g} of {self.max_cpus:g} CPUs (max_cpus)"
        if self.max_cpus is not None and needs > self.max_cpus:
            return f"{used}, and it needs {needs:g}, more than the limit; {raise_it} --max-cpus N`"
        return f"{used}, and it needs {needs:g}; {raise_it} --max-cpus N`"
