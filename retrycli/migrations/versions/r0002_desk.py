"""What the operator's desk needs of the history: to find what is old without reading all of it."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add to the tables."""
    op.create_index("retrycli_attempts_finished", "retrycli_attempts", ["finished_at"])


def downgrade() -> None:
    """Take it away again."""
    op.drop_index("retrycli_attempts_finished", "retrycli_attempts")
