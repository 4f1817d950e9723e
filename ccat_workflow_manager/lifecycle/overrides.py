"""Overrides: what a person has changed until a certain time, after which it is as before by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from ccat_workflow_manager.lifecycle.waiting import utc_text


@dataclass(frozen=True, slots=True)
class Term:
    """Who wants a change, why, and until when, as far as that is known."""

    actor: str | None = None
    why: str | None = None
    until: datetime | None = None


NO_TERM = Term()


class Changed(StrEnum):
    """What an override changes."""

    PROJECT = "project"
    PIPELINE = "pipeline"
    BREAKER = "breaker"
    RUN = "run"
    STEP_RUN = "step run"


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field of something, with the value that it had and the one that it gets."""

    kind: Changed
    name: str
    """A name or an id."""
    field: str
    project: str
    title: str
    """As messages name it: `the project survey`."""
    before: Any
    value: Any


@dataclass(frozen=True, slots=True)
class Override:
    """A change that ends by itself: `before` is the value then."""

    id: int
    kind: Changed
    name: str
    field: str
    project: str
    title: str
    before: Any
    value: Any
    why: str | None
    actor: str
    since: datetime
    until: datetime

    def text(self) -> str:
        by = f"set by {self.actor} since {utc_text(self.since)}" + (f": {self.why}" if self.why else "")
        if self.kind is Changed.BREAKER:
            return f"no breaker holds back {self.title} until {utc_text(self.until)}, {by}"
        value, before = self.words()
        return f"{self.field} of {self.title} is {value} until {utc_text(self.until)}, {by}; then it is {before} again"

    def words(self) -> tuple[str, str]:
        """The value, and the one that it gets again: of objects only what differs."""
        return _differing(self.value, self.before)


def _differing(value: Any, before: Any) -> tuple[str, str]:
    """Both values in words: of two objects, only what differs."""
    if not isinstance(value, Mapping) or not isinstance(before, Mapping):
        return _word(value), _word(before)
    names = [name for name in value if value[name] != before.get(name)]
    return _list(names, value), _list(names, before)


def _list(names: list[str], values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_word(values.get(name))}" for name in names)


def _word(value: Any) -> str:
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
