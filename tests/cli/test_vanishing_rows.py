"""A queue table whose rows are deleted when they are done, behind the view and the triggers of the manual."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.cli.api import BUSY, TAKES, Scripted
from tests.cli.application import Application
from tests.conftest import on_both
from tests.test_manual import PAGES, blocks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.command import Cli
    from tests.store.conftest import Factory

pytestmark = on_both

TABLE = """
CREATE TABLE mail_queue (id INTEGER PRIMARY KEY, ticket_id INTEGER, recipient TEXT, subject TEXT, body TEXT,
    tries INTEGER, error TEXT, created_at DATETIME);
"""


@pytest.fixture
def queue(engine: Factory, tmp_path: Path) -> Iterator[Application]:
    """Provide a queue with the view and the triggers of the manual."""
    view, for_sqlite, for_postgresql = blocks(PAGES["your-own-table"], "sql")
    with engine(tmp_path, None) as url:
        made = Application(url, tables=TABLE)
        for statement in (view, *(for_sqlite if made.is_sqlite else for_postgresql).strip().split("\n\n")):
            made.execute(statement)
        yield made
        made.lock.unlink(missing_ok=True)


def add(queue: Application, *ids: int) -> None:
    made = str(datetime.now(UTC).replace(tzinfo=None) - timedelta(hours=3))
    common = {"recipient": "ana@example.com", "subject": "Invoice", "body": "Attached.", "tries": 1, "error": "timeout"}
    queue.insert("mail_queue", [{"id": each, "ticket_id": 4700 + each, "created_at": made, **common} for each in ids])


def test_a_row_that_is_gone_once_it_is_sent_is_delivered(queue: Application, cli: Cli) -> None:
    with Scripted(TAKES, BUSY, TAKES) as api:
        command = cli.having(queue.variables(api.url))
        add(queue, 1)
        assert command("db", "upgrade").returncode == 0
        assert command("table", "check").returncode == 0
        done = command.json("run-once")
        assert (done["sent"], done["escalated"], queue.rows("mail_queue")) == (1, 0, {})
        assert queue.state(1) is None
        [attempt] = queue.execute("SELECT outcome FROM retrycli_attempts")
        assert attempt["outcome"] == "delivered"
        add(queue, 2, 3)
        done = command.json("run-once")
        assert (done["sent"], done["escalated"]) == (1, 0)
        [left] = queue.rows("mail_queue").values()
        assert (left["tries"], "503" in str(left["error"])) == (2, True)
        assert len(api.paths) == 3


@pytest.mark.parametrize("action", ["mark-sent 1 --yes", "reject 1 --reason phoned"])
def test_an_operators_word_removes_the_row(queue: Application, cli: Cli, action: str) -> None:
    with Scripted(BUSY) as api:
        command = cli.having(queue.variables(api.url))
        add(queue, 1)
        assert command("run-once").returncode == 0
        done = command(*action.split())
        assert done.returncode == 0, done.stderr
    assert (queue.rows("mail_queue"), queue.state(1)) == ({}, None)
