"""Operators' actions, reported incidents, permanent totals, and the time from the first failure to each attempt."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
Time = sa.DateTime(timezone=True)
RESULTS = ("completed", "stopped", "skipped", "paused", "interrupted", "failed")


def upgrade() -> None:
    """Create the tables, and count the existing passes. The existing attempts are counted later, from id 0 on."""
    op.create_index("retrycli_attempts_finished", "retrycli_attempts", ["finished_at"])
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
    op.create_index("retrycli_acts_at", "retrycli_acts", ["at"])
    op.create_table(
        "retrycli_told",
        sa.Column("target", sa.String(16), primary_key=True),
        sa.Column("topic", sa.String(16), primary_key=True),
        sa.Column("since", Time, nullable=False),
        sa.Column("told_at", Time, nullable=False),
        sa.Column("ended", sa.Boolean, nullable=False),
        sa.Column("times", sa.Integer, nullable=False),
    )
    op.add_column("retrycli_attempts", sa.Column("waited_s", sa.Integer))
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
    """Drop the tables. The history of actions and the totals of pruned rows are lost.

    After a new upgrade, ongoing incidents are reported again.
    """
    op.drop_column("retrycli_attempts", "waited_s")
    for table in ("totals", "told", "acts"):
        op.drop_table(f"retrycli_{table}")
    op.drop_index("retrycli_attempts_finished", "retrycli_attempts")
