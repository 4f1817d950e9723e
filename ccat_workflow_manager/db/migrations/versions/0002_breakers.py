"""Circuit breakers, and what the look for stray jobs has found.

Revision: 0002
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

UP = (
    """
    CREATE TABLE breakers (
        circuit UUID NOT NULL,
        pipeline TEXT NOT NULL,
        step TEXT NOT NULL,
        image TEXT,
        failures JSONB DEFAULT '[]' NOT NULL,
        opened_at TIMESTAMP WITH TIME ZONE,
        way TEXT,
        reason_text TEXT,
        probe UUID,
        probe_at TIMESTAMP WITH TIME ZONE,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_breakers PRIMARY KEY (circuit),
        CONSTRAINT ck_breakers_open_says_why CHECK ((opened_at IS NOT NULL) = (way IS NOT NULL) AND (opened_at IS NOT NULL) = (reason_text IS NOT NULL)),
        CONSTRAINT ck_breakers_probe_of_open CHECK (opened_at IS NOT NULL OR (probe IS NULL AND probe_at IS NULL)),
        CONSTRAINT ck_breakers_failures CHECK (jsonb_typeof(failures) = 'array')
    )
    """,
    """
    CREATE TABLE breaker_events (
        id BIGINT GENERATED ALWAYS AS IDENTITY,
        circuit UUID NOT NULL,
        pipeline TEXT NOT NULL,
        step TEXT NOT NULL,
        image TEXT,
        at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        event TEXT NOT NULL,
        actor TEXT NOT NULL,
        text TEXT NOT NULL,
        CONSTRAINT pk_breaker_events PRIMARY KEY (id),
        CONSTRAINT ck_breaker_events_event CHECK (event IN ('opened', 'probed', 'closed', 'released'))
    )
    """,
    "CREATE INDEX ix_breaker_events_circuit_id ON breaker_events (circuit, id)",
    "ALTER TABLE run_steps ADD COLUMN image TEXT",
    "ALTER TABLE step_runs ADD COLUMN circuit UUID",
    # What was asked for before has circuits of its own: one for each step of each definition.
    "UPDATE step_runs s SET circuit = CAST(md5(r.spec_id || '/' || s.position) AS uuid) FROM runs r WHERE r.id = s.run_id",
    "ALTER TABLE step_runs ALTER COLUMN circuit SET NOT NULL",
    """
    ALTER TABLE step_runs
        ADD COLUMN withdrawn BOOLEAN DEFAULT false NOT NULL,
        ADD CONSTRAINT ck_step_runs_withdrawn CHECK (NOT withdrawn OR cancel_requested_at IS NOT NULL)
    """,
    """
    ALTER TABLE backends
        ADD COLUMN reaped_at TIMESTAMP WITH TIME ZONE,
        ADD COLUMN unknown_jobs INTEGER DEFAULT 0 NOT NULL,
        ADD COLUMN stray_jobs INTEGER DEFAULT 0 NOT NULL,
        ADD COLUMN strays_stopped BIGINT DEFAULT 0 NOT NULL,
        ADD CONSTRAINT ck_backends_jobs CHECK (unknown_jobs >= 0 AND stray_jobs >= 0 AND strays_stopped >= 0)
    """,
)

DOWN = (
    """
    ALTER TABLE backends
        DROP COLUMN reaped_at, DROP COLUMN unknown_jobs, DROP COLUMN stray_jobs, DROP COLUMN strays_stopped
    """,
    "ALTER TABLE step_runs DROP COLUMN withdrawn, DROP COLUMN circuit",
    "ALTER TABLE run_steps DROP COLUMN image",
    "DROP TABLE breaker_events",
    "DROP TABLE breakers",
)


def upgrade() -> None:
    for statement in UP:
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    for statement in DOWN:
        op.get_bind().exec_driver_sql(statement)
