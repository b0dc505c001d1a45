"""Faults of a PostgreSQL server: one clear error line, no lost messages, and recovery by the next pass."""

from __future__ import annotations

import re
import signal
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import URL, make_url

import retrycli
from retrycli.config.settings import DatabaseSettings, Settings
from retrycli.operations import run_pass, wiring
from retrycli.operations.sandbox import Behaviour, Sandbox
from retrycli.store.database import CREATION
from retrycli.store.error_messages import BY_CODE, BY_TEXT, GONE
from tests import postgresql
from tests.cli.api import held_back
from tests.cli.application import Application
from tests.cli.command import Cli, end, wait_until
from tests.cli.test_bad_input import fault
from tests.environment import free_port
from tests.proxy import Loses, proxy

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from retrycli.domain.passes import PassSummary
    from tests.cli.api import Gate
    from tests.cli.command import Finished
    from tests.postgresql import Server

MANUAL = Path(retrycli.__file__).parent / "manual" / "postgresql.md"
API = "http://127.0.0.1:9"
"""No server listens on this port. The commands that use it send no request, so they need no server."""
SECRET = "pa55-of-the-test"
PROCESS_DIED, ALL_DUE = timedelta(minutes=14), timedelta(hours=2)
"""Delays after which all claims have expired, and after which all rescheduled messages are due."""
MESSAGES = 10
BUSY_SESSIONS = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgresql.own_server() as made:
        yield made


def shown(url: URL) -> str:
    """Return a URL with its password."""
    return url.render_as_string(hide_password=False)


@dataclass(frozen=True)
class Desk:
    """An application on its own server, the command in a folder, and ways to disturb the server."""

    server: Server
    application: Application
    cli: Cli

    def url(self, *, user: str = "postgres", port: int | None = None, **query: str) -> str:
        """Return the application's ``database.url`` with the password `SECRET`, which no output may contain."""
        there = make_url(self.application.url).set(username=user, password=SECRET)
        return shown(there.set(port=port or there.port, query=query))

    def at(self, api: str, *, url: str | None = None, **settings: str) -> Cli:
        """Return the command with settings for the database and an API."""
        more = {f"RETRYCLI_{name}": value for name, value in settings.items()}
        return self.cli.having(
            {
                "RETRYCLI_DATABASE__URL": url or self.url(),
                "TICKETING_API_BASE_URL": api,
                "RETRYCLI_RUN__LOCK_FILE": str(self.cli.cwd / "lock"),
                **more,
            }
        )

    def run_later(self, api: Sandbox, later: timedelta) -> PassSummary:
        """Run a pass whose clock is ahead by `later`."""
        settings = Settings.model_validate(
            self.application.settings(api.url).model_dump() | {"run": {"lock_file": str(self.cli.cwd / "lock")}}
        )
        now = datetime.now(UTC) + later
        return run_pass.run_once(settings, runtime=replace(wiring.DEFAULT_RUNTIME, now=lambda: now))

    def role(self, *grants: str) -> str:
        """Create a role with these rights; return its name."""
        name = f"{make_url(self.application.url).database}_{len(grants)}"
        self.application.execute(f"CREATE ROLE {name} LOGIN")
        for grant in grants:
            self.application.execute(f"GRANT {grant} TO {name}")
        return name


@pytest.fixture(scope="module")
def template(server: Server) -> Iterator[str]:
    """Provide a database with retrycli's tables, which each test copies."""
    with postgresql.database(at=server.url) as url:
        Application(url)
        with wiring.open_database(Settings(database=DatabaseSettings(url=url))):
            pass
        yield url


@pytest.fixture
def desk(server: Server, template: str, cli: Cli) -> Iterator[Desk]:
    with postgresql.database(template, at=server.url) as url:
        yield Desk(server, Application(url, tables=None), cli)


@pytest.fixture
def untouched_desk(server: Server, cli: Cli) -> Iterator[Desk]:
    """Provide a desk without retrycli's tables."""
    with postgresql.database(at=server.url) as url:
        yield Desk(server, Application(url), cli)


def line(done: Finished, code: int = 69) -> str:
    """Return the one error line of a command, without the database's location."""
    text = fault(done, code)
    assert SECRET not in done.stderr
    return text.partition(": ")[2] if text.startswith("postgresql") else text


