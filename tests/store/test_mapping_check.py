"""The checks of the settings that describe an application's table: expressions, and the values of statuses."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from retrycli.domain.errors import DatabaseUnavailable, SchemaMismatch
from retrycli.domain.message import Message, UnusableMessage
from retrycli.domain.table_mapping import parse_mapping
from retrycli.store.catalogue import TableFacts, required_privileges
from retrycli.store.database import Database
from retrycli.store.mapping_check import check_expressions, check_statuses, check_values, count_left_out, unreadable
from retrycli.store.messages import message_of, rows_of
from retrycli.store.table_sample import ROWS
from retrycli.store.write_check import check_writable
from tests.store.application import NOON
from tests.store.conftest import Factory

COLUMNS = (
    "id INTEGER PRIMARY KEY, ticket_id INTEGER, message_type VARCHAR(20), subject TEXT, body TEXT, {}, "
    "retry_count INTEGER, last_error TEXT"
)
STATUS = {"failed": "Failed", "sent": "Sent"}
TICKETS = ("CREATE TABLE tickets (id INTEGER, number TEXT)", "INSERT INTO tickets VALUES (5, 'DESK-4705')")
NUMBER = "(SELECT t.number FROM tickets t WHERE t.id = mails.ticket_id)"

Open = Callable[..., Database]


@pytest.fixture
def mails(engine: Factory, tmp_path: Path) -> Iterator[Open]:
    """Provide a function that creates the table ``mails``, and opens its database with settings that describe it."""
    with ExitStack() as until_the_end:
        url = until_the_end.enter_context(engine(tmp_path, None))

        def make(
            *statements: str,
            status: str = "status VARCHAR(20)",
            columns: Mapping[str, object] | None = None,
            words: Mapping[str, object] = STATUS,
            where: str | None = None,
        ) -> Database:
            table = f"CREATE TABLE mails ({COLUMNS.format(status)})"
            with (made := create_engine(url)).begin() as connection:
                for statement in (table, *statements):
                    connection.exec_driver_sql(statement)
            made.dispose()
            database = Database(url, "mails", parse_mapping(columns or {}, words, where))
            until_the_end.callback(database.close)
            return database

        yield make


def row(message_id: int, status: str, **values: str) -> str:
    columns = {"id": str(message_id), "ticket_id": "5", "body": "'My secret'", "status": status, **values}
    return f"INSERT INTO mails ({', '.join(columns)}) VALUES ({', '.join(columns.values())})"


NO_COLUMN = '(no such column: {0}|column "{0}" does not exist)'


def refused(setting: str, why: str) -> str:
    """Return the pattern of a complete error, which quotes neither a row nor a statement."""
    return rf"database\.{setting} can't be used with mails: {why}; correct database\.{setting}"


def test_settings_that_fit_the_table_are_accepted(mails: Open) -> None:
    """A row that the condition leaves out may have two tickets."""
    database = mails(
        *TICKETS,
        "INSERT INTO tickets VALUES (6, 'DESK-4706'), (6, 'DESK-4707')",
        row(1, "'Failed'"),
        row(2, "'Failed'", ticket_id="6", subject="'x'"),
        columns={"ticket_id": {"sql": NUMBER}},
        where="subject IS NULL -- a comment",
    )
    check_expressions(database)
    check_values(database)
    check_statuses(database)


@pytest.mark.parametrize(
    ("columns", "where", "setting", "missing"),
    [
        ({"subject": {"sql": "lower(title)"}, "body": {"sql": "'x'"}}, None, "columns.subject", "title"),
        ({}, "template_id IS NULL", "where", "template_id"),
    ],
)
def test_an_expression_or_a_condition_with_an_error_is_named(
    mails: Open, columns: dict[str, object], where: str | None, setting: str, missing: str
) -> None:
    with pytest.raises(SchemaMismatch, match=f"^{refused(setting, NO_COLUMN.format(missing))}$"):
        check_expressions(mails(columns=columns, where=where))


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
def test_an_expression_that_writes_is_named_and_writes_nothing_even_in_an_empty_table(mails: Open) -> None:
    database = mails("CREATE SEQUENCE numbers", columns={"ticket_id": {"sql": "nextval('numbers')"}})
    with pytest.raises(SchemaMismatch, match=r"^database\.columns\.ticket_id .* it would write, but it may only read"):
        check_expressions(database)
    with database.read() as connection:
        assert connection.exec_driver_sql("SELECT is_called FROM numbers").scalar_one() is False


@pytest.mark.parametrize("sql", [NUMBER, NUMBER[1:-1]])
def test_an_expression_that_returns_several_rows_is_named(mails: Open, sql: str) -> None:
    database = mails(
        *TICKETS, "INSERT INTO tickets VALUES (5, 'DESK-4706')", row(1, "'Failed'"), columns={"ticket_id": {"sql": sql}}
    )
    with pytest.raises(SchemaMismatch, match=r"^database\.columns\.ticket_id .* it returns several rows for one"):
        check_values(database)


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_sqlite_chooses_no_ticket_among_several(mails: Open) -> None:
    database = mails(
        *TICKETS,
        "INSERT INTO tickets VALUES (5, 'DESK-4706'), (6, 'DESK-4707')",
        row(1, "'Failed'"),
        row(2, "'Failed'", ticket_id="6"),
        columns={"ticket_id": {"sql": NUMBER}},
    )
    m = database.messages.c
    with database.read() as connection:
        found = connection.execute(database.messages.select().with_only_columns(m.id, m.ticket_id)).all()
    assert {tuple(each) for each in found} == {(1, None), (2, "DESK-4707")}


@pytest.mark.parametrize(
    ("source", "recipient", "copies"),
    [({"from": "sent_to", "split": ";"}, "a@b.example", ["c@d.example"]), ("sent_to", "a@b.example; c@d.example", [])],
)
def test_only_a_column_that_is_split_has_several_addresses(
    mails: Open, source: object, recipient: str, copies: list[str]
) -> None:
    its = row(1, "'Failed'", sent_to="'a@b.example; c@d.example'", ticket_id="7", message_type="'customer'")
    database = mails("ALTER TABLE mails ADD COLUMN sent_to TEXT", its, columns={"recipient_email": source})
    with database.read() as connection:
        [found] = rows_of(connection.execute(database.messages.select()))
    message = Message.from_row(found)
    assert message.needs_recipient
    assert (message.fields["recipient_email"], message.fields["cc_emails"]) == (recipient, copies)


@pytest.mark.parametrize(("columns", "needed"), [({}, True), ({"recipient_email": {"none": True}}, False)])
def test_a_message_needs_a_recipient_unless_its_table_has_none(
    mails: Open, columns: dict[str, object], *, needed: bool
) -> None:
    """The column of the recipients may have a name that the settings do not mention. Without this, a customer's mail
    would go to the team.
    """
    its = row(1, "'Failed'", message_type="'customer'", ticket_id="7")
    database = mails(its, columns={"subject": "subject", **columns})
    with database.read() as connection:
        [found] = rows_of(connection.execute(database.messages.select()))
    assert Message.from_row(found).needs_recipient is needed


COMPLAIN = (
    "CREATE FUNCTION complain(text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION USING MESSAGE = $1; END'"
)


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("CAST(body AS integer)", "it can't be evaluated for a value in the table"),
        ("complain(body)", "a function in it raises an error"),
    ],
)
def test_an_expression_that_fails_for_a_value_is_named_without_the_value(mails: Open, sql: str, why: str) -> None:
    database = mails(COMPLAIN, row(1, "'Failed'"), columns={"ticket_id": {"sql": sql}})
    for check in (check_expressions, check_values):
        with pytest.raises(SchemaMismatch, match=f"^{refused('columns.ticket_id', why)}$"):
            check(database)
    assert unreadable(database) == (1, {why: 1})


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_a_locked_database_is_no_error_of_an_expression(mails: Open) -> None:
    made = mails(columns={"subject": {"sql": "lower(body)"}})
    database = Database(f"sqlite:///{made.place}", "mails", made.mapping, patience=0)
    assert database.table.names
    with closing(sqlite3.connect(made.place)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DatabaseUnavailable, match="database is locked"):
            check_expressions(database)
        assert unreadable(database) == (0, {})
    check_expressions(database)
    database.close()


@pytest.mark.parametrize(
    ("engine", "sql"),
    [("postgresql", "CAST(body AS integer)"), ("sqlite", "json_extract(body, '$.ticket')")],
    indirect=["engine"],
)
def test_a_value_that_can_not_be_converted_is_not_quoted(mails: Open, sql: str) -> None:
    database = mails(row(1, "'Failed'"), columns={"ticket_id": {"sql": sql}})
    with pytest.raises(SchemaMismatch, match="`retrycli table check` names it") as told, database.read() as connection:
        connection.execute(database.messages.select())
    assert "secret" not in str(told.value)


def test_a_value_that_only_looks_like_a_word_of_a_status_is_another(mails: Open) -> None:
    """The settings say that failed messages have the value Failed; `failed` means something else to the application."""
    rows = [row(number, f"'{value}'") for number, value in enumerate(("Failed", "failed", "lost"), 1)]
    database = mails(*rows)
    with database.read() as connection:
        found = connection.execute(database.messages.select().order_by("id")).mappings()
        assert [each["status"] for each in found] == ["failed", "other: failed", "lost"]


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_an_expression_that_returns_null_for_a_bad_row_concerns_that_row_alone(mails: Open) -> None:
    """The manual advises so, because SQLite's JSON functions fail for the whole statement."""
    its = {"ticket_id": "7", "message_type": "'customer'"}
    rows = row(1, "'Failed'", **its), row(2, "'Failed'", **its | {"body": """'{"text": "Hello"}'"""})
    database = mails(*rows, columns={"body": {"sql": "CASE WHEN json_valid(body) THEN body ->> '$.text' END"}})
    check_values(database)
    with database.read() as connection:
        bad, good = map(message_of, rows_of(connection.execute(database.messages.select().order_by("id"))))
    assert isinstance(bad, UnusableMessage)
    assert isinstance(good, Message)
    assert good.fields["body"] == "Hello"


