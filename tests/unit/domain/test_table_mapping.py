"""The settings that describe an application's table: which are refused, and with which words."""

from __future__ import annotations

from typing import Any

import pytest

from retrycli.domain.table_mapping import parse_mapping, query_of

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