@contextmanager
def in_flight(
    desk: Desk, url: str | None = None, *, between_transactions: bool = False
) -> Iterator[tuple[list[Finished], Gate]]:
    """Start a pass over ten messages, and hold it while one request is in flight.

    Yield a list and the gate. After the block, the gate opens and the list contains the pass's result. A pass has a
    transaction each second, so it can be stopped between two of them for the length of the block.
    """
    desk.application.add_due(MESSAGES)
    done: list[Finished] = []
    with held_back() as (api, gate):
        process = desk.at(api.url, url=url).start("run-once")
        try:
            assert gate.reached.wait(60)
            if between_transactions:
                wait_until(lambda: stopped_between_transactions(desk.application, process))
            yield done, gate
        finally:
            process.send_signal(signal.SIGCONT)
            gate.opened.set()
            done.append(end(process))


def stopped_between_transactions(application: Application, process: subprocess.Popen[str]) -> bool:
    """Stop a process; let it continue if it was in a transaction."""
    process.send_signal(signal.SIGSTOP)
    # Asked twice, because the server may not have read the process's last statement the first time.
    busy = [application.asked(BUSY_SESSIONS), application.asked(BUSY_SESSIONS)]
    if any(busy):
        process.send_signal(signal.SIGCONT)
    return not any(busy)


def check_that_all_arrive(desk: Desk, *, unknown: int, known: int = 0) -> None:
    """Check that later passes deliver every message, and repeat attempts of unknown outcome with their keys.

    Messages whose delivery is recorded are not sent again.
    """
    rows, queue = desk.application.rows(), desk.application.rows("retrycli_queue")
    assert {message_id for message_id, row in rows.items() if row["status"] == "failed"} == queue.keys()
    assert all(row["next_attempt_at"] or row["claim_expires_at"] for row in queue.values())
    attempts = desk.application.rows("retrycli_attempts").values()
    kept = {attempt["message_id"] for attempt in attempts if attempt["outcome"] == "delivered"} & queue.keys()
    begun = {attempt["message_id"]: attempt["delivery_key"] for attempt in attempts if attempt["message_id"] in queue}
    assert (len(begun), len(kept)) == (unknown + known, known)
    with Sandbox(Behaviour(), rng=Random(0)) as api:
        after = desk.run_later(api, PROCESS_DIED)
        assert (after.result, after.unknown, after.sent) == ("completed", unknown, len(queue) - unknown)
        assert desk.run_later(api, ALL_DUE).sent == unknown
        assert len(api.received) == len(queue) - known
        keys = {request.key for request in api.received}
        assert {begun[message_id] for message_id in begun.keys() - kept} <= keys
        assert {begun[message_id] for message_id in kept}.isdisjoint(keys)
    assert {row["status"] for row in desk.application.rows().values()} == {"sent"}
    assert {row["result"] for row in desk.application.rows("retrycli_passes").values()} <= {
        "completed",
        "failed",
        "interrupted",
    }


# -- a server that goes away -----------------------------------------------------------------------------------------


def test_stopping_the_server_during_a_pass_costs_one_attempt_per_message_in_flight(desk: Desk) -> None:
    """With ``synchronous_commit=off`` an immediate stop may lose commits that the server has acknowledged."""
    url = desk.url(options="-c synchronous_commit=off")
    with in_flight(desk, url, between_transactions=True) as (done, _):
        desk.server.stop("immediate")
    try:
        assert re.fullmatch(
            rf"connection failed: connection to server at \"127.0.0.1\", port {desk.server.port} failed: "
            rf"Connection refused: {re.escape(BY_TEXT['Connection refused'])}",
            line(done[0]),
        )
    finally:
        desk.server.start()
    check_that_all_arrive(desk, unknown=1)


def test_a_pass_reconnects_after_the_server_restarts_between_transactions(desk: Desk) -> None:
    with in_flight(desk, between_transactions=True) as (done, _):
        desk.server.stop("fast")
        desk.server.start()
    check_all_sent_once(desk, done[0])


def test_stopping_the_server_during_a_transaction_is_reported(desk: Desk) -> None:
    """A lock on the queue keeps the transaction that records the answer open until the server stops."""
    with in_flight(desk) as (done, gate), holding(desk, "LOCK TABLE retrycli_queue IN ACCESS EXCLUSIVE MODE"):
        gate.opened.set()
        wait_until(lambda: waits_for_a_lock(desk.application))
        desk.server.stop("fast")
    desk.server.start()
    # The stop may hit the transaction, or the pass's next attempt to connect.
    assert line(done[0]).endswith((f": {GONE}", BY_TEXT["Connection refused"]))
    check_that_all_arrive(desk, unknown=1)


