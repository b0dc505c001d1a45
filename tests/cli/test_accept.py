"""``table accept``: passes send by the settings of a table only after an operator has accepted what they select."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from retrycli import operations
from retrycli.config.settings import DatabaseSettings
from retrycli.domain.errors import ConfigurationError
from retrycli.operations.wiring import open_database
from retrycli.store import own_tables
from tests.channels import webhook
from tests.cli.api import BAD_GATEWAY, REJECTS, TAKES, Scripted, held_back
from tests.cli.application import Application
from tests.cli.original import ORIGINAL, THREE_LINES
from tests.conftest import on_both
from tests.store.conftest import Factory

if TYPE_CHECKING:
    from tests.cli.command import Cli

pytestmark = on_both

TICKET = "(SELECT t.ticket_id FROM ticket_states t WHERE t.id = pending_messages.ticket_id)"
UNACCEPTED = "nobody has accepted which rows of "
SECRET = "where is my parcel"


@pytest.fixture
def original(engine: Factory, tmp_path: Path) -> Iterator[Application]:
    """Provide the original application, with two failed messages and one that is sent."""
    with engine(tmp_path, None) as url:
        made = Application(url, tables=ORIGINAL)
        for number in (101, 102):
            made.add(number, ticket_id=5, body=SECRET, recipient_email="ana@example.com")
        made.add(103, ticket_id=4, status="sent")
        yield made
        made.lock.unlink(missing_ok=True)


@pytest.fixture
def api() -> Iterator[Scripted]:
    with Scripted(TAKES) as server:
        yield server


def described(cli: Cli, settings: str) -> Cli:
    file = cli.cwd / "retrycli.toml"
    file.write_text(settings, encoding="utf-8")
    file.chmod(0o600)
    return cli


@pytest.fixture
def mapped(cli: Cli, original: Application, api: Scripted) -> Cli:
    """Provide the command with settings that nobody has accepted."""
    return described(cli.having(original.variables(api.url)), THREE_LINES)


def test_accept_says_how_many_messages_a_pass_would_escalate_and_why(mapped: Cli, original: Application) -> None:
    original.add(104, ticket_id=5, attachments='{"hush": 1}')
    original.add(105, ticket_id=5, retry_count=10)
    original.add(106, ticket_id=5, message_type="fax")
    done = mapped("table", "accept", "--yes")
    assert done.stdout.endswith(
        "Would escalate\texhausted ×1, invalid (attachments must be a JSON list) ×1, "
        "invalid (message_type must be one of customer, supplier, internal) ×1\n"
    )
    assert "a pass would escalate 2 of " in mapped("table", "check").stdout
    described(mapped, "[database]\nwhere = 'id < 106'\n" + THREE_LINES)
    told = mapped.json("table", "accept", "--yes")
    assert told["would_escalate"] == {"exhausted": 1, "invalid (attachments must be a JSON list)": 1}


def test_a_pass_and_a_retry_send_nothing_before_the_settings_are_accepted(
    mapped: Cli, original: Application, api: Scripted
) -> None:
    before = original.rows()
    for command in ("run-once", "retry 101"):
        done = mapped(*command.split())
        assert (done.returncode, done.stdout) == (78, ""), command
        [line] = done.stderr.splitlines()
        assert UNACCEPTED in line
        assert line.endswith("run `retrycli table check`, then `retrycli table accept`")
    assert (original.rows(), original.rows("retrycli_queue"), original.rows("retrycli_attempts")) == (before, {}, {})
    assert api.paths == []
    accepted = mapped.json("table", "accept", "--yes")
    assert (accepted["would_send"], accepted["selection"]["ticket"]) == (2, {"sql": TICKET})
    assert mapped.json("run-once")["sent"] == 2
    assert api.paths == ["/tickets/4705/messages"] * 2


def test_accept_also_shows_the_messages_for_a_destination_that_is_down(
    mapped: Cli, original: Application, api: Scripted
) -> None:
    """Accepted messages are sent after the outage, so an operator must see them before."""
    assert mapped("db", "upgrade").returncode == 0
    until = "2100-01-02 03:04:05.000000"
    original.execute(
        "INSERT INTO retrycli_breakers (destination, state, failures, opened_at, probe_at) VALUES (?, 'open', 5, ?, ?)",
        *(api.url, "2026-01-02 03:04:05.000000", until),
    )
    dry_run = mapped.json("run-once", "--dry-run")
    assert (dry_run["count"], list(dry_run["down"])) == (0, [api.url])
    assert mapped.json("table", "accept", "--yes")["would_send"] == 2


def test_the_problem_is_mailed_and_notified_once_and_status_names_it(mapped: Cli) -> None:
    with webhook() as hook:
        told = mapped.having({"RETRYCLI_NOTIFY__URLS": hook.slack_shaped})
        mails = [told("run-once") for _ in range(3)]
        assert [done.returncode for done in mails] == [78] * 3
        assert [UNACCEPTED in done.stderr for done in mails] == [True, False, False]
        [text] = hook.texts
        assert UNACCEPTED in text
        for command in ("status", "doctor"):
            assert UNACCEPTED in told(*command.split()).stdout
        found = told.json("status")
        assert found["state"] == "down"
        assert UNACCEPTED in found["unaccepted"]
        assert told("table", "accept", "--yes").returncode == 0
        assert told.json("run-once")["result"] == "completed"
        assert "passes no longer fail" in hook.texts[-1]
    assert mapped.json("status")["unaccepted"] is None


READING = (
    *("status", "list-failed", "escalations", "show 101", "stats", "metrics", "passes", "config check", "table check"),
    *("explain 101", "run-once --dry-run"),
)


def test_without_acceptance_commands_can_read_and_a_paused_pass_does_not_fail(mapped: Cli, api: Scripted) -> None:
    """An operator pauses deliveries to change the settings in peace."""
    for command in READING:
        assert mapped(*command.split()).returncode == 0, command
    assert UNACCEPTED in mapped.json("run-once", "--dry-run")["unaccepted"]
    found = mapped.json("explain", "101")
    assert [gate["name"] for gate in found["gates"] if not gate["open"]] == ["acceptance", "cron"]
    assert found["next_attempt_at"] is None
    assert mapped("pause").returncode == 0
    assert mapped.json("run-once")["result"] == "paused"
    assert mapped("resume").returncode == 0
    assert mapped("run-once").returncode == 78
    assert api.paths == []
    assert mapped("table", "accept", "--yes").returncode == 0
    assert "acceptance" not in mapped("explain", "101").stdout


def test_on_a_terminal_it_shows_what_would_be_sent_and_asks(mapped: Cli, original: Application, api: Scripted) -> None:
    refused = mapped.on_terminal("table", "accept", columns=200, answers=["n"])
    assert refused.text.endswith("Nothing was changed.\n")
    for said in (f"{api.url}/tickets/4705/messages", "ana@example.com", "failed ×2, sent ×1.", TICKET):
        assert said in refused.text
    assert SECRET not in refused.text
    assert [row["accepted"] for row in original.rows("retrycli_selection").values()] == [None]
    accepted = mapped.on_terminal("table", "accept", "--by", "anna", columns=200, answers=["y"])
    assert "anna accepted this selection at" in accepted.text
    [row] = original.rows("retrycli_selection").values()
    assert (json.loads(str(row["accepted"]))["ticket"], row["accepted_by"]) == ({"sql": TICKET}, "anna")


CHANGES = {
    "database.columns.created_at": THREE_LINES + 'created_at = "updated_at"\n',
    "database.where": '[database]\nwhere = "ticket_id > 4"\n',
    "database.status.failed": '[database.status]\nfailed = "FAILED"\nsent = "sent"\n',
    "database.columns.last_error": THREE_LINES + "last_error = { own = true }\n",
    "database.columns.ticket_id": "",  # a host without the settings, which sends to ticket 5
}


@pytest.mark.parametrize("setting", CHANGES)
def test_a_host_whose_settings_select_something_else_is_told_what_differs_and_who_accepted(
    mapped: Cli, api: Scripted, setting: str
) -> None:
    assert mapped("table", "accept", "--yes", "--by", "anna").returncode == 0
    other = described(mapped, CHANGES[setting])
    for command in ("run-once", "retry 101"):
        done = other(*command.split())
        assert done.returncode == 78
        [line] = done.stderr.splitlines()
        assert "these settings select other messages than anna accepted at 20" in line
        assert f"{setting} is " in line
    assert other("list-failed").returncode == 0
    assert api.paths == []
    shown = other.on_terminal("table", "accept", columns=400, answers=["n"]).text
    assert "These settings select other messages than anna accepted" in shown
    assert other("table", "accept", "--yes").returncode == 0
    assert other("run-once").returncode == 0


AFTER_DEFAULT = ('created_at = "updated_at"', 'created_at = "sent_at"', "created_at = { none = true }")


def test_messages_stay_the_same_if_created_at_has_another_source(cli: Cli, original: Application) -> None:
    """Of four messages, one is rejected, one is held, and two are delivered: one fails again before the change, and one
    after it. A row that has another text, too, may be another message.
    """
    original.execute("UPDATE pending_messages SET status = 'failed' WHERE id = 103")
    original.add(104, ticket_id=6)
    original.execute("UPDATE pending_messages SET updated_at = '2026-01-02 03:04:05'")
    with Scripted(REJECTS, TAKES) as api:
        default = cli.having(original.variables(api.url))
        assert default("pause", "--message", "104").returncode == 0
        assert default.json("run-once")["sent"] == 2
        original.execute("UPDATE pending_messages SET status = 'failed' WHERE id = 102")
        default("run-once")
        states = {101: "escalated", 102: "escalated", 104: "waiting"}
        for columns in AFTER_DEFAULT:
            other = described(default, f"[database.columns]\n{columns}\n")
            stopped = other("run-once")
            assert (stopped.returncode, "retrycli table accept" in stopped.stderr) == (78, True), columns
            assert other.json("table", "accept", "--yes")["would_send"] == 0, columns
            assert other.json("run-once")["sent"] == 0
            assert {number: original.state(number) for number in states} == states, columns
        original.execute("UPDATE pending_messages SET status = 'failed' WHERE id = 103")
        assert other.json("run-once")["sent"] == 0
        assert "already delivered at" in str(original.row(103)["last_error"])
        assert len(api.paths) == 3
        edited = "body = 'Another message.', updated_at = '2026-01-02 03:04:06'"
        original.execute(f"UPDATE pending_messages SET {edited} WHERE id = 101")
        described(default, "[database.columns]\n" + AFTER_DEFAULT[0])
        assert other.json("table", "accept", "--yes")["would_send"] == 1
        assert other.json("run-once")["sent"] == 1


def test_another_source_of_created_at_does_not_give_a_message_the_attempts_of_an_earlier_one(
    cli: Cli, original: Application
) -> None:
    """A row was deleted, and its id belongs to another message, which is in the queue."""
    with Scripted(BAD_GATEWAY) as api:
        default = cli.having(original.variables(api.url))
        default("run-once")
        original.execute("DELETE FROM pending_messages WHERE id = 101")
        default("run-once")
        original.add(101, ticket_id=6, body="Another message.", hours_ago=0)
        default("run-once")  # it has failed just now, so it waits
        before = {row["id"]: row["birth"] for row in original.rows("retrycli_attempts").values()}
        other = described(default, f"[database.columns]\n{AFTER_DEFAULT[0]}\n")
        other.json("table", "accept", "--yes")
    after = original.rows("retrycli_attempts").values()
    assert {row["message_id"]: row["birth"] == before[row["id"]] for row in after} == {101: True, 102: False}


def test_a_queued_message_keeps_its_attempts_if_created_at_and_text_have_another_source(
    cli: Cli, original: Application
) -> None:
    """It was delivered, so no change of its row may let a pass send it again."""
    original.execute("UPDATE pending_messages SET updated_at = '2026-01-02 03:04:05'")
    with Scripted(TAKES) as api:
        default = cli.having(original.variables(api.url))
        assert default.json("run-once")["sent"] == 2
        original.execute("UPDATE pending_messages SET status = 'failed' WHERE id = 101")
        default("run-once")
        text = "subject = { sql = 'trim(subject)' }"
        other = described(default, f"[database.columns]\n{AFTER_DEFAULT[0]}\n{text}\n")
        assert other.json("table", "accept", "--yes")["would_send"] == 0
        assert original.state(101) == "escalated"
        original.execute("UPDATE pending_messages SET last_error = 'noted', retry_count = 2 WHERE id = 101")
        for _ in range(2):
            assert other.json("run-once")["sent"] == 0
        assert len(api.paths) == 2


def test_another_source_of_errors_and_counts_changes_no_escalated_message(mapped: Cli, original: Application) -> None:
    """It would otherwise count as changed by the application, and be sent again."""
    own = "last_error = { own = true }\nretry_count = { own = true }\n"
    described(mapped, THREE_LINES + own)("table", "accept", "--yes")
    original.execute("UPDATE pending_messages SET last_error = 'refused by the application'")
    with Scripted(REJECTS) as api:
        desk = mapped.having(original.variables(api.url))
        desk("run-once")
        assert {original.state(number) for number in (101, 102)} == {"escalated"}
        other = described(desk, THREE_LINES)
        assert other("run-once").returncode == 78
        assert other("table", "accept", "--yes").returncode == 0
        for _ in range(2):
            assert other("run-once").returncode == 0
        assert {original.state(number) for number in (101, 102)} == {"escalated"}
        assert len(api.paths) == 2


def test_a_renamed_table_keeps_the_texts_that_retrycli_knows(mapped: Cli, original: Application) -> None:
    """An edited text is not the one that may have arrived, also if the table is renamed before retrycli sees it."""
    text = "[database.columns]\nsubject = { sql = 'trim(subject)' }\n"
    described(mapped, text)("table", "accept", "--yes")
    with Scripted(BAD_GATEWAY, BAD_GATEWAY, TAKES) as api:
        desk = mapped.having(original.variables(api.url))
        desk("run-once")
        before = {row["message_id"]: row["digest"] for row in original.rows("retrycli_attempts").values()}
        original.execute("UPDATE pending_messages SET body = 'Another text' WHERE id = 101")
        original.execute("ALTER TABLE pending_messages RENAME TO mails")
        desk = described(desk, f"[database]\ntable = 'mails'\n{text}")
        assert desk("table", "accept", "--yes").returncode == 0
        after = {row["message_id"]: row["digest"] for row in original.rows("retrycli_attempts").values()}
        assert after == before


def test_a_row_that_is_left_out_keeps_its_attempts_when_created_at_has_another_source(
    mapped: Cli, original: Application
) -> None:
    """The application may hide a row for a moment, for example while it works on it."""
    original.execute("ALTER TABLE pending_messages ADD COLUMN locked INTEGER DEFAULT 0")
    where = "[database]\nwhere = 'locked = 0'\n"
    with Scripted(TAKES) as api:
        desk = described(mapped.having(original.variables(api.url)), where + THREE_LINES)
        desk("table", "accept", "--yes")
        desk("run-once")
        original.execute("UPDATE pending_messages SET locked = 1, status = 'failed' WHERE id IN (101, 102)")
        desk("run-once")
        assert desk("db", "move-check").returncode == 3, "it knows of rows that are left out"
        described(desk, where + THREE_LINES + AFTER_DEFAULT[0] + "\n")
        desk("table", "accept", "--yes")
        desk("run-once")
        original.execute("UPDATE pending_messages SET locked = 0")
        for _ in range(2):
            original.execute("UPDATE retrycli_queue SET next_attempt_at = '2026-01-02 03:04:05'")
            desk("run-once")
        assert len(api.paths) == 2
    assert [original.state(number) for number in (101, 102)] == ["escalated"] * 2


def test_texts_stay_the_same_if_the_settings_render_them_in_another_way(mapped: Cli, original: Application) -> None:
    """One message was refused, and one was delivered and fails again. A third may have arrived."""
    original.execute("UPDATE pending_messages SET status = 'failed' WHERE id = 103")
    settings = "[gateway]\nunknown_limit = 0\n" + THREE_LINES
    described(mapped, settings)("table", "accept", "--yes")
    with Scripted(REJECTS, TAKES, (200, {"unexpected": True})) as api:
        desk = mapped.having(original.variables(api.url))
        desk("run-once")
        original.execute("UPDATE pending_messages SET status = 'failed' WHERE status = 'sent'")
        desk("run-once")
        before = {number: original.state(number) for number in (101, 102, 103)}
        assert set(before.values()) == {"escalated"}
        other = described(desk, settings + "subject = { sql = 'trim(subject)' }\n")
        stopped = other("run-once")
        assert (stopped.returncode, 'the text in database.columns is {"subject": ' in stopped.stderr) == (78, True)
        assert other.json("table", "accept", "--yes")["would_send"] == 0
        original.execute("UPDATE pending_messages SET updated_at = '2026-03-02 03:04:05'")
        for _ in range(2):
            assert other.json("run-once")["sent"] == 0
        assert {number: original.state(number) for number in before} == before
        assert len(api.paths) == 3
        changed = "subject = 'Another message', updated_at = '2026-03-02 04:05:06'"
        original.execute(f"UPDATE pending_messages SET {changed} WHERE id = 101")
        other("run-once")
        assert len(api.paths) == 4, "a new text of the application is sent"


def test_a_text_that_changed_before_its_source_did_is_another_text(mapped: Cli, original: Application) -> None:
    """One message was delivered, and one may have arrived. The application rewrites them before the settings change."""
    described(mapped, THREE_LINES)("table", "accept", "--yes")
    with Scripted(TAKES, (200, {"unexpected": True}), TAKES) as api:
        desk = mapped.having(original.variables(api.url))
        desk("run-once")
        renewed = "body = 'Another message', updated_at = '2026-03-02 03:04:05'"
        original.execute(f"UPDATE pending_messages SET status = 'failed', {renewed} WHERE id IN (101, 102)")
        other = described(desk, THREE_LINES + "subject = { sql = 'trim(subject)' }\n")
        assert other.json("table", "accept", "--yes")["would_send"] == 2
        assert other.json("run-once")["sent"] == 2
        assert [original.row(number)["status"] for number in (101, 102)] == ["sent", "sent"]
        keys = [row["delivery_key"] for row in original.rows("retrycli_attempts").values()]
        assert len({*keys}) == len(api.paths) == 4, "each text has its own key"


def test_a_column_may_have_any_name(mapped: Cli, original: Application) -> None:
    name, roles = "e r(s)[t]:u.v%w-x", ("last_error", "retry_count", "sent_at")
    for role in roles:
        original.execute(f'ALTER TABLE pending_messages RENAME COLUMN {role} TO "{role[:2]}{name}"')
    described(mapped, THREE_LINES + "".join(f'{role} = "{role[:2]}{name}"\n' for role in roles))
    assert mapped("table", "accept", "--yes").returncode == 0
    with Scripted(BAD_GATEWAY, TAKES) as api:
        done = mapped.having(original.variables(api.url))("run-once")
    assert (done.returncode, len(api.paths)) == (0, 2), done.stderr
    assert ("HTTP 502", 1) in {(row[f"la{name}"], row[f"re{name}"]) for row in original.rows().values()}


def test_other_integers_are_refused_as_ids_of_a_batch(mapped: Cli, original: Application) -> None:
    """All its messages have one `created_at`. One was delivered, and nothing waits."""
    original.execute("UPDATE pending_messages SET created_at = '2026-01-02 03:04:05'")
    original.execute("UPDATE pending_messages SET ticket_id = 4 WHERE id = 102")
    original.execute("ALTER TABLE pending_messages ADD COLUMN nr INTEGER")
    original.execute("UPDATE pending_messages SET nr = 203 - id")
    assert mapped("table", "accept", "--yes").returncode == 0
    with Scripted(TAKES) as api:
        desk = mapped.having(original.variables(api.url))
        assert desk.json("run-once")["sent"] == 2
    described(desk, THREE_LINES.replace("[database.columns]", '[database.columns]\nid = "nr"'))
    assert desk("table", "accept", "--yes").returncode == 78


def test_other_integers_are_refused_as_ids_and_a_renamed_column_is_accepted(mapped: Cli, original: Application) -> None:
    """By another column, the histories and holds of messages would become those of others."""
    original.execute("ALTER TABLE pending_messages ADD COLUMN nr INTEGER")
    original.execute("UPDATE pending_messages SET nr = 203 - id")
    original.execute("UPDATE pending_messages SET created_at = '2026-01-02 03:04:05' WHERE id = 102")
    assert mapped("table", "accept", "--yes").returncode == 0
    with Scripted(BAD_GATEWAY) as api:
        desk = mapped.having(original.variables(api.url))
        desk("run-once")
    described(desk, THREE_LINES.replace("[database.columns]", '[database.columns]\nid = "nr"'))
    done = desk("table", "accept", "--yes")
    assert done.returncode == 78
    assert "by pending_messages.nr, message 10" in done.stderr
    assert "would not be the one that retrycli knows by this id; correct database.columns.id" in done.stderr
    original.execute("UPDATE pending_messages SET nr = id + 7000")
    assert desk("table", "accept", "--yes").returncode == 78, "no row has an id that retrycli knows"
    original.execute("UPDATE pending_messages SET nr = id")
    assert desk("table", "accept", "--yes").returncode == 0


def test_nothing_is_sent_without_a_column_that_the_application_has_renamed(
    cli: Cli, original: Application, api: Scripted
) -> None:
    """Otherwise, messages would be sent without their attachments, or without copies."""
    default = cli.having(original.variables(api.url))
    assert default.json("run-once")["sent"] == 2
    original.add(104, ticket_id=5, attachments='["parcel.pdf"]')
    original.execute("ALTER TABLE pending_messages RENAME COLUMN attachments TO files")
    for command in ("run-once", "retry 104"):
        done = default(*command.split())
        assert done.returncode == 78
        assert "no longer has the column attachments, so messages would be sent without it" in done.stderr
        assert "set database.columns.attachments; if it is no longer needed, run `retrycli table accept`" in done.stderr
    assert default("list-failed").returncode == 0
    assert "attachments" in default.json("status")["unaccepted"]
    assert len(api.paths) == 2
    renamed = described(default, '[database.columns]\nattachments = "files"\n')
    assert renamed("table", "accept", "--yes").returncode == 0
    original.execute("ALTER TABLE pending_messages DROP COLUMN files")
    without = described(default, "")
    assert without("run-once").returncode == 78
    assert without("table", "accept", "--yes").returncode == 0
    assert without.json("run-once")["sent"] == 1


@pytest.mark.parametrize("sends", ["run-once", "retry 101"])
def test_other_settings_are_accepted_only_while_nothing_is_sent(mapped: Cli, original: Application, sends: str) -> None:
    """A pass would go on with the settings that it has read, and know its messages by other births and digests."""
    assert mapped("table", "accept", "--yes").returncode == 0
    with held_back() as (desk, gate):
        running = mapped.having(original.variables(desk.url)).start(*sends.split())
        try:
            assert gate.reached.wait(60)
            other = described(mapped, THREE_LINES + AFTER_DEFAULT[0] + "\n")
            done = other("table", "accept", "--yes")
            assert done.returncode == 75
            assert "goes on with the settings that it has read. Run this again when that has ended" in done.stderr
        finally:
            gate.opened.set()
            running.communicate()
    assert other("table", "accept", "--yes").returncode == 0


def test_settings_that_were_read_before_others_were_accepted_are_refused(original: Application, api: Scripted) -> None:
    before = original.settings(api.url)
    columns = {"ticket_id": {"sql": TICKET}}
    after = before.model_copy(update={"database": DatabaseSettings(url=original.url, columns=columns)})
    with open_database(before) as database:
        own_tables.require_accepted(database)
        operations.table.accept(after, by="anna")
        with pytest.raises(ConfigurationError, match="these settings select other messages than anna accepted"):
            own_tables.require_accepted(database)


@pytest.mark.databases("postgresql")
def test_a_failed_check_prevents_acceptance(mapped: Cli) -> None:
    wrong = described(mapped, '[database.status]\nfailed = "failed"\nsent = "a word that is much too long"\n')
    assert wrong("table", "accept", "--yes").returncode == 78


def test_ids_of_another_kind_are_refused_as_soon_as_retrycli_knows_messages(
    mapped: Cli, original: Application, api: Scripted
) -> None:
    """The numbers of texts would be taken for the ids of messages that retrycli knows already."""
    original.execute("ALTER TABLE pending_messages ADD COLUMN uid TEXT")
    original.execute("UPDATE pending_messages SET uid = 'message-' || id")
    by_text = THREE_LINES.replace("[database.columns]", '[database.columns]\nid = "uid"')
    described(mapped, by_text)
    assert len(mapped.json("list-failed")["messages"]) == 2  # they get numbers
    described(mapped, THREE_LINES)
    assert mapped("table", "accept", "--yes").returncode == 0
    assert mapped.json("run-once")["sent"] == 2
    before = original.rows("retrycli_attempts")
    original.add(104, ticket_id=5, uid="message-104")
    described(mapped, by_text)
    for command in ("status", "table accept --yes", "run-once"):
        done = mapped(*command.split())
        assert (done.returncode, done.stdout) == (78, "")
        assert "know the messages by ids that are integers, but pending_messages.uid holds text;" in done.stderr
    assert (original.rows("retrycli_attempts"), len(api.paths)) == (before, 2)
    described(mapped, THREE_LINES)
    assert mapped.json("run-once")["sent"] == 1
