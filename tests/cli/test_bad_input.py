"""External faults: a command prints one line with the problem and the remedy, and loses nothing."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass
from random import Random
from subprocess import TimeoutExpired
from typing import TYPE_CHECKING, Any

import pytest

from retrycli.operations.sandbox import Behaviour, Sandbox
from tests.cli.api import held_back
from tests.cli.command import Cli, end
from tests.conftest import on_sqlite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.application import Application, Row
    from tests.cli.command import Finished
    from tests.cli.conftest import Prepared

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


def test_a_database_locked_during_a_pass_loses_no_answer(cli: Cli, application: Application) -> None:
    """The pass keeps the answer, and repeats the write until the lock is free."""
    application.add(101)
    with held_back() as (sandbox, gate):
        env = {**impatient(application), "TICKETING_API_BASE_URL": sandbox.url}
        process = cli.having(env).start("run-once")
        assert gate.reached.wait(60)
        with exclusively_locked(application):
            gate.opened.set()
            with pytest.raises(TimeoutExpired):
                process.wait(20 * PATIENCE_SECONDS)
        done = end(process)
    assert (done.returncode, done.stderr) == (0, "")
    assert (application.row(101)["status"], application.state(101)) == ("sent", None)
    assert [attempt["outcome"] for attempt in application.rows("retrycli_attempts").values()] == ["delivered"]


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


def test_an_unreadable_file_is_reported_with_a_remedy(cli: Cli, application: Application) -> None:
    application.path.chmod(0)
    line = fault(without_roots_powers(cli)("status", env=application.variables(API)), 69)
    assert line.startswith(f"{application.path}: unable to open database file: check the owner")


def test_a_file_in_an_inaccessible_directory_is_reported_with_a_remedy(cli: Cli) -> None:
    closed = cli.cwd / "closed"
    closed.mkdir(mode=0)
    bound = without_roots_powers(cli)
    there = {"RETRYCLI_DATABASE__URL": f"sqlite:///{closed}/agent.db"}
    assert fault(bound("status", env=there), 69) == (
        f"can't access {closed}/agent.db: Permission denied; check the owner and permissions of the folders above it"
    )


def test_a_file_that_is_not_a_database_is_left_alone(cli: Cli) -> None:
    file = cli.cwd / "agent.db"
    file.write_text("Dear database,\n" * 100)
    line = fault(
        cli("run-once", env={"RETRYCLI_DATABASE__URL": f"sqlite:///{file}", "TICKETING_API_BASE_URL": API}), 69
    )
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
    22: ({"subject": b"\xff"}, "subject must be text"),
    23: ({"retry_count": -1}, "retry_count must not be negative: -1"),
    24: ({"retry_count": "three"}, "retry_count must be an integer: 'three'"),
    25: ({"cc_emails": "not a list"}, "cc_emails is not valid JSON"),
    26: ({"bcc_emails": '{"to": 1}'}, "bcc_emails must be a JSON list"),
    27: ({"created_at": "yesterday"}, "created_at is not a valid date: 'yesterday'"),
    28: ({"updated_at": "2026-13-45 00:00:00"}, "updated_at is not a valid date: '2026-13-45 00:00:00'"),
    29: ({"message_type": "fax"}, "message_type must be one of customer, supplier, internal: 'fax'"),
    30: ({"ticket_id": ""}, "ticket_id is missing"),
}


@dataclass(frozen=True)
class Mixed:
    """One pass over an invalid row of each kind and three good messages."""

    cli: Cli
    application: Application
    before: dict[object, Row]
    done: Finished
    tickets: list[str]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, prepared: Prepared) -> Iterator[Mixed]:
    """Run the pass of `Mixed` once for several tests, and provide its result."""
    folder = tmp_path_factory.mktemp("rows")
    with prepared(folder) as application:
        application.fill_due()
        for message_id, (columns, _) in BAD_ROWS.items():
            application.add(message_id, **columns)
        before = application.rows()
        with Sandbox(Behaviour(), rng=Random(0)) as sandbox:
            cli = Cli(folder, application.variables(sandbox.url))
            done = cli("run-once")
            yield Mixed(cli, application, before, done, [request.ticket_id for request in sandbox.received])


@pytest.mark.parametrize("message_id", BAD_ROWS)
def test_a_row_with_unusable_data_is_escalated_with_its_error(mixed: Mixed, message_id: int) -> None:
    problem = BAD_ROWS[message_id][1]
    assert mixed.application.row(message_id) == mixed.before[message_id] | {"last_error": f"Can't be sent: {problem}"}
    assert mixed.application.state(message_id) == "escalated"
    assert f"Message {message_id} needs an operator (invalid: {problem}); see `retrycli show {message_id}`\n" in (
        mixed.done.stderr
    )


def test_the_other_messages_are_delivered(mixed: Mixed) -> None:
    assert mixed.done.returncode == 0
    assert sorted(mixed.tickets) == ["4705", "4706", "4707"]
    assert mixed.done.stderr.count("METRIC: message_escalated") == len(BAD_ROWS)
    assert len(mixed.done.stderr.splitlines()) == 2 * len(BAD_ROWS)


def test_rows_with_unusable_data_can_be_listed_and_shown(mixed: Mixed) -> None:
    """In the JSON of `list-failed`, an invalid number or time is null, so that a bad row can't break the list."""
    shown = mixed.cli.show_all(
        piped=["list-failed --json", "list-failed", "escalations --json", "show 21 --json", "show 20"]
    )
    listed = {message["id"]: message for message in shown.json("list-failed --json")["messages"]}
    assert listed.keys() == BAD_ROWS.keys()
    assert (listed[24]["retry_count"], listed[27]["created_at"], listed[29]["max_retries"]) == (None, None, None)
    assert "24\t4724\tcustomer\tescalated\t?/10\t" in shown.piped["list-failed"].stdout
    assert {escalation["reason"] for escalation in shown.json("escalations --json")["escalations"]} == {"invalid"}
    assert shown.json("show 21 --json")["message"]["body"] == "\0\1"
    assert shown.piped["show 20"].returncode == 0