@contextmanager
def holding(desk: Desk, statement: str) -> Iterator[None]:
    """Run a statement in a transaction that stays open until the block ends or the server stops."""
    there = make_url(desk.application.url).set(drivername="postgresql")
    with closing(psycopg.connect(shown(there))) as connection:
        connection.execute(statement.encode())
        yield


def waits_for_a_lock(application: Application) -> bool:
    return bool(application.execute("SELECT 1 FROM pg_locks WHERE NOT granted"))


# -- a commit of which nobody knows whether it was made --------------------------------------------------------------


BEGINS, ENDS = "INSERT INTO retrycli_attempts", "UPDATE retrycli_attempts"
IN_DOUBT = {
    "the attempt is written down, and nobody hears of it": (BEGINS, Loses.ITS_ANSWER, "failed", 1),
    "the attempt is not written down": (BEGINS, Loses.THE_COMMIT, "failed", 0),
    "the outcome is written down, and nobody hears of it": (ENDS, Loses.ITS_ANSWER, "sent", 0),
    "the outcome is not written down": (ENDS, Loses.THE_COMMIT, "failed", 0),
}


@pytest.mark.parametrize(("text", "loses", "status", "unknown"), IN_DOUBT.values(), ids=IN_DOUBT)
def test_a_network_failure_during_a_commit_loses_nothing(
    desk: Desk, text: str, loses: Loses, status: str, unknown: int
) -> None:
    """A message with a known answer is not sent again: its outcome is recorded over another connection.

    ``text`` identifies the statement of the transaction. After the failed pass, the message has this status, and the
    next pass does not know the outcome of this number of attempts.
    """
    desk.application.add(101)
    with Sandbox(Behaviour(), rng=Random(0)) as api:
        with proxy(desk.server.port, text, loses) as between:
            done = desk.at(api.url, url=desk.url(port=between.port))("run-once")
        assert between.lost.is_set()
        assert line(done).endswith(f": {GONE}")
        assert desk.application.row(101)["status"] == status
        after = [desk.run_later(api, later) for later in (PROCESS_DIED, ALL_DUE)]
        assert sum(summary.unknown for summary in after) == unknown
        assert [request.times for request in api.received] == [1]
    assert desk.application.row(101)["status"] == "sent"
    outcomes = [attempt["outcome"] for attempt in desk.application.rows("retrycli_attempts").values()]
    assert outcomes == ["unknown"] * unknown + ["delivered"]


# -- a server that takes no changes ----------------------------------------------------------------------------------

READ_ONLY = rf"cannot execute [A-Z ]+ in a read-only transaction: {re.escape(BY_CODE['25006'])}"


def test_a_read_only_server_is_reported_and_can_be_inspected(desk: Desk) -> None:
    desk.application.add(101)
    name = make_url(desk.application.url).database
    desk.server.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    command = desk.at(API)
    assert re.fullmatch(READ_ONLY, line(command("run-once")))
    assert command("list-failed").stdout.startswith("101\t")
    assert command("status").returncode == 0


def is_read_only(desk: Desk) -> bool:
    there = make_url(desk.application.url).set(drivername="postgresql")
    with closing(psycopg.connect(shown(there))) as connection:
        return connection.execute("SHOW default_transaction_read_only").fetchone() == ("on",)


