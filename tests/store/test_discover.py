"""`retrycli table discover` finds the table of outgoing messages among others, and proposes settings that fit it."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import NullPool, create_engine, make_url

from retrycli.config.settings import DatabaseSettings, Settings
from retrycli.domain.known_table import RelationKind
from retrycli.domain.status_values import FEWEST_ROWS
from retrycli.domain.table_mapping import TableMapping, parse_mapping
from retrycli.operations import bodies
from retrycli.operations.discover import Discovery, discover
from retrycli.store.database import Database
from retrycli.store.table_sample import ROWS
from retrycli.views.formatting import as_json
from retrycli.views.mapping_toml import mapping_toml, values_in_words
from tests.cli.application import TABLES, TICKETS, Application
from tests.store.outgoing_tables import APPLICATIONS, DECOYS, POST_OFFICE, UUID_OUTBOX, Outgoing, execute, fill

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.store.conftest import Factory

IDEAL = """
CREATE TABLE outbox (id integer PRIMARY KEY, ticket_id integer, message_type text, subject text, body text,
  status text, retry_count integer, last_error text, recipient_email text, created_at timestamp);
"""
"""A table with retrycli's own names, to which a test adds rows with a status of its own."""
OPEN: list[object] = []
"""What stands for a value that an operator must fill in. The settings reject it."""


@pytest.fixture
def url(engine: Factory, tmp_path: Path) -> Iterator[str]:
    with engine(tmp_path, None) as made:
        yield made


def found_in(url: str, table: str | None = None) -> Discovery:
    return discover(Settings(), url=url, table=table)


def toml_of(found: Discovery) -> str:
    return mapping_toml(found.proposals[0], place=found.place, url=None)


def settings_of(found: Discovery) -> dict[str, Any]:
    """Return the section ``[database]`` of the proposed settings."""
    section: dict[str, Any] = tomllib.loads(toml_of(found))["database"]
    return section


def hints_of(found: Discovery) -> dict[str, Any]:
    """Return the lines of ``[database.columns]`` that are commented out, by role."""
    lines = [
        line.removeprefix("# ") for line in toml_of(found).splitlines() if line.startswith("# ") and " = {" in line
    ]
    return {role: value for line in lines for role, value in tomllib.loads(line).items()}


def completed(found: Discovery, application: Outgoing) -> TableMapping:
    """Return the mapping after an operator has filled in the values that are left open."""
    section = settings_of(found)
    status = section["status"] | {"failed": application.failed}
    if status["sent"] == OPEN:
        status["sent"] = next(value for value in application.statuses if value != application.failed)
    return parse_mapping(section["columns"], status, None)


def read(url: str, sql: str) -> list[Any]:
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        return [value for (value,) in connection.exec_driver_sql(sql)]


def is_sqlite(url: str) -> bool:
    return make_url(url).get_backend_name() == "sqlite"


# -- known applications ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", APPLICATIONS)
def test_an_applications_table_is_ranked_first_and_described(url: str, name: str) -> None:
    application = APPLICATIONS[name]
    fill(url, application)
    found = found_in(url)
    first, section = found.proposals[0], settings_of(found)
    table = application.table.rpartition(".")[2] if is_sqlite(url) else application.table
    assert (first.name, section["table"]) == (table, table)
    assert section["columns"] == application.columns
    assert set(first.status.values) == application.statuses
    assert dict(first.status.counts) == dict.fromkeys(application.statuses, 4) | dict(UNEVEN.get(name, {}))
    assert section["status"] == {"failed": OPEN, "sent": OPEN if application.sent is None else application.sent}
    assert dict(completed(found, application).status)["failed"] == application.failed


UNEVEN = {"uuid-outbox": {False: 8}}


@pytest.mark.parametrize("name", APPLICATIONS)
def test_the_proposed_expressions_can_be_read(url: str, name: str) -> None:
    application = APPLICATIONS[name]
    fill(url, application)
    found = found_in(url)
    hints = hints_of(found)
    proposed = {**settings_of(found)["columns"], **{role: hints[role] for role in application.hints}}
    expressions = {role: value["sql"] for role, value in proposed.items() if isinstance(value, dict) and "sql" in value}
    if not is_sqlite(url):
        assert expressions.items() >= application.hints.items()
    table = found.proposals[0].candidate.table.sql
    values = {role: set(read(url, f"SELECT {sql} FROM {table}")) for role, sql in expressions.items()}
    assert values == READ.get(name, {})


