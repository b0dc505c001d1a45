"""A role that may create functions in the search path can't run its code with the rights of retrycli's role."""

from __future__ import annotations

import re
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url

from retrycli.domain.errors import Untrusted
from retrycli.store.database import Database
from tests import traps
from tests.cli.api import BAD_GATEWAY, REJECTS, TAKES, Scripted
from tests.cli.application import Application

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.command import Cli
    from tests.store.conftest import Factory

pytestmark = pytest.mark.databases("postgresql")

FIRST = ("run-once --dry-run", "run-once")
LOOKS = (
    "status",
    "list-failed",
    "list-failed --type customer --ticket 4711 --error 502 --failed-before 1s",
    "escalations",
    "show 5",
    "explain 5",
    *(f"stats --by {each}" for each in ("outcome", "type", "ticket", "error", "hour")),
    "report --html -",
    "metrics",
    "passes",
    "config check",
    "doctor",
    "db move-check",
)
LONG_AGO = "2026-01-02 03:04:05+00"
TIMES = ("started_at", "heartbeat_at", "finished_at")
OUTSIDE = re.compile(r"permission denied for function [^\n;]*|TRAP[^\n;]*")
ACTS = (
    "retry 5",
    "retry --error 502 --yes",
    "edit 6 --subject New --yes",
    "requeue --type customer --yes",
    "mark-sent 6 --yes",
    "reject 7 --reason no",
    "pause --for 1m",
    "resume",
    "db index --yes",
    "db index --drop --yes",
    "db prune --older-than 1s --yes",
    "run-once",
)


