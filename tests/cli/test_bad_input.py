"""External faults: a command prints one line with the problem and the remedy, and loses nothing."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from retrycli.operations.sandbox import Sandbox
from tests.cli.command import Cli
from tests.conftest import on_sqlite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.application import Application
    from tests.cli.command import Finished

API = "http://127.0.0.1:9"
"""No server listens on this port. Most commands here fail before their first request, so they need no server."""


def fault(done: Finished, code: int) -> str:
    """Check that a command failed with this code and one line on stderr, and return the line."""
    assert (done.returncode, done.stdout) == (code, "")
    assert "Traceback" not in done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith("retrycli: ")
    return line.removeprefix("retrycli: ")


PATIENCE_SECONDS = 0.1


@contextmanager
def exclusively_locked(application: Application) -> Iterator[None]:
    """Hold an exclusive lock on the database, which blocks reads and writes."""
    with closing(sqlite3.connect(application.path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield


def impatient(application: Application) -> dict[str, str]:
    """Return the variables of a command that waits a tenth of a second for a database lock instead of half a minute."""
    return {**application.variables(API), "RETRYCLI_DATABASE__URL": f"{application.url}?timeout={PATIENCE_SECONDS}"}


def without_roots_powers(cli: Cli) -> Cli:
    """Return the command without root's power to ignore file modes, if the tests run as root."""
    if os.geteuid() != 0:
        return cli
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("setpriv is not installed: apt-get install util-linux")
    powers = "-dac_override,-dac_read_search"
    return cli.under(setpriv, f"--bounding-set={powers}", f"--inh-caps={powers}")


# -- the database ----------------------------------------------------------------------------------------------------


def test_a_missing_database_is_reported_and_not_created(cli: Cli) -> None:
    where = cli.cwd / "no.db"
    lost = cli.having({"RETRYCLI_DATABASE__URL": "sqlite:///no.db", "TICKETING_API_BASE_URL": API})
    shown = lost.show_all(piped=["run-once", "status", "db upgrade"])
    lines = {fault(done, 69) for done in shown.piped.values()}
    assert lines == {f"no database at {where}; check database.url (RETRYCLI_DATABASE__URL)"}
    assert not where.exists()


def test_a_locked_database_is_reported_with_a_remedy(cli: Cli, application: Application) -> None:
    with exclusively_locked(application):
        line = fault(cli("run-once", env=impatient(application)), 69)
    assert line == (
        f"{application.path}: database is locked: "
        "another transaction held a lock for too long; end it or, if it only reads, use WAL"
    )


@on_sqlite
def test_a_change_time_that_is_not_utf8_concerns_its_row_alone(
    at_work: Cli, application: Application, sandbox: Sandbox
) -> None:
    application.add(1)
    application.add(2)
    application.execute("UPDATE pending_messages SET updated_at = CAST(x'ff61' AS TEXT) WHERE id = 1")
    application.execute("UPDATE pending_messages SET updated_at = '2026-01-01 00:00:00' WHERE id = 2")
    first, second = at_work("run-once"), at_work("run-once")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    assert application.state(1) == "escalated"
    [(error,)] = application.asked("SELECT last_error FROM pending_messages WHERE id = 1")
    assert str(error).startswith("Can't be sent: updated_at is not valid UTF-8")
    assert len(sandbox.received) == 1


def test_a_read_only_database_is_reported_with_a_remedy(cli: Cli, application: Application) -> None:
    application.add(101)
    application.path.chmod(0o400)
    bound = without_roots_powers(cli).having(application.variables(API))
    line = fault(bound("run-once"), 69)
    assert line == (
        f"{application.path}: attempt to write a readonly database: "
        "check the owner, permissions and mount of the file and its folder"
    )
    assert bound("list-failed").stdout.startswith("101\t")


