"""The ``sandbox`` and ``demo`` commands, which need no ticketing system."""

from __future__ import annotations

import json
import re
import signal
import socket
import sqlite3
import stat
import subprocess
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.cli.command import LONGEST, OPEN_TO_ALL, Cli, end
from tests.environment import BARE

if TYPE_CHECKING:
    from collections.abc import Iterator


pytestmark = pytest.mark.real

ADDRESS = re.compile(r"at (http://127\.0\.0\.1:\d+); press Ctrl-C to stop it\.")


@contextmanager
def started(cli: Cli, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a sandbox; yield its process and its address."""
    process = cli.start("sandbox", "--port", "0", *arguments)
    try:
        assert process.stdout is not None
        found = ADDRESS.search(process.stdout.readline())
        assert found is not None
        assert process.stdout.readline() == f"Next: TICKETING_API_BASE_URL={found[1]} retrycli run-once\n"
        yield process, found[1]
    finally:
        process.kill()
        end(process)


def asked(url: str, content: object = None) -> dict[str, Any]:
    """Return the sandbox's answer to a GET, or to a POST if there is content."""
    body = None if content is None else json.dumps(content).encode()
    with urlopen(Request(url, body, {"Idempotency-Key": "k-1"}), timeout=LONGEST) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_sandbox_accepts_a_message_shows_it_and_stops_on_request(cli: Cli, number: signal.Signals) -> None:
    with started(cli) as (process, url):
        assert asked(f"{url}/tickets/4711/messages", {"body": "Hello"})["succeeded"] is True
        assert asked(f"{url}/tickets/4711/messages", {"body": "Hello"})["succeeded"] is True
        [kept] = asked(f"{url}/received")["received"]
        assert (kept["ticket_id"], kept["content"], kept["times"]) == ("4711", {"body": "Hello"}, 2)
        process.send_signal(number)
        done = end(process)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "200  POST /tickets/4711/messages  key k-1\n"
        "200  POST /tickets/4711/messages  key k-1\n"
        "200  GET /received  key k-1\n"
        "Received 1 message.\n"
    )


def test_a_sandbox_that_simulates_an_outage_and_one_whose_port_is_in_use(cli: Cli) -> None:
    with started(cli, "--down") as (_, url), pytest.raises(HTTPError, match="503") as failure:
        asked(f"{url}/received")
    failure.value.close()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = cli("sandbox", "--port", str(port))
    assert done.returncode == 2
    assert f"Invalid value for --port: can't listen on {port}: Address already in use" in done.stderr


def test_the_demo_runs_the_real_commands_and_keeps_its_private_files(cli: Cli) -> None:
    """It ignores the umask and the settings. Its suggestions work in its folder, so they need no options."""
    other = {"RETRYCLI_DATABASE__URL": "sqlite:////no/such.db", "TICKETING_API_BASE_URL": "http://192.0.2.1"}
    done = cli.having({"TMPDIR": str(cli.cwd), **other}).under(*OPEN_TO_ALL)("demo")
    assert done.returncode == 0, done.stderr
    begins = r"A simulated ticketing API is running at http://127\.0\.0\.1:\d+; it fails 30% of deliveries\.\n"
    assert re.match(begins + r"The example database is /\S+/ticketing_agent\.db\.\n\n\$ ", done.stdout)
    shown = re.findall(r"^\$ retrycli (\S+)$", done.stdout, re.MULTILINE)
    assert shown == ["status", "run-once", "list-failed", "escalations", "passes"]
    assert "Message retry pass started" in done.stderr
    assert "METRIC: message_escalated" in done.stderr
    assert not re.search(r"-m retrycli|--config", done.stdout + done.stderr)
    [folder] = cli.cwd.iterdir()
    assert re.findall(r"^  cd (\S+)$", done.stdout, re.MULTILINE) == [str(folder)]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = ("retrycli.toml", "ticketing_agent.db", "ticketing_agent.db.retrycli.lock")
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == dict.fromkeys(files, 0o600)
    with closing(sqlite3.connect(folder / "ticketing_agent.db")) as connection:
        [counts] = connection.execute("SELECT sent, rescheduled, escalated FROM retrycli_passes")
    assert counts == (5, 2, 1), "as in README"
    assert "The API stored 5 messages, each once." in done.stdout
    typed = "\n".join(re.findall(r"^  (cd .+|export .+|\S+ show \d+)$", done.stdout, re.MULTILINE))
    shell = subprocess.run(["/bin/sh", "-e", "-c", typed], env=BARE, capture_output=True, text=True, check=False)
    assert (shell.returncode, shell.stderr) == (0, "")
    assert re.match(r"id\t\d+\nticket_id\t", shell.stdout)
