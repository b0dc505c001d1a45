"""The database: errors for an unusable one, the application's table, and upgrades of retrycli's own tables."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    CHAR,
    BigInteger,
    Column,
    Double,
    LargeBinary,
    MetaData,
    Numeric,
    Text,
    Update,
    Uuid,
    insert,
    inspect,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import DOMAIN, JSONB

from retrycli.domain.errors import ConfigurationError, DatabaseUnavailable, RetrycliError, SchemaMismatch
from retrycli.domain.listing import Filter
from retrycli.domain.message import Message, UnusableMessage
from retrycli.domain.transition import Decision, IdRange, Transition
from retrycli.store import own_tables, schema
from retrycli.store.claims import Claims
from retrycli.store.connection import NO_RESULT
from retrycli.store.database import Database
from retrycli.store.enrolment import Enrolment
from retrycli.store.history import message_details
from retrycli.store.listing import MessageQueries
from retrycli.store.passes import Ledger
from tests.store.application import NOON, Application, bare_table, is_sqlite, opened
from tests.store.conftest import Factory, application_with, file_of, in_every_mode
from tests.store.own_tables import PASS, begin, enrol, queue_rows

if TYPE_CHECKING:
    from sqlalchemy.types import TypeEngine

OWN_TABLES = {
    "retrycli_acts",
    "retrycli_queue",
    "retrycli_attempts",
    "retrycli_passes",
    "retrycli_breakers",
    "retrycli_escalations",
    "retrycli_holds",
    "retrycli_pause",
    "retrycli_rates",
    "retrycli_selection",
    "retrycli_keys",
    "retrycli_own_values",
    "retrycli_told",
    "retrycli_totals",
}


def tables_of(database: Database) -> set[str]:
    with database.read() as connection:
        return {name for name in inspect(connection).get_table_names() if name.startswith("retrycli_")}


def words_of(url: str, kind: type[RetrycliError], table: str = "pending_messages") -> str:
    """Return the text of the error that `use` raises."""
    with pytest.raises(kind) as raised:
        use(url, table)
    text = str(raised.value)
    assert "\n" not in text
    return text


def use(url: str, table: str = "pending_messages") -> None:
    database = Database(url, table)
    try:
        own_tables.ensure_tables(database, upgrade=True)
        assert database.messages is not None
    finally:
        database.close()


def test_a_statement_is_compiled_only_once_in_a_process(application: Application, database: Database) -> None:
    with opened(application) as again:
        compiled = [_compiled(each) for each in (database, again)]
    assert compiled[0] is compiled[1]


def _compiled(database: Database) -> object:
    with database.read() as connection:
        return connection.execute(select(schema.queue.c.message_id)).context.compiled


@pytest.mark.parametrize("url", ["sqlite:///{}", "sqlite:///file:{}?uri=true", "sqlite:///file://{}?uri=true&mode=rwc"])
def test_a_missing_file_is_named_and_not_created(tmp_path: Path, url: str) -> None:
    path = tmp_path / "agent.db"
    text = words_of(url.format(path), DatabaseUnavailable)
    assert str(path) in text
    assert "database.url" in text
    assert list(tmp_path.iterdir()) == []


def test_a_relative_path_and_a_directory_are_shown_in_full(tmp_path: Path) -> None:
    """The full path shows the directory in which cron searched for the file."""
    relative = os.path.relpath(tmp_path / "agent.db")
    assert str(Path(relative).absolute()) in words_of(f"sqlite:///{relative}", DatabaseUnavailable)
    assert str(tmp_path) in words_of(f"sqlite:///{tmp_path}", DatabaseUnavailable)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_an_in_memory_database_is_refused(url: str) -> None:
    assert "names no file" in words_of(url, ConfigurationError)


def test_a_missing_driver_is_named(tmp_path: Path) -> None:
    (tmp_path / "agent.db").touch()
    text = words_of(f"sqlite+pysqlcipher:///{tmp_path / 'agent.db'}", ConfigurationError)
    assert "sqlcipher3 is not installed" in text
    assert "database.url" in text


@in_every_mode
def test_the_application_can_read_while_a_claim_is_written(application: Application, database: Database) -> None:
    application.add()
    enrol(database, [1])
    with database.write():
        assert application.row(1)["status"] == "failed"


def test_an_unreachable_server_is_named_without_its_password(tmp_path: Path) -> None:
    text = words_of(f"postgresql://agent:s3cret@/tickets?host={tmp_path}", DatabaseUnavailable)
    assert "agent:***@" in text
    assert "s3cret" not in text


def test_an_error_does_not_show_the_values_of_its_statement(database: Database) -> None:
    """Values may be customers' words, and errors reach the log."""

    def fail() -> None:
        with database.write() as connection:
            connection.execute(schema.pause.insert().values(since=None, by="a customer's words"))

    with pytest.raises(DatabaseUnavailable) as raised:
        fail()
    cause: BaseException | None = raised.value
    while cause is not None:
        assert "a customer's words" not in str(cause)
        cause = cause.__cause__