def test_a_column_that_is_gone_after_a_migration_is_named(mails: Open) -> None:
    database = mails("ALTER TABLE mails DROP COLUMN body", columns={"body": "body"})
    with pytest.raises(SchemaMismatch, match=r"mails .* has no column body"):
        check_expressions(database)


MISFITS: list[tuple[str, dict[str, object], str, str]] = [
    ("INTEGER", {"failed": 3, "sent": "sent"}, "both", "sent"),
    ("BOOLEAN", {"failed": "failed", "sent": True}, "both", "failed"),
    ("BOOLEAN", {"failed": 2, "sent": 1}, "postgresql", "failed"),
    ("VARCHAR(4)", {"failed": "failed", "sent": "sent"}, "postgresql", "failed"),
    ("VARCHAR(20) CHECK (status IN ('a', 'failed'))", {"failed": "failed", "sent": "delivered"}, "both", "sent"),
    ("INTEGER CHECK (status BETWEEN 0 AND 2)", {"failed": 1, "sent": 3}, "both", "sent"),
]


@pytest.mark.parametrize(("column", "words", "engines", "name"), MISFITS)
def test_a_value_that_does_not_fit_the_status_column_is_named(
    mails: Open, column: str, words: dict[str, object], engines: str, name: str
) -> None:
    database = mails(status=f"status {column}", words=words)
    if database.is_sqlite and engines == "postgresql":
        pytest.skip("SQLite converts the value")
    with pytest.raises(SchemaMismatch, match=rf"^database\.status\.{name} can't be used with mails"):
        check_both(database)


