"""The copy of retrycli's own tables to another database, for each pair of engines."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import (
    BigInteger,
    Boolean,
    Integer,
    String,
    Table,
    delete,
    insert,
    select,
    update,
)

from retrycli.domain.errors import ConfigurationError
from retrycli.store.copy import COPIED, CopiedTable, copy_tables
from retrycli.store.database import Database
from retrycli.store.results import START_ATTEMPTS, STARTED
from retrycli.store.schema import _UtcDateTime, metadata
from tests import traps
from tests.store.application import NOON
from tests.store.conftest import Sides, file_of, two
from tests.store.heard import statements

Row = dict[str, Any]
ATTEMPTS, ACTS, PASSES, PAUSE = (
    metadata.tables[f"retrycli_{each}"] for each in ("attempts", "acts", "passes", "pause")
)


def written(sides: Sides, batch: int = 3) -> dict[str, tuple[int, int, int]]:
    """Copy the tables. Return the numbers of added, changed and removed rows of each table that changed."""
    found = {table.table: (table.added, table.changed, table.removed) for table in copy(sides, batch)}
    return {name: numbers for name, numbers in found.items() if any(numbers)}


def copy(sides: Sides, batch: int = 3) -> list[CopiedTable]:
    return copy_tables(sides.source, sides.target, batch=batch)


def put(database: Database, table: Table, *rows: Mapping[str, object]) -> None:
    with database.write() as connection:
        connection.execute(insert(table), list(rows))


def rows_of(database: Database, table: Table) -> dict[tuple[object, ...], Row]:
    key = [column.name for column in table.primary_key]
    with database.read() as connection:
        found = [dict(each) for each in connection.execute(select(table)).mappings()]
    return {tuple(row[name] for name in key): row for row in found}


def contents(database: Database) -> dict[str, dict[tuple[object, ...], Row]]:
    """Return all rows of retrycli's own tables, by table."""
    return {table.name: rows_of(database, table) for table in COPIED}


# -- rows of every kind ------------------------------------------------------------------------------------------------

EAST = timezone(timedelta(hours=5, minutes=30))
WORDS = ("", "pass", "Zoë", "日本語 🚚", 'a "quote", a \\ and a\ttab\n', "%s :name {x}", "  blanks  ")
TIMES = (
    datetime(2025, 3, 3, 12, 0, 0, 123456, UTC),
    datetime(1999, 12, 31, 23, 59, 59, 999999, UTC),
    datetime(2025, 10, 26, 2, 30, tzinfo=EAST),  # an offset that is not a whole hour
    datetime(2038, 1, 19, 3, 14, 8, tzinfo=UTC),
)
SIZES = (0, 1, -1, 2**31 - 1, -(2**31))
BIG = (*SIZES, 2**63 - 1, -(2**63), 2**53 + 1)


def sample(table: Table, number: int) -> Row:
    """Generate a row. Successive numbers give its columns every kind of value. New tables are covered too."""
    return {
        column.name: None if column.nullable and number % 3 == place % 3 else _value(column.type, number + place)
        for place, column in enumerate(table.c)
    } | {column.name: _key(column.type, number) for column in table.primary_key}


def _value(kind: object, number: int) -> object:
    match kind:
        case Boolean():
            return number % 2 == 0
        case _UtcDateTime():
            return TIMES[number % len(TIMES)]
        case BigInteger():
            return BIG[number % len(BIG)]
        case Integer():
            return SIZES[number % len(SIZES)]
        case String(length=longest):
            long = WORDS[number % len(WORDS)] * 1000
            return long[:longest] if number % 2 else WORDS[number % len(WORDS)][:longest]
        case _:
            raise AssertionError(f"a sample of {kind} is missing here")


def _key(kind: object, number: int) -> object:
    match kind:
        case _UtcDateTime():
            return NOON + number * timedelta(microseconds=1)
        case BigInteger():
            return BIG[number] if number < len(BIG) else number
        case String():
            return KEYS[number] if number < len(KEYS) else f"key {number}"
        case _:
            raise AssertionError(f"a key of {kind} is missing here")


KEYS = ("b", "a", "B", "A", "a-b", "ab", "a_b", "ä", "Z", "z", "é", "e", "日", "🚚", "", " ", "10", "9")
"""Keys that collations sort in different orders."""


