"""The tables of events and of those who read them: the feed and webhooks."""

from __future__ import annotations

from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    event,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

from ccat_workflow_manager.db.feed_epoch import POSITION
from ccat_workflow_manager.db.metadata import NOW, TIME, metadata, project_column
from ccat_workflow_manager.db.partitions import CREATE_EVENT_PARTITIONS

events = Table(
    "events",
    metadata,
    Column("id", BigInteger, Identity(always=True), nullable=False),
    Column("position", BigInteger, nullable=False, server_default=text(POSITION)),
    Column("step_run_id", Uuid),
    Column("run_id", Uuid),
    project_column(),
    Column("at", TIME, nullable=False, server_default=NOW),
    Column("event", Text, nullable=False),
    Column("from_status", Text),
    Column("to_status", Text, nullable=False),
    Column("attempt", SmallInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text),
    Column("text", Text),
    Column("backend", Text),
    PrimaryKeyConstraint("position", "id", "at"),
    Index("ix_events_step_run_id_id", "step_run_id", "id"),
    Index("ix_events_run_id_id", "run_id", "id", postgresql_where=text("step_run_id IS NULL")),
    Index("ix_events_at_backend", "at", "backend", postgresql_where=text("backend IS NOT NULL")),
    postgresql_partition_by="RANGE (at)",
)
"""The history of step runs, runs and backends, in partitions of a month each.

`position` orders the rows for readers, who go on where they stopped (`db.feed_epoch`). `backend` is given only in
events of a backend. A partition is dropped without a look at other tables.
"""

feed = Table(
    "feed",
    metadata,
    Column("one", Boolean, primary_key=True, server_default=text("true")),
    Column("key", LargeBinary, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("server", Text, nullable=False),
    CheckConstraint("one", name="one"),
)
"""The one row of `db.feed_epoch`. `key` signs the cursors of events, `server` is the PostgreSQL of this epoch."""

event.listen(
    events,
    "after_create",
    DDL(f"CREATE TABLE events_rest PARTITION OF events DEFAULT; {CREATE_EVENT_PARTITIONS}"),  # type: ignore[no-untyped-call]
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("url", Text, nullable=False),
    Column("secret", Text, nullable=False),
    Column("types", ARRAY(Text), nullable=False),
    Column("project", Text),
    Column("pipeline", Text),
    Column("run_id", Uuid),
    Column("created_by", Text, nullable=False),
    Column("created_at", TIME, nullable=False, server_default=NOW),
    Column("position", BigInteger, nullable=False),
    Column("event_id", BigInteger, nullable=False),
    Column("disabled_at", TIME),
    Column("disabled_reason", Text),
    CheckConstraint("(disabled_at IS NULL) = (disabled_reason IS NULL)", name="disabled"),
)
"""A webhook has its place in the feed of events. What is wanted behind that place becomes a delivery."""

deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("webhook_id", Uuid, ForeignKey("webhooks.id", ondelete="CASCADE"), nullable=False),
    Column("event", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("status", Text, nullable=False, server_default=text("'PENDING'")),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("next_at", TIME, nullable=False, server_default=NOW),
    Column("give_up_at", TIME, nullable=False),
    Column("in_flight_until", TIME),
    Column("http_status", Integer),
    Column("problem", Text),
    Column("created_at", TIME, nullable=False, server_default=NOW),
    Column("finished_at", TIME),
    CheckConstraint("status IN ('PENDING', 'DELIVERED', 'DEAD')", name="status"),
    CheckConstraint("(status = 'PENDING') = (finished_at IS NULL)", name="finished_at"),
    Index("ix_webhook_deliveries_webhook_id_id", "webhook_id", text("id DESC")),
    Index("ix_webhook_deliveries_pending", "webhook_id", "next_at", postgresql_where=text("status = 'PENDING'")),
    Index("ix_webhook_deliveries_finished_at", "finished_at", postgresql_where=text("status <> 'PENDING'")),
)