@in_every_mode
def test_writes_in_one_block_are_rolled_back_together(application: Application, database: Database) -> None:

    def fail() -> None:
        with database.transaction():
            with database.transaction():
                enrol(database, [1])
            enrol(database, [2])
            raise ZeroDivisionError

    application.add_all([{}, {}, {}])
    with pytest.raises(ZeroDivisionError):
        fail()
    enrol(database, [3])
    assert queue_rows(database).keys() == {3}


def renamed(database: Database, subject: str) -> Update:
    """Return a statement that updates all subjects. Its result is not awaited."""
    return update(database.table.written).values(subject=subject).execution_options(**NO_RESULT)


@in_every_mode
def test_an_unawaited_write_is_visible_to_later_reads_and_committed(
    application: Application, database: Database
) -> None:
    application.add_all([{}, {}])
    with database.write() as connection:
        connection.execute(renamed(database, "new"))
        assert set(connection.execute(select(database.messages.c.subject)).scalars()) == {"new"}
        connection.execute(renamed(database, "newer"))
        assert connection.execute(update(database.table.written).values(subject="newest")).rowcount == 2
        connection.execute(renamed(database, "last"))
    assert [row["subject"] for row in application.rows().values()] == ["last", "last"]


@pytest.mark.parametrize("read_at_the_end", [False, True])
def test_of_unawaited_writes_nothing_is_committed_if_one_fails(
    application: Application, database: Database, *, read_at_the_end: bool
) -> None:
    def fail() -> None:
        with database.write() as connection:
            connection.execute(renamed(database, "new"))
            connection.execute(twice)
            connection.execute(twice)
            connection.execute(renamed(database, "newer"))
            if read_at_the_end:
                connection.execute(select(database.messages.c.subject))

    application.add(subject="old")
    passes = {"host": "mail", "pid": 1, "started_at": NOON, "heartbeat_at": NOON}
    counts = dict.fromkeys(("sent", "rescheduled", "escalated", "unknown", "released"), 0)
    twice = insert(schema.passes).values(id="1", **passes, **counts).execution_options(**NO_RESULT)
    with pytest.raises(DatabaseUnavailable, match=r"if this constraint is on the application|UNIQUE constraint failed"):
        fail()
    assert [row["subject"] for row in application.rows().values()] == ["old"]
    assert Ledger(database).last_passes(1) == []


@in_every_mode
def test_a_dry_run_commits_nothing(untouched: Application) -> None:
    """The dry run itself sees its tables and writes."""
    untouched.add()
    before = untouched.rows()
    database = Database(untouched.url)
    with database.rollback_at_end():
        own_tables.ensure_tables(database, upgrade=True)
        with database.transaction():
            Enrolment(database).enrol([(Decision(1, Transition.invalid("no body")), NOON, 1)], NOON)
        assert queue_rows(database).keys() == {1}
    assert tables_of(database) == set()
    assert untouched.rows() == before
    database.close()


def test_a_dry_run_holds_the_write_lock_from_its_start_until_it_fails(sqlite_application: Application) -> None:
    """Otherwise the application could take the lock, and a later write of the dry run would fail."""

    def fail() -> None:
        with database.rollback_at_end():
            other = sqlite3.connect(file_of(sqlite_application.url), timeout=0)
            with closing(other), pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("UPDATE pending_messages SET priority = 9")
            enrol(database, [1])
            raise ZeroDivisionError

    sqlite_application.add_all([{}, {}])
    with opened(sqlite_application) as database:
        with pytest.raises(ZeroDivisionError):
            fail()
        enrol(database, [2])
        assert queue_rows(database).keys() == {2}


