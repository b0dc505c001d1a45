"""``table check``, and what ``config check`` and ``doctor`` say about the application's table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.api import TAKES, Scripted
from tests.cli.application import TABLES, TICKETS, Application
from tests.cli.original import ORIGINAL, THREE_LINES
from tests.conftest import on_both
from tests.store.conftest import Factory

if TYPE_CHECKING:
    from tests.cli.command import Cli

pytestmark = on_both

SECRET = "where is my parcel"


@pytest.fixture
def original(engine: Factory, tmp_path: Path) -> Iterator[Application]:
    """Provide the original application, with one failed message of ticket 4705, whose row in ticket_states is 5."""
    with engine(tmp_path, None) as url:
        made = Application(url, tables=ORIGINAL)
        made.add(101, ticket_id=5, body=SECRET)
        yield made
        made.lock.unlink(missing_ok=True)


@pytest.fixture
def api() -> Iterator[Scripted]:
    with Scripted(TAKES) as server:
        yield server


@pytest.fixture
def desk(cli: Cli, original: Application, api: Scripted) -> Cli:
    return cli.having(original.variables(api.url))


def described(cli: Cli, settings: str) -> Cli:
    """Return the command with a settings file."""
    file = cli.cwd / "retrycli.toml"
    file.write_text(settings, encoding="utf-8")
    file.chmod(0o600)
    return cli


def findings(cli: Cli, command: str, *, code: int | None = None) -> dict[str, dict[str, Any]]:
    done = cli(*command.split(), "--json")
    found = cli.json(*command.split(), code=done.returncode if code is None else code)["findings"]
    assert SECRET not in done.stdout + done.stderr
    return {finding["name"]: finding for finding in found}


def requested(api: Scripted) -> list[str]:
    """Return the paths of the tickets that were requested, without those of `doctor`."""
    return [path for path in api.paths if path.startswith("/tickets")]


def test_without_settings_the_checks_say_what_is_wrong_with_an_example(
    desk: Cli, original: Application, api: Scripted
) -> None:
    for command in ("table check", "doctor"):
        found = findings(desk, command, code=0 if command == "table check" else None)["ticket"]
        assert found["level"] == "warning"
        assert "ticket_id refers to ticket_states.id" in found["found"]
        assert f"message 101 would go to {api.url}/tickets/5/messages" in found["found"]
        assert "another column of ticket_states" in found["remedy"]
    checked = desk("config", "check")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert f"{api.url}/tickets/5/messages; if the API knows this ticket by another column" in checked.stdout
    assert ("\nGrant\tGRANT SELECT, UPDATE (" in checked.stdout) is not original.is_sqlite
    assert requested(api) == []


def test_three_lines_of_settings_deliver_to_the_right_tickets(desk: Cli, original: Application, api: Scripted) -> None:
    original.add(102, ticket_id=4, message_type="internal")
    mapped = described(desk, THREE_LINES)
    assert findings(mapped, "table check", code=0).get("ticket", {"level": "ok"})["level"] == "ok"
    shown = mapped.json("config", "check")
    assert shown["writes"] == "status, retry_count, last_error, sent_at"
    grant = "GRANT SELECT, UPDATE (status, retry_count, last_error, sent_at, subject, body, recipient_email) ON"
    assert ("grant" in shown) is not original.is_sqlite
    assert shown.get("grant", grant).startswith(grant)
    assert mapped("table", "accept", "--yes").returncode == 0
    assert mapped.json("run-once")["sent"] == 2
    assert sorted(requested(api)) == ["/tickets/4704/notes", "/tickets/4705/messages"]
    assert {original.row(number)["status"] for number in (101, 102)} == {"sent"}


@pytest.mark.parametrize(
    ("word", "last", "told"),
    [
        ("error", "sent", "no row has the status failed, which means failed; the statuses of all 4 rows: error ×3, s"),
        ("FAILED", "failed", "the status FAILED looks like failed, but the database says that they differ, so passes"),
    ],
)
def test_a_table_whose_failed_messages_have_another_word_is_reported(
    at_work: Cli, application: Application, word: str, last: str, told: str
) -> None:
    for number in range(101, 104):
        application.add(number, status=word, body=SECRET)
    application.add(104, status=last, body=SECRET)
    for command in ("table check", "doctor", "config check"):
        done = at_work(*command.split())
        assert done.returncode == (3 if command == "doctor" else 0)
        assert told in done.stdout
        assert "database.status" in done.stdout
        assert SECRET not in done.stdout
    application.execute("UPDATE pending_messages SET status = 'pending' WHERE id = 101")
    application.execute("UPDATE pending_messages SET status = 'sent' WHERE id > 101")
    found = findings(at_work, "table check", code=0)["status"]
    assert (found["level"], found["found"]) == ("ok", "the statuses of all 4 rows: sent ×3, pending ×1")


@pytest.mark.parametrize("kind", ["INTEGER", "BOOLEAN"])
def test_a_table_whose_status_is_no_text_is_reported(cli: Cli, engine: Factory, tmp_path: Path, kind: str) -> None:
    with engine(tmp_path, None) as url:
        made = Application(
            url, tables=TABLES.replace("status VARCHAR(20) NOT NULL", f"status {kind} NOT NULL") + TICKETS
        )
        made.add(101, status=True if kind == "BOOLEAN" else 1)
        desk = cli.having(made.variables("http://127.0.0.1:9"))
        [failure] = [each for each in findings(desk, "table check", code=78).values() if each["level"] == "failure"]
        assert failure["found"].startswith("database.status.failed can't be used with pending_messages: ")
        assert desk("config", "check").returncode == 78
        done = desk("run-once")
        if not made.is_sqlite:
            assert done.returncode == 78
            assert "`retrycli table check` names it" in done.stderr
        made.lock.unlink(missing_ok=True)


UNREADABLE: dict[str, tuple[dict[str, str], dict[str, Any], str]] = {
    "updated_at": ({"updated_at": "BIGINT"}, {"updated_at": 1772539200}, "updated_at is not a valid date"),
    "attachments": (
        {"attachments": "TEXT"},
        {"attachments": 'a:1:{i:0;s:5:"a.pdf";}'},
        "attachments is not valid JSON",
    ),
    "message_type": ({}, {"message_type": "hush-hush"}, "message_type must be one of customer, supplier, internal"),
}


def made_with(url: str, types: dict[str, str]) -> Application:
    """Make the default table, but with other types of some columns."""
    tables = TABLES
    for name, kind in types.items():
        tables = re.sub(rf"\b{name} \w+", f"{name} {kind}", tables)
    return Application(url, tables=tables + TICKETS)


@pytest.mark.parametrize(("case", "status"), [*((case, "failed") for case in UNREADABLE), ("updated_at", "sent")])
def test_a_table_that_a_pass_can_not_read_is_refused(
    cli: Cli, engine: Factory, tmp_path: Path, case: str, status: str
) -> None:
    types, values, problem = UNREADABLE[case]
    with engine(tmp_path, None) as url:
        made = made_with(url, types)
        made.add(101, status=status, **values)
        desk = cli.having(made.variables("http://127.0.0.1:9"))
        failure = findings(desk, "table check", code=78)["rows"]
        told = f"a pass would escalate the newest rows as invalid, whatever their status: {problem} ×1"
        assert (failure["level"], failure["found"]) == ("failure", told)
        good: dict[str, Any] = dict.fromkeys(types)
        made.add(102, status="sent", **good)
        assert "rows" not in findings(desk, "table check", code=0)
        desk = described(desk, "[database.columns]\ncc_emails = { none = true }")
        warned = findings(desk, "table check", code=0)["rows"]
        told = f"a pass would escalate 1 of 2 rows as invalid: {problem} ×1"
        assert (warned["level"], warned["found"]) == ("warning", told)
        assert "hush" not in str(warned) + str(failure)
        made.lock.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("unit", "kind"),
    [(1, "BIGINT"), (1000, "BIGINT"), (10**6, "BIGINT"), (10**9, "BIGINT"), (1, "DOUBLE PRECISION")],
    ids=["seconds", "milliseconds", "microseconds", "nanoseconds", "floating point"],
)
def test_unix_times_and_columns_that_mean_something_else_are_described(
    cli: Cli, engine: Factory, tmp_path: Path, api: Scripted, unit: int, kind: str
) -> None:
    made_at = int(datetime(2026, 3, 3, 12, tzinfo=UTC).timestamp()) * unit
    with engine(tmp_path, None) as url:
        made = made_with(url, {"created_at": kind, "updated_at": kind, "attachments": "TEXT", "sent_at": "BIGINT"})
        made.add(101, created_at=made_at, updated_at=made_at + unit, attachments="a:0:{}")
        made.add(102, created_at=None, updated_at=None, status="sent")
        desk = described(
            cli.having(made.variables(api.url)),
            '[database.columns]\ncreated_at = { unix = "created_at" }\nupdated_at = { unix = "updated_at" }\n'
            "attachments = { none = true }\nsent_at = { none = true }\n",
        )
        assert "rows" not in findings(desk, "table check", code=0)
        assert desk("table", "accept", "--yes").returncode == 0
        assert desk.json("show", "101")["message"]["created_at"] == "2026-03-03T12:00:00Z"
        assert desk.json("run-once")["sent"] == 1
        row = made.row(101)
        assert (row["status"], row["sent_at"], row["attachments"]) == ("sent", None, "a:0:{}")
        made.lock.unlink(missing_ok=True)


@pytest.mark.parametrize("role", ["created_at", "body"])
def test_a_value_that_changes_from_read_to_read_is_refused(
    desk: Cli, original: Application, api: Scripted, role: str
) -> None:
    """Each read would show another message."""
    original.add(102, ticket_id=5, created_at=None, body=SECRET)
    now = "strftime('%Y-%m-%d %H:%M:%f', 'now')" if original.is_sqlite else "clock_timestamp()"
    sql = {"created_at": f"coalesce(created_at, {now})", "body": f"body || {now}"}[role]
    changing = described(desk, f'{THREE_LINES}{role} = {{ sql = "{sql}" }}\n')
    failure = findings(changing, "table check", code=78)["identity"]
    assert failure["level"] == "failure"
    assert failure["found"].startswith(f"{role} in ")
    assert (
        "pending_messages has another value at each read, so retrycli can't tell whether a row is" in failure["found"]
    )
    assert f"database.columns.{role}" in failure["remedy"]
    assert changing("table", "accept", "--yes").returncode == 78
    original.execute("DELETE FROM pending_messages WHERE id = 102")
    fits = described(desk, f'{THREE_LINES}created_at = {{ sql = "coalesce(created_at, {now})" }}\n')
    assert findings(fits, "table check", code=0)


def test_a_constraint_on_the_largest_count_is_found_by_the_check_and_stops_a_pass(
    cli: Cli, engine: Factory, tmp_path: Path, api: Scripted
) -> None:
    with engine(tmp_path, None) as url:
        made = made_with(url, {"retry_count": "INTEGER CHECK (retry_count <= 5)"})
        made.add(101)
        desk = cli.having(made.variables(api.url))
        found = findings(desk, "table check", code=78)["columns"]
        assert found["found"].startswith("a pass can't write the retry count 10 into pending_messages: the CHECK")
        assert "schedule.max_retries" in found["remedy"]
        assert (desk("run-once").returncode, api.paths, made.row(101)["last_error"]) == (78, [], "HTTP 503")
        fewer = described(desk, "[schedule]\nmax_retries = 5\n")
        assert findings(fewer, "table check", code=0)["writing"]["level"] == "ok"
        assert fewer.json("run-once")["sent"] == 1
        made.lock.unlink(missing_ok=True)


@pytest.mark.parametrize("stays", [101, 106])
def test_a_row_that_a_retry_count_would_hide_stops_passes_however_many_others_stay(
    cli: Cli, engine: Factory, tmp_path: Path, api: Scripted, stays: int
) -> None:
    """Such messages were neither sent nor escalated, and no list showed them."""
    with engine(tmp_path, None) as url:
        made = made_with(url, {"retry_count": "INTEGER"})
        for number in range(101, 107):
            made.add(number, message_type="supplier" if number == stays else "customer")
        desk = described(
            cli.having(made.variables(api.url)),
            "[database]\nwhere = \"retry_count < 5 or message_type = 'supplier'\"\n",
        )
        assert "no longer one of the failed messages" in findings(desk, "table check", code=78)["writing"]["found"]
        desk("table", "accept", "--yes")
        assert (desk("run-once").returncode, api.paths) == (78, [])
        made.lock.unlink(missing_ok=True)


def test_a_text_that_changes_with_the_retry_count_is_refused(desk: Cli, original: Application, api: Scripted) -> None:
    """Each attempt would send another text under another key, and nothing would limit unknown outcomes."""
    tries = "subject || ' (try ' || coalesce(retry_count, 0) || ')'"
    changing = described(desk, f'{THREE_LINES}subject = {{ sql = "{tries}" }}\n')
    assert "its text changes with its status" in findings(changing, "table check", code=78)["writing"]["found"]
    changing("table", "accept", "--yes")
    assert (changing("run-once").returncode, api.paths) == (78, [])


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("kind", ["BYTEA", "TEXT[]"])
def test_a_body_that_is_no_text_is_refused(cli: Cli, engine: Factory, tmp_path: Path, kind: str) -> None:
    with engine(tmp_path, None) as url:
        made = made_with(url, {"body": kind})
        done = cli.having(made.variables("http://127.0.0.1:9"))("table", "check")
        assert (done.returncode, "has a column body that holds bytes or an array" in done.stdout) == (78, True)


def test_a_retry_count_that_is_read_back_as_text_is_refused(cli: Cli, engine: Factory, tmp_path: Path) -> None:
    """SQLite turns the written number into text, which the next attempt could not read."""
    with engine(tmp_path, None) as url:
        made = made_with(url, {"retry_count": "TEXT"})
        made.add(101, retry_count=None)
        done = cli.having(made.variables("http://127.0.0.1:9"))("table", "check")
        said = "the retry count 10 is read back as '10'" if made.is_sqlite else "retry_count that is of a text type"
        assert (done.returncode, said in done.stdout) == (78, True)
        made.lock.unlink(missing_ok=True)


def test_text_ids_can_be_checked_before_the_first_pass(cli: Cli, engine: Factory, tmp_path: Path) -> None:
    with engine(tmp_path, None) as url:
        made = made_with(url, {"id": "VARCHAR(40)"})
        made.execute("DROP INDEX IF EXISTS pending_messages_status")
        desk = cli.having(made.variables("http://127.0.0.1:9"))
        found = findings(desk, "table check", code=0)
        assert (found["writing"]["level"], found["index"]["level"]) == ("ok", "warning")
        assert "once it has more than 15,000 rows, passes will stop" in found["index"]["found"]
        assert desk("db", "index", "--yes").returncode == 0
        assert "index" not in findings(desk, "table check", code=0)
        made.lock.unlink(missing_ok=True)


WRONG = {
    "database.columns.subject": '[database.columns]\nsubject = { sql = "upper(title)" }',
    "database.where": "[database]\nwhere = \"template = ''\"",
    "database.columns.body": '[database.columns]\nbody = "text"',
    "database.status.sent": '[database.status]\nfailed = 0\nsent = "sent"',
}


@pytest.mark.parametrize("setting", WRONG)
def test_settings_that_do_not_fit_are_named_in_one_line_and_nothing_is_sent(
    desk: Cli, original: Application, api: Scripted, setting: str
) -> None:
    if setting == "database.status.sent":
        original.execute("ALTER TABLE pending_messages DROP COLUMN status")
        original.execute("ALTER TABLE pending_messages ADD COLUMN status INTEGER CHECK (status IN (0, 1))")
    wrong = described(desk, WRONG[setting])
    [failure] = [each for each in findings(wrong, "table check", code=78).values() if each["level"] == "failure"]
    assert setting in failure["found"] + failure["remedy"]
    # In a file, any value can be written, so only the checks report it. Nobody can accept these settings.
    passes = "table accept --yes" if setting == "database.status.sent" else "run-once"
    for command in ("config check", passes):
        done = wrong(*command.split())
        assert done.returncode == 78, command
        [line] = done.stderr.splitlines()
        assert setting in line
        assert SECRET not in line
    assert api.paths == []


def test_failed_rows_outside_the_condition_are_counted(desk: Cli, original: Application) -> None:
    """A column with data that no setting names is listed, too."""
    original.execute("ALTER TABLE pending_messages ADD COLUMN html_body TEXT")
    original.add(102, ticket_id=4, subject="Newsletter", html_body="<p>")
    assert "not sent" not in findings(desk, "table check", code=0)
    mapped = described(desk, "[database]\nwhere = \"subject <> 'Newsletter'\"")
    said = "1 failed row does not meet database.where"
    found = findings(mapped, "table check", code=0)
    assert said in found["where"]["found"]
    assert found["not sent"]["found"].endswith("that no setting names: html_body")
    assert said in mapped("status").stdout
    assert mapped.json("status")["left_out"] == 1
