"""Runs are found by when they were made, by the clock of the database.

Revision: 0005
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX ix_runs_created_at_status ON runs (created_at, status)")


def downgrade() -> None:
    op.execute("DROP INDEX ix_runs_created_at_status")
