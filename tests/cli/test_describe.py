"""`retrycli table describe`: the list of tables, one table with its values, and the skeleton of the settings."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from rich.cells import cell_len
from sqlalchemy import make_url

from retrycli.config.template import toml_value
from retrycli.operations.table import FEW
from retrycli.store.catalogue import list_tables
from retrycli.store.database import Database
from retrycli.store.table_sample import ROWS
from tests.cli.application import TABLES, TICKETS, Application
from tests.cli.command import COLUMNS
from tests.conftest import on_both, on_sqlite
from tests.environment import free_port
from tests.store.outgoing_tables import APPLICATIONS, CAP, Outgoing, execute, fill

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.command import Cli
    from tests.store.conftest import Factory

pytestmark = on_both
on_a_server = pytest.mark.databases("postgresql")

CASES = "CREATE TABLE cases (id integer PRIMARY KEY, external_id text);"
OUTBOX = f"""{CASES}
CREATE TABLE outbox (id integer PRIMARY KEY, case_id integer REFERENCES cases (id), subject text NOT NULL,
  state text, attempts integer, token text UNIQUE, made timestamp, done timestamp, UNIQUE (case_id, made));
"""
ROW = "INSERT INTO outbox (id, case_id, subject, state, attempts, made, done) VALUES "


@pytest.fixture
def url(engine: Factory, tmp_path: Path) -> Iterator[str]:
    with engine(tmp_path, None) as made:
        yield made


def described(cli: Cli, url: str, name: str) -> dict[str, Any]:
    [found] = cli.json("table", "describe", "--url", url, name)["tables"]
    return dict(found)


def listed(cli: Cli, url: str) -> dict[str, dict[str, Any]]:
    return {each["table"]: each for each in cli.json("table", "describe", "--url", url)["tables"]}


def piped(cli: Cli, url: str, *name: str) -> list[str]:
    done = cli("table", "describe", "--url", url, *name)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def texts(cli: Cli, url: str, name: str) -> str:
    text = "\n".join(piped(cli, url, name)) + cli.on_terminal("table", "describe", "--url", url, name).text
    assert text.replace("\n", "").replace("\t", "").isprintable()
    return text


def values_of(found: dict[str, Any], column: str) -> list[tuple[Any, ...]]:
    of_column = [each for each in found["values"] if each["column"] == column]
    return [(each["value"], each["rows"], *(mark for mark in ("hidden", "older") if each[mark])) for each in of_column]


def test_a_table_is_described_with_columns_keys_and_values(cli: Cli, url: str) -> None:
    old, new = "2026-03-01T08:00:00Z", "2026-03-02T08:00:00Z"
    rows = f"(1, 5, 'Tea', 'FAILED', 3, '{old}', NULL), (2, 5, 'Tee', 'FAILED', NULL, '{new}', '{new}')"
    execute(url, f"{OUTBOX} INSERT INTO cases VALUES (5, 'DESK-5'); {ROW}{rows}")
    found = described(cli, url, "OUTBOX")
    number, text = ("INTEGER", "TEXT") if url.startswith("sqlite") else ("integer", "text")
    assert [tuple(column.values()) for column in found.pop("columns")][:6] == [
        ("id", number, False, ["primary"], None),
        ("case_id", number, True, ["unique with made"], "cases.id"),
        ("subject", text, False, [], None),
        ("state", text, True, [], None),
        ("attempts", number, True, [], None),
        ("token", text, True, ["unique"], None),
    ]
    assert [tuple(each.values()) for each in found.pop("values")] == [
        ("case_id", 5, 2, new, False, False),
        ("subject", None, 2, None, False, True),
        ("state", "FAILED", 2, new, False, False),
        ("attempts", 3, 1, old, False, False),
        ("attempts", None, 1, new, False, False),
    ]
    assert (found["rows"], found["all_rows"], found["time"]) == (2, True, "made")
    lines = piped(cli, url, "outbox")
    assert {"value\tsubject\t(not shown)\t2\t", f"value\tattempts\tnull\t1\t{new}"} <= {*lines}
    *lines, _ = cli.on_terminal("table", "describe", "--url", url, "outbox").text.splitlines()
    assert max(cell_len(line) for line in lines if "/" not in line) <= COLUMNS  # a long path is not broken


def filled(text: str, application: Outgoing) -> str:
    for key, value in {**application.columns, "failed": application.failed, "sent": application.sent}.items():
        head, _, rest = text.partition(f"# {key} ")
        text = f"{head}{key} = {toml_value(value)}{rest.partition('=')[2]}"
    return text


@pytest.mark.parametrize("name", APPLICATIONS)
def test_a_skeleton_that_is_filled_in_passes_the_check(cli: Cli, url: str, name: str) -> None:
    application = APPLICATIONS[name]
    fill(url, application)
    table = application.table.rpartition(".")[2] if url.startswith("sqlite") else application.table
    assert table in listed(cli, url)
    text = cli.json("table", "describe", "--url", url, table)["settings"]
    section = tomllib.loads(text)["database"]
    assert section == {"url": section["url"], "table": table, "columns": {}, "status": {}}
    file = cli.cwd / "new.toml"
    file.write_text(text.replace("# failed", "failed"))
    assert cli("table", "check", "--config", file).returncode == 78, "a key without a value is refused"
    file.write_text(filled(text, application))
    done = cli("table", "check", "--config", file)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert f"{application.failed} ×4" in done.stdout


def test_tables_with_texts_and_few_values_are_listed_by_name(cli: Cli, url: str) -> None:
    execute(url, f"{OUTBOX} CREATE TABLE stock (id integer PRIMARY KEY, shelf integer)")
    execute(url, "CREATE TABLE names (id integer PRIMARY KEY, name text); INSERT INTO names VALUES (1, 'Oyelaran')")
    execute(url, "CREATE TABLE retrycli_queue (message_id integer PRIMARY KEY, state text, note text)")
    execute(url, "CREATE VIEW awaiting AS SELECT id, subject, state FROM outbox")
    execute(url, f"INSERT INTO cases VALUES (5, 'DESK-5'); {ROW} (1, 5, 'Tea', 'failed', 2, NULL, NULL)")
    table = "outbox\ttable\t{}\tsubject, state, token\tcase_id, subject, {}"
    view = "awaiting\tview\t1\tsubject, state\tid, subject, state"
    assert piped(cli, url) == [view, table.format(1, "state, attempts")]
    for number in range(2, FEW + 2):
        execute(url, f"{ROW} ({number}, 5, 'Tea', 'S{number}', NULL, NULL, NULL)")
    assert piped(cli, url)[1] == table.format(FEW + 1, "attempts")
    screen = cli.having({"RETRYCLI_DATABASE__URL": url}).on_terminal("table", "describe")
    assert "2 of 5 tables in " in screen.words
    execute(url, "DELETE FROM names")
    assert "names" in listed(cli, url)


def test_only_the_newest_rows_of_a_large_table_are_read(cli: Cli, url: str) -> None:
    execute(url, OUTBOX)
    numbers = f"WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {ROWS + 100})"
    rows = "SELECT n, 'Tea', CASE WHEN n <= 7 THEN 'BOUNCED' ELSE 'SENT' END FROM c"
    execute(url, f"INSERT INTO outbox (id, subject, state) {numbers} {rows}")
    assert values_of(described(cli, url, "outbox"), "state") == [("SENT", ROWS)]
    assert piped(cli, url, "outbox")[0] == f"table\toutbox\ttable\t{ROWS}+\tthe newest 5,000 rows"
    execute(url, "CREATE INDEX outbox_state ON outbox (state)")
    assert values_of(described(cli, url, "outbox"), "state") == [("SENT", ROWS), ("BOUNCED", 7, "older")]
    assert 'value\tstate\t"BOUNCED"\t7 older\t' in piped(cli, url, "outbox")


@pytest.mark.parametrize(
    ("states", "shown"),
    [
        (["failed"] * 2 + ["Oyelaran"] * 2, [("failed", 2), (None, 2, "hidden")]),
        (["mail"] * 3 + ["memo"] * 2, [("mail", 3), (None, 2, "hidden")]),  # in a short column
        (["failed"] * 2 + ["\x1b[2J\n"] * 5, [("failed", 2), (None, 5, "hidden")]),
        (["failed"] * 2 + ["Held up"] * 3, [("Held up", 3), ("failed", 2)]),
    ],
)
def test_texts_that_may_be_customers_words_are_not_shown(
    cli: Cli, url: str, states: list[str], shown: list[tuple[Any, ...]]
) -> None:
    rows = ", ".join(f"({n}, 'Dear Ms Oyelaran', '{state}')" for n, state in enumerate(states))
    kind = "varchar(20)" if "mail" in states else "text"
    execute(
        url, f"{OUTBOX.replace('state text', f'state {kind}')} INSERT INTO outbox (id, subject, state) VALUES {rows}"
    )
    assert values_of(described(cli, url, "outbox"), "state") == shown
    assert "yelaran" not in texts(cli, url, "outbox")


def test_hostile_names_are_escaped(cli: Cli, url: str) -> None:
    name = 'mail\n"]\x1b[2J\x7fqueue = 1'
    quoted = name.replace('"', '""')
    execute(
        url, f'CREATE TABLE "{quoted}" (id integer PRIMARY KEY, "{quoted}" text, "St ATE" text, {"a" * 63} varchar(9))'
    )
    execute(url, f"""INSERT INTO "{quoted}" VALUES (1, 'a', 'failed', NULL)""")
    assert [*listed(cli, url)] == [name]
    assert "table" not in tomllib.loads(cli.json("table", "describe", "--url", url, name)["settings"])["database"]
    text = texts(cli, url, name)
    assert "can't name this table" in text
    assert re.search(r"\na{63}\n    (varchar|character varying)\(9\)", text)  # on a terminal of 80 columns
    assert 'value\tSt ATE\t"failed"\t1' in text


def test_a_view_that_never_ends_is_described_without_its_values(cli: Cli, url: str) -> None:
    numbers = "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c"
    endless = f"({numbers}) AS c" if url.startswith("sqlite") else "pg_sleep(60)"
    execute(url, f"CREATE VIEW mails AS SELECT 'a' AS body, 'a' AS status FROM {endless}")
    found = described(cli, url, "mails")
    assert (found["rows"], found["values"]) == (None, [])
    assert "could not be read" in found["problem"]


def test_nothing_is_written(cli: Cli, url: str) -> None:
    Application(url, tables=TABLES + TICKETS).add_due(3)
    before = Application(url, tables=None).dump()
    for name in listed(cli, url):
        settings = cli.having({"RETRYCLI_DATABASE__URL": url}).json("table", "describe", name)["settings"]
        assert "url" not in tomllib.loads(settings)["database"], "the settings have it"
    assert Application(url, tables=None).dump() == before


ERRORS: list[tuple[str, int, str]] = [
    ("--url {url} retrycli_queue", 78, "no table retrycli_queue"),
    ("--url mysql://desk@127.0.0.1/desk", 78, "--url: write sqlite:///FILE or"),
    ("--url sqlite:///notes.txt", 69, "file is not a database: check --url"),
    ("", 69, "check database.url (RETRYCLI_DATABASE__URL)"),
    ("--url postgresql://anna:hush@127.0.0.1:{port}/desk", 69, "check the host and port in --url"),
]


@pytest.mark.parametrize(("line", "code", "text"), ERRORS)
def test_an_error_is_one_line(cli: Cli, url: str, line: str, code: int, text: str) -> None:
    execute(url, f"{OUTBOX} CREATE TABLE retrycli_queue (message_id integer PRIMARY KEY, state text)")
    (cli.cwd / "notes.txt").write_text("Buy tea. " * 100)
    done = cli("table", "describe", *line.format(url=url, port=free_port()).split())
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
    assert text in done.stderr
    assert "hush" not in done.stderr


@on_a_server
def test_schemas_enumerations_domains_and_partitions_of_a_server(cli: Cli, url: str) -> None:
    fill(url, CAP)
    secret = make_url(url).set(password="hush").render_as_string(hide_password=False)  # the server accepts any
    done = cli("table", "describe", "--url", secret, "cap.published")
    assert 'value\tStatusName\t"Failed"\t4\t' in done.stdout
    assert "settings\t# url = " in done.stdout
    assert "hush" not in done.stdout
    columns = "id integer, code code, state delivery, note text, made date, PRIMARY KEY (id, made)"
    execute(
        url,
        f"""CREATE TYPE delivery AS ENUM ('sent', 'Oops, it failed'); CREATE DOMAIN code AS smallint;
      CREATE TABLE parts ({columns}) PARTITION BY RANGE (id);
      CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100);
      INSERT INTO parts VALUES (1, 3, 'sent', 'x', '2026-03-01')""",
    )
    assert {"parts", "cap.published"} <= listed(cli, url).keys() - {"parts_1"} == listed(cli, url).keys()
    found = described(cli, url, "public.parts")
    assert (found["table"], found["kind"]) == ("parts", "partitioned table")
    assert [*found["columns"][0].values()] == ["id", "integer", False, ["primary with made"], None]
    assert values_of(found, "code") + values_of(found, "state") == [(3, 1), ("sent", 1), ("Oops, it failed", 0)]


@on_a_server
def test_a_table_that_may_not_be_read_and_a_view_that_would_write(cli: Cli, url: str) -> None:
    role = f"{make_url(url).database}_guest"
    execute(
        url,
        f"""{OUTBOX} CREATE TABLE trace (n integer); CREATE ROLE {role} LOGIN;
      CREATE FUNCTION spy() RETURNS integer LANGUAGE sql AS 'INSERT INTO trace VALUES (1) RETURNING n';
      CREATE VIEW mails AS SELECT spy() AS id, 'a' AS body, 'failed' AS status""",
    )
    try:
        guest = make_url(url).set(username=role).render_as_string(hide_password=False)
        assert listed(cli, guest)["outbox"]["rows"] is None
        assert "GRANT SELECT ON outbox" in described(cli, guest, "outbox")["problem"]
    finally:
        execute(url, f"DROP ROLE {role}")
    assert "could not be read" in described(cli, url, "mails")["problem"]
    assert described(cli, url, "trace")["rows"] == 0


@on_sqlite
def test_odd_tables_of_a_file(cli: Cli, url: str) -> None:
    execute(url, "CREATE TABLE tickets (number integer PRIMARY KEY, external_id text)")
    execute(url, "CREATE VIEW broken AS SELECT * FROM gone; CREATE VIRTUAL TABLE search USING fts5(body, status)")
    columns = "id integer, ticket REFERENCES Tickets, body, state text, PRIMARY KEY (id, ticket)"
    execute(url, f"CREATE TABLE mails ({columns}) WITHOUT ROWID; CREATE UNIQUE INDEX odd ON mails (lower(body), state)")
    execute(url, "INSERT INTO mails VALUES (1, 5, x'00ff', 'FAILED'), (2, 5, 'Dear B', 'FAILED')")
    assert {"mails", "search", "tickets"} <= listed(cli, url).keys()
    found = described(cli, url, "mails")
    assert [each["keys"] for each in found["columns"]] == [["primary with ticket"], ["primary with id"], [], []]
    assert found["columns"][1]["refers_to"] == "tickets.number"
    assert values_of(found, "state") + values_of(found, "body") == [("FAILED", 2), (None, 2, "hidden")]
    database = Database(url)
    list_tables(database)
    with database.write() as connection:  # the connection's limits have ended
        connection.exec_driver_sql("INSERT INTO tickets VALUES (1, 'DESK-1')")
    database.close()