def test_what_may_not_be_accessed_is_reported_with_a_remedy(cli: Cli, application: Application) -> None:
    application.path.chmod(0)
    closed, locks = cli.cwd / "closed", cli.cwd / "locks"
    closed.mkdir(mode=0)
    locks.mkdir(mode=0o500)
    (cli.cwd / "settings.toml").touch(mode=0)
    bound = without_roots_powers(cli)
    in_folder = {"RETRYCLI_DATABASE__URL": f"sqlite:///{closed}/agent.db"}
    locked_by = {"RETRYCLI_RUN__LOCK_FILE": f"{locks}/retrycli.lock"}
    line = fault(bound("status", env=application.variables(API)), 69)
    assert line.startswith(f"{application.path}: unable to open database file: check the owner")
    assert fault(bound("status", env=in_folder), 69) == (
        f"can't access {closed}/agent.db: Permission denied; check the owner and permissions of the folders above it"
    )
    application.path.chmod(0o600)
    line = fault(bound("config", "check", env=application.variables(API) | locked_by), 78)
    assert line.startswith(f"can't open the lock file {locks}/retrycli.lock: Permission denied; set run.lock_file to")
    for arguments in (["--config", "settings.toml", "status"], ["status", "--config", "settings.toml"]):
        line = fault(bound(*arguments), 78)
        assert line == "can't read settings.toml: Permission denied; check its permissions and owner"


def test_a_file_that_is_not_a_database_is_left_alone(cli: Cli) -> None:
    file = cli.cwd / "agent.db"
    file.write_text("Dear database,\n" * 100)
    env = {"RETRYCLI_DATABASE__URL": f"sqlite:///{file}", "TICKETING_API_BASE_URL": API}
    line = fault(cli("run-once", env=env), 69)
    assert line == f"{file}: file is not a database: check database.url; encrypted files are not supported"
    assert file.read_text() == "Dear database,\n" * 100


def test_a_damaged_database_is_reported_with_a_remedy(cli: Cli, application: Application) -> None:
    application.add_due(20)
    content = bytearray(application.path.read_bytes())
    content[4096:] = bytes(byte ^ 0x5A for byte in content[4096:])
    application.path.write_bytes(content)
    line = fault(cli("run-once", env=application.variables(API)), 69)
    assert line == (
        f"{application.path}: database disk image is malformed: "
        "the file is damaged; restore it, or use `sqlite3 FILE .recover`"
    )


def test_another_applications_database_gets_no_retrycli_tables(cli: Cli) -> None:
    file = cli.cwd / "other.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    before = file.read_bytes()
    astray = cli.having({"RETRYCLI_DATABASE__URL": f"sqlite:///{file}", "TICKETING_API_BASE_URL": API})
    shown = astray.show_all(piped=["run-once", "run-once --dry-run", "status", "db upgrade", "init --config new.toml"])
    lines = {fault(done, 78) for done in shown.piped.values()}
    assert lines == {f"no table pending_messages in {file}; check database.url and database.table"}
    assert file.read_bytes() == before


def test_a_missing_required_column_is_named(cli: Cli, untouched: Application) -> None:
    untouched.execute("ALTER TABLE pending_messages DROP COLUMN last_error")
    before = untouched.dump()
    line = fault(cli("run-once", env=untouched.variables(API)), 78)
    assert line == (
        f"pending_messages in {untouched.path} has no column last_error; "
        "retrycli needs id, ticket_id, message_type, subject, body, status, retry_count, last_error. "
        "If the table's columns have other names, run `retrycli table describe`"
    )
    assert untouched.dump() == before


def test_the_minimal_table_is_enough(cli: Cli, sandbox: Sandbox) -> None:
    file = cli.cwd / "least.db"
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(
            "CREATE TABLE mail (id INTEGER PRIMARY KEY, ticket_id, message_type, "
            "subject, body, status, retry_count, last_error)"
        )
        connection.execute(
            "INSERT INTO mail VALUES (1, 'T-1', 'customer', 'Hello', 'How are you?', 'failed', NULL, NULL)"
        )
    env = {"RETRYCLI_DATABASE__URL": f"sqlite:///{file}", "TICKETING_API_BASE_URL": sandbox.url}
    assert cli.having({**env, "RETRYCLI_DATABASE__TABLE": "mail"}).json("run-once")["sent"] == 1
    assert [request.ticket_id for request in sandbox.received] == ["T-1"]


# -- rows ------------------------------------------------------------------------------------------------------------

BAD_ROWS: dict[int, tuple[dict[str, Any], str]] = {
    20: ({"body": None}, "body is missing"),
    21: ({"body": b"\x00\x01"}, "body must be text"),
    23: ({"retry_count": -1}, "retry_count must not be negative: -1"),
    24: ({"retry_count": "three"}, "retry_count must be an integer: 'three'"),
    25: ({"cc_emails": "not a list"}, "cc_emails is not valid JSON"),
    27: ({"created_at": "yesterday"}, "created_at is not a valid date: 'yesterday'"),
    29: ({"message_type": "fax"}, "message_type must be one of customer, supplier, internal: 'fax'"),
}


