"""Messages: the required columns of a row, and the errors that name an invalid value."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrycli.domain.errors import InvalidMessage
from retrycli.domain.message import (
    ADDRESS_SEPARATOR,
    LIST_COLUMNS,
    REQUIRED_COLUMNS,
    Message,
    MessageType,
    QueuedMessage,
    UnusableMessage,
    retry_count,
    utc_time,
)

NOON = datetime(2025, 3, 3, 12, tzinfo=UTC)


def row(**changes: object) -> dict[str, object]:
    """Return a valid row, with a test's changes."""
    return {
        "id": 7,
        "ticket_id": 12345,
        "message_type": "supplier",
        "subject": "Your delivery",
        "body": "Where is it?",
        "status": "failed",
        "retry_count": 3,
        "last_error": "HTTP 503",
    } | changes


def problem(**changes: object) -> str:
    """Return the error of an invalid row."""
    with pytest.raises(InvalidMessage) as raised:
        Message.from_row(row(**changes))
    return str(raised.value)


def test_a_row_becomes_a_message() -> None:
    message = Message.from_row(row(created_at="2025-03-03 12:00:00", updated_at="2025-03-03 12:05:00"))
    assert (message.id, message.ticket_id, message.message_type) == (7, 12345, MessageType.SUPPLIER)
    assert (message.retry_count, message.last_error) == (3, "HTTP 503")
    assert (message.created_at, message.updated_at) == (NOON, NOON + timedelta(minutes=5))


def test_the_required_columns_are_sufficient() -> None:
    message = Message.from_row(row(last_error=None, retry_count=None))
    assert set(row()) == set(REQUIRED_COLUMNS)
    assert (message.created_at, message.updated_at, message.last_error, message.retry_count) == (None, None, None, 0)
    queued = QueuedMessage(message, "key", NOON)
    assert (queued.message_id, queued.unknown_count, queued.attempt_number) == (7, 0, 1)


def test_templates_can_use_every_column_including_unknown_ones() -> None:
    mine = row(priority="high", weight=2.5, photo=b"\xff", cc_emails='["a@example.com"]', subject="", body="")
    unchanged = {**mine}
    lists: dict[str, object] = {name: [] for name in LIST_COLUMNS}
    assert Message.from_row(mine).fields == mine | lists | {"cc_emails": ["a@example.com"]}
    assert mine == unchanged
    assert Message.from_row(row(subject=None)).fields["subject"] is None


@pytest.mark.parametrize("ticket", [0, "0", "ü" * 255])
def test_a_ticket_id_keeps_its_type(ticket: int | str) -> None:
    kept = Message.from_row(row(ticket_id=ticket)).ticket_id
    assert (kept, type(kept)) == (ticket, type(ticket))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('["a@example.com", "b@example.com"]', ["a@example.com", "b@example.com"]),
        ([UUID(int=7)], [UUID(int=7)]),  # from an array of a database; JSON has no such type
        ("null", []),
        ("", []),
        (None, []),
    ],
)
def test_a_list_column_is_read_as_a_list(value: object, expected: list[object]) -> None:
    for column in LIST_COLUMNS:
        assert Message.from_row(row(**{column: value})).fields[column] == expected


NESTED: list[object] = []
for _ in range(100_000):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        *((text, "is not valid JSON") for text in ("a@example.com", "[" * 100_000, f"[{'1' * 10_000}]", "[NaN]")),
        *((other, "must be a JSON list") for other in ('{"a": 1}', "7", 7, b"[]", {"a": 1})),
        *((text, "is not valid UTF-8") for text in ('["\\ud800@x"]', ["\ud800@x"], '[{"\\ud800": 1}]')),
        pytest.param(NESTED, "is nested too deeply", id="nested"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_list_column_with_another_value_is_named(value: object, said: str) -> None:
    for column in LIST_COLUMNS:
        assert problem(**{column: value}) == f"{column} {said}"


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("body", None, "body is missing"),
        ("body", b"Where is it?", "body must be text"),
        ("subject", b"Your delivery", "subject must be text"),
        ("ticket_id", None, "ticket_id is missing"),
        ("ticket_id", "  ", "ticket_id is missing"),
        ("ticket_id", True, "ticket_id must be an integer or text"),
        ("ticket_id", "ü" * 256, "ticket_id must have at most 255 characters; it has 256"),
        ("ticket_id", b"12345", "ticket_id must be an integer or text"),
        ("id", None, "id must be an integer: None"),
        ("id", True, "id must be an integer: True"),
        ("retry_count", -1, "retry_count must not be negative: -1"),
        ("retry_count", "3", "retry_count must be an integer: '3'"),
        ("retry_count", 3.5, "retry_count must be an integer: 3.5"),
        ("message_type", "vendor", "message_type must be one of customer, supplier, internal: 'vendor'"),
        ("created_at", "", "created_at is not a valid date: ''"),
        ("created_at", "Anna asks for a refund", "created_at is not a valid date: 22 characters"),
        ("message_type", b"Anna asks", "message_type must be one of customer, supplier, internal: 9 bytes"),
        ("updated_at", "2025-02-30 12:00:00", "updated_at is not a valid date: '2025-02-30 12:00:00'"),
        ("created_at", 20240101, "created_at is not a valid date: 20240101"),
    ],
)
def test_an_invalid_value_is_refused_with_its_column(column: str, value: object, said: str) -> None:
    assert problem(**{column: value}) == said


