"""The checks before retrycli's own tables are copied to another database."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import insert, make_url

from retrycli.store import schema
from retrycli.store.claims import Claims
from retrycli.store.copy import claimed_until, is_same, last_used, left_behind
from retrycli.store.database import Database
from retrycli.store.passes import Ledger
from tests.store.application import HOUR, NOON, Application, opened
from tests.store.conftest import Sides, file_of, two
from tests.store.own_tables import PASS, enrol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Table

# -- one database, or two ----------------------------------------------------------------------------------------------


def test_two_databases_are_different(sides: Sides) -> None:
    """Two databases are different even if one is a copy of the other."""
    assert not is_same(sides.source, sides.target)
    assert not is_same(sides.target, sides.source)


def spellings(url: str, folder: Path) -> Iterator[str]:
    """Yield different URLs of the same database."""
    yield url
    if url.startswith("sqlite"):
        path = Path(file_of(url))
        yield f"sqlite:///{os.path.relpath(path)}"
        yield f"sqlite+aiosqlite:///{path}"
        yield f"sqlite:///file:{path}?uri=true&mode=rw"
        (folder / "symbolic").symlink_to(path)
        yield f"sqlite:///{folder / 'symbolic'}"
        (folder / "hard").hardlink_to(path)
        yield f"sqlite:///{folder / 'hard'}"
    else:
        known = make_url(url).update_query_dict({"application_name": "another", "connect_timeout": "9"})
        yield known.set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)


def test_one_database_is_recognised_in_every_spelling(application: Application, tmp_path: Path) -> None:
    with opened(application) as one:
        for url in spellings(application.url, tmp_path):
            other = Database(url)
            assert other.has_messages()
            assert is_same(one, other), url
            other.close()


# -- claims ------------------------------------------------------------------------------------------------------------


def test_claims_count_until_they_lapse(application: Application, database: Database) -> None:
    application.add_all([{}, {}, {}])
    enrol(database, [1, 2, 3])
    assert claimed_until(database, NOON) is None
    assert len(Claims(database).claim(PASS, NOON, 2)) == 2
    assert claimed_until(database, NOON) == PASS.expires_at
    assert claimed_until(database, PASS.expires_at) is None


# -- when it was last used ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", ["pass", "attempt", "act"])
def test_the_newest_pass_attempt_or_action_counts(database: Database, last: str) -> None:
    assert last_used(database) is None
    at = {kind: NOON + HOUR if kind == last else NOON for kind in ("pass", "attempt", "act")}
    for number, earlier in enumerate((HOUR, 0 * HOUR)):
        Ledger(database).start_pass(f"pass {number}", host="mill", pid=1, now=at["pass"] - earlier)
        write(database, schema.attempts, started_at=at["attempt"] - earlier, number=1, made_by="ana")
        write(database, schema.acts, at=at["act"] - earlier, by="ana", act="reject")
    assert last_used(database) == NOON + HOUR


def write(database: Database, table: Table, **values: object) -> None:
    with database.write() as connection:
        connection.execute(insert(table).values(message_id=1, **values))


def test_passes_attempts_or_actions_may_be_missing(database: Database) -> None:
    write(database, schema.attempts, started_at=NOON, number=1, made_by="ana")
    assert last_used(database) == NOON


# -- messages that did not move ----------------------------------------------------------------------------------------


def test_messages_missing_from_the_target_are_counted(sides: Sides) -> None:
    """A message that is on the target with another status has not been left behind."""
    sides.at_source.add_all([{} for _ in range(12)])
    enrol(sides.source, range(1, 11))
    assert left_behind(sides.source, sides.target, batch=3) == (10, 1)
    sides.at_target.add_all([{} for _ in range(9)])
    sides.at_target.delete(4)
    sides.at_target.change(5, status="sent")
    assert left_behind(sides.source, sides.target, batch=3) == (2, 4)
    sides.at_target.add_all([{"id": 4}, {"id": 10}])
    assert left_behind(sides.source, sides.target, batch=3) == (0, None)


def test_a_message_missing_from_the_source_too_is_not_counted(sides: Sides) -> None:
    sides.at_source.add_all([{}, {}, {}])
    enrol(sides.source, [1, 2, 3])
    sides.at_source.delete(2)
    sides.at_target.add_all([{"id": 1}])
    assert left_behind(sides.source, sides.target) == (1, 3)


def test_the_application_may_have_moved_its_table(sides: Sides) -> None:
    enrol(sides.source, [1, 2])
    sides.at_target.add()
    sides.at_source.sql("DROP TABLE pending_messages")
    assert left_behind(sides.source, sides.target) == (1, 2)


def test_a_file_has_no_schema_for_the_table(tmp_path: Path, templates: dict[str, str]) -> None:
    with two(("sqlite", "postgresql"), tmp_path, templates) as sides:
        there = Application(sides.at_target.url, "helpdesk.pending_messages")
        there.add()
        enrol(sides.source, [1, 2])
        source, target = (Database(side.url, there.table_name) for side in (sides.at_source, there))
        assert left_behind(source, target) == (1, 2)
        for side in (source, target, there):
            side.close()
