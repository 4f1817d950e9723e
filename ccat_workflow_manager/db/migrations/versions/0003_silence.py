"""When a backend last answered, and what the look for stray jobs could not do.

Revision: 0003
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "ALTER TABLE backends ADD COLUMN answered_at TIMESTAMP WITH TIME ZONE, ADD COLUMN reap_problem TEXT,"
        " ADD COLUMN strays JSONB DEFAULT '[]' NOT NULL"
    )


def downgrade() -> None:
    op.execute("ALTER TABLE backends DROP COLUMN answered_at, DROP COLUMN reap_problem, DROP COLUMN strays")
