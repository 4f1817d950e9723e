"""The tables of tokens and sessions, and the audit."""

from __future__ import annotations

from sqlalchemy import (
    DDL,
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    event,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from ccat_workflow_manager.db.metadata import NOW, TIME, metadata
from ccat_workflow_manager.db.partitions import APPEND_ONLY_AUDIT, CREATE_AUDIT_PARTITIONS
from ccat_workflow_manager.identity import Role

_ROLES = ", ".join(f"'{role}'" for role in Role)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("prefix", Text, nullable=False, unique=True),
    Column("secret_sha256", LargeBinary, nullable=False),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("projects", ARRAY(Text)),
    Column("created_by", Text, nullable=False),
    Column("created_at", TIME, nullable=False, server_default=NOW),
    Column("expires_at", TIME),
    Column("revoked_at", TIME),
    Column("last_used_at", TIME),
    CheckConstraint(f"role IN ({_ROLES})", name="role"),
    CheckConstraint("length(secret_sha256) = 32", name="secret_sha256"),
    Index("uq_tokens_name", "name", unique=True, postgresql_where=text("revoked_at IS NULL")),
)
"""API tokens: the prefix finds one, the hash proves it. `projects` null: all."""

sessions = Table(
    "sessions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("subject", Text, nullable=False),
    Column("identity", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("projects", ARRAY(Text)),
    Column("token_id", Uuid, ForeignKey("tokens.id")),
    Column("created_at", TIME, nullable=False, server_default=NOW),
    Column("expires_at", TIME, nullable=False),
    Column("ended_at", TIME),
    CheckConstraint(f"role IN ({_ROLES})", name="role"),
    Index("ix_sessions_identity", "identity", postgresql_where=text("ended_at IS NULL")),
)
"""People who are logged in: `subject` is their name, `identity` what never changes about them.

A session that a token began ends with the token.
"""

audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger, Identity(always=True), nullable=False),
    Column("at", TIME, nullable=False, server_default=NOW),
    Column("actor", Text, nullable=False),
    Column("identity", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("object", Text, nullable=False),
    Column("project", Text),
    Column("before", JSONB),
    Column("after", JSONB),
    Column("request_id", Text, nullable=False),
    PrimaryKeyConstraint("id", "at"),
    Index("ix_audit_object_id", "object", "id"),
    Index("ix_audit_actor_id", "actor", "id"),
    postgresql_partition_by="RANGE (at)",
)
"""Every change that a person or a program asked for, in partitions of a month each. Rows are only ever added."""

event.listen(
    audit,
    "after_create",
    DDL(f"CREATE TABLE audit_rest PARTITION OF audit DEFAULT; {CREATE_AUDIT_PARTITIONS}; {APPEND_ONLY_AUDIT}"),  # type: ignore[no-untyped-call]
)
