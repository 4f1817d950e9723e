"""Tokens, sessions and the audit.

Revision: 0004
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE tokens (
        id UUID NOT NULL,
        prefix TEXT NOT NULL,
        secret_sha256 BYTEA NOT NULL,
        name TEXT NOT NULL,
        role TEXT NOT NULL,
        projects TEXT[],
        created_by TEXT NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        expires_at TIMESTAMP WITH TIME ZONE,
        revoked_at TIMESTAMP WITH TIME ZONE,
        last_used_at TIMESTAMP WITH TIME ZONE,
        CONSTRAINT pk_tokens PRIMARY KEY (id),
        CONSTRAINT uq_tokens_prefix UNIQUE (prefix),
        CONSTRAINT ck_tokens_role CHECK (role IN ('viewer', 'submitter', 'operator', 'admin')),
        CONSTRAINT ck_tokens_secret_sha256 CHECK (length(secret_sha256) = 32)
    )
    """,
    """
    CREATE UNIQUE INDEX uq_tokens_name ON tokens (name) WHERE revoked_at IS NULL
    """,
    """
    CREATE TABLE sessions (
        id UUID NOT NULL,
        subject TEXT NOT NULL,
        identity TEXT NOT NULL,
        role TEXT NOT NULL,
        projects TEXT[],
        token_id UUID,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
        ended_at TIMESTAMP WITH TIME ZONE,
        CONSTRAINT pk_sessions PRIMARY KEY (id),
        CONSTRAINT ck_sessions_role CHECK (role IN ('viewer', 'submitter', 'operator', 'admin')),
        CONSTRAINT fk_sessions_token_id FOREIGN KEY(token_id) REFERENCES tokens (id)
    )
    """,
    """
    CREATE INDEX ix_sessions_identity ON sessions (identity) WHERE ended_at IS NULL
    """,
    """
    CREATE TABLE audit (
        id BIGINT GENERATED ALWAYS AS IDENTITY,
        at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        actor TEXT NOT NULL,
        identity TEXT NOT NULL,
        address TEXT NOT NULL,
        action TEXT NOT NULL,
        object TEXT NOT NULL,
        project TEXT,
        before JSONB,
        after JSONB,
        request_id TEXT NOT NULL,
        CONSTRAINT pk_audit PRIMARY KEY (id, at)
    ) PARTITION BY RANGE (at)
    """,
    """
    CREATE INDEX ix_audit_actor_id ON audit (actor, id)
    """,
    """
    CREATE INDEX ix_audit_object_id ON audit (object, id)
    """,
    """
    CREATE TABLE audit_rest PARTITION OF audit DEFAULT
    """,
    """
    CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      RAISE EXCEPTION USING MESSAGE = 'rows of ' || TG_TABLE_NAME || ' are never changed or deleted',
        ERRCODE = 'insufficient_privilege';
    END $$
    """,
    """
    CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION refuse_change()
    """,
    """
    CREATE TRIGGER never_emptied BEFORE TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    for table in ("audit", "sessions", "tokens"):
        op.drop_table(table)
    op.execute("DROP FUNCTION refuse_change")
