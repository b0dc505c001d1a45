"""retrycli's own tables.

`migrations/` creates the same tables, and a test checks that both agree.
"""

from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)

# The first and the newest revision in `migrations/`. They are here so that a pass need not load Alembic. Later ids are
# higher; those below the first are of versions that were never released.
FIRST = HEAD = "1005"


class _UtcDateTime(TypeDecorator[datetime]):
    """Column type for aware times in UTC; SQLite stores the times without a time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value if value.tzinfo is UTC else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if dialect.name == "sqlite" else value.astimezone(UTC)


MAX_INT = 2**31 - 1  # PostgreSQL's maximum for an `Integer` column; SQLite allows more

# In SQLite, only a column declared as INTEGER PRIMARY KEY generates ids. Its values have 64 bits, like a BIGINT.
BigId = BigInteger().with_variant(Integer, "sqlite")

metadata = MetaData()

queue = Table(
    "retrycli_queue",
    metadata,
    Column("message_id", BigId, primary_key=True, autoincrement=False),
    Column("state", String(16), nullable=False),
    Column("next_attempt_at", _UtcDateTime),
    Column("delivery_key", String(36), nullable=False),
    Column("claimed_by", String(36)),
    Column("claim_expires_at", _UtcDateTime),
    Column("first_failed_at", _UtcDateTime, nullable=False),
    Column("unknown_count", Integer, nullable=False),
    Column("escalated_at", _UtcDateTime),
    Column("escalation_reason", String(16)),
    Column("fingerprint", String(64)),
    Column("acknowledged_by", String(255)),
    Column("acknowledged_at", _UtcDateTime),
    Column("note", Text),
    Column("ticket", Text),
    Column("delivered_to", Text),
    Column("birth", Text, nullable=False),
    Column("digest", String(80)),
    Column("seen_count", Integer),
    Column("seen_error", Text),
    Column("seen_updated_at", Text),
    Column("rebirths", Integer),  # passes in a row that found another birth, but the text of `digest`
    Index("retrycli_queue_due", "state", "next_attempt_at", "message_id", "ticket"),
    Index("retrycli_queue_ticket", "ticket", "message_id"),
)

# The retry counts and errors of messages whose table has no columns for them.
own_values = Table(
    "retrycli_own_values",
    metadata,
    Column("message_id", BigId, primary_key=True, autoincrement=False),
    Column("birth", Text),
    Column("retry_count", Integer, nullable=False),
    Column("last_error", Text),
)

# Numbers of messages whose ids in the application's table are not integers. No number is used twice.
keys = Table(
    "retrycli_keys",
    metadata,
    Column("number", BigId, primary_key=True),
    Column("key", Text, nullable=False),
    Index("retrycli_keys_key", "key"),
)

attempts = Table(
    "retrycli_attempts",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("message_id", BigId, nullable=False),
    Column("pass_id", String(36)),
    Column("number", Integer, nullable=False),
    Column("made_by", String(255), nullable=False),
    Column("started_at", _UtcDateTime, nullable=False),
    Column("finished_at", _UtcDateTime),
    Column("outcome", String(16)),
    Column("status_code", Integer),
    Column("error", Text),
    Column("retry_after_s", Integer),
    Column("duration_ms", Integer),
    Column("waited_s", Integer),
    Column("external_id", Text),
    Column("birth", Text),
    Column("delivery_key", String(36)),
    Column("digest", String(80)),
    Column("ticket", Text),
    Column("message_type", String(16)),
    Column("destination", String(255)),
    Column("preset", String(16)),
    Column("deliveries", Integer),
    Column("delivered_to", Text),
    Column("probe", Boolean),
    Index("retrycli_attempts_message", "message_id", "number"),
    Index("retrycli_attempts_finished", "finished_at"),
)

acts = Table(
    "retrycli_acts",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("message_id", BigId),
    Column("at", _UtcDateTime, nullable=False),
    Column("by", String(255), nullable=False),
    Column("act", String(16), nullable=False),
    Column("detail", Text),
    Column("attempts", Integer),
    Column("digest", String(80)),
    Column("ticket", Text),
    Column("before", Text),
    Column("after", Text),
    Index("retrycli_acts_message", "message_id", "id"),
    Index("retrycli_acts_at", "at"),
)

passes = Table(
    "retrycli_passes",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started_at", _UtcDateTime, nullable=False),
    Column("heartbeat_at", _UtcDateTime, nullable=False),
    Column("finished_at", _UtcDateTime),
    Column("result", String(16)),
    Column("sent", Integer, nullable=False),
    Column("rescheduled", Integer, nullable=False),
    Column("escalated", Integer, nullable=False),
    Column("unknown", Integer, nullable=False),
    Column("released", Integer, nullable=False),
    Column("reason", Text),
    Column("detail", Text),
    Column("swept_to", BigId),
    Column("started_by", String(16)),
    Index("retrycli_passes_started", "started_at"),
)

breakers = Table(
    "retrycli_breakers",
    metadata,
    Column("destination", String(255), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("failures", Integer, nullable=False),
    Column("opened_at", _UtcDateTime),
    Column("probe_at", _UtcDateTime),
    Column("tickets", Text),
)

# The earliest time at which any host may send the next request to a destination, if `run.rate_per_second` is set.
rates = Table(
    "retrycli_rates",
    metadata,
    Column("destination", String(255), primary_key=True),
    Column("next_at", _UtcDateTime, nullable=False),
)

pause = Table(
    "retrycli_pause",
    metadata,
    Column("since", _UtcDateTime, primary_key=True),
    Column("until", _UtcDateTime),
    Column("by", String(255), nullable=False),
    Column("reason", Text),
)

# What operators hold: see `retrycli.domain.passes`.
holds = Table(
    "retrycli_holds",
    metadata,
    Column("kind", String(16), primary_key=True),
    Column("target", String(255), primary_key=True),
    Column("since", _UtcDateTime, nullable=False),
    Column("until", _UtcDateTime),
    Column("by", String(255), nullable=False),
    Column("reason", Text),
    Column("birth", Text),
)

told = Table(
    "retrycli_told",
    metadata,
    Column("target", String(16), primary_key=True),
    Column("topic", String(16), primary_key=True),
    Column("since", _UtcDateTime, nullable=False),
    Column("told_at", _UtcDateTime, nullable=False),
    Column("ended", Boolean, nullable=False),
    Column("times", Integer, nullable=False),
)

# Totals that are kept after the counted rows are pruned. See `retrycli.store.counters`.
totals = Table(
    "retrycli_totals",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("label", String(255), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

# The time of the first escalation for each pair of delivery key and reason. Operators are notified once for each pair,
# as long as its row exists. A requeue deletes the row.
escalations = Table(
    "retrycli_escalations",
    metadata,
    Column("delivery_key", String(36), primary_key=True),
    Column("reason", String(16), primary_key=True),
    Column("at", _UtcDateTime, nullable=False),
)

# The name of the application's table to which the queue belongs, and what an operator has accepted to be sent from it.
selection = Table(
    "retrycli_selection",
    metadata,
    Column("table_name", String(255), primary_key=True),
    Column("accepted", Text),
    Column("accepted_by", String(255)),
    Column("accepted_at", _UtcDateTime),
    # The creation time up to which older rows were searched for failed ones without a number; empty if the next search
    # begins at the oldest row, null if none was made.
    Column("numbered_to", Text),
    Column("text_columns", Text),  # JSON list of the optional columns with text or recipients that the last pass found
)

# The table in which Alembic stores the version. It has its own metadata, because Alembic creates it.
version = Table("retrycli_version", MetaData(), Column("version_num", String(32), primary_key=True))
