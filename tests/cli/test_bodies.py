"""Only commands that need a message's body read it from the database."""

from __future__ import annotations

import shlex
import sys
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, event

from tests.cli.command import all_commands
from tests.store.application import Application

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection

    from retrycli.operations.sandbox import Sandbox
    from tests.cli.command import Cli

BODY = "Dear Ms Oyelaran"

LOOKING = (
    *("status", "passes", "metrics", "stats --by type", "report --html -", "doctor", "config check"),
    *("list-failed --error HTTP", "escalations", "escalations --json", "run-once --dry-run", "explain 1", "explain 3"),
    *("table describe", "table describe --json", "table check", "config show", "db move-check", "db upgrade"),
)
REQUEUE = "requeue 3 --at 2h"
"""This command reads the body, because it builds the request to check that the message can be sent."""
DESCRIBE = "table describe pending_messages"
"""This command counts the values of each column, of texts by their first characters, and shows no customer's words."""
ACTING = (
    *("pause", "resume", "table accept --yes", "db prune --older-than 1d --yes", "db index --yes"),
    *("db erase --ticket 4711 --yes", REQUEUE, "reject 4 --reason no", "escalations ack --error recipient --yes"),
    "escalations note 6 tea",
)
WITH_BODIES = ("show 1", "edit 1 --subject tea --yes", "mark-sent 5 --yes", "retry 2", "run-once --limit 1")
"""These commands show a body, compare it before a write, record its delivery, or send it."""
NEEDS_A_LOOK_UP = {"look-up"}
"""This command computes keys from the text. It is not run here, because the generic preset has no look-up."""
FIRST = "run-once"
"""This command enrols and escalates messages, and reads their texts to notice later changes."""
ELSEWHERE = {"init", "cron", "sandbox", "demo", "manual", "notify", "version", "presets", "deliver-test", "serve"}
"""These commands don't read an application's messages, or have tests of their own (`tests/web`)."""


@pytest.fixture
def application(tmp_path: Path) -> Iterator[Application]:
    (tmp_path / "agent.db").touch()
    made = Application(f"sqlite:///{tmp_path / 'agent.db'}")
    yield made
    made.close()


NOT_OK = {"doctor", "db move-check"}
"""These commands find something to do."""
FOUND = "read with the mark: "


@contextmanager
def watched() -> Iterator[None]:
    """Make commands print to stderr each statement that reads the body."""

    def look(connection: Connection, _cursor: object, statement: str, values: Any, *_: object) -> None:  # noqa: ANN401
        if not statement.startswith("SELECT"):
            return
        with closing(connection.connection.cursor()) as cursor:
            cursor.execute(statement, values)
            if any(BODY in str(value) for row in cursor.fetchall() for value in row):
                print(FOUND + " ".join(statement.split()), file=sys.stderr)

    event.listen(Engine, "before_cursor_execute", look)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", look)


def test_only_commands_that_show_change_or_send_a_body_read_it(
    cli: Cli, application: Application, sandbox: Sandbox
) -> None:
    """The test runs each SELECT a second time, to find the body in its rows."""
    made = {"body": BODY, "created_at": datetime.now(UTC).replace(tzinfo=None)}
    application.add_all([made | {"retry_count": 5, "updated_at": made["created_at"]}] * 2)
    application.add_all([made | {"retry_count": 10, "last_error": f"no recipient {number}"} for number in range(6)])
    application.add(**made, cc_emails="no JSON")
    cli = cli.having({"RETRYCLI_DATABASE__URL": application.url, "RETRYCLI_GATEWAY__BASE_URL": sandbox.url})
    assert cli("passes").returncode == 0  # creates retrycli's tables
    with watched():
        done = {line: cli(*shlex.split(line)) for line in (FIRST, "run-once --limit 9", *LOOKING, DESCRIBE, *ACTING)}
        assert not sandbox.received
        application.add(body=BODY)
        done |= {line: cli(*shlex.split(line)) for line in WITH_BODIES}
    assert not {line: it.stderr for line, it in done.items() if it.returncode and line not in NOT_OK}
    assert {line for line, it in done.items() if FOUND in it.stderr} == {FIRST, REQUEUE, DESCRIBE, *WITH_BODIES}
    assert len(sandbox.received) == 2


def test_covers_every_command() -> None:
    lines = [f"{line} " for line in (*LOOKING, *ACTING, *WITH_BODIES)]
    left = {name for name in all_commands() if not any(line.startswith(f"{name} ") for line in lines)}
    assert {name.split()[0] for name in left} == ELSEWHERE | NEEDS_A_LOOK_UP
