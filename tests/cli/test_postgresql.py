"""The commands on PostgreSQL, as on SQLite; and several hosts that share one table there."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url

from retrycli import app
from retrycli.sandbox import Behaviour, Sandbox
from retrycli.settings import Database, Gateway, Run, Settings
from tests import postgresql
from tests.channels import webhook
from tests.cli.api import BUSY, REJECTS, TAKES, Scripted, held_back
from tests.cli.command import Cli, Finished, end, side_by_side, wait_until
from tests.store.application import Application

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def application() -> Iterator[Application]:
    with postgresql.database() as url:
        made = Application(url)
        yield made
        made.close()


def at_work(cli: Cli, application: Application, api: Sandbox, **settings: object) -> Cli:
    variables = {"RETRYCLI_DATABASE__URL": application.url, "RETRYCLI_GATEWAY__BASE_URL": api.url}
    return cli.having(variables | {f"RETRYCLI_{name}": str(value) for name, value in settings.items()})


def statuses(application: Application) -> Counter[str]:
    return Counter(row["status"] for row in application.rows().values())


def test_a_message_goes_from_failed_to_sent(cli: Cli, application: Application, sandbox: Sandbox) -> None:
    """With no preparation but two variables; retrycli's own tables are made on the way."""
    application.add_all([{}, {"status": "approved"}])
    with application.watched() as changed:
        done = at_work(cli, application, sandbox)("run-once")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {each: sorted(columns) for each, columns in changed.items()} == {1: ["last_error", "sent_at", "status"]}


WRITTEN = "status, retry_count, last_error, sent_at, subject, body, recipient_email"
"""The application's columns that the README says must be writable."""


def test_a_role_that_may_do_little_is_enough(cli: Cli, application: Application, sandbox: Sandbox) -> None:
    """What the README says that it needs: to read the table, write seven columns, and make tables of its own."""
    name = f"retrycli_{uuid.uuid4().hex[:12]}"
    for each in (
        f"CREATE ROLE {name} LOGIN PASSWORD 'of the test'",
        f"GRANT SELECT, UPDATE ({WRITTEN}) ON pending_messages TO {name}",
        f"GRANT USAGE, CREATE ON SCHEMA public TO {name}",
    ):
        application.sql(each)
    try:
        application.add_all([{}, {"body": None}])
        url = make_url(application.url).set(username=name, password="of the test")
        known = at_work(cli, application, sandbox, DATABASE__URL=url.render_as_string(hide_password=False))
        assert known("run-once", "--json").returncode == 0
        assert statuses(application) == {"sent": 1, "failed": 1}
        assert known("edit", "2", "--subject", "New", "--yes").returncode == 0
        assert known("requeue", "2").returncode == 0
        assert known("reject", "2", "--reason", "no").returncode == 0
    finally:
        application.sql(f"DROP OWNED BY {name}")
        application.sql(f"DROP ROLE {name}")