READ = {
    "odoo": {"subject": {"Tea"}},
    "sbmt-outbox": {"body": {None}},
    "cap": {"body": {None}},
    "namastack": {"body": {"Dear"}},
    "uuid-outbox": {"body": {"Dear"}, "subject": {None}},
}
"""What the expressions read. Some rows have no JSON key of the example's name."""


def test_a_foreign_key_behind_the_ticket_is_shown_with_a_sub_select(url: str) -> None:
    """The number that the ticketing API knows is in another table."""
    tables = TABLES.replace("ticket_id INTEGER PRIMARY KEY", "id INTEGER PRIMARY KEY, ticket_id INTEGER NOT NULL")
    Application(url, tables=tables.replace("REFERENCES ticket_states (ticket_id)", "REFERENCES ticket_states (id)"))
    execute(url, "INSERT INTO ticket_states VALUES (5, 4705, 'open')")
    Application(url, tables=None).add(1, ticket_id=5)
    found = found_in(url)
    sql = "(SELECT t.ticket_id FROM ticket_states t WHERE t.id = pending_messages.ticket_id)"
    assert hints_of(found)["ticket_id"] == {"sql": sql}
    assert "ticket_id refers to ticket_states.id" in toml_of(found)
    assert read(url, f"SELECT {sql} FROM pending_messages") == [4705]


# -- tables that need no settings, and databases without such a table ------------------------------------------------


@pytest.mark.parametrize("rows", [0, 5])
def test_the_default_table_needs_no_settings(url: str, rows: int) -> None:
    application = Application(url)
    application.add_due(rows)
    execute(url, DECOYS)
    found = found_in(url)
    assert found.proposals[0].is_conforming
    assert "no settings are needed." in toml_of(found)
    assert settings_of(found) == {"table": "pending_messages", "columns": {}}


def test_a_table_with_the_expected_columns_and_another_name_needs_only_its_name(url: str) -> None:
    execute(url, IDEAL)
    execute(url, "INSERT INTO outbox (id, status) VALUES (1, 'failed'), (2, 'sent')")
    assert settings_of(found_in(url)) == {"table": "outbox"}


def test_a_table_with_the_expected_columns_and_other_statuses_needs_them(url: str) -> None:
    execute(url, IDEAL)
    execute(url, "INSERT INTO outbox (id, status) VALUES (1, 'FAILED'), (2, 'SENT')")
    assert settings_of(found_in(url))["status"] == {"failed": OPEN, "sent": "SENT"}


def test_a_database_without_such_a_table_has_no_proposal(url: str) -> None:
    assert (found_in(url).examined, found_in(url).proposals) == (0, ())
    execute(url, DECOYS)
    assert "inbox" not in [each.name for each in found_in(url).proposals]


def test_retryclis_own_tables_are_no_candidates(url: str) -> None:
    execute(url, IDEAL.replace("outbox", "retrycli_queue"))
    assert found_in(url).proposals == ()


def test_the_table_is_found_among_300(url: str) -> None:
    others = "".join(f"CREATE TABLE stock_{number} (id integer PRIMARY KEY, name text);" for number in range(300))
    execute(url, others)
    fill(url, POST_OFFICE)
    found = found_in(url)
    assert found.examined > 300
    assert found.proposals[0].name == "post_office_email"


def test_another_table_can_be_named(url: str) -> None:
    fill(url, POST_OFFICE)
    [proposal] = found_in(url, "users").proposals
    assert proposal.name == "users"
    assert proposal.candidate.roles["recipient_email"].name == "email"


# -- what is counted -------------------------------------------------------------------------------------------------