def check_both(database: Database) -> None:
    check_expressions(database)
    check_statuses(database)


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
def test_a_value_that_is_no_label_of_an_enumeration_is_named(mails: Open) -> None:
    database = mails(
        "CREATE TYPE states AS ENUM ('failed', 'sent')",
        "ALTER TABLE mails ALTER status TYPE states USING CAST(status AS states)",
        words={"failed": "failed", "sent": "delivered"},
    )
    with pytest.raises(
        SchemaMismatch, match=refused("status.sent", 'invalid input value for enum states: "delivered"')
    ):
        check_expressions(database)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("status INTEGER CHECK (status IN (0, 1) OR status IS NULL)", {"failed": 1, "sent": 0}),
        ("status VARCHAR(20)", {"failed": 1, "sent": 2}),
        ("status VARCHAR(20) CHECK (status IN ('1', '2'))", {"failed": 1, "sent": 2}),
        ("status BOOLEAN", {"failed": False, "sent": True}),
        ("status VARCHAR(6) CHECK (length(status) > 2)", {"failed": "failed", "sent": "sent"}),
        ("status VARCHAR(20) CHECK (status <> 'sent' OR last_error IS NULL)", {"failed": "failed", "sent": "sent"}),
    ],
)
def test_values_that_fit_the_status_column_are_accepted(mails: Open, column: str, words: Mapping[str, object]) -> None:
    check_both(mails(status=column, words=words))


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
def test_a_constraint_that_can_not_be_evaluated_forbids_nothing(mails: Open) -> None:
    constraint = "status <> 'Failed' OR \"retry At\" IS NOT NULL"
    check_both(mails(status=f'status VARCHAR(20), "retry At" TIMESTAMP, CHECK ({constraint})'))


