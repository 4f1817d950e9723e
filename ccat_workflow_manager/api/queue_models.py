"""The shapes of what is said about queues and about waits for people, as `models` has them for everything else."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Queue(_Shape):
    """A queue (partition, node, pool) of a backend."""

    name: str
    available: bool
    running: int = Field(description="Jobs of ours, where the backend can tell.")
    pending: int
    cpus_total: float | None
    cpus_used: float | None
    memory_total_gb: float | None
    memory_used_gb: float | None
    limits: dict[str, Any] | None = Field(description="What one job may ask of it.")
    details: dict[str, Any] = Field(description="Whatever else the backend tells.")


class Attention(_Shape):
    """A step run that waits for a person, or that has left a job which only a person can stop."""

    id: UUID
    run_id: UUID
    pipeline: str
    step: str
    key: str
    backend: str
    job_id: str | None
    text: str = Field(description="What it waits for: in the words of its backend, or what is to be done.")
    submitted_at: datetime | None


class AttentionPage(_Shape):
    items: list[Attention]
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page; null: this was the last.")
