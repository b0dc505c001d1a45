"""What people do about messages: edited, rejected, requeued, acknowledged, noted, and by whom."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
Time = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "retrycli_acts",
        sa.Column("id", Id, primary_key=True),
        sa.Column("message_id", Id, nullable=False),
        sa.Column("at", Time, nullable=False),
        sa.Column("by", sa.String(255), nullable=False),
        sa.Column("act", sa.String(16), nullable=False),
        sa.Column("detail", sa.Text),
    )
    op.create_index("retrycli_acts_message", "retrycli_acts", ["message_id", "id"])


def downgrade() -> None:
    """Remove it, and with it who did what."""
    op.drop_table("retrycli_acts")
