"""``edit``: an operator changes the text of a message."""

from __future__ import annotations

import re
import sqlite3
import stat
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

import retrycli
from tests.cli.api import REJECTS, TAKES, Scripted
from tests.cli.test_hostile_text import COLOURS, EVIL
from tests.conftest import on_both, on_sqlite
from tests.environment import BARE

if TYPE_CHECKING:
    from pathlib import Path

    from retrycli.operations.sandbox import Sandbox
    from tests.cli.application import Application
    from tests.cli.command import Cli

pytestmark = on_both


def editor(folder: Path, script: str) -> dict[str, str]:
    """Create an editor that runs a shell script on its file, ``$2``; return the variables that select it."""
    program = folder / "an editor"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {"EDITOR": f"'{program}' --flag", "TMPDIR": str(folder / "tmp")}


@pytest.fixture
def at_desk(at_work: Cli) -> Cli:
    """Provide the command with its own folder for temporary files."""
    (at_work.cwd / "tmp").mkdir()
    return at_work


def keys_of(application: Application, message_id: int) -> list[object]:
    rows = application.rows("retrycli_attempts").values()
    return [row["delivery_key"] for row in rows if row["message_id"] == message_id]


def test_edits_subject_and_body_as_one_text_and_shows_the_difference_first(
    at_desk: Cli, application: Application, sandbox: Sandbox
) -> None:
    """The new text is sent with a new key, and the history names the operator."""
    application.add(11)
    retrycli.run_once(application.settings("http://127.0.0.1:9"))
    [before], row = keys_of(application, 11), application.row(11)
    env = editor(at_desk.cwd, 'sed -i "s/Invoice/bill/; s/attached/here/" "$2" && cp "$2" seen')
    screen = at_desk.having(env).on_terminal("edit", "11", "--by", "anna", answers=["y"])
    assert screen.returncode == 0, screen.text
    for line in ("-Subject: Re: Invoice", "+Subject: Re: bill", "-It is attached.", "+It is here."):
        assert f"{line}\n" in re.sub(" +\n", "\n", screen.text)
    assert "Apply this change to message 11? [y/N] y\n" in screen.text
    assert screen.text.endswith(
        "Changed subject, body of message 11, which has a new delivery key.\nNext: retrycli retry 11\n"
    )
    assert (at_desk.cwd / "seen").read_text() == "Subject: Re: bill\n\nIt is here.\n"
    assert application.row(11) == row | {"subject": "Re: bill", "body": "It is here."}
    assert list((at_desk.cwd / "tmp").iterdir()) == []
    assert at_desk("retry", "11").returncode == 0
    [received] = sandbox.received
    assert (received.key, received.content["body"]) == (keys_of(application, 11)[1], "It is here.")
    assert received.key != before
    acts = application.rows("retrycli_acts").values()
    assert [(action["by"], action["act"], action["detail"]) for action in acts] == [("anna", "edited", "subject, body")]


@on_sqlite
def test_after_an_edit_show_no_longer_advises_for_the_old_text(at_desk: Cli, application: Application) -> None:
    """A message that was escalated because its text was delivered must not be marked as sent after an edit."""
    application.add(11)
    with Scripted(REJECTS) as api:
        retrycli.run_once(application.settings(api.url))
    application.execute("UPDATE retrycli_queue SET escalation_reason = 'changed'")
    assert "retrycli mark-sent 11" in at_desk.on_terminal("show", "11").text
    at_desk("edit", "11", "--subject", "Re: bill", "--yes")
    assert at_desk.on_terminal("show", "11").text.endswith("Next: `retrycli retry 11` sends the edited message\n")


def test_options_replace_the_editor(at_desk: Cli, application: Application) -> None:
    application.add(11, hours_ago=0)
    (at_desk.cwd / "body.txt").write_bytes("Zeile\r\n日本\n".encode())
    told = at_desk.json(
        *("edit", "11", "--subject", "Re: bill", "--body-file", "body.txt", "--recipient", "bo@example.com", "--yes")
    )
    shown = at_desk.json("show", "11")
    assert told == {"id": 11, "changed": ["subject", "body", "recipient_email"], "digest": shown["digest"]}
    row = application.row(11)
    assert (row["subject"], row["body"], row["recipient_email"]) == ("Re: bill", "Zeile\r\n日本\n", "bo@example.com")


