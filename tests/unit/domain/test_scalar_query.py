"""Queries in expressions."""

from __future__ import annotations

import pytest

from retrycli.domain.table_mapping import query_of


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