# -- the lock --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("no/such/folder/retrycli.lock", "No such file or directory"),
        (".", "Is a directory"),
        ("link.lock", "Too many levels of symbolic links"),
    ],
)
def test_a_lock_that_cannot_be_created_is_reported_with_its_setting(
    cli: Cli, application: Application, place: str, reason: str
) -> None:
    application.add(101)
    before = application.rows()
    (cli.cwd / "link.lock").symlink_to(application.path)
    done = cli("run-once", env={**application.variables(API), "RETRYCLI_RUN__LOCK_FILE": place})
    assert fault(done, 78) == (
        f"can't open the lock file {place}: {reason}; "
        "set run.lock_file to a path that the user who runs retrycli can write to"
    )
    assert application.rows() == before


def test_an_unwritable_lock_directory_is_reported_with_its_setting(cli: Cli, application: Application) -> None:
    folder = cli.cwd / "locks"
    folder.mkdir(mode=0o500)
    lock = folder / "retrycli.lock"
    env = {**application.variables(API), "RETRYCLI_RUN__LOCK_FILE": str(lock)}
    line = fault(without_roots_powers(cli)("config", "check", env=env), 78)
    assert line.startswith(f"can't open the lock file {lock}: Permission denied; set run.lock_file to a path")


# -- settings --------------------------------------------------------------------------------------------------------


