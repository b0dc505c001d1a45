"""Copies of a PostgreSQL database that successive tests reuse. Each test must find the content of the original."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine, text

from tests import postgresql

ORIGINAL = (
    "CREATE TABLE settings (name text PRIMARY KEY, value integer)",
    "INSERT INTO settings VALUES ('a', 1), ('b', NULL)",
    "CREATE TABLE items (id serial PRIMARY KEY, setting text REFERENCES settings)",
)
CHANGES_OF_THE_SCHEMA = (
    "ALTER TABLE items ADD COLUMN more text",
    "DROP TABLE items",
    "CREATE INDEX own ON items (setting)",
    "CREATE FUNCTION one() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    "CREATE SCHEMA other",
    "REVOKE ALL ON SCHEMA public FROM public",
    "GRANT SELECT ON items TO public",
    "ALTER TABLE items SET (autovacuum_enabled = off)",
    "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET timezone = UTC', current_database()); END $$",
)


def rows(url: str, statement: str) -> list[tuple[object, ...]]:
    engine = create_engine(url)
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(text(statement))]
    engine.dispose()
    return found


def change(url: str, *statements: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


@pytest.fixture(scope="module")
def original() -> Iterator[str]:
    with postgresql.database() as url:
        change(url, *ORIGINAL)
        with postgresql.reusable(url):
            yield url


def test_a_copy_is_used_again_without_what_a_test_has_written(original: str) -> None:
    with postgresql.database(original) as first:
        change(first, "INSERT INTO items (setting) VALUES ('a')", "DELETE FROM settings WHERE name = 'b'")
        change(first, "UPDATE settings SET value = 2", "INSERT INTO settings VALUES ('c', 3)")
    with postgresql.database(original) as second:
        assert second == first
        assert rows(second, "SELECT * FROM settings ORDER BY name") == [("a", 1), ("b", None)]
        assert rows(second, "INSERT INTO items DEFAULT VALUES RETURNING id") == [(1,)]
        assert rows(second, "SELECT count(*) FROM items") == [(0,)]


@pytest.mark.parametrize("statement", CHANGES_OF_THE_SCHEMA)
def test_a_copy_whose_schema_has_changed_is_not_used_again(original: str, statement: str) -> None:
    with postgresql.database(original) as first:
        change(first, statement)
    with postgresql.database(original) as second:
        assert second != first


def test_two_tests_at_once_have_copies_of_their_own(original: str) -> None:
    with postgresql.database(original) as first, postgresql.database(original) as second:
        assert first != second