def test_only_the_newest_rows_are_counted_and_older_statuses_are_found_by_an_index(url: str) -> None:
    execute(url, IDEAL)
    rows = f"WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {ROWS + 100})"
    execute(
        url, f"INSERT INTO outbox (id, status) {rows} SELECT n, CASE WHEN n <= 7 THEN 'BOUNCED' ELSE 'SENT' END FROM c"
    )
    [proposal] = found_in(url).proposals
    assert dict(proposal.status.counts) == {"SENT": ROWS}
    assert values_in_words(proposal) == '"SENT" ×5,000 in the newest 5,000 rows'
    execute(url, "CREATE INDEX outbox_status ON outbox (status)")
    [proposal] = found_in(url).proposals
    assert dict(proposal.status.counts) == {"SENT": ROWS, "BOUNCED": 7}
    assert values_in_words(proposal) == '"SENT" ×5,000 in the newest 5,000 rows, older: "BOUNCED" ×7'
    assert '"BOUNCED": 7 rows (in older rows)' in toml_of(found_in(url))


@pytest.mark.parametrize("indexed", [False, True])
def test_free_text_in_a_column_for_statuses_is_not_shown(url: str, *, indexed: bool) -> None:
    """Words that customers wrote may be in any column. Only common words for statuses are shown then."""
    execute(url, IDEAL)
    if indexed:
        execute(url, "CREATE INDEX outbox_status ON outbox (status)")
    texts = [*["Call Ms Oyelaran back, she is angry"] * 5, *["Oyelaran"] * 5, *["failed"] * 2]
    rows = ", ".join(f"({number}, '{text}')" for number, text in enumerate(texts))
    execute(url, f"INSERT INTO outbox (id, status) VALUES {rows}")
    found = found_in(url)
    output = toml_of(found) + as_json(bodies.discovered(found)) + values_in_words(found.proposals[0])
    assert "yelaran" not in output
    assert found.proposals[0].status.counts == (("failed", 2),)
    assert found.proposals[0].status.hidden == 10


def test_a_rare_word_is_not_shown(url: str) -> None:
    execute(url, IDEAL)
    texts = [*["Held up"] * FEWEST_ROWS, *["Oyelaran"] * (FEWEST_ROWS - 1), "Sent"]
    rows = ", ".join(f"({number}, '{text}')" for number, text in enumerate(texts))
    execute(url, f"INSERT INTO outbox (id, status) VALUES {rows}")
    assert found_in(url).proposals[0].status.values == ("Held up", "Sent")


def test_a_column_of_many_numbers_shows_none(url: str) -> None:
    execute(url, IDEAL.replace("status text", "status integer"))
    execute(url, f"INSERT INTO outbox (id, status) VALUES {', '.join(f'({n}, {4711000 + n})' for n in range(30))}")
    [proposal] = found_in(url).proposals
    assert (proposal.status.counts, proposal.status.hidden) == ((), 30)


def test_a_type_column_with_retryclis_words_is_used(url: str) -> None:
    execute(url, IDEAL.replace("message_type text", "kind text"))
    execute(url, "INSERT INTO outbox (id, kind, status) VALUES (1, 'customer', 'failed'), (2, 'internal', 'sent')")
    assert settings_of(found_in(url))["columns"] == {"message_type": "kind"}


def test_a_type_column_with_other_words_is_offered_for_translation(url: str) -> None:
    fill(url, UUID_OUTBOX)
    words = {"from": "kind", "map": {"mail": "customer", "memo": "customer"}}
    assert hints_of(found_in(url))["message_type"] == words


# -- other kinds of table --------------------------------------------------------------------------------------------


def test_a_view_is_marked_and_ranked_after_its_table(url: str) -> None:
    Application(url)
    execute(url, "CREATE VIEW awaiting AS SELECT * FROM pending_messages")
    kinds = [(each.name, each.kind) for each in found_in(url).proposals]
    assert kinds == [("pending_messages", RelationKind.TABLE), ("awaiting", RelationKind.VIEW)]