def test_a_server_that_becomes_read_only_during_a_pass_loses_nothing(desk: Desk) -> None:
    try:
        with in_flight(desk) as (done, _):
            desk.server.execute("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
            wait_until(lambda: is_read_only(desk))  # each session reloads the setting with a delay
    finally:
        desk.server.execute("ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")
    assert re.fullmatch(READ_ONLY, line(done[0]))
    check_that_all_arrive(desk, unknown=1)


def test_of_several_hosts_in_the_url_the_writable_one_is_used(desk: Desk) -> None:
    """After a failover, one of the hosts in the URL is down."""
    desk.application.add(101)
    nobody, there = free_port(), desk.server.port
    name = make_url(desk.application.url).database
    url = (
        f"postgresql://postgres@/{name}?host=127.0.0.1:{nobody}&host=127.0.0.1:{there}&target_session_attrs=read-write"
    )
    with Sandbox(Behaviour(), rng=Random(0)) as api:
        assert desk.at(api.url, url=url).json("run-once")["sent"] == 1


# -- too few connections ---------------------------------------------------------------------------------------------

[_RIGHTS] = re.findall(r"```sql\n(GRANT .+?)```", MANUAL.read_text(encoding="utf-8"), re.DOTALL)
ON_THE_TABLE, FOR_OWN_TABLES = re.findall(r"GRANT (.+?) TO retrycli;", _RIGHTS, re.DOTALL)
"""The manual's rights for retrycli's role, so that a test fails if the manual omits one."""
COMMANDS = (
    *("run-once", "run-once --dry-run", "status", "list-failed", "show 101", "explain 103", "stats", "report --html -"),
    *("metrics", "passes", "retry 102", "edit 103 --subject New --yes", "requeue 103", "reject 103 --reason no"),
    *("pause --for 1m", "resume", "config check", "db prune --older-than 1d --yes"),
)


SESSIONS = "SELECT pid FROM pg_stat_activity WHERE usename = ?"


def test_a_role_with_two_connections_and_the_manuals_rights_can_run_everything(untouched_desk: Desk) -> None:
    """Each command uses one connection at a time. But the server may end a session after `edit` opens the next one."""
    desk = untouched_desk
    role = desk.role(ON_THE_TABLE, FOR_OWN_TABLES)
    desk.application.execute(f"ALTER ROLE {role} CONNECTION LIMIT 2")
    desk.application.add(101)
    desk.application.add(102, hours_ago=0)
    desk.application.add(103, retry_count=10)
    with Sandbox(Behaviour(), rng=Random(0)) as api:
        command = desk.at(api.url, url=desk.url(user=role))
        said = {}
        for words in COMMANDS:
            said[words] = command(*words.split())
            wait_until(lambda: not desk.application.execute(SESSIONS, role))  # a session ends after its client
    assert {words: done.returncode for words, done in said.items()} == dict.fromkeys(COMMANDS, 0)
    statuses = {message_id: row["status"] for message_id, row in desk.application.rows().items()}
    assert statuses == {101: "sent", 102: "sent", 103: "rejected"}


def test_a_server_or_a_role_without_a_free_connection_is_reported(desk: Desk) -> None:
    role = desk.role()
    command = desk.at(API, url=desk.url(user=role))
    with ExitStack() as crowd:
        with suppress(psycopg.OperationalError):
            while True:
                url = make_url(desk.url(user=role)).set(drivername="postgresql")
                crowd.enter_context(closing(psycopg.connect(shown(url))))
        assert line(command("run-once")).endswith(BY_TEXT["remaining connection slots"])
    desk.application.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0")
    told = line(command("run-once"))
    assert told.endswith(f'FATAL: too many connections for role "{role}": {BY_TEXT["too many connections"]}')


# -- statements that are cancelled, and locks of the application's ---------------------------------------------------


def check_all_sent_once(desk: Desk, done: Finished) -> None:
    """Check that a pass succeeded without output, and sent each message once."""
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {row["status"] for row in desk.application.rows().values()} == {"sent"}
    assert len(desk.application.rows("retrycli_attempts")) == MESSAGES


@pytest.mark.parametrize(("setting", "milliseconds"), [("statement_timeout", 300), ("lock_timeout", 50)])
def test_a_statement_cancelled_during_a_pass_loses_nothing(desk: Desk, setting: str, milliseconds: int) -> None:
    """The application locks the table for longer than the server's timeout, so the pass must repeat its statement."""
    with (
        in_flight(desk, desk.url(options=f"-c {setting}={milliseconds}")) as (done, gate),
        holding(desk, "LOCK TABLE pending_messages IN ACCESS EXCLUSIVE MODE"),
    ):
        gate.opened.set()
        for _ in range(3):
            wait_until(lambda: waits_for_a_lock(desk.application))
            wait_until(lambda: not waits_for_a_lock(desk.application))
        assert [attempt["outcome"] for attempt in desk.application.rows("retrycli_attempts").values()] == ["delivered"]
    check_all_sent_once(desk, done[0])


def test_a_pass_waits_for_rows_that_the_application_has_locked(desk: Desk) -> None:
    attempts = "SELECT 1 FROM retrycli_attempts WHERE outcome = 'delivered' AND finished_at IS NULL"
    with in_flight(desk) as (done, gate), holding(desk, "SELECT 1 FROM pending_messages FOR UPDATE"):
        gate.opened.set()
        wait_until(lambda: bool(desk.application.execute(attempts)))
    check_all_sent_once(desk, done[0])


def test_an_advisory_lock_of_another_role_stops_nothing(desk: Desk) -> None:
    """Any role that may connect can hold any advisory lock. The key is the one with which tables are created."""
    desk.application.add_due(1)
    there = make_url(desk.url(user=desk.role())).set(drivername="postgresql")
    with Sandbox(Behaviour(), rng=Random(0)) as api, closing(psycopg.connect(shown(there))) as other:
        other.execute(f"SELECT pg_advisory_lock({CREATION})")
        assert desk.at(api.url, url=desk.url(options="-c lock_timeout=500")).json("run-once")["sent"] == 1


# -- what the role may not do ----------------------------------------------------------------------------------------

LACKS = ("UPDATE", "SELECT", "SELECT, UPDATE (status, retry_count, last_error)")
"""Rights on the application's table that do not suffice: the first two are one each, and the last lacks ``sent_at``."""


@pytest.mark.parametrize("granted", LACKS)
def test_a_missing_right_is_reported_before_anything_is_sent(desk: Desk, granted: str) -> None:
    """Otherwise a message would be sent, its outcome could not be recorded, and it would be sent again."""
    desk.application.add(101)
    own = "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public"
    role = desk.role(own, "USAGE ON ALL SEQUENCES IN SCHEMA public")
    desk.application.execute(f"REVOKE ALL ON pending_messages FROM {role}")
    desk.application.execute(f"GRANT {granted} ON pending_messages TO {role}")
    with Sandbox(Behaviour(), rng=Random(0)) as api:
        told = line(desk.at(api.url, url=desk.url(user=role))("run-once"))
        assert told == f"permission denied for table pending_messages: {BY_CODE['42501']}"
        assert api.received == ()
        assert desk.application.state(101) in {None, "waiting"}
        assert desk.run_later(api, timedelta(0)).sent == 1


def test_a_role_that_may_not_create_its_tables_is_reported(untouched_desk: Desk) -> None:
    desk = untouched_desk
    desk.application.add(101)
    role = desk.role(ON_THE_TABLE)
    done = desk.at(API, url=desk.url(user=role))("run-once")
    assert line(done) == f"permission denied for schema public: {BY_CODE['42501']}"
    nowhere = desk.url(options="-c search_path=nowhere")
    done = desk.at(API, url=nowhere, DATABASE__TABLE="public.pending_messages")("run-once")
    assert line(done) == f"no schema has been selected to create in: {BY_CODE['3F']}"
    assert {table for table in desk.application.tables() if table.startswith("retrycli")} == set()


def test_a_role_that_does_not_see_the_queue_makes_no_second_one(untouched_desk: Desk) -> None:
    """Two queues would send each message twice. The table of another schema is another one."""
    desk = untouched_desk
    for statement in ("CREATE SCHEMA ours", "CREATE SCHEMA others"):
        desk.application.execute(statement)
    desk.application.add_due(1)
    first = desk.at(API, url=desk.url(options="-c search_path=ours,public"))
    assert first.json("list-failed")["messages"] != []
    second = desk.at(API, url=desk.url(options="-c search_path=others,public"))
    for command in ("list-failed", "run-once", "retry 101"):
        done = second(*command.split())
        assert done.returncode == 78
        assert "the queue of public.pending_messages in " in done.stderr
        assert "is in the schema ours, which is not in this role's search_path" in done.stderr
    desk.application.execute("CREATE TABLE others.pending_messages (LIKE public.pending_messages)")
    assert second.json("list-failed")["messages"] == []


# -- what a constraint forbids ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "forbidden"), [("", "status = 'sent'"), (None, "starts_with(last_error, 'Can''t be sent')")]
)
def test_a_violated_constraint_is_reported_without_the_rows_content(
    desk: Desk, body: str | None, forbidden: str
) -> None:
    """PostgreSQL's error quotes the whole row, which contains a customer's text."""
    for message_id in range(1, 31):
        desk.application.add(message_id, subject="a customer's words", body=body)
    desk.application.execute(f"ALTER TABLE pending_messages ADD CONSTRAINT never CHECK (NOT ({forbidden}))")
    with Sandbox(Behaviour(), rng=Random(0)) as api:
        done = desk.at(api.url)("--debug", "run-once")
        assert api.received == ()
    told = 'new row for relation "pending_messages" violates check constraint "never"'
    assert f"{told}: {BY_CODE['23']}" in done.stderr
    assert "customer's" not in done.stderr
    assert done.returncode == (0 if body is None else 78)
    states = {queued["state"] for queued in desk.application.rows("retrycli_queue").values()}
    assert states == {"escalated" if body is None else "waiting"}


