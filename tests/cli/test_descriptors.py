"""Few file descriptors: a pass lowers its concurrency so that it can record each answer, and errors name the limit."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest
from sqlalchemy import Pool, event

import retrycli
from tests.cli.command import LONGEST, end, wait_until
from tests.conftest import on_both
from tests.environment import BARE
from tests.gateway.mail_server import MailServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from retrycli.operations.sandbox import Sandbox
    from tests.cli.application import Application
    from tests.cli.command import Cli, Finished

WIDE = {"RETRYCLI_RUN__CONCURRENCY": "500"}
ADDRESS = re.compile(r"at (http://127\.0\.0\.1:\d+);")

IMPORTS_AFTER_THE_FIRST_REQUEST = """
import os, random, sys
import retrycli
from retrycli.operations.sandbox import Behaviour, Sandbox

at_first, at_last = [], []

def go_away(*_request):
    if not at_first:
        at_first.extend(sys.modules)
        server.shutdown()
        server.server_close()

with Sandbox(Behaviour(), rng=random.Random(0), listener=go_away) as server:
    os.environ["TICKETING_API_BASE_URL"] = server.url
    summary = retrycli.run_once(retrycli.load_settings(), listen=lambda _: at_last.append({*sys.modules}))
print(summary.result, sorted(at_last[-1] - {*at_first}))
"""

USE_UP = """
import os, resource, sys
from pathlib import Path
import retrycli
from retrycli.operations import pause
from retrycli.system.pass_lock import PassLock

def attempt(call):
    try:
        print(call())
    except retrycli.RetrycliError as error:
        print(type(error).__name__, error.exit_code, error)

settings = retrycli.load_settings()
retrycli.status(settings)  # imports what is needed
import retrycli.store.history
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = []
try:
    while True:
        held.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
for each in range(int(sys.argv[1])):
    os.close(held.pop())