def test_a_view_that_never_ends_is_described_without_its_values(url: str) -> None:
    """Only a table's newest rows are read, but a view may read any number of rows for each of its own."""
    columns = "SELECT 'a' AS body, 'a' AS status, 1 AS retry_count, 'a' AS last_error"
    numbers = "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c)"
    endless = f"{numbers} {columns} WHERE (SELECT count(*) FROM c) > 0"
    execute(url, f"CREATE VIEW pending_mails AS {endless if is_sqlite(url) else f'{columns} FROM pg_sleep(60)'}")
    found = found_in(url)
    assert "could not be read" in toml_of(found)
    assert [each.status.counts for each in found.proposals] == [()]


def test_names_that_need_quotes_are_plain_in_the_settings(url: str) -> None:
    execute(
        url,
        'CREATE TABLE "Mail Queue" ("The Id" integer PRIMARY KEY, "Case" integer, "Ticket Id" integer, "Body" text, '
        '"Status" text, "Retries" integer)',
    )
    execute(url, """INSERT INTO "Mail Queue" ("The Id", "Status") VALUES (1, 'Failed')""")
    section = settings_of(found_in(url))
    assert section["table"] == "Mail Queue"
    named = {"id": "The Id", "ticket_id": "Ticket Id", "body": "Body", "status": "Status", "retry_count": "Retries"}
    assert section["columns"].items() >= named.items()
    [proposal] = found_in(url).proposals
    assert proposal.status.values == ("Failed",)


def test_hostile_names_are_escaped(url: str) -> None:
    name = 'mail\n"]\x1b[2J\x7fqueue = 1'
    quoted = name.replace('"', '""')
    execute(url, f'CREATE TABLE "{quoted}" (id integer PRIMARY KEY, body text, status text, attempts integer)')
    found = found_in(url)
    assert settings_of(found)["table"] == name
    assert toml_of(found).replace("\n", "").isprintable()


@pytest.mark.parametrize("application", [None, POST_OFFICE])
def test_nothing_is_written(url: str, application: Outgoing | None) -> None:
    if application is None:
        Application(url, tables=TABLES + TICKETS).add_due(3)
    else:
        fill(url, application)
    before = Application(url, tables=None).dump()
    found_in(url)
    assert Application(url, tables=None).dump() == before


# -- only PostgreSQL -------------------------------------------------------------------------------------------------

on_a_server = pytest.mark.parametrize("engine", ["postgresql"], indirect=True)


@on_a_server
def test_the_labels_of_an_enumeration_are_listed_even_if_no_row_has_them(url: str) -> None:
    execute(url, f"CREATE TYPE delivery AS ENUM ('pending', 'sent', 'Oops it failed, again');{IDEAL}")
    execute(url, "ALTER TABLE outbox ALTER COLUMN status TYPE delivery USING status::delivery")
    execute(url, "INSERT INTO outbox (id, status) VALUES (1, 'sent')")
    [proposal] = found_in(url).proposals
    assert dict(proposal.status.counts) == {"pending": 0, "sent": 1, "Oops it failed, again": 0}
    assert settings_of(found_in(url))["status"] == {"failed": OPEN, "sent": "sent"}


@on_a_server
def test_a_domain_is_treated_as_its_base_type(url: str) -> None:
    execute(url, f"CREATE DOMAIN code AS smallint; CREATE DOMAIN state AS code;{IDEAL}")
    execute(url, "ALTER TABLE outbox ALTER COLUMN status TYPE state USING 1")
    execute(url, "INSERT INTO outbox (id, status) VALUES (1, 3)")
    assert found_in(url).proposals[0].status.counts == ((3, 1),)


@on_a_server
def test_tables_of_other_schemas_are_found_and_named_with_their_schema(url: str) -> None:
    execute(url, f"CREATE SCHEMA desk; {IDEAL.replace('outbox', 'desk.outbox')} {DECOYS}")
    assert settings_of(found_in(url))["table"] == "desk.outbox"


@on_a_server
def test_a_partitioned_table_is_listed_once(url: str) -> None:
    made = IDEAL.replace("id integer PRIMARY KEY", "id integer").replace(
        "created_at timestamp)", "created_at timestamp NOT NULL, PRIMARY KEY (id, created_at)) PARTITION BY RANGE (id)"
    )
    execute(url, f"{made} CREATE TABLE outbox_1 PARTITION OF outbox FOR VALUES FROM (0) TO (100)")
    execute(url, "INSERT INTO outbox (id, status, created_at) VALUES (1, 'failed', now())")
    [proposal] = found_in(url).proposals
    assert (proposal.name, proposal.kind) == ("outbox", RelationKind.PARTITIONED)
    assert "no index shows that id is unique" in toml_of(found_in(url))
    assert proposal.status.counts == (("failed", 1),)


