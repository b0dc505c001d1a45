"""What the operator's desk looks back on: how long a message had waited when an attempt at it began."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add to the tables."""
    op.add_column("retrycli_attempts", sa.Column("waited_s", sa.Integer))


def downgrade() -> None:
    """Take it away again."""
    op.drop_column("retrycli_attempts", "waited_s")