def test_a_missing_schema_is_named(untouched: Application) -> None:
    with pytest.raises(RetrycliError, match=r"helpdesk"):
        use(untouched.url, "helpdesk.pending_messages")


@pytest.mark.parametrize("table", ["outbox", "Pending Messages", "helpdesk.pending_messages"])
def test_the_table_may_have_another_name_and_schema(engine: Factory, tmp_path: Path, table: str) -> None:
    with engine(tmp_path, None) as url:
        # In SQLite a schema is an attached file. The schema of the main file is called main.
        name = table.replace("helpdesk", "main") if is_sqlite(url) else table
        with closing(Application(url, name, kind=bare_table)) as made:
            made.add()
            with opened(made) as database:
                assert [message.id for message in MessageQueries(database).messages(Filter())] == [1]
                assert deliver(database) == {1: "sent"}
            assert made.row(1)["status"] == "sent"


def deliver(database: Database) -> dict[int, str]:
    """Enrol every failed message and record its delivery; return the new status by id."""
    enrolment, claims = Enrolment(database), Claims(database)
    enrol(database, [message.id for message in MessageQueries(database).messages(Filter())])
    ids = claims.claim(PASS, NOON, 100)
    begin(claims, ids)
    sent = [Decision(message_id, Transition.delivered(), finished_at=NOON) for message_id in ids]
    assert claims.results.record(PASS, sent, NOON).lost == set()
    assert enrolment.newly_failed(IdRange(None, None), 100) == []
    return dict.fromkeys(ids, "sent")


@pytest.mark.parametrize("column", ["subject", "ticket_id", "status"])
def test_text_that_is_not_valid_utf8_is_read_and_named(loose_application: Application, column: str) -> None:
    """One invalid row must not stop the others. A row whose status is not valid UTF-8 is not failed."""
    loose_application.add_all([{}, {}])
    loose_application.sql(f"UPDATE pending_messages SET {column} = CAST(x'636166e9' AS TEXT) WHERE id = 1")
    with opened(loose_application) as database:
        enrolment = Enrolment(database)
        found = {message.id: message for message in MessageQueries(database).messages(Filter())}
        fresh = enrolment.newly_failed(IdRange(None, None), 10)
        if column == "status":
            assert found.keys() == {2}
            assert len(fresh) == 1
            return
        assert found.keys() == {1, 2}
        assert isinstance(fresh[0], UnusableMessage)
        assert column in fresh[0].problem
        fresh[0].problem.encode()
        enrolment.enrol([(Decision(1, Transition.invalid(fresh[0].problem)), NOON, fresh[0].ticket_id)], NOON)
        assert queue_rows(database)[1]["escalation_reason"] == "invalid"


UNFIT = [
    ("sqlite", Column("id", LargeBinary, primary_key=True), "a column id that holds bytes"),
    ("postgresql", Column("id", LargeBinary, primary_key=True), "a column id that holds bytes"),
    ("sqlite", Column("sent_at", BigInteger), "a column sent_at that is of a numeric type"),
    ("postgresql", Column("sent_at", Double), "a column sent_at that is of a numeric type"),
    ("postgresql", Column("retry_count", Text), "a column retry_count that is of a text type"),
    ("postgresql", Column("last_error", JSONB), "a column last_error that is of a JSON type"),
]