@pytest.mark.parametrize("column", ["ticket_id", "message_type", "body", "last_error", "recipient_email", "priority"])
def test_text_that_is_not_valid_utf8_is_refused(column: str) -> None:
    assert problem(**{column: "caf\udce9"}) == f"{column} is not valid UTF-8"


def test_a_long_invalid_value_is_truncated_to_fit_a_line() -> None:
    assert problem(created_at="x" * 38) == f"created_at is not a valid date: '{'x' * 38}'"
    assert problem(created_at="x" * 39) == f"created_at is not a valid date: '{'x' * 36}…'"
    assert problem(retry_count="x" * 1000) == f"retry_count must be an integer: '{'x' * 36}…'"


ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=50)
ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    ANY_TEXT,
    st.binary(max_size=50),
    st.datetimes(),
    st.dates(),
    st.lists(st.integers(), max_size=3),
)
ROWS = st.fixed_dictionaries(
    {"id": st.just(7) | ANYTHING}
    | {"ticket_id": st.just("T-1") | ANYTHING}
    | {"message_type": st.sampled_from(MessageType) | ANYTHING}
    | {"subject": st.just("Hello") | ANYTHING}
    | {"body": st.just("Hello") | ANYTHING}
    | {"retry_count": st.just(0) | ANYTHING}
    | {name: st.none() | ANYTHING for name in ("status", "last_error")},
    optional={name: st.none() | ANYTHING for name in ("created_at", "updated_at", "cc_emails", "attachments")},
)


@settings(max_examples=150)
@given(ROWS)
def test_any_row_is_a_message_or_named_as_invalid_in_one_printable_line(bad_row: dict[str, object]) -> None:
    try:
        message = Message.from_row(bad_row)
    except InvalidMessage as error:
        said = str(error)
        assert said.isprintable()
        assert any(said.startswith(column) for column in bad_row)
        assert len(said) < 200
    else:
        assert message.retry_count >= 0
        assert isinstance(message.fields["body"], str)


@pytest.mark.parametrize(
    ("changes", "ticket", "kind", "count"),
    [
        ({"ticket_id": "T-1"}, "T-1", "supplier", 3),
        ({"ticket_id": b"\xff"}, "", "supplier", 3),
        ({"message_type": "vendor"}, 12345, "vendor", 3),
        ({"message_type": None}, 12345, "None", 3),
        ({"retry_count": "3"}, 12345, "supplier", 0),
    ],
)
def test_an_invalid_row_is_named_by_its_known_values(
    changes: dict[str, object], ticket: int | str, kind: str, count: int
) -> None:
    assert UnusableMessage.from_row(row(body=None, **changes), "body is missing") == UnusableMessage(
        message_id=7, ticket_id=ticket, message_type=kind, retry_count=count, problem="body is missing"
    )


@pytest.mark.parametrize(("value", "expected"), [(None, 0), (2**63 - 1, 2**63 - 1), (3.0, 3)])
def test_retry_count_accepts_null_and_whole_numbers_from_zero(value: object, expected: int) -> None:
    assert (retry_count(value), type(retry_count(value))) == (expected, int)


MIDNIGHT, NEW_YEAR = NOON.replace(hour=0), datetime(2017, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2025-03-03 12:00:00", NOON),
        ("2025-03-03T12:00:00.000000+00:00", NOON),
        ("2025-03-03 14:00:00+02:00", NOON),
        (datetime(2025, 3, 3, 12), NOON),  # noqa: DTZ001  naive, as SQLite returns times
        (datetime(2025, 3, 3, 14, tzinfo=timezone(timedelta(hours=2))), NOON),
        ("2025-03-03", MIDNIGHT),
        (date(2025, 3, 3), MIDNIGHT),
        # PostgreSQL reads leap seconds in the same way. Python has none, so the message would otherwise be refused.
        ("2016-12-31 23:59:60", NEW_YEAR),
        ("2016-12-31T23:59:60.250000Z", NEW_YEAR.replace(microsecond=250_000)),
        ("2017-01-01T00:59:60+01:00", NEW_YEAR),
    ],
)
def test_a_time_is_converted_to_utc_and_a_naive_one_is_utc(value: object, expected: datetime) -> None:
    time = utc_time("created_at", value)
    assert time == expected
    assert time.tzinfo is UTC


@pytest.mark.parametrize(
    "value",
    [
        *("2016-12-31 23:59:61", "2016-12-31 23:60:00", "2016-12-31 23:60", "9999-12-31 23:59:60"),
        *("0001-01-01T00:00:00+05:00", "9999-12-31T23:00:00-05:00"),  # out of range in UTC
    ],
)
def test_other_nonexistent_times_are_invalid(value: str) -> None:
    with pytest.raises(InvalidMessage, match="created_at is not a valid date"):
        utc_time("created_at", value)


def test_an_empty_list_of_recipients_is_none() -> None:
    message = Message.from_row(row(**{ADDRESS_SEPARATOR: ",", "recipient_email": " , "}))
    assert (message.fields["recipient_email"], message.fields["cc_emails"]) == (None, [])
