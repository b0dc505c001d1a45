"""The queue belongs to one of the application's tables, and commands refuse to use it for another table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.api import BUSY, Scripted
from tests.conftest import on_both

if TYPE_CHECKING:
    from retrycli.operations.sandbox import Sandbox
    from tests.cli.application import Application
    from tests.cli.command import Cli

pytestmark = on_both

COMMANDS = (
    *("run-once", "run-once --dry-run", "status", "list-failed", "escalations", "show 101", "explain 101", "stats"),
    *("metrics", "retry 101", "requeue 101", "reject 101 --reason no --yes", "edit 101 --subject tea --yes", "pause"),
    *("escalations ack 101", "passes", "db upgrade", "db prune --older-than 1d --yes", "config check", "status --json"),
)


@pytest.fixture
def waiting(cli: Cli, application: Application) -> list[int]:
    """Add three messages that a pass could not deliver."""
    ids = application.add_due(3)
    with Scripted(BUSY) as api:
        assert cli.having(application.variables(api.url))("run-once").returncode == 0
    assert len(application.rows("retrycli_queue")) == 3
    return ids


@pytest.fixture
def astray(at_work: Cli, application: Application) -> Cli:
    """Provide a command whose settings name another table, with the same columns and one failed message."""
    application.execute("CREATE TABLE archive AS SELECT * FROM pending_messages")
    application.execute("UPDATE archive SET status = 'sent' WHERE id <> 101")
    return at_work.having({"RETRYCLI_DATABASE__TABLE": "archive"})


def remembered(application: Application) -> list[str]:
    return [str(row["table_name"]) for row in application.rows("retrycli_selection").values()]


def full(application: Application, name: str) -> str:
    return name if application.is_sqlite else f"public.{name}"


def test_a_pass_over_another_table_keeps_the_queue(
    waiting: list[int], astray: Cli, at_work: Cli, application: Application, sandbox: Sandbox
) -> None:
    before = application.rows("retrycli_queue")
    done = astray("run-once")
    assert done.returncode == 78
    assert application.rows("retrycli_queue") == before
    assert [*sandbox.received] == []
    application.execute("UPDATE retrycli_queue SET next_attempt_at = '2026-01-02 03:04:05'")
    assert at_work.json("run-once")["sent"] == len(waiting)
    keys = {row["delivery_key"] for row in before.values()}
    assert {request.key for request in sandbox.received} == keys


@pytest.mark.usefixtures("waiting")
def test_every_command_names_both_tables_in_one_line(astray: Cli, application: Application) -> None:
    before = application.rows("retrycli_queue")
    for command, done in astray.show_all(piped=COMMANDS).piped.items():
        assert (done.returncode, done.stdout) == (78, ""), command
        assert done.stderr.count("\n") == 1, command
        assert full(application, "pending_messages") in done.stderr, command
        assert full(application, "archive") in done.stderr, command
        assert "retrycli table accept" in done.stderr, command
    assert application.rows("retrycli_queue") == before


@pytest.mark.usefixtures("waiting")
def test_the_doctor_says_which_table_the_queue_belongs_to(astray: Cli, application: Application) -> None:
    [wrong] = [each for each in astray.json("doctor", code=3)["findings"] if each["name"] == "queue"]
    assert wrong["level"] == "failure"
    assert f"belongs to the table {full(application, 'pending_messages')}" in wrong["found"]
    assert "retrycli table accept" in wrong["remedy"]


def test_one_table_can_be_spelled_in_several_ways(waiting: list[int], at_work: Cli, application: Application) -> None:
    other = ["main.pending_messages", "Pending_Messages"] if application.is_sqlite else ["public.pending_messages"]
    for name in [*other, "pending_messages"]:
        found = at_work.having({"RETRYCLI_DATABASE__TABLE": name}).json("status")
        assert found["messages"]["waiting"] == len(waiting)
    assert remembered(application) == [full(application, "pending_messages")]


def test_a_renamed_table_is_accepted_and_the_queue_is_kept(
    waiting: list[int], at_work: Cli, application: Application, sandbox: Sandbox
) -> None:
    keys = {queued["delivery_key"] for queued in application.rows("retrycli_queue").values()}
    application.execute("ALTER TABLE pending_messages RENAME TO outbox")
    renamed = at_work.having({"RETRYCLI_DATABASE__TABLE": "outbox"})
    assert renamed("run-once").returncode == 78
    unasked = renamed("table", "accept")
    assert (unasked.returncode, unasked.stdout) == (2, "")
    assert "--yes" in unasked.stderr
    told = renamed.json("table", "accept", "--yes")
    assert (told["before"], told["table"]) == (full(application, "pending_messages"), full(application, "outbox"))
    assert (told["messages"], told["found"], told["selection"]) == (len(waiting), len(waiting), None)
    assert remembered(application) == [full(application, "outbox")]
    application.execute("UPDATE retrycli_queue SET next_attempt_at = '2026-01-02 03:04:05'")
    assert renamed.json("run-once")["sent"] == len(waiting)
    assert {request.key for request in sandbox.received} == keys


@pytest.mark.usefixtures("waiting")
def test_on_a_terminal_it_lists_what_would_be_dropped_and_asks(astray: Cli, application: Application) -> None:
    refused = astray.on_terminal("table", "accept", answers=["n"])
    assert f"The queue belongs to {full(application, 'pending_messages')} and has 3 messages." in refused.words
    assert f"{full(application, 'archive')} has a failed row for 1 of them" in refused.words
    assert refused.text.endswith("Nothing was changed.\n")
    assert remembered(application) == [full(application, "pending_messages")]
    accepted = astray.on_terminal("table", "accept", answers=["y"])
    assert accepted.text.endswith("Next: retrycli run-once --dry-run\n")
    assert remembered(application) == [full(application, "archive")]