def test_a_message_whose_update_violates_a_policy_is_sent_once_and_escalated(untouched_desk: Desk) -> None:
    """The role can read the row but never update it, so the pass must not retry the update as it would for a lock."""
    desk = untouched_desk
    role = desk.role(ON_THE_TABLE, FOR_OWN_TABLES)
    *others, hidden = desk.application.add_due(MESSAGES)
    for statement in (
        "ALTER TABLE pending_messages ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY reading ON pending_messages FOR SELECT USING (true)",
        f"CREATE POLICY writing ON pending_messages FOR UPDATE USING (true) WITH CHECK (id <> {hidden})",
    ):
        desk.application.execute(statement)
    with Sandbox(Behaviour(), rng=Random(0)) as api:
        command = desk.at(api.url, url=desk.url(user=role))
        done = command("run-once")
        assert done.returncode == 0, done.stderr
        assert f"Message {hidden} needs an operator (invalid: " in done.stderr
        assert "violates row-level security policy" in done.stderr
        assert command.json("run-once")["sent"] == 0
        assert [request.times for request in api.received] == [1] * MESSAGES
    rows = desk.application.rows()
    assert {rows[message_id]["status"] for message_id in others} == {"sent"}
    assert (rows[hidden]["status"], desk.application.state(hidden)) == ("failed", "escalated")