@on_sqlite
def test_reads_the_body_from_stdin(at_desk: Cli, application: Application) -> None:
    """Editors on Windows may write a byte order mark, which is not part of the body."""
    application.add(11, hours_ago=0)
    (at_desk.cwd / "body.txt").write_text("From a pipe.", encoding="utf-8-sig")
    shell = at_desk.under("/bin/sh", "-c", '"$0" "$@" < body.txt')
    assert shell("edit", "11", "--body-file", "-", "--yes").returncode == 0
    assert (application.row(11)["body"], application.row(11)["subject"]) == ("From a pipe.", "Re: Invoice")


def test_a_message_unknown_to_all_passes_gets_a_new_key_too(at_desk: Cli, application: Application) -> None:
    """The message may have been in the queue before, so its new key must differ from its first one."""
    application.add(11)
    with Scripted(REJECTS, TAKES) as api:
        retrycli.run_once(application.settings(api.url))
        application.execute("DELETE FROM retrycli_queue")
        assert at_desk("edit", "11", "--subject", "Re: bill", "--yes").returncode == 0
        assert at_desk("retry", "11").returncode == 0
        first, second = keys_of(application, 11)
        assert second != first


def test_an_invalid_message_can_be_edited_and_then_requeued_or_retried(at_desk: Cli, application: Application) -> None:
    application.add(11, body=None)
    at_desk("run-once")
    assert application.state(11) == "escalated"
    env = editor(at_desk.cwd, 'echo "It is here." >> "$2"')
    screen = at_desk.having(env).on_terminal("edit", "11", answers=["y"])
    assert screen.text.endswith("Next: `retrycli retry 11` or `retrycli requeue 11`\n")
    assert (application.row(11)["body"], application.state(11)) == ("It is here.", "escalated")
    assert at_desk("requeue", "11").returncode == 0
    assert at_desk.json("run-once")["sent"] == 1


NOTHING = {
    "exit 3": "the editor",
    ': > "$2"': "the text must not be empty; nothing was written",
    'printf "Subject: x\\n\\ncaf\\351" > "$2"': "the text is not valid UTF-8; nothing was written",
}


@on_sqlite
@pytest.mark.parametrize(("script", "why"), NOTHING.items())
def test_a_rejected_edit_is_one_line_and_changes_nothing(
    at_desk: Cli, application: Application, script: str, why: str
) -> None:
    application.add(11, hours_ago=0)
    before = application.dump()
    done = at_desk.having(editor(at_desk.cwd, script))("edit", "11", "--yes")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith(f"retrycli: {why}")
    assert done.stderr.count("\n") == 1
    assert application.dump() == before
    assert list((at_desk.cwd / "tmp").iterdir()) == []


@on_sqlite
def test_nothing_is_written_if_the_text_is_unchanged_or_the_operator_declines(
    at_desk: Cli, application: Application
) -> None:
    application.add(11, hours_ago=0)
    before = application.dump()
    done = at_desk.having(editor(at_desk.cwd, "true"))("edit", "11", "--yes")
    assert (done.returncode, done.stderr) == (0, "No changes; nothing was written.\n")
    screen = at_desk.on_terminal("edit", "11", "--subject", "Re: bill", answers=["n"])
    assert (screen.returncode, screen.text.endswith("Nothing was changed.\n")) == (0, True)
    assert application.dump() == before


def test_a_recipient_requires_its_column(at_desk: Cli, application: Application) -> None:
    application.add(11, hours_ago=0)
    application.execute("ALTER TABLE pending_messages DROP COLUMN recipient_email")
    done = at_desk("edit", "11", "--recipient", "bo@example.com", "--yes")
    assert done.returncode == 4
    assert done.stderr == ("retrycli: pending_messages has no column recipient_email; omit the recipient\n")
    assert at_desk("edit", "11", "--subject", "Re: bill", "--yes").returncode == 0


