"""Queries in expressions, and ticket columns that refer to another table."""

from __future__ import annotations

import pytest

from retrycli.domain.known_table import ForeignKey, KnownTable, TableColumn, ValueKind, is_ticket, ticket_columns
from retrycli.domain.scalar_query import query_of

REFERENCE = ForeignKey("ticket", "tickets", "id")


@pytest.mark.parametrize(
    ("sql", "query"),
    [
        ("(SELECT a FROM t)", "SELECT a FROM t"),
        (" ( (select ')' FROM t ) ) ", "select ')' FROM t"),
        ("SELECT a FROM t", "SELECT a FROM t"),
        ("(WITH x AS (SELECT 1) SELECT * FROM x)", "WITH x AS (SELECT 1) SELECT * FROM x"),
        ("(SELECT a FROM t) + (SELECT b FROM t)", None),
        ("coalesce((SELECT a FROM t), 0)", None),
        ("selected", None),
        ("'SELECT'", None),
    ],
)
def test_an_expression_that_is_one_query_is_recognised(sql: str, query: str | None) -> None:
    assert query_of(sql) == query


def table(name: str, *references: ForeignKey, **kinds: ValueKind) -> KnownTable:
    columns = tuple(TableColumn(column, kind) for column, kind in kinds.items())
    return KnownTable(name, None, "table", columns, references=references)


TICKETS = table(
    "tickets",
    ForeignKey("customer_number", "customers", "id"),
    id=ValueKind.INTEGER,
    customer_number=ValueKind.INTEGER,
    title=ValueKind.TEXT,
    desk_key=ValueKind.TEXT,
    number=ValueKind.INTEGER,
    key_expires=ValueKind.TIME,
)


def test_columns_that_may_be_the_number_are_found_and_others_are_not_shown() -> None:
    assert ticket_columns(TICKETS, REFERENCE) == ["number", "desk_key"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (4705, True),
        ("DESK-4705", True),
        ("7c2f9a10-33aa-4c7e-9d10-aaaaaaaaaaaa", True),
        (True, False),
        ("open", False),
        ("where is my parcel", False),
        ("ana@example.com", False),
        (None, False),
    ],
)
def test_only_numbers_and_keys_look_like_tickets(value: object, *, expected: bool) -> None:
    assert is_ticket(value) is expected