def fill(database: Database, number: int) -> None:
    with database.write() as connection:
        for table in COPIED:
            connection.execute(delete(table))
            connection.execute(insert(table), [sample(table, each) for each in range(number)])


def test_every_row_of_every_table_arrives_unchanged(sides: Sides) -> None:
    fill(sides.source, 40)
    copied = copy(sides, batch=7)
    assert contents(sides.target) == contents(sides.source)
    assert [table.table for table in copied] == [table.name for table in COPIED]
    assert {(table.source_rows, table.target_rows, table.verified) for table in copied} == {(40, 40, True)}


@pytest.mark.parametrize("sides", [("postgresql", "postgresql")], indirect=True, ids=["postgresql"])
def test_planted_functions_in_the_search_path_are_not_run(sides: Sides) -> None:
    """Another role may own a schema in the search path. The copy must not run its functions."""
    for side in (sides.at_source, sides.at_target):
        traps.plant(side.url)
    fill(sides.source, 40)
    fill(sides.target, 30)
    with sides.target.write() as connection:
        connection.execute(update(ATTEMPTS).values(error="another"))
        connection.execute(delete(PASSES))
    with sides.source.write() as connection:
        connection.execute(delete(ACTS))
    assert all(table.verified for table in copy(sides, batch=7))
    assert contents(sides.target) == contents(sides.source)


def test_empty_tables_are_copied_too(sides: Sides) -> None:
    fill(sides.target, 5)
    with sides.source.write() as connection:
        for table in COPIED:
            connection.execute(delete(table))
    assert all(each.verified and each.removed == 5 for each in copy(sides))
    assert contents(sides.target) == contents(sides.source)


def test_text_sorts_alike_on_both_sides(sides: Sides) -> None:
    """If PostgreSQL sorted by its own collation, a copy would miss rows or add them twice."""
    passes = [sample(PASSES, number) for number in range(len(KEYS))]
    put(sides.source, PASSES, *passes[::2])
    for batch in (1, 2, 5, 1000):
        with sides.target.write() as connection:
            connection.execute(delete(PASSES))
        put(sides.target, PASSES, *passes[1::2])
        assert written(sides, batch)["retrycli_passes"] == (9, 0, 9), batch
        assert rows_of(sides.target, PASSES) == rows_of(sides.source, PASSES), batch


def test_postgresql_sorts_by_the_c_collation(to_postgresql: Sides) -> None:
    """`test_text_sorts_alike_on_both_sides` detects an error only if the server's collation differs from "C"."""
    with statements(to_postgresql.target) as seen:
        copy(to_postgresql)
    [asked] = [sql for sql, _ in seen if sql.startswith("SELECT retrycli_passes.id")]
    assert 'ORDER BY retrycli_passes.id COLLATE "C"' in asked


def test_the_applications_table_is_not_changed(sides: Sides) -> None:
    sides.at_source.add_all([{}, {}])
    sides.at_target.add_all([{}, {"status": "sent"}])
    fill(sides.source, 10)
    with sides.at_source.watched() as there, sides.at_target.watched() as here:
        copy(sides)
    assert (there, here) == ({}, {})


# -- once more ---------------------------------------------------------------------------------------------------------


def test_identical_rows_are_not_written(sides: Sides) -> None:
    """A second copy must not even take the target's write lock."""
    fill(sides.source, 20)
    copy(sides)
    with statements(sides.target) as seen:
        assert written(sides) == {}
    assert {sql for sql, _ in seen if not sql.startswith(("SELECT", "BEGIN ISOLATION LEVEL"))} <= {"BEGIN", "COMMIT"}


def test_only_differing_rows_are_written(sides: Sides) -> None:
    fill(sides.source, 20)
    copy(sides)
    before = contents(sides.source)["retrycli_acts"]
    key = next(iter(before))
    with sides.source.write() as connection:
        connection.execute(update(ACTS).where(ACTS.c.id == key[0]).values(detail="another"))
        connection.execute(delete(ATTEMPTS).where(ATTEMPTS.c.id == 1))
    put(sides.source, PASSES, sample(PASSES, 77))
    assert written(sides) == {
        "retrycli_acts": (0, 1, 0),
        "retrycli_attempts": (0, 0, 1),
        "retrycli_passes": (1, 0, 0),
    }
    assert contents(sides.target) == contents(sides.source)