# -- URLs that lead nowhere ------------------------------------------------------------------------------------------


def test_an_unreachable_server_is_reported_with_what_to_check(desk: Desk) -> None:
    desk.server.hosts_file.write_text(
        "host all guarded 127.0.0.1/32 scram-sha-256\n" + desk.server.hosts_file.read_text()
    )
    desk.server.execute("CREATE ROLE guarded LOGIN PASSWORD 'another'", "SELECT pg_reload_conf()")
    place = make_url(desk.url())
    urls = {
        ("server does not support SSL, but SSL was required", "does not support SSL"): desk.url(sslmode="require"),
        ("Connection refused", "Connection refused"): desk.url(port=free_port()),
        ("Name or service not known", "failed to resolve host"): shown(place.set(host="db.invalid")),
        ('FATAL: database "none" does not exist', "does not exist"): shown(place.set(database="none")),
        ('FATAL: role "nobody" does not exist', "does not exist"): desk.url(user="nobody"),
        ('FATAL: password authentication failed for user "guarded"', "authentication failed"): desk.url(user="guarded"),
    }
    for (words, sign), url in urls.items():
        assert line(desk.at(API, url=url)("run-once")).endswith(f"{words}: {BY_TEXT[sign]}")


# -- schemas ---------------------------------------------------------------------------------------------------------


def test_the_applications_table_may_be_in_any_schema(untouched_desk: Desk) -> None:
    desk = untouched_desk
    for statement in ("CREATE SCHEMA desk", "CREATE SCHEMA ours", "ALTER TABLE pending_messages SET SCHEMA desk"):
        desk.application.execute(statement)
    desk.application.execute(f"ALTER DATABASE {make_url(desk.application.url).database} SET search_path = desk, public")
    desk.application.add_due(2)
    desk.application.add(103, retry_count=10)
    with Sandbox(Behaviour(), rng=Random(0)) as api:
        url = desk.url(options="-c search_path=ours")
        command = desk.at(api.url, url=url, DATABASE__TABLE="desk.pending_messages")
        assert command.json("run-once")["sent"] == 2
    assert command("requeue", "103").returncode == 0
    assert command.json("status")["messages"]["waiting"] == 1
    found = desk.application.execute("SELECT schemaname FROM pg_tables WHERE starts_with(tablename, 'retrycli')")
    assert {row["schemaname"] for row in found} == {"ours"}
