"""Totals that outlive the rows they were counted from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

RESULTS = ("completed", "stopped", "skipped", "paused", "interrupted", "failed")


def upgrade() -> None:
    """Make the table, and count the passes there were. Attempts are counted when they are first asked for."""
    totals = op.create_table(
        "retrycli_totals",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("label", sa.String(255), primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
    there_were = "SELECT result, COUNT(*) FROM retrycli_passes WHERE result IS NOT NULL GROUP BY result"
    passes = dict.fromkeys(RESULTS, 0) | dict(op.get_bind().execute(sa.text(there_were)).all())
    rows = [{"name": "passes", "label": result, "value": number} for result, number in passes.items()]
    op.bulk_insert(totals, [*rows, {"name": "attempts_counted_to", "label": "", "value": 0}])


def downgrade() -> None:
    """Remove the table, and with it what is known of rows that are gone."""
    op.drop_table("retrycli_totals")
