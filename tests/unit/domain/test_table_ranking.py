"""Which columns of home-made tables look like the roles of a message, and how tables are ranked."""

from __future__ import annotations

import pytest

from retrycli.domain.known_table import KnownTable, RelationKind, TableColumn, ValueKind
from retrycli.domain.table_ranking import PAYLOAD, examine, plain_name, rank


def known(name: str, columns: str) -> KnownTable:
    """Return a table whose first column is its key; each column is a name and a kind of value."""
    words = [column.rsplit(" ", 1) for column in columns.split(", ")]
    made = tuple(TableColumn(column, ValueKind(kind), column) for column, kind in words)
    return KnownTable(name, None, name, name, RelationKind.TABLE, made, keys=(made[0].name,))


HOME_MADE = {
    "email_queue": (
        "id integer, to_email text, reply_to text, subject text, html text, status text, max_attempts integer, "
        "attempts integer, last_error text, sent_at time",
        {"recipient_email": "to_email", "body": "html", "retry_count": "attempts", "sent_at": "sent_at"},
    ),
    "mail_queue": (
        "id integer, from text, to text, content text, state integer, tries integer, error text, added time",
        {"recipient_email": "to", "body": "content", "status": "state", "retry_count": "tries", "created_at": "added"},
    ),
    "webhook_deliveries": (
        "id integer, payload text, status text, response_body text, attempt_count integer, delivered_at time",
        {PAYLOAD: "payload", "retry_count": "attempt_count", "sent_at": "delivered_at"},
    ),
    "notifications": (
        "id integer, user_id integer, channel text, title text, message text, is_sent boolean, error text",
        {"subject": "title", "body": "message", "status": "is_sent", "message_type": "channel"},
    ),
    "Outbox": (
        "Id text, Type text, Payload json, syncStatus text, retryCount integer, lastError text, createdAt time",
        {
            "id": "Id",
            PAYLOAD: "Payload",
            "status": "syncStatus",
            "retry_count": "retryCount",
            "last_error": "lastError",
        },
    ),
    "support_letters": (
        "id uuid, support_case_id text, letter_subject text, letter_text text, delivery_status enum, failed time",
        {"ticket_id": "support_case_id", "subject": "letter_subject", "status": "delivery_status"},
    ),
    "outgoing": (
        "id integer, body text, sent time, delivered boolean, failures integer",
        {"sent_at": "sent", "status": "delivered", "retry_count": "failures"},
    ),
}


@pytest.mark.parametrize("name", HOME_MADE)
def test_the_columns_of_a_home_made_table_are_matched(name: str) -> None:
    columns, expected = HOME_MADE[name]
    roles = {role: column.name for role, column in examine(known(name, columns)).roles.items()}
    assert roles.items() >= expected.items()
    assert "response_body" not in roles.values()
    assert "max_attempts" not in roles.values()


def test_a_column_with_the_roles_own_name_is_preferred() -> None:
    roles = examine(known("outbox", "id integer, message text, body text, error text, last_error text")).roles
    assert (roles["body"].name, roles["last_error"].name) == ("body", "last_error")


def test_outgoing_messages_rank_before_what_only_resembles_them() -> None:
    columns = "id integer, email text, body text, status text, attempts integer, created_at time"
    names = ["email_templates", "outbox", "email_log", "inbox", "messages", "email_queue", "retrycli_queue"]
    ranked = [each.table.name for each in rank(known(name, columns) for name in names)]
    assert ranked == ["email_queue", "messages", "outbox", "email_log", "email_templates"]


@pytest.mark.parametrize(
    "columns",
    [
        "id integer, email text, status text, created_at time",
        "id integer, body text, created_at time",
        "id integer, title text, content text, status text, created_at time",
    ],
)
def test_a_table_without_a_text_or_a_sign_of_sending_is_not_listed(columns: str) -> None:
    assert rank([known("documents", columns)]) == []


def test_a_word_of_a_name_may_begin_with_a_capital_letter() -> None:
    names = ["StatusName", "tabEmail Queue", "createdAt", "SENT_AT"]
    assert [*map(plain_name, names)] == ["status_name", "tab_email_queue", "created_at", "sent_at"]