"""


@contextmanager
def api_elsewhere(cli: Cli) -> Iterator[str]:
    """Run a sandbox with 100 ms latency in another process, to which the limits of the tests do not apply."""
    output = cli.cwd / "sandbox.out"
    with output.open("w") as file:
        process = cli.start("sandbox", "--port", "0", "--latency", "100ms", stdout=file.fileno())
        try:
            wait_until(lambda: "\n" in output.read_text(), process)
            found = ADDRESS.search(output.read_text())
            assert found is not None
            yield found[1]
        finally:
            process.kill()
            end(process)


def received(url: str) -> list[dict[str, Any]]:
    with urlopen(f"{url}/received", timeout=LONGEST) as answer:
        found: list[dict[str, Any]] = json.load(answer)["received"]
        return found


def limited(cli: Cli, soft: int, hard: int) -> Cli:
    """Return the command with these limits on descriptors."""
    return cli.under("/bin/sh", "-c", f'ulimit -Sn {soft}; ulimit -Hn {hard}; exec "$@"', "sh")


@pytest.mark.databases("sqlite", "postgresql", "sqlite-wal", once=True)
@pytest.mark.parametrize(("hard", "messages"), [(64, 60), (4096, 600)])
def test_a_pass_with_few_descriptors_sends_each_message_once(
    cli: Cli, application: Application, hard: int, messages: int
) -> None:
    """The configured concurrency needs more descriptors than the hard or the soft limit permits."""
    application.add_due(messages)
    with api_elsewhere(cli) as url:
        at_work = limited(cli.having({**application.variables(url), **WIDE}), 64, hard)
        done = at_work("run-once", "--json")
        assert (done.returncode, done.stderr) == (0, "")
        told = at_work("--log-level", "INFO", "run-once").stderr
        assert ("concurrent requests, not run.concurrency = 500" in told) is (hard < 500)
        summary = json.loads(done.stdout)
        assert (summary["result"], summary["sent"], summary["unknown"]) == ("completed", messages, 0)
        assert [request["times"] for request in received(url)] == [1] * messages
    assert {row["status"] for row in application.rows().values()} == {"sent"}
    attempts = application.rows("retrycli_attempts").values()
    assert [attempt["outcome"] for attempt in attempts] == ["delivered"] * messages


@pytest.mark.databases("sqlite", "postgresql", "sqlite-wal", once=True)
def test_a_pass_uses_one_database_connection(application: Application, sandbox: Sandbox) -> None:
    """With one open connection a pass needs no new descriptor to record an outcome."""
    application.add_due(3)
    opened: list[object] = []

    def count(connection: object, _record: object) -> None:
        opened.append(connection)

    event.listen(Pool, "connect", count)
    try:
        assert retrycli.run_once(application.settings(sandbox.url)).sent == 3
    finally:
        event.remove(Pool, "connect", count)
    assert len(opened) == 1


def test_a_pass_imports_nothing_after_its_first_request(cli: Cli, application: Application) -> None:
    """An import may find no free descriptor. The API shuts down at the first request, so immediate retries run too."""
    application.add_due(3)
    variables = {"RETRYCLI_DATABASE__URL": application.url}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS_AFTER_THE_FIRST_REQUEST],
        env={**BARE, **variables},
        cwd=cli.cwd,
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "completed []\n"), done.stderr


def used_up(cli: Cli, application: Application, then: str, *, left: int = 0) -> Finished:
    """Run code in a process that has this number of descriptors left."""
    settings = {"RETRYCLI_DATABASE__URL": application.url, "TICKETING_API_BASE_URL": "http://127.0.0.1:9"}
    return subprocess.run(
        [sys.executable, "-c", USE_UP + then, str(left)],
        env={**BARE, **settings},
        cwd=cli.cwd,
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )


@on_both
def test_a_pass_without_descriptors_is_refused_with_the_limit(cli: Cli, application: Application) -> None:
    application.add_due(3)
    done = used_up(cli, application, "attempt(lambda: retrycli.run_once(settings))", left=20)
    assert done.stdout.startswith("ConfigurationError 78 too few file descriptors (EMFILE): the limit is 64, "), done
    assert "ulimit -n" in done.stdout
    assert application.rows("retrycli_attempts") == {}


OPENS = {
    "the database": ("retrycli.status(settings)", 0, "DatabaseUnavailable 69 "),
    "a journal, after the database took the last one": ("pause.pause(settings, by='anna')", 1, "DatabaseUnavailable"),
    "the lock file": ("PassLock(Path('lock')).check()", 0, "LockUnusable 78 can't open the lock file lock: too few"),
}


@pytest.mark.parametrize(("call", "left", "said"), OPENS.values(), ids=OPENS)
def test_a_file_that_cannot_be_opened_for_lack_of_descriptors_is_reported(
    cli: Cli, application: Application, call: str, left: int, said: str
) -> None:
    done = used_up(cli, application, f"attempt(lambda: {call})", left=left)
    assert done.stdout.startswith(said), done
    assert "too few file descriptors (EMFILE)" in done.stdout
    assert not re.search("owner, permissions|run.lock_file", done.stdout)


@pytest.mark.parametrize(("limit", "level"), [(64, "warning"), (40, "failure"), (4096, None)])
def test_doctor_reports_a_limit_that_is_too_low(at_work: Cli, limit: int, level: str | None) -> None:
    done = limited(at_work.having(WIDE), limit, limit)("doctor", "--json")
    found = [finding for finding in json.loads(done.stdout)["findings"] if finding["name"] == "file descriptors"]
    assert [finding["level"] for finding in found] == ([] if level is None else [level])
    assert all("ulimit -n" in finding["remedy"] for finding in found)


@pytest.mark.databases("sqlite", "postgresql", "sqlite-wal", once=True)
def test_a_pass_with_few_descriptors_sends_each_mail_once(cli: Cli, application: Application) -> None:
    """A delivery by SMTP needs up to four descriptors: two for the connection, and two for a file and its folder."""
    (cli.cwd / "a.pdf").write_bytes(b"a" * 100_000)
    for message_id in application.add_due(60):
        application.execute("UPDATE pending_messages SET attachments = '[\"a.pdf\"]' WHERE id = ?", message_id)
    with MailServer() as server:
        gateway = {
            "KIND": "smtp",
            "BASE_URL": server.url,
            "SENDER": "support@example.com",
            "RECIPIENT": "team@example.com",
            "STARTTLS": "false",
            "ATTACHMENTS_DIR": str(cli.cwd),
        }
        variables = {f"RETRYCLI_GATEWAY__{name}": value for name, value in gateway.items()}
        at_work = limited(cli.having({"RETRYCLI_DATABASE__URL": application.url, **variables, **WIDE}), 64, 64)
        assert at_work.json("run-once")["sent"] == 60
        assert len(server.mails) == 60
    attempts = application.rows("retrycli_attempts").values()
    assert [attempt["outcome"] for attempt in attempts] == ["delivered"] * 60