def test_rows_with_unusable_data_are_escalated_with_their_errors_and_others_are_delivered(
    at_work: Cli, application: Application, sandbox: Sandbox
) -> None:
    """In the JSON of `list-failed`, an invalid number or time is null, so that a bad row can't break the list."""
    application.fill_due()
    for message_id, (columns, _) in BAD_ROWS.items():
        application.add(message_id, **columns)
    before = application.rows()
    done = at_work("run-once")
    assert done.returncode == 0
    assert sorted(request.ticket_id for request in sandbox.received) == ["4705", "4706", "4707"]
    assert len(done.stderr.splitlines()) == 2 * len(BAD_ROWS)
    for message_id, (_, problem) in BAD_ROWS.items():
        assert application.row(message_id) == before[message_id] | {"last_error": f"Can't be sent: {problem}"}
        assert application.state(message_id) == "escalated"
        told = f"Message {message_id} needs an operator (invalid: {problem}); see `retrycli show {message_id}`\n"
        assert told in done.stderr
    listed = {message["id"]: message for message in at_work.json("list-failed")["messages"]}
    assert listed.keys() == BAD_ROWS.keys()
    assert (listed[24]["retry_count"], listed[27]["created_at"], listed[29]["max_retries"]) == (None, None, None)
    assert "24\t4724\tcustomer\tescalated\t?/10\t" in at_work("list-failed").stdout
    assert {escalation["reason"] for escalation in at_work.json("escalations")["escalations"]} == {"invalid"}
    assert at_work.json("show", "21")["message"]["body"] == "\0\1"
    assert at_work("show", "20").returncode == 0


# -- the lock --------------------------------------------------------------------------------------------------------


def test_a_lock_that_cannot_be_created_is_reported_with_its_setting(cli: Cli, application: Application) -> None:
    application.add(101)
    before = application.rows()
    done = cli("run-once", env={**application.variables(API), "RETRYCLI_RUN__LOCK_FILE": "."})
    assert fault(done, 78) == (
        "can't open the lock file .: Is a directory; "
        "set run.lock_file to a path that the user who runs retrycli can write to"
    )
    assert application.rows() == before


# -- settings --------------------------------------------------------------------------------------------------------


WRONG_SETTINGS: dict[tuple[str, str], str] = {
    ("TICKETING_API_BASE_URL", "tickets.example.com"): (
        "gateway.base_url (environment TICKETING_API_BASE_URL): the URL must have a supported scheme and a host, such "
        "as https://tickets.example.com/api"
    ),
    ("RETRYCLI_SCHEDULE__MAX_RETRIES", "ten"): "schedule.max_retries (environment RETRYCLI_SCHEDULE__MAX_RETRIES): ",
    ("RETRYCLI_RUN__CONCURENCY", "8"): "run.concurency (environment RETRYCLI_RUN__CONCURENCY): no such setting",
    ("RETRYCLI_DATABASE__URL", "mysql://desk:secret@db/desk"): (
        "database.url (environment RETRYCLI_DATABASE__URL): write sqlite:///FILE or postgresql://USER@HOST/NAME; "
        "no other database is supported"
    ),
    ("RETRYCLI_DATABASE__URL", "sqlite://"): "database.url names no file; write sqlite:///PATH",
    ("RETRYCLI_GATEWAY__PRESET", "zendsk"): (
        "gateway.preset: no preset 'zendsk'; give a .toml file, or one of freescout"
    ),
    ("RETRYCLI_CONFIG", "/no/such.toml"): "no configuration file /no/such.toml ($RETRYCLI_CONFIG); `retrycli init` ",
}


@pytest.mark.parametrize(("setting", "said"), WRONG_SETTINGS.items())
def test_an_invalid_setting_is_named_with_its_source_and_remedy(
    cli: Cli, application: Application, setting: tuple[str, str], said: str
) -> None:
    done = cli("config", "check", env=application.variables(API) | dict([setting]))
    assert said in fault(done, 78)
    assert "secret" not in done.stderr
