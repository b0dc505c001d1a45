"""Who started a pass: cron, a timer, a person, a library.

The column is nullable, because a pass of the version before may still be running on another host.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the column. Of earlier passes nobody knows."""
    op.add_column("retrycli_passes", sa.Column("started_by", sa.String(16)))


def downgrade() -> None:
    """Remove it."""
    op.drop_column("retrycli_passes", "started_by")
