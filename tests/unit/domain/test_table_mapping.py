"""The settings that describe an application's table: which are refused, and with which words."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from retrycli.domain.table_mapping import (
    Acceptance,
    TableMapping,
    births_differ,
    digests_differ,
    objection,
    parse_mapping,
    query_of,
    selection_parts,
    states_differ,
)

STATUS = {"failed": 1, "sent": 2}


@pytest.mark.parametrize(
    "sql", ["1; DROP TABLE mails", ";", "'a' ; 'b'", "-- a\n;", "/* a */;", "1) OR (1", "(1", "'it", '"a', "/* a", "\0"]
)
def test_sql_that_may_end_its_parentheses_is_refused(sql: str) -> None:
    for columns, where in (({}, sql), ({"subject": {"sql": sql}}, None)):
        with pytest.raises(ValueError, match=r"^database\.(where|columns\.subject): the SQL (must|has unbalanced)"):
            parse_mapping(columns, STATUS, where)


@pytest.mark.parametrize("sql", ["'a;b'", '";"', "'it''s (;'", "1 -- ;)\n", "/* ;\n( */ 1", "coalesce((a), b)", "-- '"])
def test_marks_within_quotes_and_comments_are_text(sql: str) -> None:
    assert parse_mapping({}, STATUS, f" {sql} ").where == sql.strip()


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "columns.tea: the role 'tea' is unknown": ({"tea": "x"}, STATUS),
    "columns.body: the name of the column is empty": ({"body": ""}, STATUS),
    "columns.body: retrycli can keep only": ({"body": {"own": True}}, STATUS),
    "columns.body: only recipient_email can be split": ({"body": {"from": "to", "split": ","}}, STATUS),
    "columns.id: the id must be a column": ({"id": {"value": 1}}, STATUS),
    "columns.status: the status must be a column": ({"status": {"sql": "1"}}, STATUS),
    "columns.retry_count: retrycli must write it": ({"retry_count": {"value": 1}}, STATUS),
    "columns.sent_at: retrycli must write it": ({"sent_at": {"sql": "1"}}, STATUS),
    "columns.recipient_email must be ": ({"recipient_email": {"from": "to", "split": ", "}}, STATUS),
    "columns.subject must be ": ({"subject": {"value": "x", "sql": "y"}}, STATUS),
    "columns.body: retrycli needs this role": ({"body": {"none": True}}, STATUS),
    "columns.created_at: the name of the column is empty": ({"created_at": {"unix": ""}}, STATUS),
    "columns.sent_at: only created_at and updated_at can be read": ({"sent_at": {"unix": "made"}}, STATUS),
    "columns.created_at: localtime depends on": ({"created_at": {"sql": "datetime(made, 'LocalTime')"}}, STATUS),
    "columns.updated_at must be ": ({"updated_at": {"none": False}}, STATUS),
    "columns.last_error must be ": ({"last_error": {"own": False}}, STATUS),
    "columns.message_type must be ": ({"message_type": {"from": "kind", "map": {}}}, STATUS),
    "columns.message_type: map: a must be mapped": ({"message_type": {"from": "kind", "map": {"a": 1}}}, STATUS),
    "status.gone: this status is unknown": ({}, {**STATUS, "gone": 3}),
    "status.sent must be text, an integer": ({}, {"failed": 1, "sent": 2.5}),
    "status.sent is missing": ({}, {"failed": 1}),
    "status.failed is missing": ({}, {"sent": 1}),
    "status.sent and database.status.failed have the same value": ({}, {"failed": "A", "sent": "a "}),
    "status.sent and database.status.failed have the same value; each": ({}, {"failed": "1", "sent": 1}),
    "status.rejected and database.status.sent have the same value": ({}, {"failed": 1, "sent": 0, "rejected": False}),
}


@pytest.mark.parametrize("said", REFUSED)
def test_settings_that_can_not_describe_a_table_are_refused(said: str) -> None:
    with pytest.raises(ValueError) as told:  # noqa: PT011  compared below
        parse_mapping(*REFUSED[said], None)
    assert str(told.value).startswith(f"database.{said}")


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


# -- what an operator has accepted, compared with what the settings select --------------------------------------------

AT = datetime(2026, 3, 3, 8, 15, tzinfo=UTC)
TABLE = "public.mails"
COLUMNS: dict[str, object] = {
    "id": "uid",
    "ticket_id": {"sql": "(SELECT 1)"},
    "recipient_email": {"from": "to", "split": ","},
}


def mapping(*, where: str | None = "lane = 'desk'", failed: int = 3, **columns: object) -> TableMapping:
    return parse_mapping(COLUMNS | columns, {"failed": failed, "sent": 2}, where)


def accepted(by: TableMapping | None) -> Acceptance:
    return Acceptance(selection_parts(TABLE, by), "anna", AT)


def test_only_a_mapping_needs_acceptance_and_what_was_accepted_may_be_sent() -> None:
    assert objection(TABLE, None, None) is None
    assert str(objection(TABLE, mapping(), None)).startswith(f"nobody has accepted which rows of {TABLE} ")
    for given in (None, mapping(), mapping(body="body", updated_at="changed")):
        assert objection(TABLE, given, accepted(given and mapping())) is None
    assert "database.columns.id is " in str(objection(TABLE, None, accepted(mapping())))
    assert f'database.table is "x", but "{TABLE}" was accepted' in str(objection("x", mapping(), accepted(mapping())))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (mapping(where=None), "database.where is not set, but \"lane = 'desk'\" was accepted"),
        (mapping(failed=4), "database.status.failed is 4, but 3 was accepted"),
        (mapping(created_at="made"), 'database.columns.created_at is "made", but not set was accepted'),
        (mapping(last_error={"own": True}), 'database.columns.last_error is {"own": true}, but not set was accepted'),
        (mapping(body="text"), 'the text in database.columns is {"body": "text"}, but not set was accepted'),
        (mapping(ticket_id="case"), 'database.columns.ticket_id is "case", but {"sql": "(SELECT 1)"} was accepted'),
        (
            mapping(recipient_email={"value": "a@b"}),
            'database.columns.recipient_email is {"value": "a@b"}, but {"from": "to", "split": ","} was accepted',
        ),
    ],
)
def test_a_difference_is_named_with_who_accepted_and_when(changed: TableMapping, said: str) -> None:
    told = str(objection(TABLE, changed, accepted(mapping())))
    assert told.startswith(
        "these settings select other messages than anna accepted at 2026-03-03 08:15 UTC, so nothing"
    )
    assert said in told


@pytest.mark.parametrize(
    ("differ", "changed", "with_another_key", "others"),
    [
        (
            digests_differ,
            [mapping(body="text"), mapping(recipient_email="to")],
            mapping(body="text", id="number"),
            mapping(created_at="made"),
        ),
        (
            births_differ,
            [mapping(created_at="made"), mapping(ticket_id="case")],
            mapping(created_at="made", id="number"),
            mapping(body="text"),
        ),
    ],
)
def test_another_source_differs_also_in_a_renamed_table_but_another_key_means_other_messages(
    differ: Callable[[str, TableMapping | None, Acceptance], bool],
    changed: list[TableMapping],
    with_another_key: TableMapping,
    others: TableMapping,
) -> None:
    before = accepted(mapping())
    assert all(differ(table, each, before) for table in (TABLE, "x") for each in changed)
    assert not any(differ(TABLE, each, before) for each in (with_another_key, others))
    assert not differ("x", mapping(), before)


def test_counts_and_errors_of_another_source_differ() -> None:
    before = accepted(mapping())
    assert states_differ(TABLE, mapping(last_error={"own": True}), before)
    assert states_differ(TABLE, mapping(retry_count="n"), before)
    assert not states_differ(TABLE, mapping(body="text", created_at="made"), before)