NO_OTHER = (
    "database.url (environment RETRYCLI_DATABASE__URL): write sqlite:///FILE or postgresql://USER@HOST/NAME; "
    "no other database is supported"
)
WRONG_SETTINGS: dict[tuple[str, str], str] = {
    ("TICKETING_API_BASE_URL", "tickets.example.com"): (
        "gateway.base_url (environment TICKETING_API_BASE_URL): the URL must have a supported scheme and a host, such "
        "as https://tickets.example.com/api"
    ),
    ("RETRYCLI_RUN__CONCURENCY", "8"): "run.concurency (environment RETRYCLI_RUN__CONCURENCY): no such setting",
    ("RETRYCLI_DATABASE__URL", "mysql://desk:secret@db/desk"): NO_OTHER,
    ("RETRYCLI_DATABASE__URL", "mariadb+pymysql://desk:secret@db/desk"): NO_OTHER,
    ("RETRYCLI_DATABASE__URL", "sqlite://"): "database.url names no file; write sqlite:///PATH",
    ("RETRYCLI_SCHEDULE__MAX_RETRIES", "ten"): "schedule.max_retries (environment RETRYCLI_SCHEDULE__MAX_RETRIES): ",
    ("RETRYCLI_GATEWAY__AUTH", "bearer"): "gateway.auth = 'bearer' needs gateway.token or gateway.token_file",
    ("RETRYCLI_GATEWAY__TOKEN_FILE", "/no/such/token"): (
        "gateway.token_file: can't read /no/such/token: No such file or directory"
    ),
    (
        "RETRYCLI_GATEWAY__PRESET",
        "zendsk",
    ): "gateway.preset: no preset 'zendsk'; give a .toml file, or one of freescout",
    (
        "RETRYCLI_CONFIG",
        "/no/such.toml",
    ): "no configuration file /no/such.toml ($RETRYCLI_CONFIG); `retrycli init` creates",
}
WRONG_FILES = {
    b"[gateway\n": "is not valid TOML: Expected ']' at the end of a table declaration (at line 1, column 9)",
    b"\xff\n": "is not valid UTF-8; save it as UTF-8",
    b"schedule = 3\n": "schedule (file ",
    b'[gateway]\nbase_uri = "http://one"\n': "): no such setting",
}


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory, prepared: Prepared) -> dict[tuple[str, str] | bytes, Finished]:
    """Run ``config`` with each wrong setting and file. ``config show`` is faster, but misses some errors."""
    folder = tmp_path_factory.mktemp("settings")
    with prepared(folder) as application:
        cli = Cli(folder, application.variables(API))
        done: dict[tuple[str, str] | bytes, Finished] = {}
        for name, value in WRONG_SETTINGS:
            command = "check" if value in {"sqlite://", "zendsk"} else "show"
            done[name, value] = cli("config", command, env={name: value})
        for number, content in enumerate(WRONG_FILES):
            file = folder / f"{number}.toml"
            file.write_bytes(content)
            done[content] = cli("--config", file, "config", "show")
        return done


def test_an_invalid_setting_is_named_with_its_source_and_remedy(
    checked: dict[tuple[str, str] | bytes, Finished],
) -> None:
    said = {setting: fault(checked[setting], 78) for setting in WRONG_SETTINGS}
    assert {
        setting: said[setting] for setting, expected in WRONG_SETTINGS.items() if expected not in said[setting]
    } == {}
    assert [setting for setting in WRONG_SETTINGS if "secret" in checked[setting].stderr] == []


def test_an_invalid_configuration_file_is_reported_with_its_error(
    checked: dict[tuple[str, str] | bytes, Finished],
) -> None:
    said = {content: fault(checked[content], 78) for content in WRONG_FILES}
    assert {content: text for content, text in said.items() if WRONG_FILES[content] not in text} == {}


def test_an_unreadable_configuration_file_is_reported(cli: Cli) -> None:
    file = cli.cwd / "retrycli.toml"
    file.touch(mode=0)
    us = without_roots_powers(cli)
    for arguments in (["status"], ["--config", "retrycli.toml", "status"], ["status", "--config", "retrycli.toml"]):
        assert (
            fault(us(*arguments), 78) == "can't read retrycli.toml: Permission denied; check its permissions and owner"
        )