@pytest.fixture(scope="module")
def template(engine: Factory, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Provide a database with all traps for tests to copy, because planting 13,000 traps takes two seconds."""
    with engine(tmp_path_factory.mktemp("traps"), None) as url:
        Application(url)
        assert traps.plant(url) > 1000
        yield url


@pytest.fixture
def planted(engine: Factory, template: str, tmp_path: Path) -> Iterator[Application]:
    """Provide an application's database with all traps, but without retrycli's tables."""
    with engine(tmp_path, template) as url:
        made = Application(url, tables=None)
        yield made
        made.lock.unlink(missing_ok=True)


def test_planted_functions_and_operators_are_never_run(planted: Application, cli: Cli) -> None:
    """An unqualified name could resolve to a planted function, even while the first command creates tables.

    PostgreSQL runs an operator only if there are rows to compare, so the tables are filled before the other commands.
    The query for known escalations passes their keys as an array, which needs other operators.
    """
    planted.fill()
    with Scripted(REJECTS) as api:
        command = cli.having(planted.variables(api.url))
        said = [command("run-once", "--dry-run"), command("db", "upgrade")]
        planted.execute("INSERT INTO retrycli_escalations VALUES ('a key', 'exhausted', ?)", LONG_AGO)
        filling = ("run-once", "requeue 5 --yes", "edit 6 --subject New --yes", "run-once")
        said += [command(*each.split()) for each in filling]
        planted.execute(f"UPDATE retrycli_passes SET {', '.join(f'{name} = {LONG_AGO!r}' for name in TIMES)}")
        said.append(command("db", "prune", "--older-than", "1s", "--yes"))
        assert planted.rows("retrycli_passes") == {}
        said.append(command("run-once"))
    planted.add_due(3)
    for table in ("queue", "attempts", "acts", "escalations", "passes"):
        assert planted.rows(f"retrycli_{table}") != {}, table
    with Scripted(BAD_GATEWAY, BAD_GATEWAY, TAKES) as api:
        command = cli.having(planted.variables(api.url))
        said += [command(*each.split()) for each in (*FIRST, *LOOKS, *ACTS)]
    assert [done for done in said if "TRAP" in done.stderr + done.stdout or done.returncode in {1, 2, 69, 78}] == []


def test_planted_functions_are_never_run_when_a_table_is_described(planted: Application, cli: Cli) -> None:
    """The rows are more than are counted, so that the index is read too."""
    columns = "id, ticket_id, message_type, status, body, recipient_email"
    planted.execute(
        f"INSERT INTO pending_messages ({columns}) SELECT n, 4711, 'customer', CASE WHEN n < 9 THEN 'BOUNCED' "
        "ELSE 'sent' END, '{}', 'a@b.example, c@d.example' FROM generate_series(1, 5100) n"
    )
    assert "pending_messages" in {
        each["table"] for each in cli.json("table", "describe", "--url", planted.url)["tables"]
    }
    [found] = cli.json("table", "describe", "--url", planted.url, "pending_messages")["tables"]
    assert found["problem"] is None
    statuses = [each for each in found["values"] if each["column"] == "status"]
    assert [(each["value"], each["rows"]) for each in statuses] == [("sent", 5000), ("BOUNCED", 8)]


@contextmanager
def eve(application: Application) -> Iterator[str]:
    """Provide a role without rights. What it owns is dropped at the end."""
    name = f"eve 5% {make_url(application.url).database}"
    application.execute(f'CREATE ROLE "{name}" LOGIN')
    try:
        yield name
    finally:
        application.execute(f'DROP OWNED BY "{name}"')
        application.execute(f'DROP ROLE "{name}"')


@pytest.mark.parametrize("kind", ["VIEW", "TABLE"])
def test_what_belongs_to_another_role_is_read_only_by_its_name(application: Application, cli: Cli, kind: str) -> None:
    """A list of all tables must not run functions that any role may have made: those of a view, or of a table's index,
    which PostgreSQL calls when it plans a query.
    """
    describe = ("table", "describe", "--url", application.url)
    with eve(application) as role:
        application.execute(f'CREATE SCHEMA hers AUTHORIZATION "{role}"')
        application.execute(f"CREATE {kind} hers.mails AS SELECT 1 AS id, 'a'::text AS subject, 'b'::text AS status")
        application.execute(f'ALTER {kind} hers.mails OWNER TO "{role}"')
        listed = {each["table"]: each for each in cli.json(*describe)["tables"]}
        told = f"reading it may run code of the role {role}; to read it, give its name"
        assert listed["hers.mails"]["problem"] == told
        [named] = cli.json(*describe, "hers.mails")["tables"]
        assert named["problem"] is None


NUMBERS, TEXTS = ("id", "retry_count"), ("ticket_id", "message_type", "subject", "status", "last_error")
COLUMNS: dict[str, dict[str, str]] = {
    "as they are": {},
    "smallint": dict.fromkeys(NUMBERS, "smallint"),
    "double precision": {"retry_count": "double precision"},
    "character": dict.fromkeys(TEXTS, "character(200)"),
    "text": dict.fromkeys(TEXTS, "text"),
    "numeric and enumerations": {
        **dict.fromkeys(NUMBERS, "numeric"),
        "status": "desk_status USING status::desk_status",
        "message_type": "desk_type USING message_type::desk_type",
    },
}
ENUMERATIONS = """
    CREATE TYPE desk_status AS ENUM ('pending', 'approved', 'failed', 'sent', 'rejected');
    CREATE TYPE desk_type AS ENUM ('customer', 'supplier', 'internal')
"""


@contextmanager
def lesser_role(application: Application) -> Iterator[str]:
    """Give the table to a role without the right to run the traps.

    PostgreSQL checks this right when a statement starts, so a statement fails even if it reads no rows.
    """
    role = f"desk {make_url(application.url).database}"
    for statement in (
        f"CREATE ROLE \"{role}\" LOGIN PASSWORD 'desk'",
        f'GRANT USAGE, CREATE ON SCHEMA public TO "{role}"',
        "REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC",
        f'ALTER TABLE pending_messages OWNER TO "{role}"',
    ):
        application.execute(statement)
    try:
        yield make_url(application.url).set(username=role, password="desk").render_as_string(hide_password=False)
    finally:
        application.execute(f'DROP OWNED BY "{role}"')
        application.execute(f'DROP ROLE "{role}"')


@pytest.mark.long_except(
    "test_nothing_resolves_outside_the_catalogue_for_any_column_type[postgresql-numeric and enumerations]"
)
@pytest.mark.parametrize("columns", COLUMNS)
def test_nothing_resolves_outside_the_catalogue_for_any_column_type(
    untouched: Application, cli: Cli, columns: str
) -> None:
    untouched.execute(ENUMERATIONS)
    untouched.execute("ALTER TABLE pending_messages DROP CONSTRAINT pending_messages_ticket_id_fkey")
    untouched.fill()
    for name, kind in COLUMNS[columns].items():
        untouched.execute(f"ALTER TABLE pending_messages ALTER {name} DROP DEFAULT, ALTER {name} TYPE {kind}")
    traps.plant(untouched.url)
    with lesser_role(untouched) as url, Scripted(BAD_GATEWAY, BAD_GATEWAY, TAKES) as api:
        command = cli.having({**untouched.variables(api.url), "RETRYCLI_DATABASE__URL": url})
        said = {line: command(*line.split()) for line in (*FIRST, *LOOKS, *ACTS)}
    found = {line: OUTSIDE.findall(done.stderr + done.stdout) for line, done in said.items()}
    assert {line: traps for line, traps in found.items() if traps} == {}
    assert {line: done.stderr for line, done in said.items() if done.returncode in {1, 2, 69, 78}} == {}


PEEKS = """
CREATE FUNCTION peek() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'TRAP'; END $$;
CREATE VIEW retrycli_version (version_num) AS SELECT peek();
"""
"""Made by a role that may create tables in the schema, before retrycli creates its own."""


@pytest.mark.parametrize("planted", [PEEKS, "CREATE TABLE retrycli_queue (message_id integer)"])
def test_a_planted_relation_is_not_read(untouched: Application, cli: Cli, planted: str) -> None:
    command = cli.having(untouched.variables("http://127.0.0.1:9"))
    with eve(untouched) as role:
        untouched.execute(f'GRANT CREATE ON SCHEMA public TO "{role}"')
        untouched.execute(f'SET ROLE "{role}"; {planted}')
        untouched.execute(f'REVOKE CREATE ON SCHEMA public FROM "{role}"')
        for line in (*FIRST, "status", "list-failed", "db upgrade", "table check"):
            done = command(*line.split())
            assert "TRAP" not in done.stderr
            said = " ".join((done.stdout + done.stderr).split())
            assert (done.returncode, f"is not a table of retrycli's role, but of {role}, " in said) == (78, True), said


MAY_PLANT = {
    "CREATE ON SCHEMA public": 'CREATE ON SCHEMA public FROM "{role}"`',
    "CREATE ON DATABASE": "CREATE ON DATABASE {database} FROM",
    "a schema": "give that schema another owner",
}


@pytest.mark.parametrize("right", MAY_PLANT)
def test_nothing_is_read_if_another_role_may_plant_what_the_statements_use(
    application: Application, cli: Cli, right: str
) -> None:
    """A function, an operator or a relation of that role would be used, at any later moment."""
    database = make_url(application.url).database
    command = cli.having(application.variables("http://127.0.0.1:9"))
    application.add(1)
    with eve(application) as role:
        if right == "a schema":
            application.execute(f'CREATE SCHEMA postgres AUTHORIZATION "{role}"')  # "$user", which comes first
        else:
            application.execute(f'GRANT {right.replace("DATABASE", f"DATABASE {database}")} TO "{role}"')
        lines = ("run-once", "status", "show 1", "explain 1", "table check", "table describe", "doctor", "db upgrade")
        for line in lines:
            done = command(*line.split())
            assert done.returncode == (3 if line == "doctor" else 78)
            said = " ".join((done.stdout + done.stderr).split())
            assert f"the role {role} may create tables and functions that retrycli would use" in said
            assert MAY_PLANT[right].format(role=role, database=database) in said
        with closing(Database(application.url)) as opened, pytest.raises(Untrusted), opened.rollback_at_end():
            pass
        application.execute(f'DROP OWNED BY "{role}"')
        assert command("status").returncode == 0


@pytest.mark.parametrize("path", ["PUBLIC", '"Order, 5%",public', 'missing,"Order, 5%"', '"$user",public'])
def test_the_schemas_of_any_search_path_are_found(application: Application, cli: Cli, path: str) -> None:
    schema = '"Order, 5%"' if "Order" in path else "public"
    with eve(application) as role:
        application.execute('CREATE SCHEMA "Order, 5%"')
        application.execute(f'GRANT CREATE ON SCHEMA {schema} TO "{role}"')
        url = make_url(application.url).update_query_dict({"options": f"-c search_path={path}".replace(", ", ",\\ ")})
        there = {"RETRYCLI_DATABASE__URL": url.render_as_string(hide_password=False)}
        done = cli.having({**application.variables("http://127.0.0.1:9"), **there})("status")
        assert (done.returncode, f'`REVOKE CREATE ON SCHEMA {schema} FROM "{role}"`' in done.stderr) == (78, True), done
        application.execute('DROP SCHEMA "Order, 5%"')


def test_a_right_of_every_role_counts_if_another_role_may_connect(application: Application, cli: Cli) -> None:
    """Before PostgreSQL 15, every role may create in the schema public."""
    command = cli.having(application.variables("http://127.0.0.1:9"))
    application.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
    application.execute(f"REVOKE CONNECT ON DATABASE {make_url(application.url).database} FROM PUBLIC")
    assert command("status").returncode == 0
    with eve(application) as role:
        application.execute(f'GRANT CONNECT ON DATABASE {make_url(application.url).database} TO "{role}"')
        done = command("status")
        assert done.returncode == 78
        assert "every role may create tables" in done.stderr
        assert "`REVOKE CREATE ON SCHEMA public FROM PUBLIC`" in done.stderr
        application.execute(f'REVOKE CONNECT ON DATABASE {make_url(application.url).database} FROM "{role}"')


def test_the_owner_of_a_table_that_hides_the_applications_is_not_trusted(untouched: Application, cli: Cli) -> None:
    command = cli.having(untouched.variables("http://127.0.0.1:9"))
    with eve(untouched) as role:
        untouched.execute(f'CREATE SCHEMA postgres AUTHORIZATION "{role}"')
        untouched.execute(f'SET ROLE "{role}"; CREATE TABLE postgres.pending_messages (id integer PRIMARY KEY)')
        for line in ("run-once", "table accept --yes"):
            done = command(*line.split())
            assert (done.returncode, f"the role {role} may create tables" in done.stderr) == (78, True), done.stderr


def test_the_owner_of_the_applications_table_may_create_in_its_schema(untouched: Application, cli: Cli) -> None:
    with eve(untouched) as role:
        untouched.execute(f'GRANT CREATE ON SCHEMA public TO "{role}"; ALTER TABLE pending_messages OWNER TO "{role}"')
        assert cli.having(untouched.variables("http://127.0.0.1:9"))("status").returncode == 0
        untouched.execute("ALTER TABLE pending_messages OWNER TO postgres")


def test_a_group_is_trusted_only_if_nobody_else_can_act_as_it(untouched: Application, cli: Cli) -> None:
    """What a member of the group plants in its name would run with the rights of retrycli's role."""
    group = f"desk group {make_url(untouched.url).database}"
    with lesser_role(untouched) as url, eve(untouched) as role:
        user = make_url(url).username
        untouched.execute(f'CREATE ROLE "{group}"')
        untouched.execute(f'GRANT CREATE ON SCHEMA public TO "{group}"')
        try:
            command = cli.having({**untouched.variables("http://127.0.0.1:9"), "RETRYCLI_DATABASE__URL": url})
            untouched.execute(f'GRANT "{group}" TO "{user}"')
            assert command("run-once", "--dry-run").returncode == 0
            untouched.execute(f'GRANT "{group}" TO "{role}"')
            done = command("run-once", "--dry-run")
            assert (done.returncode, f"the role {group} may create tables" in done.stderr) == (78, True), done
            untouched.execute(f'GRANT "{user}" TO "{role}"')  # then it can act as retrycli's role anyway
            assert command("run-once", "--dry-run").returncode == 0
        finally:
            untouched.execute(f'DROP OWNED BY "{group}"; DROP ROLE "{group}"')
