"""The ``doctor`` command: its findings for an operator and in cron's environment."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.cli.api import BUSY, FORBIDS, REJECTS, TAKES, Scripted
from tests.cli.command import COLUMNS, Cli
from tests.cli.schedulers import Crontab, a_cron
from tests.cli.test_cron import OWN
from tests.environment import NO_FILE, needs_no_file
from tests.gateway.mail_server import MailServer
from tests.users import need_own_program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from retrycli.operations.sandbox import Sandbox
    from tests.cli.application import Application


@pytest.fixture
def desk(cli: Cli, application: Application, sandbox: Sandbox, tmp_path: Path) -> Iterator[Cli]:
    """Provide the command, set up as in the manual, after a first pass."""
    need_own_program()
    with closing(sqlite3.connect(application.path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    file = cli.cwd / "retrycli.toml"
    file.write_text(f'[database]\nurl = "{application.url}"\n[gateway]\nbase_url = "{sandbox.url}"\n')
    crontab = Crontab(tmp_path)
    crontab.file.write_text("MAILTO=ops@example.com\n")
    desk = cli.having(crontab.variables)
    with a_cron(tmp_path):
        assert desk("cron", "install", *OWN, "--yes").returncode == 0
        assert desk("run-once").returncode == 0
        yield desk


def levels(cli: Cli, *arguments: str, code: int) -> dict[str, str]:
    """Return the worst level of each check."""
    found = cli.json("doctor", *arguments, code=code)
    assert found["ok"] is (code == 0)
    order = ("ok", "warning", "failure")
    worst: dict[str, str] = {}
    for finding in found["findings"]:
        assert list(finding) == ["name", "level", "found", "remedy"]
        assert (finding["remedy"] is None) is (finding["level"] == "ok")
        worst[finding["name"]] = max(finding["level"], worst.get(finding["name"], "ok"), key=order.index)
    return worst


def of_the_api(cli: Cli) -> list[dict[str, str]]:
    """Return what a failing ``doctor`` finds about the API."""
    return [finding for finding in cli.json("doctor", code=3)["findings"] if finding["name"] == "api"]


def configure(cli: Cli, url: str, more: str = "") -> None:
    """Use another API, and secrets in the files ``password`` and ``token``."""
    for name in ("password", "token", "retrycli.toml"):
        (cli.cwd / name).touch()
        (cli.cwd / name).chmod(0o600)
    (cli.cwd / "password").write_text("s3cret")
    (cli.cwd / "token").write_text("s3cret")
    file = cli.cwd / "retrycli.toml"
    file.write_text(f'{file.read_text().partition("[gateway]")[0]}[gateway]\nbase_url = "{url}"\n{more}\n')


BEARER = 'auth = "bearer"\ntoken = "t1"'


def test_a_healthy_setup_passes_without_sending_or_writing(
    desk: Cli, application: Application, sandbox: Sandbox
) -> None:
    application.fill()
    before = application.dump()
    files = sorted(desk.cwd.rglob("*"))
    assert set(levels(desk, code=0).values()) == {"ok"}
    assert application.dump() == before
    assert not sandbox.received
    assert [path for path in sorted(desk.cwd.rglob("*")) if path not in files] == []


def test_names_the_preset_or_the_subject_that_matches_the_table(desk: Cli) -> None:
    """A function gets the whole message, so its columns are not checked."""
    with (desk.cwd / "retrycli.toml").open("a") as file:
        file.write('[gateway.supplier]\nkind = "smtp"\nbase_url = "smtp://127.0.0.1:9"\nsender = "desk@example.com"\n')
        file.write('subject = "[{ticket_id}] {subject}"\n[gateway.internal]\nkind = "python"\ncall = "desk:send"\n')
    said = re.findall(r"^ok\s+(.+ matches the table)\t$", desk("doctor").stdout, re.MULTILINE)
    assert said == ["preset\tgeneric matches the table", "subject\t[{ticket_id}] {subject} matches the table"]
    done = desk("doctor", env={"RETRYCLI_GATEWAY__SUPPLIER__SUBJECT": "{reference}"})
    assert "failure\ttable\tgateway.subject refers to column reference, which does not exist\t" in done.stdout


def test_on_a_terminal_it_shows_a_table_with_a_remedy_below_each_finding(desk: Cli, application: Application) -> None:
    screen = desk.on_terminal("doctor")
    assert screen.returncode == 0
    assert screen.text.endswith("Next: retrycli status\n")
    deep = desk.cwd / ("a folder with a long name " * 4)
    deep.mkdir()
    (deep / "agent.db").write_bytes(application.path.read_bytes())
    (deep / "agent.db").chmod(0o666)
    (deep / "retrycli.toml").write_text('[database]\nurl = "sqlite:///agent.db"\n')
    screen = desk.having(cwd=deep).on_terminal("doctor")
    assert screen.returncode == 3
    assert "FAIL files" in screen.words
    lines = [line.strip() for line in screen.text.splitlines()]
    command = f"chmod o-w '{deep}/agent.db'"
    assert len(command) > COLUMNS
    assert lines[lines.index(command) - 1] == "→ run:", "it can be pasted: nothing breaks it, and nothing else is there"
    assert max(len(line) for line in screen.text.splitlines() if line.strip() != command) <= COLUMNS
    assert screen.text.endswith("Next: fix what failed, then `retrycli doctor`\n")


def test_an_unknown_variable_is_a_failed_check_and_not_an_error(desk: Cli) -> None:
    assert levels(desk.having({"RETRYCLI_DATABSE__URL": "x"}), code=3) == {"settings": "failure"}


def test_attempts_a_login_and_reports_a_refusal_as_a_failure(desk: Cli) -> None:
    account = 'auth = "login"\nusername = "desk"\npassword_file = "password"\n'
    for answer, code, level in ((FORBIDS, 3, "failure"), ((200, {"access_token": "t1", **TAKES[1]}), 0, "ok")):
        with Scripted(answer) as api:
            configure(desk, api.url, account)
            assert levels(desk, code=code)["api"] == level
            assert set(api.paths) == {"/auth/login"}


@pytest.mark.parametrize("status", [403, 404, 302])
def test_a_check_of_the_preset_that_is_not_answered_as_it_should_is_a_failure(desk: Cli, status: int) -> None:
    """An account without permissions can log in, and sends nothing."""
    with Scripted((status, {})) as api:
        configure(desk, api.url, 'preset = "redmine"\ntoken_file = "token"')
        [found] = of_the_api(desk)
        assert (found["level"], api.paths) == ("failure", ["/users/current.json"])
    assert f"the preset's check got HTTP {status}" in found["found"]
    assert "permissions" in found["remedy"]


def test_quotes_the_last_refusal_until_a_message_is_accepted(desk: Cli, application: Application) -> None:
    """Without a ``[check]`` in the preset, a GET request shows that the API responds, but verifies no token."""
    application.add_due(1)
    with Scripted(FORBIDS, FORBIDS, TAKES) as api:
        configure(desk, api.url, BEARER)
        assert desk("run-once").returncode == 77
        api._answers = [(404, {})]
        [found] = of_the_api(desk)
        assert found["level"] == "failure"
        assert f"{api.url} responds (HTTP 404" in found["found"]
        assert desk("status", "--check").returncode == 3
        assert re.search(r"but it refused messages of the pass that began at \S+Z: .*401", found["found"])
        application.execute("UPDATE pending_messages SET status = 'rejected'")
        assert levels(desk, code=0)["api"] == "warning", "nothing waits any more"
        assert desk("status", "--check").returncode == 0, "also while the refused pass is the newest"
        assert desk("run-once").returncode == 0
        assert levels(desk, code=0)["api"] == "warning", "no pass can find out whether it still refuses us"
        application.execute("UPDATE pending_messages SET status = 'failed'")
        api._answers = [TAKES]
        assert desk("run-once").returncode == 0
        assert levels(desk, code=0)["api"] == "ok"


def test_a_refusal_is_a_failure_even_if_no_credentials_are_set(desk: Cli, application: Application) -> None:
    """The API may require credentials that are not configured."""
    application.add_due(1)
    with Scripted(FORBIDS) as api:
        configure(desk, api.url)
        assert desk("run-once").returncode == 77
        [found] = of_the_api(desk)
    assert "but none are set; it refused messages" in found["found"]


def test_a_mail_server_that_refuses_each_mail_is_a_failure_though_it_responds(
    desk: Cli, application: Application
) -> None:
    application.add_due(1)
    with MailServer(MAIL="530 5.7.0 authenticate first") as server:
        configure(desk, server.url, 'kind = "smtp"\nsender = "desk@example.com"\nstarttls = false\n')
        assert desk("run-once").returncode == 77
        [said] = [each["found"] for each in desk.json("doctor", code=3)["findings"] if each["name"] == "smtp"]
        assert said.startswith(f"{server.url} responds, but it refused messages of the pass")


def test_an_answer_about_a_message_ends_a_refusal_of_our_credentials(desk: Cli, application: Application) -> None:
    """An API that reports an error in a message has accepted the credentials."""
    application.add_due(1)
    with Scripted(FORBIDS) as api:
        configure(desk, api.url, BEARER)
        assert desk("run-once").returncode == 77
        assert [refusal["destination"] for refusal in desk.json("status")["refusals"]] == [api.url]
        api._answers = [REJECTS]
        assert desk("run-once").returncode == 0
        assert desk.json("status", "--check")["refusals"] == []
        api._answers = [(404, {})]
        assert levels(desk, code=0)["api"] == "ok"


def test_an_open_breaker_is_a_failure_though_the_api_answers(desk: Cli, application: Application) -> None:
    """An API may answer a GET request although it accepts no message."""
    application.add_due(6)
    with Scripted(BUSY) as api:
        configure(desk, api.url)
        assert desk("run-once").returncode == 69
        api._answers = [TAKES]
        there, found = of_the_api(desk)
    assert (there["level"], found["level"]) == ("ok", "failure")
    told = rf"no delivery to {api.url} has succeeded since \S+Z: 5 failures in a row; the next probe is at \S+Z"
    assert re.fullmatch(told, found["found"])
    assert found["remedy"] == "check the API; `retrycli run-once --probe` probes it now"


@needs_no_file
def test_as_cron_finds_problems_that_only_cron_has(desk: Cli, application: Application, sandbox: Sandbox) -> None:
    """Settings from the operator's environment or current folder do not exist for cron."""
    desk = desk.having(NO_FILE)
    from_environment = desk.having(application.variables(sandbox.url), cwd=desk.cwd / "bin")
    assert levels(from_environment, code=0)["api"] == "ok"
    assert levels(from_environment, "--as-cron", code=3)["api"] == "failure"
    assert levels(desk, "--as-cron", code=3)["settings"] == "warning"
    named = levels(desk, "--as-cron", "--config", "retrycli.toml", code=0)
    assert {named[name] for name in ("settings", "api", "table", "scheduler")} == {"ok"}


def test_runs_in_crons_bare_environment(cli: Cli, application: Application) -> None:
    """``env -i`` removes even ``HOME``, which libraries may expect."""
    bare = cli.under("/usr/bin/env", "-i", "PATH=/usr/bin:/bin")
    (cli.cwd / "retrycli.toml").write_text(f'[database]\nurl = "{application.url}"\n')
    done = bare("doctor")
    assert (done.returncode, done.stderr) == (3, "")
    assert "failure\tapi\ta gateway has no base_url, the URL of the API or mail server" in done.stdout