COMMANDS = {
    "status": "ok",
    "list-failed": "2\t12345\tsupplier\tescalated",
    "escalations": "HTTP 422: no such recipient",
    "show 2": "Your delivery",
    "explain 2": "escalation\tfalse\tpermanent",
    "passes": "completed",
    "stats": "outcome\tdelivered\t1",
    "stats --by type": "type\tsupplier\t2\t1",
    "stats --by hour": "hour\t",
    "report --html -": "2 messages wait for you",
    "metrics": 'retrycli_attempts_total{outcome="delivered"} 1.0',
    "config check": "postgresql",
    "db upgrade": "",
    "retry 2": "2\tdelivered",
    "requeue 3": "requeued\t1",
    "reject 3 --reason no": "rejected\t1",
    "escalations note 3 asked": "",
    "edit 3 --subject New --yes": "",
    "db prune --older-than 1s --yes": "",
}
"""Commands, and what each prints after a pass that has delivered message 1; 2 and 3 are escalated."""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What each command prints, each on a copy of one database."""
    with postgresql.database() as url, Scripted(TAKES, REJECTS, TAKES) as api:
        application = Application(url)
        application.add_all([{}, {}, {"body": None}])
        cli = at_work(Cli(tmp_path_factory.mktemp("told")), application, api)
        assert cli("run-once").returncode == 0
        application.close()

        def output(command: str) -> str:
            with postgresql.database(template=url) as copy:
                done = cli(*command.split(), env={"RETRYCLI_DATABASE__URL": copy})
            assert (done.returncode, done.stderr) == (0, ""), command
            return done.stdout

        yield {each: output(each) for each in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_works_there(told: dict[str, str], command: str) -> None:
    assert COMMANDS[command] in told[command]


def test_hosts_share_the_work_and_send_each_message_once(
    tmp_path: Path, application: Application, sandbox: Sandbox
) -> None:
    """Each has its lock; nothing else is between them but the claims."""
    ids = application.add_all([{}] * 120)
    locks = [tmp_path / "one.lock", tmp_path / "two.lock"]
    hosts = [at_work(Cli(tmp_path), application, sandbox, RUN__LOCK_FILE=each) for each in locks]
    assert hosts[0]("db", "upgrade").returncode == 0
    done = side_by_side({number: partial(host, "run-once") for number, host in enumerate(hosts)})
    assert [(each.returncode, each.stderr) for each in done.values()] == [(0, "")] * 2
    assert statuses(application) == {"sent": len(ids)}
    assert len(sandbox.received) == len({each.key for each in sandbox.received}) == len(ids)


@pytest.fixture
def two_hosts(cli: Cli, tmp_path: Path) -> list[Cli]:
    """Two machines: each has a lock of its own."""
    return [cli.having({"RETRYCLI_RUN__LOCK_FILE": str(tmp_path / f"{name}.lock")}) for name in ("one", "two")]


def at_once(hosts: list[Cli]) -> list[Finished]:
    return list(side_by_side({number: partial(host, "run-once") for number, host in enumerate(hosts)}).values())


def test_two_hosts_probe_a_dead_api_once(two_hosts: list[Cli], application: Application) -> None:
    application.add_all([{}] * 1200)
    with Scripted(BUSY) as api:
        hosts = [at_work(each, application, api, RUN__CONCURRENCY=1) for each in two_hosts]
        assert hosts[0]("run-once").returncode == 69
        for number in range(1, 4):
            application.sql("UPDATE retrycli_breakers SET probe_at = now() - interval '1 second'")
            assert [each.returncode for each in at_once(hosts)] == [69, 69]
            assert len(api.paths) == 5 + number
    assert sum(row["retry_count"] for row in application.rows().values()) == 5


def test_the_rate_is_kept_over_two_hosts(two_hosts: list[Cli], application: Application, sandbox: Sandbox) -> None:
    application.add_all([{}] * 60)
    hosts = [at_work(each, application, sandbox, RUN__RATE_PER_SECOND=20) for each in two_hosts]
    assert hosts[0]("db", "upgrade").returncode == 0
    assert [each.returncode for each in at_once(hosts)] == [0, 0]
    assert statuses(application) == {"sent": 60}
    begun = [each["started_at"] for each in application.asked("SELECT started_at FROM retrycli_attempts")]
    assert max(begun) - min(begun) >= timedelta(seconds=59 / 20 - 0.1)
    shares = application.asked("SELECT count(*) AS n FROM retrycli_attempts GROUP BY pass_id")
    assert len(shares) == 2, "one has done it all, and there was nothing to be kept"


def test_what_two_hosts_find_out_is_told_once(two_hosts: list[Cli], application: Application) -> None:
    """Both have escalated messages, and end at about the same time; what one leaves the next pass tells."""
    application.add_all([{}] * 1200)
    with Scripted(REJECTS) as api, webhook() as hook:
        hosts = [at_work(each, application, api, NOTIFY__URLS=hook.slack_shaped) for each in two_hosts]
        assert hosts[0]("db", "upgrade").returncode == 0
        assert [each.returncode for each in at_once(hosts)] == [0, 0]
        assert hosts[0]("run-once").returncode == 0
        told = [int(each.replace(",", "")) for text in hook.texts for each in re.findall(r"([\d,]+) × HTTP 422", text)]
    assert sum(told) == 1200


PGBOUNCER = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin")
POOLER = """\
[databases]
* = {server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
max_prepared_statements = 0
server_reset_query_always = 0
logfile = {folder}/log
user = {user}
"""


@pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can have PgBouncer be another user")
def test_behind_a_pooler_in_transaction_mode_all_is_well(
    cli: Cli, tmp_path: Path, application: Application, sandbox: Sandbox
) -> None:
    """It gives each transaction any connection, so that nothing may be left in one: two passes take turns with it."""
    ids = application.add_all([{}] * 60)
    url = make_url(application.url)
    port = free_port()
    place = {"host": url.query.get("host") or url.host, "port": url.port, "user": url.username}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        config = Path(folder, "pgbouncer.ini")
        server = " ".join(f"{name}={value}" for name, value in place.items() if value)
        user = Path(str(place["host"])).owner() if str(place["host"]).startswith("/") else "nobody"
        config.write_text(POOLER.format(server=server, port=port, folder=folder, user=user))
        process = subprocess.Popen([str(PGBOUNCER), "-q", str(config)], stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: listens(port))
            pooled = f"postgresql://{url.username}@127.0.0.1:{port}/{url.database}"
            hosts = [
                at_work(cli, application, sandbox, DATABASE__URL=pooled, RUN__LOCK_FILE=tmp_path / f"{name}.lock")
                for name in ("one", "two")
            ]
            assert hosts[0]("db", "upgrade").returncode == 0
            done = side_by_side({number: partial(host, "run-once") for number, host in enumerate(hosts)})
        finally:
            process.terminate()
            process.wait(30)
    assert [(each.returncode, each.stderr) for each in done.values()] == [(0, "")] * 2
    assert statuses(application) == {"sent": len(ids)}
    assert len(sandbox.received) == len(ids)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


FAKETIME = shutil.which("faketime")


@pytest.mark.skipif(FAKETIME is None, reason="faketime is not installed")
@pytest.mark.parametrize("shift", ["+20m", "-20m"])
def test_what_is_due_is_told_by_the_clock_of_the_database(
    cli: Cli, application: Application, sandbox: Sandbox, shift: str
) -> None:
    """A host whose clock is wrong sends nothing early and nothing late, and its claims lapse with everybody's."""
    application.add_all([{}, {}])
    known = at_work(cli, application, sandbox)
    assert known("db", "upgrade").returncode == 0
    due = (datetime.now(UTC) + timedelta(minutes=minutes) for minutes in (-10, 10))
    for message_id, at in enumerate(due, 1):
        application.sql(
            "INSERT INTO retrycli_queue (message_id, state, next_attempt_at, delivery_key, first_failed_at,"
            " unknown_count) VALUES (:id, 'waiting', :at, :key, :at, 0)",
            id=message_id,
            at=at,
            key=str(message_id),
        )
    wrong = known.under(str(FAKETIME), "-f", shift)
    assert wrong.json("run-once")["sent"] == 1
    assert {each: row["status"] for each, row in application.rows().items()} == {1: "sent", 2: "failed"}
    [host] = known.json("status")["hosts"]
    assert not host["late"]
    begun = datetime.fromisoformat(host["started_at"])
    assert abs(datetime.now(UTC) - begun) < timedelta(minutes=5)


def test_what_a_killed_pass_had_in_flight_is_unknown_and_is_sent_again_with_its_key(
    cli: Cli, application: Application
) -> None:
    application.add()
    with held_back() as (api, gate):
        process = at_work(cli, application, api).start("run-once")
        assert gate.reached.wait(60)
        process.send_signal(signal.SIGKILL)
        end(process)
    with Sandbox(Behaviour(), rng=Random(0)) as there:
        settings = Settings(database=Database(url=application.url), gateway=Gateway(base_url=there.url))
        now = datetime.now().astimezone()
        results = [
            app.run_once(settings, surroundings=replace(app.HERE, now=partial(_at, now + later)))
            for later in (timedelta(minutes=14), timedelta(hours=2))
        ]
    assert [(each.unknown, each.sent) for each in results] == [(1, 0), (0, 1)]
    assert statuses(application) == {"sent": 1}


def test_a_pass_that_was_stopped_and_continued_writes_nothing_over_what_another_host_did(
    tmp_path: Path, cli: Cli, application: Application
) -> None:
    """A laptop that slept, a virtual machine that was moved: its claim has lapsed, and the message is another's."""
    application.add()
    with held_back() as (api, gate):
        stopped = at_work(cli, application, api, RUN__LOCK_FILE=tmp_path / "stopped.lock").start("run-once", "--json")
        assert gate.reached.wait(60)
        stopped.send_signal(signal.SIGSTOP)
        with Sandbox(Behaviour(), rng=Random(0)) as there:
            other = Settings(
                database=Database(url=application.url),
                gateway=Gateway(base_url=there.url),
                run=Run(lock_file=tmp_path / "other.lock"),
            )
            now = datetime.now().astimezone()
            for later in (timedelta(minutes=14), timedelta(hours=2)):
                app.run_once(other, surroundings=replace(app.HERE, now=partial(_at, now + later)))
        assert statuses(application) == {"sent": 1}
        with application.watched() as changed:
            stopped.send_signal(signal.SIGCONT)
            gate.opened.set()
            done = end(stopped)
    assert (done.returncode, changed) == (0, {})
    assert json.loads(done.stdout)["sent"] == 0
    history = at_work(cli, application, api).json("show", "1")["attempts"]
    assert [each["outcome"] for each in history] == ["unknown", "delivered"]


def _at(time: datetime) -> datetime:
    return time
