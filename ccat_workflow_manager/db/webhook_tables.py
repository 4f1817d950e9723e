"""The tables of webhooks."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, ForeignKey, Index, Integer, Table, Text, Uuid, text
from sqlalchemy.dialects.postgresql import ARRAY

from ccat_workflow_manager.db.metadata import NOW, TIME, metadata

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