@pytest.mark.parametrize(("engine", "unfit", "told"), UNFIT, indirect=["engine"])
def test_a_column_of_an_unsuitable_type_is_named(
    engine: Factory, tmp_path: Path, unfit: Column[Any], told: str
) -> None:
    """An unsuitable column must be found before anything is sent."""
    with (
        application_with(engine, tmp_path, unfit) as made,
        closing(Database(made.url)) as database,
        pytest.raises(SchemaMismatch, match=told),
    ):
        _ = database.messages


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    ("name", "kind", "kept", "read"),
    [
        ("id", Numeric(20), 7, 7),
        ("retry_count", Numeric, 3, 3),
        ("ticket_id", Numeric, 12345, 12345),
        ("ticket_id", Uuid, UUID(int=1), str(UUID(int=1))),
        ("id", DOMAIN("whole", Numeric), 7, 7),
        ("ticket_id", DOMAIN("whole", Numeric), 12345, 12345),
    ],
)
def test_numbers_and_tickets_may_have_types_unknown_to_python(
    engine: Factory, tmp_path: Path, name: str, kind: TypeEngine[Any], kept: object, read: object
) -> None:
    column: Column[Any] = Column(name, kind, primary_key=name == "id", autoincrement=False)
    with application_with(engine, tmp_path, column) as made, opened(made) as database:
        made.add_all([{"id": 7, name: kept}])
        [fresh] = Enrolment(database).newly_failed(IdRange(None, None), 10)
        assert repr(getattr(fresh, name)) == repr(read)
        assert repr(message_details(database, 7).row[name]) == repr(read)
        assert deliver(database) == {7: "sent"}
        assert [row["status"] for row in made.rows().values()] == ["sent"]


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
@pytest.mark.parametrize(("name", "value"), [("message_type", "supplier"), ("ticket_id", "T-1")])
def test_texts_may_be_padded_with_blanks(engine: Factory, tmp_path: Path, name: str, value: str) -> None:
    """CHAR columns pad their values with blanks. A padded type or ticket would match nothing."""
    with application_with(engine, tmp_path, Column(name, CHAR(20))) as made, opened(made) as database:
        made.add_all([{"id": 7, name: value}])
        [fresh] = Enrolment(database).newly_failed(IdRange(None, None), 10)
        assert isinstance(fresh, Message)
        assert getattr(fresh, name) == fresh.fields[name] == value
        assert message_details(database, 7).row[name] == value
        assert deliver(database) == {7: "sent"}


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
def test_a_column_of_an_unknown_type_causes_no_warning(engine: Factory, tmp_path: Path) -> None:
    """An unused column may have a type from an extension. Cron would mail SQLAlchemy's warning for each pass."""
    with engine(tmp_path, None) as url, closing(Application(url)) as made, closing(Database(url)) as database:
        made.sql("ALTER TABLE pending_messages ADD COLUMN place point")
        assert "place" in database.messages.c


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
@pytest.mark.parametrize("number", ["1.5", "'NaN'", "'Infinity'", "1e5000"])
def test_a_number_that_is_not_an_integer_makes_its_message_invalid(
    engine: Factory, tmp_path: Path, number: str
) -> None:
    with application_with(engine, tmp_path, Column("ticket_id", Numeric)) as made, opened(made) as database:
        made.add(ticket_id=None)
        made.sql(f"UPDATE pending_messages SET ticket_id = {number}")
        [fresh] = Enrolment(database).newly_failed(IdRange(None, None), 10)
        assert isinstance(fresh, UnusableMessage)
        assert fresh.problem == "ticket_id must be an integer or text"


def test_a_body_that_is_not_valid_utf8_is_named_when_it_is_loaded(loose_application: Application) -> None:
    loose_application.add()
    loose_application.sql("UPDATE pending_messages SET body = CAST(x'636166e9' AS TEXT)")
    with opened(loose_application) as database:
        enrol(database, [1])
        claims = Claims(database)
        (bad,) = begin(claims, claims.claim(PASS, NOON, 1))
        assert isinstance(bad, UnusableMessage)
        assert bad.problem == "body is not valid UTF-8"
        assert message_details(database, 1, body=True).row["body"] == "caf\udce9"


def test_a_new_database_gets_the_tables_at_the_first_call(untouched: Application) -> None:
    """Creating the tables is not an upgrade, so it needs no permission."""
    with opened(untouched, upgrade=False) as database:
        assert tables_of(database) == {*OWN_TABLES, "retrycli_version"}
        assert database.revision() == schema.HEAD


