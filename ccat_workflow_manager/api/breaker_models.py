"""The shapes of what is said about circuit breakers, as `models` has them for everything else."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Breaker(_Shape):
    id: UUID
    state: Literal["counting", "open", "probing"]
    pipeline: str
    step: str
    image: str | None
    reason_text: str | None = Field(description="Why it has opened.")
    failures: int = Field(description="Step runs that have failed since the last success.")
    way: str | None = Field(description="How those failed that opened it.")
    held_back: int = Field(description="Step runs that could start without it, counted up to 10,000.")
    probe: UUID | None = Field(description="The step run that is let through to see whether it goes well now.")
    opened_at: datetime | None
    probe_at: datetime | None = Field(description="After that, one is let through; null: a person has to release it.")
    updated_at: datetime


class BreakerEvent(_Shape):
    id: int
    breaker_id: UUID
    pipeline: str
    step: str
    image: str | None
    at: datetime
    event: Literal["opened", "probed", "closed", "released"]
    actor: str
    text: str


class _Page(_Shape):
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page; null: this was the last.")


class BreakerPage(_Page):
    items: list[Breaker]


class BreakerEventPage(_Page):
    items: list[BreakerEvent]