@on_a_server
def test_a_table_without_permission_is_listed_without_its_values(url: str) -> None:
    role = f"{make_url(url).database}_guest"
    execute(url, f"{IDEAL} INSERT INTO outbox (id, status) VALUES (1, 'failed')")
    execute(url, f"CREATE SCHEMA hidden; {IDEAL.replace('outbox', 'hidden.outbox')} CREATE ROLE {role} LOGIN")
    try:
        guest = make_url(url).set(username=role).render_as_string(hide_password=False)
        found = found_in(guest)
        assert {each.name for each in found.proposals} == {"outbox", "hidden.outbox"}
        assert all("may not read it" in values_in_words(each) for each in found.proposals)
        assert "GRANT SELECT ON outbox" in str(found.proposals[0].sample.problem)
    finally:
        execute(url, f"DROP ROLE {role}")


@on_a_server
def test_a_view_whose_function_writes_can_write_nothing(url: str) -> None:
    execute(url, "CREATE TABLE trace (n integer)")
    function = "CREATE FUNCTION spy() RETURNS integer LANGUAGE sql AS 'INSERT INTO trace VALUES (1) RETURNING n'"
    execute(
        url, f"{function}; CREATE VIEW mail_queue AS SELECT spy() AS id, 'a' AS body, 'failed' AS status, 1 AS tries"
    )
    [proposal] = found_in(url, "mail_queue").proposals
    assert read(url, "SELECT n FROM trace") == []
    assert proposal.sample.problem is not None


# -- only SQLite -----------------------------------------------------------------------------------------------------

in_a_file = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)


@in_a_file
@pytest.mark.parametrize(
    "odd",
    [
        "CREATE VIEW broken AS SELECT * FROM gone",
        "CREATE VIRTUAL TABLE search USING fts5(body, status)",
        "CREATE TABLE notes (id integer, text)",
    ],
)
def test_odd_tables_do_not_disturb(url: str, odd: str) -> None:
    execute(url, f"{IDEAL}{odd}")
    assert [each.name for each in found_in(url).proposals] == ["outbox"]


@in_a_file
@pytest.mark.parametrize("target", ["Tickets (NUMBER)", "tickets"])
def test_a_foreign_key_may_spell_names_in_another_case(url: str, target: str) -> None:
    execute(url, "CREATE TABLE tickets (number integer PRIMARY KEY, external_id text)")
    execute(url, IDEAL.replace("ticket_id integer", f"ticket_id integer REFERENCES {target}"))
    sql = "(SELECT t.external_id FROM tickets t WHERE t.number = outbox.ticket_id)"
    assert hints_of(found_in(url))["ticket_id"] == {"sql": sql}


@in_a_file
def test_a_table_without_row_numbers_is_counted(url: str) -> None:
    execute(url, IDEAL.replace("created_at timestamp)", "created_at timestamp) WITHOUT ROWID"))
    execute(url, "INSERT INTO outbox (id, status) VALUES (1, 'FAILED')")
    assert found_in(url).proposals[0].status.counts == (("FAILED", 1),)


@in_a_file
def test_the_file_can_be_written_afterwards(url: str) -> None:
    """The connection's limits end with the transaction."""
    from retrycli.store.catalogue import list_tables

    execute(url, IDEAL)
    database = Database(url)
    list_tables(database)
    with database.write() as connection:
        connection.exec_driver_sql("INSERT INTO outbox (id) VALUES (1)")
    database.close()
    assert read(url, "SELECT id FROM outbox") == [1]


def test_settings_for_another_table_do_not_matter(url: str) -> None:
    execute(url, IDEAL)
    settings = Settings(database=DatabaseSettings(url=url, table="gone"))
    assert [each.name for each in discover(settings).proposals] == ["outbox"]
