"""The ``db index`` command offers an index on the application's table, and creates it only after confirmation."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url

from tests import postgresql
from tests.store.application import Application as Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.application import Application
    from tests.cli.command import Cli

MAKE = "CREATE INDEX retrycli_failed ON pending_messages (id) WHERE status = 'failed'"


def indexes(application: Application) -> list[object]:
    found = application.execute("SELECT sql FROM sqlite_master WHERE type = 'index' AND name = 'retrycli_failed'")
    return [name["sql"] for name in found]


def test_only_a_confirmed_change_is_made(at_work: Cli, application: Application) -> None:
    assert at_work("db", "index").returncode == 2
    assert at_work("db", "index", "--json").stdout == ""
    at_work.on_terminal("db", "index", answers=["n"])
    for command in ("db upgrade", "run-once", "doctor", "list-failed"):
        at_work(*command.split())
    assert indexes(application) == []
    at_work.on_terminal("db", "index", answers=["y"])
    assert indexes(application) == [MAKE]
    assert at_work.json("db", "index")["statements"] == []
    at_work.on_terminal("db", "index", "--drop", answers=["y"])
    assert indexes(application) == []
    found = at_work.json("db", "index", "--yes")
    assert found == {"index": "retrycli_failed", "before": "absent", "now": "there", "statements": [MAKE]}
    assert indexes(application) == [MAKE]
    found = at_work.json("db", "index", "--drop", "--yes")
    assert (found["before"], found["now"], indexes(application)) == ("there", "absent", [])


@pytest.fixture
def table() -> Iterator[Table]:
    with postgresql.database() as url:
        made = Table(url)
        yield made
        made.close()


def test_on_postgresql_only_the_tables_owner_can_create_it(cli: Cli, table: Table) -> None:
    """For a role that may not create it, the command prints the statement, which the owner can run."""
    name = f"reader_{uuid.uuid4().hex[:12]}"
    table.sql(f"CREATE ROLE {name} LOGIN")
    try:
        table.sql(f"GRANT SELECT ON pending_messages TO {name}")
        url = make_url(table.url).set(username=name).render_as_string(hide_password=False)
        done = cli("db", "index", "--yes", env={"RETRYCLI_DATABASE__URL": url})
        make = MAKE.replace("INDEX", "INDEX CONCURRENTLY").replace("status", "CAST(status AS text)")
        assert (done.returncode, done.stdout) == (69, f"{make};\n")
        assert "must be owner of table pending_messages: `retrycli manual postgresql` lists" in done.stderr
    finally:
        table.sql(f"DROP OWNED BY {name}")
        table.sql(f"DROP ROLE {name}")
