"""The first tables: queue, attempts, passes, breakers, pause."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
Time = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create the tables."""
    _create_queue()
    _create_attempts()
    _create_passes()
    _create_breakers_and_pause()


def _create_queue() -> None:
    op.create_table(
        "retrycli_queue",
        sa.Column("message_id", Id, primary_key=True, autoincrement=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("next_attempt_at", Time),
        sa.Column("delivery_key", sa.String(36), nullable=False),
        sa.Column("claimed_by", sa.String(36)),
        sa.Column("claim_expires_at", Time),
        sa.Column("first_failed_at", Time, nullable=False),
        sa.Column("unknown_count", sa.Integer, nullable=False),
        sa.Column("escalated_at", Time),
        sa.Column("escalation_reason", sa.String(16)),
        sa.Column("fingerprint", sa.String(64)),
        sa.Column("acknowledged_by", sa.String(255)),
        sa.Column("acknowledged_at", Time),
        sa.Column("note", sa.Text),
    )
    op.create_index("retrycli_queue_due", "retrycli_queue", ["state", "next_attempt_at", "message_id"])


def _create_attempts() -> None:
    op.create_table(
        "retrycli_attempts",
        sa.Column("id", Id, primary_key=True),
        sa.Column("message_id", Id, nullable=False),
        sa.Column("pass_id", sa.String(36)),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("made_by", sa.String(255), nullable=False),
        sa.Column("started_at", Time, nullable=False),
        sa.Column("finished_at", Time),
        sa.Column("outcome", sa.String(16)),
        sa.Column("status_code", sa.Integer),
        sa.Column("error", sa.Text),
        sa.Column("retry_after_s", sa.Integer),
        sa.Column("duration_ms", sa.Integer),
    )
    op.create_index("retrycli_attempts_message", "retrycli_attempts", ["message_id", "number"])


def _create_passes() -> None:
    op.create_table(
        "retrycli_passes",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("started_at", Time, nullable=False),
        sa.Column("heartbeat_at", Time, nullable=False),
        sa.Column("finished_at", Time),
        sa.Column("result", sa.String(16)),
        *(
            sa.Column(count, sa.Integer, nullable=False)
            for count in ("sent", "rescheduled", "escalated", "unknown", "released")
        ),
        sa.Column("reason", sa.Text),
        sa.Column("detail", sa.Text),
        sa.Column("swept_to", Id),
    )
    op.create_index("retrycli_passes_started", "retrycli_passes", ["started_at"])


def _create_breakers_and_pause() -> None:
    op.create_table(
        "retrycli_breakers",
        sa.Column("destination", sa.String(255), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("opened_at", Time),
        sa.Column("probe_at", Time),
    )
    op.create_table(
        "retrycli_pause",
        sa.Column("since", Time, primary_key=True),
        sa.Column("until", Time),
        sa.Column("by", sa.String(255), nullable=False),
        sa.Column("reason", sa.Text),
    )


def downgrade() -> None:
    """Drop the tables, including the history."""
    for table in ("pause", "breakers", "passes", "attempts", "queue"):
        op.drop_table(f"retrycli_{table}")