@pytest.mark.parametrize("upgrade", [True, False])
@pytest.mark.parametrize(
    ("version", "why"), [("9999", "install a newer retrycli"), ("0008", "no upgrade leads from it")]
)
def test_tables_of_another_version_are_refused(database: Database, version: str, why: str, *, upgrade: bool) -> None:
    with database.write() as connection:
        connection.execute(update(schema.version).values(version_num=version))
    with pytest.raises(ConfigurationError, match=f"version {version}.*{why}"):
        own_tables.ensure_tables(database, upgrade=upgrade)
    assert database.revision() == version


def alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", "retrycli:store/migrations")
    config.set_main_option("path_separator", "os")
    return config


def test_the_schema_names_the_newest_revision() -> None:
    assert ScriptDirectory.from_config(alembic()).get_heads() == [schema.HEAD]


def own(name: str | None, kind: str, _parents: object) -> bool:
    return kind != "table" or (name or "").startswith("retrycli_")


def differences(database: Database, metadata: MetaData) -> list[Any]:
    """Return the changes that Alembic would make so that the database matches the metadata."""
    options = {"compare_type": True, "include_name": own, "version_table": "retrycli_version"}
    with database.read() as connection:
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


def test_the_migrations_build_what_the_schema_describes(database: Database) -> None:
    assert differences(database, schema.metadata) == []


MAKE_TABLES = """
import sys
import alembic.command
from retrycli.store import own_tables
from retrycli.store.database import Database

for url in sys.argv[1:]:
    database = Database(url)
    print("ready", flush=True)
    sys.stdin.readline()
    own_tables.ensure_tables(database, upgrade=True)
    print(database.revision(), flush=True)
    database.close()
"""
ROUNDS = 3


@in_every_mode
def test_two_processes_can_create_the_tables_concurrently(engine: Factory, tmp_path: Path) -> None:
    make = partial(subprocess.Popen, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    answers: list[list[str]] = []
    with ExitStack() as stack:
        folders = [tmp_path / str(number) for number in range(ROUNDS)]
        for folder in folders:
            folder.mkdir()
        urls = [stack.enter_context(engine(folder, None)) for folder in folders]
        for url in urls:
            stack.enter_context(closing(Application(url))).add()
        processes = [stack.enter_context(make([sys.executable, "-c", MAKE_TABLES, *urls])) for _ in range(2)]
        for _ in urls:
            assert [line_of(result) for result in processes] == ["ready", "ready"]
            for result in processes:
                assert result.stdin is not None
                result.stdin.write("go\n")
                result.stdin.flush()
            answers.append([line_of(result) for result in processes])
    assert [result.returncode for result in processes] == [0, 0]
    assert answers == [[schema.HEAD, schema.HEAD]] * ROUNDS


@in_every_mode
def test_tables_that_another_process_creates_first_are_used(engine: Factory, tmp_path: Path) -> None:
    class Overtaken(Database):
        def revision(self) -> str | None:
            found = super().revision()
            if found is None:
                with closing(Database(url)) as other:
                    own_tables.ensure_tables(other, upgrade=True)
            return found

    with engine(tmp_path, None) as url, closing(Application(url)), closing(Overtaken(url)) as database:
        own_tables.ensure_tables(database, upgrade=True)
        assert database.revision() == schema.HEAD


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("postgresql://ana:s3cret@db.example.com:port/desk", "is not a valid database URL"),
        ("s3cret", "is not a valid database URL"),
        ("postgresql://ana:a@s3cret@db/desk", "write %40 for it"),
        ("postgresql://ana:a@b/s3cret@db/desk", "write %40 for it"),
    ],
)
def test_an_invalid_url_is_an_invalid_setting_and_is_not_quoted(url: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"database\.url.*{problem}") as raised:
        Database(url)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://ana:s3cret@db/desk?sslmode=require", "postgresql://ana:***@db/desk?sslmode=require"),
        ("postgresql://ana@/desk?password=s3cret&host=db", "postgresql://ana@/desk?host=db"),
        ("postgresql://ana@db/desk?sslpassword=s3cret&oauth_client_secret=s3cret", "postgresql://ana@db/desk"),
    ],
)
def test_a_servers_place_is_its_url_without_passwords(url: str, place: str) -> None:
    with closing(Database(url)) as database:
        assert database.place == place
