"""``db move-check`` and the manual's steps: an application moves to another database, and no message is sent twice."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import retrycli
from tests import postgresql
from tests.cli.api import BAD_GATEWAY, BUSY, REJECTS, TAKES, Scripted
from tests.cli.application import TABLES, TICKETS, Application
from tests.cli.outbox import Outbox
from tests.cli.story import LOST, MADE, OTHER_TICKET
from tests.conftest import on_both, on_sqlite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from retrycli.operations.sandbox import Answer
    from tests.cli.command import Cli
    from tests.cli.story import Begin
    from tests.store.conftest import Factory

pytestmark = on_both

NAMES = ["withdrawn", "delivered", "partly delivered", "unsettled", "sending", "unpaused", "held"]
SENDING = "UPDATE retrycli_queue SET state = 'sending', claimed_by = 'a dead pass', claim_expires_at = '2026-01-02'"


class Recording(Scripted):
    """An API that records the texts of its requests."""

    def __init__(self, *answers: Answer) -> None:
        super().__init__(*answers)
        self.texts: list[str] = []

    def answer(self, method: str, path: str, key: str | None, body: bytes) -> Answer:
        self.texts.append(json.loads(body)["body"])
        return super().answer(method, path, key, body)


@dataclass
class Desk:
    """An application with messages that failed, its API, and the command with its settings.

    The ids are integers in a table that needs no settings, or UUIDs in the table of `Outbox`, with numbers as statuses.
    """

    cli: Cli
    application: Application
    outbox: Outbox | None = None
    count: int = 0
    sent: Counter[str] = field(default_factory=Counter)
    """How often the API accepted each text."""

    def add(self) -> str:
        """Add a failed message, whose text is its number, and return its id."""
        self.count += 1
        text = f"It is attached ({self.count})."
        return str(self.application.add(self.count, body=text)) if self.outbox is None else self.outbox.add()

    @property
    def row_of(self) -> tuple[str, str, str]:
        """Return the table, and its columns of the id and the status."""
        return ("pending_messages", "id", "status") if self.outbox is None else ('"message outbox"', "uid", "state")

    def value(self, status: str) -> object:
        return status if self.outbox is None else {"pending": 1, "sent": 2, "failed": 3, "rejected": 4}[status]

    def set(self, message: str, status: str) -> None:
        """Let the application write a status."""
        table, key, column = self.row_of
        where = f"CAST({key} AS text) = ?"
        self.application.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", self.value(status), message)

    def statuses(self) -> dict[str, object]:
        table, key, column = self.row_of
        names = {self.value(name): name for name in ("pending", "sent", "failed", "rejected")}
        return {str(row[key]): names[row[column]] for row in self.application.rows(table).values()}

    def command(self, line: str, answer: Answer = TAKES, code: int = 0) -> list[str]:
        """Run a command with an API that gives one answer, and return the texts that the API received."""
        with Recording(answer) as api:
            done = self.cli.having(self.application.variables(api.url))(*shlex.split(line))
        assert done.returncode == code, done.stderr
        self.sent.update(api.texts if answer == TAKES else [])
        return api.texts

    def check(self) -> dict[str, tuple[str, str]]:
        """Return what blocks a move: what was found, and what resolves it, by the name of the cause."""
        here = self.cli.having(self.application.variables("http://127.0.0.1:9"))
        found: list[dict[str, Any]] = here.json("db", "move-check", code=here("db", "move-check").returncode)[
            "findings"
        ]
        assert [finding["name"] for finding in found] == NAMES
        bad = {each["name"]: (each["found"], each["remedy"]) for each in found if each["level"] == "failure"}
        assert here("db", "move-check").returncode == (3 if bad else 0)
        return bad

    def check_blocked_by(self, name: str, *messages: str) -> list[str]:
        """Check that only one cause blocks a move, and return the commands that resolve it."""
        blocks = self.check()
        assert {each: found for each, (found, _) in blocks.items()} == {name: ", ".join(messages)}
        return [words.removeprefix("retrycli ") for words in re.findall(r"`(retrycli .+?)`", blocks[name][1])]


@contextmanager
def opened(ids: str, url: str, folder: Path, cli: Cli) -> Iterator[Desk]:
    """Provide an application's database without retrycli's tables."""
    folder.mkdir(exist_ok=True)
    outbox = Outbox(url, folder, cli) if ids == "UUIDs" else None
    application = outbox.application if outbox else Application(url, tables=TABLES + TICKETS)
    yield Desk(cli.having(cwd=folder), application, outbox)
    application.lock.unlink(missing_ok=True)


@pytest.fixture(params=["integers", "UUIDs"])
def desk(request: pytest.FixtureRequest, engine: Factory, tmp_path: Path, cli: Cli) -> Iterator[Desk]:
    """Provide an application whose deliveries are paused."""
    with engine(tmp_path, None) as url, opened(request.param, url, tmp_path, cli) as made:
        made.command("table accept --yes")
        made.command("pause")
        yield made


def test_an_attempt_that_only_this_database_knows_blocks_until_its_command_has_run(desk: Desk) -> None:
    """The attempts may be of messages that are not in the queue: no pass runs while deliveries are paused."""
    desk.command(f"retry {desk.add()}", BUSY, code=3)  # it certainly did not arrive
    assert desk.check() == {}

    maybe = desk.add()
    desk.command(f"retry {maybe}", BAD_GATEWAY, code=3)
    _, mark, *_ = desk.check_blocked_by("unsettled", maybe)
    desk.command(f"{mark} --yes")
    assert (desk.check(), desk.statuses()[maybe]) == ({}, "sent")

    desk.set(maybe, "failed")
    mark, retry = desk.check_blocked_by("delivered", maybe)
    desk.command(f"{mark} --yes")
    assert desk.check() == {}
    desk.set(maybe, "failed")
    assert len(desk.command(f"{retry} --yes")) == 1
    assert desk.check() == {}

    desk.set(maybe, "pending")
    assert desk.check_blocked_by("withdrawn", maybe) == []
    for settled in ("rejected", "sent"):
        desk.set(maybe, settled)
        assert desk.check() == {}
    desk.set(maybe, "failed")
    desk.command(f"{mark} --yes")
    assert desk.check() == {}


def test_the_other_commands_for_an_unsettled_attempt_resolve_it_too(desk: Desk) -> None:
    for number in (1, 2):
        maybe = desk.add()
        desk.command(f"retry {maybe}", BAD_GATEWAY, code=3)
        command = desk.check_blocked_by("unsettled", maybe)[number]
        desk.command(f"{command} --yes")
        assert desk.check() == {}


def test_a_message_that_reached_some_recipients_blocks(desk: Desk) -> None:
    message = desk.add()
    desk.command(f"retry {message}", BUSY, code=3)
    desk.application.execute("UPDATE retrycli_attempts SET delivered_to = '[\"ana@example.com\"]'")
    retry, _ = desk.check_blocked_by("partly delivered", message)
    desk.command(f"{retry} --yes")  # this gateway sends it to all of them, so it asks first
    assert desk.check() == {}


def test_a_message_that_the_settings_leave_out_now_needs_the_application(desk: Desk) -> None:
    """No command would find the message."""
    message = desk.add()
    desk.command(f"retry {message}", BAD_GATEWAY, code=3)
    assert len(desk.check_blocked_by("unsettled", message)) > 1
    desk.cli = desk.cli.having({"RETRYCLI_DATABASE__WHERE": "1 = 0"})
    desk.command("table accept --yes")
    assert desk.check_blocked_by("withdrawn", message) == []


@pytest.mark.parametrize("answer", ["", ", outcome = 'delivered'"])
def test_a_claim_or_an_answer_that_is_not_written_blocks_until_a_pass_has_run(desk: Desk, answer: str) -> None:
    message = desk.add()
    desk.command(f"retry {message}", BUSY, code=3)
    desk.application.execute(SENDING)
    if answer:
        desk.application.execute(f"UPDATE retrycli_attempts SET finished_at = NULL{answer}")
    show, run = desk.check_blocked_by("sending", message)
    assert (show, run) == (f"show {message}", "run-once")
    assert desk.command(run) == []  # paused
    assert desk.statuses()[message] == ("sent" if answer else "failed")
    assert desk.check() == {}


def test_holds_and_a_pause_that_ends_block(desk: Desk) -> None:
    message = desk.add()
    desk.command(f"pause --message {message}")
    desk.command("pause --ticket 'a {b}' --for 1d")
    found, _ = desk.check().pop("held")
    assert found == f"--message {message}, --ticket 'a {{b}}'"
    for option in found.split(", "):
        assert desk.check()["held"][1].endswith(f"`retrycli resume {option}`; hold it again in the new database")
        desk.command(f"resume {option}")
    assert desk.check() == {}
    for change, words in (("pause --for 1d", "paused only until "), ("resume", "not paused")):
        desk.command(change)
        [(found, remedy)] = desk.check().values()
        assert found.startswith(f"deliveries are {words}")
        assert remedy == "when only holds are left: `retrycli pause --reason move`, without --for"
        desk.command("pause")
        assert desk.check() == {}


def test_attempts_of_deleted_rows_and_of_other_messages_do_not_block(begin: Begin) -> None:
    """A row with another creation time is another message, to which no pass applies these attempts."""
    with begin(LOST) as story:
        story.insert(1)
        story.insert(2)
        story.tick()
        story.operator("pause")
        story.operator("db", "move-check", code=3)
        story.delete(1)
        story.replace(2, created_at="2026-01-02 09:04:05")
        story.operator("db", "move-check")
        story.replace(2, created_at=MADE)
        story.operator("db", "move-check", code=3)


@pytest.mark.parametrize(("answers", "code"), [([LOST], 3), ([], 0)], ids=["unsettled", "delivered"])
def test_without_creation_times_an_attempt_for_another_ticket_may_be_of_the_message(
    begin: Begin, answers: list[object], code: int
) -> None:
    """A delivery to another ticket is of another message, but an unsettled attempt may be of this one."""
    with begin(*answers, without=["created_at"]) as story:
        story.insert()
        story.tick()
        story.operator("pause")
        story.write(status="failed", ticket_id=OTHER_TICKET)
        story.operator("db", "move-check", code=code)


@pytest.mark.databases("postgresql")
def test_a_status_of_an_enumeration_may_lack_rejected(application: Application, at_work: Cli) -> None:
    application.execute("CREATE TYPE desk_status AS ENUM ('pending', 'failed', 'sent')")
    application.execute("ALTER TABLE pending_messages ALTER status TYPE desk_status USING status::desk_status")
    application.add(1)
    assert at_work("run-once").returncode == at_work("pause").returncode == at_work("db", "move-check").returncode == 0


@on_sqlite
def test_many_attempts_are_examined_in_parts_and_few_messages_are_named(application: Application, at_work: Cli) -> None:
    messages = [*application.add_due(3), *application.add_due(4, first=5_050)]
    application.execute(
        "INSERT INTO retrycli_attempts (message_id, number, made_by, started_at, finished_at, outcome, birth) "
        "WITH RECURSIVE n (i) AS (SELECT 101 UNION ALL SELECT i + 1 FROM n WHERE i < 5110) "
        f"SELECT i, 1, 'pass', '{MADE}', '{MADE}', 'unknown', NULL FROM n"
    )
    found = {each["name"]: each["found"] for each in at_work.json("db", "move-check", code=3)["findings"]}
    assert found["unsettled"] == ", ".join(map(str, messages))
    assert f"{', '.join(map(str, messages[:5]))} and 2 more" in at_work.on_terminal("db", "move-check").words


# -- the manual's steps ------------------------------------------------------------------------------------------------


def steps() -> list[str]:
    """Return the commands of the manual's steps, in their order."""
    page = (Path(retrycli.__file__).parent / "manual" / "postgresql.md").read_text(encoding="utf-8")
    numbered = page.partition("Then follow these steps")[2].partition("These stay behind")[0]
    return re.findall(r"`retrycli (.+?)`", numbered)


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("ids", ["integers", "UUIDs"])
def test_the_manuals_steps_neither_lose_a_message_nor_send_one_twice(
    engine: Factory, tmp_path: Path, cli: Cli, ids: str
) -> None:
    """Messages wait, are escalated, sent, perhaps delivered, rejected, and not seen by a pass yet."""
    with (
        engine(tmp_path, None) as old_url,
        postgresql.database() as new_url,
        opened(ids, old_url, tmp_path, cli) as old,
        opened(ids, new_url, tmp_path / "new", cli) as new,
    ):
        old.command("table accept --yes")
        made = [(old.add(), old.command("run-once", answer))[0] for answer in (BUSY, REJECTS, TAKES, BAD_GATEWAY, BUSY)]
        unseen = old.add()
        old.command(f"reject {made[4]} --reason 'no longer true' --yes")
        _, pause, holds, check, *at_new = steps()
        old.command(pause)
        old.command(holds)
        old.command(check, code=3)
        old.command(f"mark-sent {made[3]} --yes")
        old.command(check)
        before = dict(zip([*made, unseen], ["failed", "failed", "sent", "sent", "rejected", "failed"], strict=True))
        assert old.statuses() == before

        rows = old.application.rows(old.row_of[0]).values()
        new.application.insert(old.row_of[0], [{f'"{name}"': value for name, value in row.items()} for row in rows])
        assert [command.partition(" --")[0] for command in at_new] == ["pause", "table accept", "run-once", "resume"]
        for command in at_new[:-1]:
            new.command(command + (" --yes" if command == "table accept" else ""))
        assert (new.command("run-once"), new.statuses()) == ([], before)
        new.command(at_new[-1])
        new.command("run-once")
        assert new.statuses() == {message: "rejected" if message == made[4] else "sent" for message in before}
        assert old.sent + new.sent == Counter(f"It is attached ({number})." for number in (1, 2, 3, 6))