def test_a_message_modified_concurrently_is_left_alone(at_desk: Cli, application: Application) -> None:
    """Here the editor itself makes the concurrent change."""
    application.add(11, hours_ago=0)
    (at_desk.cwd / "change.py").write_text(
        "from sqlalchemy import create_engine\n"
        f"with create_engine({application.url!r}).begin() as connection:\n"
        "    connection.exec_driver_sql(\"UPDATE pending_messages SET body = 'It is there.'\")\n"
    )
    env = editor(at_desk.cwd, f'{sys.executable} change.py && sed -i s/Invoice/bill/ "$2"')
    done = at_desk.having(env)("edit", "11", "--yes")
    assert done.returncode == 4, done.stderr
    assert "message 11 was modified since you read it; nothing was written." in done.stderr
    assert (application.row(11)["subject"], application.row(11)["body"]) == ("Re: Invoice", "It is there.")


@pytest.mark.parametrize(
    "change", ["body = 'It is there.'", "recipient_email = 'bo@example.com'", "attachments = '[\"a.pdf\"]'"]
)
def test_an_edit_of_a_text_that_has_changed_since_is_refused(
    at_desk: Cli, application: Application, change: str
) -> None:
    """A script reads the text, and names by its digest what it read."""
    application.add(11, hours_ago=0)
    digest = at_desk.json("show", "11")["digest"]
    edit = ("edit", "11", "--subject", "Re: bill", "--yes", "--digest")
    application.execute(f"UPDATE pending_messages SET {change}")
    done = at_desk(*edit, digest)
    assert (done.returncode, done.stdout, application.row(11)["subject"]) == (4, "", "Re: Invoice")
    assert done.stderr.startswith("retrycli: message 11 was modified since you read it; nothing was written.")
    first = at_desk.json(*edit, at_desk.json("show", "11")["digest"])
    assert first["changed"] == ["subject"]
    assert at_desk(*edit, digest).returncode == 4
    second = at_desk.json("edit", "11", "--subject", "Re: invoice", "--yes", "--digest", first["digest"])
    assert second["digest"] == at_desk.json("show", "11")["digest"]


@on_sqlite
def test_a_hostile_text_is_shown_escaped(at_desk: Cli, application: Application) -> None:
    """The printed difference escapes control characters, so a text can't control the terminal."""
    application.add(11, hours_ago=0, subject=EVIL, body=EVIL)
    env = editor(at_desk.cwd, 'echo "and more" >> "$2"')
    screen = at_desk.having(env).on_terminal("edit", "11", answers=["y"])
    assert screen.returncode == 0, screen.text
    assert all(char.isprintable() or char in "\r\n" for char in COLOURS.sub("", screen.raw))
    assert "[/nosuch]" in screen.words
    assert str(application.row(11)["body"]).endswith("and more")


# -- what an edit changed --------------------------------------------------------------------------------------------


@pytest.fixture
def edited(at_desk: Cli, application: Application) -> Cli:
    """Provide the command after edits of two messages of ticket 4711 and one of ticket 4712."""
    for message_id, ticket in ((11, 4711), (12, 4711), (13, 4712)):
        application.add(message_id, hours_ago=0, ticket_id=ticket)
        (at_desk.cwd / "body.txt").write_text("It is here.\nSee \x1b[31mbelow.\n")
        args = ["--subject", "Re: bill", "--body-file", "body.txt", "--yes", "--by", "anna"]
        assert at_desk("edit", str(message_id), *args).returncode == 0
    return at_desk


def test_show_has_old_and_new_values_of_an_edit(edited: Cli, application: Application) -> None:
    """The old texts may be private, so no other command shows them."""
    [act] = edited.json("show", "11")["acts"]
    assert act["before"] == {"subject": "Re: Invoice", "body": "It is attached."}
    assert act["after"] == {"subject": "Re: bill", "body": "It is here.\nSee \x1b[31mbelow.\n"}
    for text in (edited("show", "11").stdout, edited.on_terminal("show", "11").text):
        lines = [line.rstrip() for line in text.splitlines()]
        start = lines.index("-It is attached.")
        assert lines[start + 1 : start + 4] == ["+It is here.", "+See \\x1b[31mbelow.", "+"]
    application.execute("UPDATE retrycli_queue SET state = 'escalated', escalated_at = first_failed_at")
    for command in ("explain 11", "list-failed", "escalations", "status", "passes --json"):
        assert "attached" not in edited(*command.split()).stdout