def test_a_view_that_takes_no_writes_is_reported(mails: Open) -> None:
    database = mails(
        row(1, "'Failed'"), "ALTER TABLE mails RENAME TO stored", "CREATE VIEW mails AS SELECT * FROM stored LIMIT 9"
    )
    check_expressions(database)
    with pytest.raises(SchemaMismatch, match="it is read-only"):
        check_writable(database, NOON, 10)


TOUCHES = {
    "sqlite": (
        "CREATE TRIGGER touch AFTER UPDATE ON mails BEGIN "
        "UPDATE mails SET touched = '2026-02-02' WHERE id = new.id; END",
    ),
    "postgresql": (
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN new.touched = ''2026-02-02''; RETURN new; END'",
        "CREATE TRIGGER touch BEFORE UPDATE ON mails FOR EACH ROW EXECUTE FUNCTION touch()",
    ),
}


@pytest.mark.parametrize(("engine", "touch"), TOUCHES.items(), indirect=["engine"])
def test_a_row_that_a_result_turns_into_another_message_is_reported(mails: Open, touch: tuple[str, ...]) -> None:
    """Its failures would not be counted, and after an unknown outcome it would be sent again without a limit."""
    database = mails(
        *touch,
        row(1, "'Failed'", touched="'2026-01-01'"),
        status="status VARCHAR(20), touched VARCHAR(20)",
        columns={"created_at": "touched"},
    )
    with pytest.raises(SchemaMismatch, match=r"its created_at changes with its row, .*; name another column"):
        check_writable(database, NOON, 10)


@pytest.mark.parametrize(("limit", "largest"), [(10, 10), (3, 5)])
def test_a_row_that_leaves_the_selection_when_it_is_counted_is_reported(mails: Open, limit: int, largest: int) -> None:
    """Otherwise its escalation would disappear from all lists."""
    database = mails(row(1, "'Failed'", retry_count="0"), where=f"retry_count < {limit}")
    with pytest.raises(SchemaMismatch, match=f"retry count {largest} it is no longer .* any retry count$"):
        check_writable(database, NOON, largest)
    check_writable(database, NOON, limit - 1)
    assert database.revision() is None, "the rehearsal needs no tables of retrycli, and leaves none"


