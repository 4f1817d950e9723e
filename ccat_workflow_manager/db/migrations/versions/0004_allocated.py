"""What was allocated to an attempt, beside what it used.

Revision: 0004
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE attempts ADD COLUMN cpu_hours_allocated DOUBLE PRECISION")


def downgrade() -> None:
    op.execute("ALTER TABLE attempts DROP COLUMN cpu_hours_allocated")
