"""The tables of maintained figures: what happened, counted by time, and how many step runs there are now."""

from __future__ import annotations

from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    event,
    text,
)

from ccat_workflow_manager.db.metadata import TIME, metadata

figures = Table(
    "figures",
    metadata,
    Column("seconds", Integer, nullable=False),
    Column("begin", TIME, nullable=False),
    Column("step", Text, nullable=False),
    Column("pipeline", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("backend", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("bucket", SmallInteger, nullable=False),
    Column("number", BigInteger, nullable=False),
    PrimaryKeyConstraint("seconds", "begin", "step", "pipeline", "project", "backend", "outcome", "reason", "bucket"),
    Index("ix_figures_pipeline_seconds_begin", "pipeline", "seconds", "begin"),
)
"""How often something happened from `begin` on for `seconds` seconds: a minute, a quarter of an hour and a day.

Runs have an empty `step`. What has no backend, no reason or no duration has '' or -1 there; `bucket` is a class of
durations (`lifecycle.durations`). All pipelines together are the pipeline `*`, and all their steps the step `*`.
"""

live_figures = Table(
    "live_figures",
    metadata,
    Column("project", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("number", BigInteger, nullable=False),
    PrimaryKeyConstraint("project", "status"),
)
"""How many step runs are in each status that is not an end."""

figures_place = Table(
    "figures_place",
    metadata,
    Column("one", Boolean, primary_key=True, server_default=text("true")),
    Column("position", BigInteger, nullable=False),
    CheckConstraint("one", name="one"),
)
"""The one row that says up to which position of `events` the figures count."""

for _table in (figures, live_figures):
    # The rows of the present time change every second: most updates write the new version to the same page.
    event.listen(_table, "after_create", DDL(f"ALTER TABLE {_table.name} SET (fillfactor = 70)"))  # type: ignore[no-untyped-call]