@pytest.mark.parametrize("rounds", [2, pytest.param(6, marks=pytest.mark.long)])
def test_the_target_always_ends_like_the_source(sides: Sides, rounds: int) -> None:
    """Gaps and changed rows at any place must not confuse the comparison of ranges."""
    chance = Random(7)
    for _ in range(rounds):
        for database in (sides.source, sides.target):
            with database.write() as connection:
                for table in COPIED:
                    connection.execute(delete(table))
                    first = chance.randrange(30)
                    numbers = [
                        number for number in range(first, first + 25) if chance.random() < chance.choice((0.1, 0.9))
                    ]
                    rows = [{**sample(table, message_id), **_mark(table, chance)} for message_id in numbers]
                    if rows:
                        connection.execute(insert(table), rows)
        copy(sides, batch=chance.choice((1, 2, 4, 9)))
        assert contents(sides.target) == contents(sides.source)
        assert written(sides) == {}


def _mark(table: Table, chance: Random) -> Row:
    """Return a value that may differ between two rows with the same key."""
    column = next((each for each in table.c if not each.primary_key and not isinstance(each.type, Boolean)), None)
    return {} if column is None else {column.name: _value(column.type, chance.randrange(2))}


def test_an_interrupted_copy_continues(sides: Sides) -> None:
    fill(sides.source, 30)
    far = [("retrycli_passes", 12)]

    def cut_short(table: str, rows: int) -> None:
        if (table, rows) in far:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_tables(sides.source, sides.target, batch=3, listen=cut_short)
    assert len(rows_of(sides.target, PASSES)) == 12
    rest = written(sides)
    assert "retrycli_attempts" not in rest
    assert rest["retrycli_passes"] == (18, 0, 0)
    assert contents(sides.target) == contents(sides.source)


def test_no_transaction_exceeds_a_batch(sides: Sides) -> None:
    """A long transaction on the target would block its application."""
    put(sides.source, ATTEMPTS, *(sample(ATTEMPTS, number) for number in range(10)))
    seen: list[int] = []
    with seen_by_others(sides.target) as count:
        copy_tables(sides.source, sides.target, batch=4, listen=lambda name, _: seen.append(count(name)))
    assert [size for size in seen if size][:3] == [4, 8, 10]


@contextmanager
def seen_by_others(database: Database) -> Iterator[Callable[[str], int]]:
    """Yield a function that counts the committed attempts, over a separate connection."""
    other = Database(database._url.render_as_string(hide_password=False))

    def count(name: str) -> int:
        return len(rows_of(other, ATTEMPTS)) if name == ATTEMPTS.name else 0

    yield count
    other.close()


# -- ids to come -------------------------------------------------------------------------------------------------------


def attempt(number: int | None = None) -> Row:
    row = {"message_id": 1, "number": 1, "made_by": "pass", "started_at": NOON}
    return row if number is None else {**row, "id": number}


@pytest.mark.parametrize("newest", [1, 4, 2**40])
def test_new_rows_get_new_ids(sides: Sides, newest: int) -> None:
    put(sides.source, ATTEMPTS, attempt(newest))
    copy(sides)
    with sides.target.write() as connection:
        for _ in range(2):
            row = dict.fromkeys(STARTED) | {"message_id": 1, "number": 1}
            START_ATTEMPTS.execute(connection, [row], pass_id=None, made_by="pass", started_at=NOON, probe=None)
    assert {*rows_of(sides.target, ATTEMPTS)} == {(newest,), (newest + 1,), (newest + 2,)}


def test_used_ids_are_not_reused(to_postgresql: Sides) -> None:
    for _ in range(5):
        put(to_postgresql.target, ATTEMPTS, attempt())
    put(to_postgresql.source, ATTEMPTS, attempt(2))
    copy(to_postgresql)
    put(to_postgresql.target, ATTEMPTS, attempt())
    assert {*rows_of(to_postgresql.target, ATTEMPTS)} == {(2,), (6,)}


