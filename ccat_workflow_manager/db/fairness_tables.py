"""The tables of who may launch how much, and when: projects, lanes, turns, holds and overrides."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    Identity,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from ccat_workflow_manager.db.metadata import NOW, TIME, metadata

projects = Table(
    "projects",
    metadata,
    Column("name", Text, primary_key=True),
    Column("weight", Double, nullable=False, server_default=text("1")),
    Column("max_live", Integer),
    Column("max_cpus", Double),
    Column("max_queued", Integer),
    Column("updated_at", TIME, nullable=False, server_default=NOW),
    CheckConstraint("weight > 0", name="weight"),
    CheckConstraint("max_live >= 0 AND max_cpus >= 0 AND max_queued >= 0", name="limits"),
)
"""Projects with a weight or limits of their own. A limit that is null does not exist.

A claim and a submission lock the row of a project with limits before they count, so that no two of them count at once.
"""

lanes = Table(
    "lanes",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("project", Text, nullable=False),
    Column("pipeline", Text, nullable=False),
    Column("registered", Boolean, nullable=False),
    UniqueConstraint("project", "pipeline", "registered"),
)
"""The step runs of one pipeline in one project wait in one lane, the most urgent first. Lanes take turns.

Inline definitions have lanes of their own, also if they have the name of a registered pipeline.
"""

turns = Table(
    "turns",
    metadata,
    Column("backend", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("lane", Integer, nullable=False),
    Column("pass", Double, nullable=False),
    Column("cost", Double, nullable=False),
    Column("floor", Double, nullable=False),
    PrimaryKeyConstraint("backend", "project", "lane"),
)
"""Stride scheduling, per backend: the lowest `pass` of a project, and in it of a lane, is served next.

A project is in the row with lane 0, all projects together in that without a project. What was served has its `pass`
raised by `cost`, the step runs that the last claim took, divided by the weight. `floor` is the `pass` that was served
last among what the row contains: what comes back from a time without ready step runs begins there, without credit.
"""

holds = Table(
    "holds",
    metadata,
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("since", TIME, nullable=False, server_default=NOW),
    Column("until", TIME),
    PrimaryKeyConstraint("kind", "name"),
    CheckConstraint("kind IN ('pipeline', 'project', 'backend', 'service')", name="kind"),
    CheckConstraint("mode IN ('pause', 'drain')", name="mode"),
    CheckConstraint("(kind = 'service') = (name = '')", name="name"),
)
"""What starts nothing now, because a person wants it so. The table must stay small: every claim reads it."""

overrides = Table(
    "overrides",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("field", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("before", JSONB),
    Column("value", JSONB),
    Column("why", Text),
    Column("actor", Text, nullable=False),
    Column("since", TIME, nullable=False, server_default=NOW),
    Column("until", TIME, nullable=False),
    UniqueConstraint("kind", "name", "field"),
    CheckConstraint("kind IN ('project', 'pipeline', 'breaker', 'run', 'step run')", name="kind"),
    Index("ix_overrides_until", "until"),
)
"""What a person has changed until a certain time: one field of something, its value and that of before."""
