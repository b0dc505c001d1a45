"""PostgreSQL in production: a pooler, wrong clocks, locked rows and other encodings."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url

from tests import postgresql
from tests.cli.api import Scripted
from tests.cli.application import Application
from tests.cli.command import side_by_side, wait_until
from tests.environment import free_port
from tests.users import mounted

if TYPE_CHECKING:
    from retrycli.operations.sandbox import Sandbox
    from tests.cli.command import Cli

pytestmark = pytest.mark.databases("postgresql")

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
def test_works_behind_a_pooler_in_transaction_mode(
    cli: Cli, tmp_path: Path, application: Application, sandbox: Sandbox
) -> None:
    """The pooler may give each transaction another connection, so passes must keep no state in a session."""
    ids = application.add_due(60)
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
            env = application.variables(sandbox.url) | {"RETRYCLI_DATABASE__URL": pooled}
            hosts = [
                cli.having({**env, "RETRYCLI_RUN__LOCK_FILE": str(tmp_path / f"{name}.lock")})
                for name in ("one", "two")
            ]
            done = side_by_side({number: partial(host, "run-once") for number, host in enumerate(hosts)})
        finally:
            process.terminate()
            process.wait(30)
    assert [(result.returncode, result.stderr) for result in done.values()] == [(0, "")] * 2
    assert {row["status"] for row in application.rows().values()} == {"sent"}
    assert len(sandbox.received) == len(ids)


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_the_lock_is_in_a_directory_that_others_cannot_write_to(
    at_work: Cli, application: Application, tmp_path: Path
) -> None:
    """A service with a private /tmp must see the same lock."""
    state = tmp_path / "lib" / "retrycli"
    state.mkdir(mode=0o700, parents=True)
    without = {name: value for name, value in at_work.env.items() if name != "RETRYCLI_RUN__LOCK_FILE"}
    command = replace(at_work, env=without).under(*mounted(state.parent, "/var/lib"))
    application.add(1)
    assert command.json("run-once")["sent"] == 1
    assert len(list(state.glob("*.lock"))) == 1


FAKETIME = shutil.which("faketime")


@pytest.mark.skipif(FAKETIME is None, reason="faketime is not installed")
@pytest.mark.parametrize("shift", ["+20m", "-20m"])
def test_the_databases_clock_decides_what_is_due(at_work: Cli, application: Application, shift: str) -> None:
    """A host with a wrong clock sends nothing early or late, and its claims lapse at the right time."""
    for message_id, minutes in {1: -10, 2: 10}.items():
        application.add(message_id)
        at = datetime.now(UTC) + timedelta(minutes=minutes)
        row = {"message_id": message_id, "state": "waiting", "delivery_key": str(message_id), "unknown_count": 0}
        row["birth"] = str(application.row(message_id)["created_at"])
        application.insert("retrycli_queue", [{**row, "next_attempt_at": at, "first_failed_at": at}])
    wrong = at_work.under(str(FAKETIME), "-f", shift)
    assert wrong.json("run-once")["sent"] == 1
    assert {each: row["status"] for each, row in application.rows().items()} == {1: "sent", 2: "failed"}
    [host] = at_work.json("status")["hosts"]
    assert not host["late"]
    begun = datetime.fromisoformat(host["started_at"])
    assert abs(datetime.now(UTC) - begun) < timedelta(minutes=5)


@pytest.mark.skipif(FAKETIME is None, reason="faketime is not installed")
def test_operator_actions_use_the_databases_clock(at_work: Cli, application: Application) -> None:
    """With a wrong local clock, a pause has its intended duration, and a requeued message is due at once.

    The history has each action in order.
    """
    application.add(1)
    application.add(2)
    wrong = at_work.under(str(FAKETIME), "-f", "+3h")
    assert wrong("pause", "--for", "2h").returncode == 0
    assert at_work.json("run-once")["result"] == "paused"
    [pause] = application.rows("retrycli_pause").values()
    assert abs(datetime.now(UTC) - datetime.fromisoformat(str(pause["since"]))) < timedelta(minutes=5)
    assert "Resumed" in wrong.on_terminal("resume").text
    at = datetime.now(UTC)
    row = {"message_id": 1, "state": "escalated", "delivery_key": "1", "unknown_count": 0, "first_failed_at": at}
    row["birth"] = str(application.row(1)["created_at"])
    application.insert("retrycli_queue", [{**row, "escalated_at": at, "escalation_reason": "permanent"}])
    acts = {
        "edited": ["edit", "1", "--subject", "Re: tea", "--yes"],
        "acknowledged": ["escalations", "ack", "1"],
        "noted": ["escalations", "note", "1", "It is seen to."],
        "rejected": ["reject", "2", "--reason", "sent by hand"],
        "requeued": ["requeue", "1"],
    }
    for action in acts.values():
        assert wrong(*action).returncode == 0
    history = [*application.rows("retrycli_acts").values()]
    assert [entry["act"] for entry in history] == ["paused", "resumed", *acts]
    done_at = [datetime.fromisoformat(str(entry["at"])) for entry in history]
    assert all(abs(datetime.now(UTC) - time) < timedelta(minutes=5) for time in done_at)
    assert at_work.json("run-once")["sent"] == 1


def test_a_character_missing_from_the_encoding_costs_no_message(cli: Cli) -> None:
    with (
        postgresql.database(options="TEMPLATE template0 LOCALE 'C' ENCODING 'LATIN1'") as url,
        Scripted((503, {"messages": ["überlastet: 中 …"]})) as api,
    ):
        application = Application(url)
        application.add(1, subject="Grüße")
        at_work = cli.having(application.variables(api.url))
        for retries in (1, 2):
            done = at_work("run-once")
            assert (done.returncode, done.stderr, len(api.paths)) == (0, "", retries)
            row = application.rows()[1]
            assert (row["retry_count"], row["last_error"]) == (retries, r"HTTP 503: überlastet: \u4e2d \u2026")
            application.execute("UPDATE retrycli_queue SET next_attempt_at = '2026-01-02 03:04:05'")
        edited = at_work("edit", "1", "--subject", "Grüße, 中", "--yes")
        assert edited.returncode == 4
        assert "the database's encoding can't represent these characters: 中; remove them" in edited.stderr
        assert application.rows()[1]["subject"] == "Grüße"