def test_a_table_without_an_id_sequence_is_refused(to_postgresql: Sides) -> None:
    """A copy of the whole database may lack the sequence. Without it, the next pass would fail."""
    to_postgresql.at_target.sql("ALTER TABLE retrycli_attempts ALTER COLUMN id DROP DEFAULT")
    to_postgresql.at_target.sql("DROP SEQUENCE retrycli_attempts_id_seq")
    with pytest.raises(
        ConfigurationError, match=r"retrycli_attempts in .* was not created by retrycli.*Drop the tables"
    ):
        copy(to_postgresql)


# -- what the target can't hold ----------------------------------------------------------------------------------------

UNFIT = {
    "a NUL": ("detail", "'a' || char(0) || 'b'", "detail contains a NUL character"),
    "half a pair": ("detail", "CAST(x'61eda080' AS TEXT)", "detail is not valid Unicode"),
    "no UTF-8": ("by", "CAST(x'636166e9' AS TEXT)", "by is not valid Unicode"),
    "too long a name": ("by", "printf('%0300d', 7)", "by has more than 255 characters"),
    "no number": ("message_id", "'seven'", "message_id is not an integer that fits the column"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_row_that_does_not_fit_is_named_with_a_remedy(to_postgresql: Sides, case: str) -> None:
    """After the operator has run the suggested UPDATE, the copy continues."""
    column, value, problem = UNFIT[case]
    put(to_postgresql.source, ACTS, *({**sample(ACTS, 1), "id": number, "detail": "good"} for number in range(1, 11)))
    spoil(to_postgresql, f'UPDATE retrycli_acts SET "{column}" = {value} WHERE id = 8')
    with pytest.raises(ConfigurationError) as raised:
        copy(to_postgresql)
    words = str(raised.value)
    assert words.startswith(f"retrycli_acts has a row that {to_postgresql.target.place} can't hold: {problem}, where")
    way_out = words[words.index("UPDATE") : words.index(", and run this again")]
    assert len(rows_of(to_postgresql.target, ACTS)) == 6
    fixed = "7" if column == "message_id" else "fixed"
    spoil(to_postgresql, way_out.replace("…", fixed))
    assert all(table.verified for table in copy(to_postgresql))
    assert contents(to_postgresql.target) == contents(to_postgresql.source)


def test_a_number_out_of_range_is_named(to_postgresql: Sides) -> None:
    put(to_postgresql.source, ATTEMPTS, {**attempt(3), "duration_ms": 2**31})
    with pytest.raises(ConfigurationError, match=r'duration_ms is not an integer that fits the column, where "id" = 3'):
        copy(to_postgresql)


def test_a_row_with_a_composite_key_is_named_by_the_whole_key(to_postgresql: Sides) -> None:
    put(to_postgresql.source, metadata.tables["retrycli_totals"], {"name": "odd", "label": "la\0bel", "value": 1})
    with pytest.raises(ConfigurationError, match="\"name\" = 'odd' AND \"label\" = 'la\0bel'"):
        copy(to_postgresql)


@pytest.mark.parametrize("kinds", [("sqlite", "sqlite"), ("sqlite", "postgresql")], ids="-to-".join)
@pytest.mark.parametrize("bad", ["'soon'", "'2025-13-45 00:00:00'", "17"])
def test_an_invalid_time_is_named(kinds: tuple[str, str], tmp_path: Path, templates: dict[str, str], bad: str) -> None:
    with two(kinds, tmp_path, templates) as sides:
        put(sides.source, ATTEMPTS, *map(attempt, range(1, 6)))
        spoil(sides, f"UPDATE retrycli_attempts SET started_at = {bad} WHERE id = 5")
        with pytest.raises(
            ConfigurationError, match=r"a row of retrycli_attempts in .*source.* after the key \(3,\) can't be read"
        ):
            copy(sides)


def test_invalid_unicode_is_named_between_files_too(tmp_path: Path, templates: dict[str, str]) -> None:
    with two(("sqlite", "sqlite"), tmp_path, templates) as sides:
        put(sides.source, ACTS, {**sample(ACTS, 1), "id": 1})
        spoil(sides, "UPDATE retrycli_acts SET detail = CAST(x'e9' AS TEXT)")
        with pytest.raises(ConfigurationError, match=r"detail is not valid Unicode, where \"id\" = 1"):
            copy(sides)


def spoil(sides: Sides, statement: str) -> None:
    with closing(sqlite3.connect(file_of(sides.at_source.url))) as connection, connection:
        connection.execute(statement)
