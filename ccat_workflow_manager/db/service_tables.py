"""The tables of what runs the work: workers, backends, full places and circuit breakers."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Identity,
    Index,
    Integer,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from ccat_workflow_manager.db.metadata import NOW, TIME, metadata, project_column

workers = Table(
    "workers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("backends", ARRAY(Text), nullable=False),
    Column("started_at", TIME, nullable=False, server_default=NOW),
    Column("seen_at", TIME, nullable=False, server_default=NOW),
    Column("last_completed_at", TIME),
    Column("completed", BigInteger, nullable=False, server_default=text("0")),
    Column("ended_by_minute", ARRAY(Integer), nullable=False, server_default=text("'{}'")),
    Column("drained", JSONB),
)
"""One row per living worker, updated by the heartbeat of its main loop.

`ended_by_minute` has the numbers of step runs that it has ended in the minutes of the last hour, the present one last.

A drained worker takes no work: it serves no backend, and `drained` says who wanted that, why, since when, and which
backends it served.
"""

backends = Table(
    "backends",
    metadata,
    Column("name", Text, primary_key=True),
    Column("problem", Text),
    Column("problem_since", TIME),
    Column("retry_at", TIME),
    Column("polled_at", TIME),
    Column("poll_lease_until", TIME),
    Column("answered_at", TIME),
    Column("reaped_at", TIME),
    Column("unknown_jobs", Integer, nullable=False, server_default=text("0")),
    Column("stray_jobs", Integer, nullable=False, server_default=text("0")),
    Column("strays_stopped", BigInteger, nullable=False, server_default=text("0")),
    Column("reap_problem", Text),
    Column("strays", JSONB, nullable=False, server_default=text("'[]'")),
    CheckConstraint("unknown_jobs >= 0 AND stray_jobs >= 0 AND strays_stopped >= 0", name="jobs"),
)
"""One row per backend in use.

- `problem`, `problem_since`, `retry_at`: why it cannot be used now, and when workers try again.
- `polled_at`, `answered_at`, `poll_lease_until`: the last poll of all its jobs, the last one that was answered, and the
  lease of the worker that polls now.
- `reaped_at` and the rest: the result of the last sweep for orphan jobs (`db.orphans`).
"""

full_places = Table(
    "full_places",
    metadata,
    Column("backend", Text, nullable=False),
    Column("resources", JSONB, nullable=False),
    Column("text", Text, nullable=False),
    Column("since", TIME, nullable=False, server_default=NOW),
    Column("retry_at", TIME, nullable=False),
    Column("refusals", SmallInteger, nullable=False, server_default=text("1")),
    Column("allowed", Integer, nullable=False, server_default=text("1")),
    PrimaryKeyConstraint("backend", "resources"),
)
"""One row for jobs with the same resources that a backend does not take now.

`allowed` step runs are claimed as probes when `retry_at` is over. The table must stay small: every claim reads it.
"""

breakers = Table(
    "breakers",
    metadata,
    Column("breaker_key", Uuid, primary_key=True),
    project_column(),
    Column("pipeline", Text, nullable=False),
    Column("step", Text, nullable=False),
    Column("image", Text),
    Column("failures", JSONB, nullable=False, server_default=text("'[]'")),
    Column("opened_at", TIME),
    Column("failure_signature", Text),
    Column("reason_text", Text),
    Column("probe", Uuid),
    Column("probe_at", TIME),
    Column("updated_at", TIME, nullable=False, server_default=NOW),
    CheckConstraint(
        "(opened_at IS NOT NULL) = (failure_signature IS NOT NULL)"
        " AND (opened_at IS NOT NULL) = (reason_text IS NOT NULL)",
        name="open_says_why",
    ),
    CheckConstraint("opened_at IS NOT NULL OR (probe IS NULL AND probe_at IS NULL)", name="probe_of_open"),
    CheckConstraint("jsonb_typeof(failures) = 'array'", name="failures"),
)
"""One row per `step_runs.breaker_key` with failures since its last success. An open one holds back the rest.

The table must stay small: every claim reads it.
"""

breaker_events = Table(
    "breaker_events",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("breaker_key", Uuid, nullable=False),
    project_column(),
    Column("pipeline", Text, nullable=False),
    Column("step", Text, nullable=False),
    Column("image", Text),
    Column("at", TIME, nullable=False, server_default=NOW),
    Column("event", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("text", Text, nullable=False),
    CheckConstraint("event IN ('opened', 'probed', 'closed', 'released')", name="event"),
    Index("ix_breaker_events_breaker_key_id", "breaker_key", "id"),
)
"""The history of breakers. It outlives them."""