@pytest.mark.parametrize("retention", [None, "90"])
def test_the_values_are_pruned_with_the_history(edited: Cli, application: Application, retention: str | None) -> None:
    """Both `db prune` and a pass with a retention time prune the values."""
    assert "-It is attached." in edited("show", "11").stdout
    application.execute("UPDATE retrycli_acts SET at = '2025-01-02 03:04:05'")
    if retention is None:
        assert edited.json("db", "prune", "--older-than", "90d", "--yes")["acts"] == 3
    else:
        assert edited("run-once", env={"RETRYCLI_RUN__RETENTION_DAYS": retention}).returncode == 0
    assert application.rows("retrycli_acts") == {}
    assert "-It is attached." not in edited("show", "11").stdout


def test_erases_the_values_of_one_ticket(edited: Cli, application: Application) -> None:
    """The erasure includes messages that were deleted or moved to another ticket. It keeps the record of the edits."""
    application.execute("DELETE FROM pending_messages WHERE id = 11")
    application.execute("UPDATE pending_messages SET ticket_id = 4713 WHERE id = 12")
    screen = edited.on_terminal("db", "erase", "--ticket", "4711", answers=["n"])
    assert screen.text.endswith("Nothing was changed.\n")
    assert edited.json("db", "erase", "--ticket", "4711", "--yes") == {"ticket": "4711", "edits": 2}
    acts = application.rows("retrycli_acts").values()
    assert [(action["act"], action["detail"], action["before"] is None) for action in acts] == [
        ("edited", "subject, body", is_erased) for is_erased in (True, True, False)
    ]
    assert edited.json("db", "erase", "--ticket", "4711", "--yes")["edits"] == 0


@on_sqlite
def test_erased_values_are_removed_from_the_file(at_desk: Cli, application: Application) -> None:
    """SQLite may leave deleted text in the file's free space, and in its write-ahead log."""
    application.add(11, hours_ago=0, ticket_id=4711, body="Winterreise" * 2_000)
    (at_desk.cwd / "body.txt").write_text("It is here.\n")
    assert at_desk("edit", "11", "--body-file", "body.txt", "--yes").returncode == 0
    files = [application.path, application.path.with_name(f"{application.path.name}-wal")]
    there = [path for path in files if path.exists()]
    assert any(b"Winterreise" in path.read_bytes() for path in there)
    assert at_desk.json("db", "erase", "--ticket", "4711", "--yes")["edits"] == 1
    assert not any(b"Winterreise" in path.read_bytes() for path in files if path.exists())


@on_sqlite
def test_erased_values_that_remain_in_the_log_are_reported(at_desk: Cli, application: Application) -> None:
    """A reader keeps the write-ahead log."""
    application.execute("PRAGMA journal_mode = WAL")
    application.add(11, hours_ago=0, ticket_id=4711)
    assert at_desk("edit", "11", "--subject", "Winterreise", "--yes").returncode == 0
    hasty = at_desk.having({"RETRYCLI_DATABASE__URL": f"{application.url}?timeout=0"})
    with closing(sqlite3.connect(application.path)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT * FROM pending_messages").fetchall()
        done = hasty("db", "erase", "--ticket", "4711", "--yes")
    told = "the erased texts remain in the write-ahead log, which another process is using; run this again when it has"
    assert (done.returncode, told in done.stderr) == (69, True), done
    assert hasty.json("db", "erase", "--ticket", "4711", "--yes")["edits"] == 0


def test_reports_an_editor_that_sudo_did_not_pass_on(at_desk: Cli, application: Application) -> None:
    """Otherwise another editor opens without an explanation."""
    application.add(11, hours_ago=0)
    folder = at_desk.cwd / "editors"
    folder.mkdir()
    (folder / "sensible-editor").write_text("#!/bin/sh\nexit 0\n")
    (folder / "sensible-editor").chmod(0o755)
    path = {"PATH": f"{folder}:{BARE['PATH']}", "EDITOR": "", "VISUAL": ""}
    done = at_desk.having(path | {"SUDO_USER": "anna"})("edit", "11", "--yes")
    assert done.stderr.splitlines()[0] == (
        f"retrycli: opening {folder}/sensible-editor, because sudo passed on neither $VISUAL nor $EDITOR; "
        "to keep $VISUAL and $EDITOR, run `sudo --preserve-env=EDITOR,VISUAL …`"
    )
    assert "sudo" not in at_desk.having(path)("edit", "11", "--yes").stderr