# -- facts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "words", "rows", "failed", "unnamed"),
    [
        ("status VARCHAR(20)", STATUS, ["'FAILED'"] * 3, 0, ["FAILED"]),
        ("status VARCHAR(20)", STATUS, ["'Failed'", "'Sent'"], 1, []),
        ("status VARCHAR(20)", STATUS, ["'Sent'"], 0, []),
        ("status INTEGER", {"failed": 1, "sent": 0}, ["2", "0"], 0, [2]),
        ("status BOOLEAN", {"failed": False, "sent": True}, ["true", "false", "false"], 2, []),
    ],
)
def test_counts_the_statuses_that_the_settings_name_and_others(
    mails: Open, column: str, words: Mapping[str, object], rows: list[str], failed: int, unnamed: list[object]
) -> None:
    made = [row(number, value) for number, value in enumerate(rows, 1)]
    found = TableFacts(mails(*made, status=column, words=words)).count_statuses()
    assert found is not None
    assert (found.sample.rows, found.failed, list(found.unnamed)) == (len(rows), failed, unnamed)


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_a_number_and_a_text_of_the_same_digits_differ_where_the_column_has_no_type(mails: Open) -> None:
    found = TableFacts(mails(row(1, "1"), status="status", words={"failed": "1", "sent": "2"})).count_statuses()
    assert found is not None
    assert (found.failed, list(found.unnamed)) == (0, [1])


def test_statuses_that_only_older_rows_have_are_compared_by_the_database_too(mails: Open) -> None:
    ids = "SELECT n FROM ids WHERE n > 2"
    many = (
        f"WITH RECURSIVE ids (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM ids WHERE n < {ROWS} + 2) INSERT INTO mails "
        f"(id, ticket_id, body, status) SELECT n, 5, 'b', 'Sent' FROM ({ids}) AS newer"
    )
    index = "CREATE INDEX by_status ON mails (status)"
    found = TableFacts(mails(row(1, "'Failed'"), row(2, "'FAILED'"), many, index)).count_statuses()
    assert found is not None
    assert (found.sample.rows, found.failed, list(found.unnamed)) == (ROWS, 1, ["FAILED"])


def test_counts_failed_rows_that_the_condition_leaves_out(mails: Open) -> None:
    made = [row(1, "'Failed'", subject="'a'"), row(2, "'Failed'", subject="'b'"), row(3, "'Failed'"), row(4, "'Sent'")]
    assert count_left_out(mails(*made, where="subject = 'a'")) == 2  # null does not meet it either


def test_columns_with_data_that_no_setting_names_are_listed(mails: Open) -> None:
    database = mails(
        "ALTER TABLE mails ADD COLUMN html_body TEXT",
        "ALTER TABLE mails ADD COLUMN from_address TEXT",
        "ALTER TABLE mails ADD COLUMN files TEXT",
        "ALTER TABLE mails ADD COLUMN reply_to TEXT",
        "ALTER TABLE mails ADD COLUMN priority TEXT",
        row(1, "'Failed'", html_body="'<p>'", from_address="'a@b'", files="'[]'", reply_to="'c@d'", priority="'1'"),
        columns={"subject": {"sql": "coalesce(reply_to, '')"}},
    )
    assert TableFacts(database).missed_columns({"priority"}) == ["html_body", "from_address"]


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
def test_the_privileges_that_are_granted_suffice(mails: Open) -> None:
    database = mails(
        words=STATUS, columns={"last_error": {"own": True}}, status='status VARCHAR(20), "sent At" TIMESTAMP'
    )
    written, grant = required_privileges(database)
    assert written == ["status", "retry_count"]
    assert grant is not None
    assert grant.startswith("GRANT SELECT, UPDATE (status, retry_count, subject, body) ON mails TO ")
    with database.write() as connection:
        connection.exec_driver_sql(grant)
