"""What the operator's desk needs: what the targets of notifications have been told, and where the old history is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

Time = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add to the tables."""
    op.create_index("retrycli_attempts_finished", "retrycli_attempts", ["finished_at"])
    op.create_table(
        "retrycli_told",
        sa.Column("target", sa.String(16), primary_key=True),
        sa.Column("topic", sa.String(16), primary_key=True),
        sa.Column("since", Time, nullable=False),
        sa.Column("told_at", Time, nullable=False),
        sa.Column("ended", sa.Boolean, nullable=False),
        sa.Column("times", sa.Integer, nullable=False),
    )


def downgrade() -> None:
    """Take it away again: every target is told anew of what stands."""
    op.drop_table("retrycli_told")
    op.drop_index("retrycli_attempts_finished", "retrycli_attempts")
