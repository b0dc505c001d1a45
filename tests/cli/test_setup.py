"""The setup commands: ``init``, ``config``, ``db`` and ``version``."""

from __future__ import annotations

import re
import stat
import tomllib
from typing import TYPE_CHECKING

import pytest

from retrycli.config.loader import load
from retrycli.config.settings import Settings
from retrycli.operations.setup import write_config
from tests.cli.api import TAKES, Scripted
from tests.cli.application import OWN, Application
from tests.cli.command import COLUMNS, OPEN_TO_ALL
from tests.conftest import on_both

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.command import Cli

# -- init ------------------------------------------------------------------------------------------------------------


def test_init_writes_a_private_file_and_creates_the_tables(cli: Cli, untouched: Application) -> None:
    """The file may contain secrets, so it is private even with umask 0. A second call overwrites nothing."""
    untouched.fill()
    before = untouched.rows()
    address = "https://tickets.example.com/api"
    init = ("init", "--database-url", "sqlite:///agent.db", "--base-url", address)
    done = cli.under(*OPEN_TO_ALL)(*init)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    file = cli.cwd / "retrycli.toml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert load(file, {}).settings.gateway.base_url == address
    assert {*OWN, "retrycli_version"} < untouched.tables()
    assert untouched.rows() == before
    file.write_text("# mine\n")
    assert cli(*init).returncode == 78
    assert file.read_text() == "# mine\n"
    file.unlink()
    done = cli(*init, "--config", "no/such/retrycli.toml")
    told = "can't write no/such/retrycli.toml: No such file or directory; name another with --config"
    assert (done.returncode, done.stderr) == (78, f"retrycli: {told}\n")
    before_upgrade = untouched.dump()
    assert cli("db", "upgrade", env={"RETRYCLI_DATABASE__URL": untouched.url}).returncode == 0
    assert untouched.dump() == before_upgrade


def test_inits_file_loads_as_the_defaults(cli: Cli, application: Application) -> None:
    """Neither the file nor its commented examples change a default, except for the log file."""
    assert cli("init", "--database-url", "sqlite:///agent.db").returncode == 0
    file = cli.cwd / "retrycli.toml"
    text = file.read_text()
    defaults = Settings().model_copy(
        update={"database": Settings().database.model_copy(update={"url": application.url})}
    )
    log = load(file, {}).settings.logging.file
    assert log is not None
    assert log.name == "retrycli.log"
    logging = Settings().logging.model_copy(update={"file": log})
    assert load(file, {}).settings.read_from(None) == defaults.model_copy(update={"logging": logging})
    every, _, _ = text.partition("# Example: different rules for one message type")
    file.write_text(re.sub(r"^# (\w+ = )", r"\1", every, flags=re.MULTILINE))
    assert "backoff" in tomllib.loads(file.read_text())["schedule"]
    assert load(file, {}).settings.read_from(None) == defaults


@pytest.mark.parametrize(
    ("url", "log"),
    [
        ("sqlite:////var/lib/desk/agent.db?timeout=5", "/var/lib/desk/retrycli.log"),
        ("postgresql://db/desk", "retrycli.log"),
    ],
)
def test_init_sets_a_log_file_that_passes_can_write(tmp_path: Path, url: str, log: str) -> None:
    """The log is in the system's log folder if possible, otherwise beside the database or the settings."""
    (tmp_path / "logs").mkdir()
    for name, logs, expected in (("a", tmp_path / "logs", tmp_path / "logs/retrycli.log"), ("b", tmp_path / "no", log)):
        write_config(tmp_path / name, database_url=url, base_url=None, logs=logs)
        assert load(tmp_path / name, {}).settings.logging.file == tmp_path / expected


@pytest.mark.parametrize(
    ("option", "wrong", "code"),
    [("--database-url", "sqlite:///gone.db", 69), ("--base-url", "tickets.example.com", 78)],
)
def test_a_failed_init_leaves_nothing_in_the_way_of_the_corrected_command(
    cli: Cli, application: Application, option: str, wrong: str, code: int
) -> None:
    right = ["--database-url", application.url, "--base-url", "https://tickets.example.com/api"]
    done = cli("init", *right, option, wrong)
    assert done.returncode == code, done.stderr
    assert not (cli.cwd / "retrycli.toml").exists()
    assert cli("init", *right).returncode == 0


def test_init_copies_the_example_with_dates_of_today(cli: Cli) -> None:
    """So a maximum age, as getting-started advises, escalates only what the example means to be old."""
    done = cli("init", "--example", "--base-url", "https://tickets.example.com/api")
    assert done.returncode == 0, done.stderr
    file = cli.cwd / "ticketing_agent.db"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    recent = cli.having({"RETRYCLI_SCHEDULE__EXPIRES_AFTER_HOURS": "72"}).json("run-once", "--dry-run")
    assert (recent["count"], recent["escalated"]) == (7, 1)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("sqlite:///mine.db", "mine.db already exists; name a new file with --database-url"),
        ("sqlite:///gone/new.db", "gone/new.db: No such file or directory; check its folder and the space on its disk"),
        ("sqlite:///:memory:", "the example is a SQLite file, so --example needs --database-url sqlite:///FILE"),
        ("postgresql://h/d", "the example is a SQLite file, so --example needs --database-url sqlite:///FILE"),
    ],
)
def test_init_copies_the_example_only_to_a_new_file(cli: Cli, url: str, problem: str) -> None:
    mine = cli.cwd / "mine.db"
    mine.touch()
    done = cli("init", "--example", "--database-url", url)
    assert (done.returncode, done.stderr.endswith(f"{problem}\n")) == (78, True)
    assert (mine.stat().st_size, [*cli.cwd.iterdir()]) == (0, [mine])


def test_an_example_that_does_not_fit_on_the_disk_leaves_no_part_of_it(cli: Cli) -> None:
    # Under the limit, Python would write only the beginning of a module's bytecode, which no process could load.
    unchanged = cli.having({"PYTHONDONTWRITEBYTECODE": "1"})
    limited = unchanged.under("sh", "-c", 'ulimit -f 32; exec "$@"', "sh")
    done = limited("init", "--example")
    assert done.returncode == 78
    assert "ticketing_agent.db: File too large; check its folder and the space on its disk" in done.stderr
    assert [*cli.cwd.iterdir()] == []


# -- config ----------------------------------------------------------------------------------------------------------


def test_config_show_masks_secrets_from_every_source(cli: Cli) -> None:
    """The secrets are a token, a password from a file, and a database's passwords, in all three forms of output."""
    (cli.cwd / "password").write_text("hunter1\n")
    url = f"postgresql://anna:hun/ter3@db.example.com/{'long/' * 20}desk?password=hunter4&sslmode=require"
    secrets = {"GATEWAY__TOKEN": "hunter2", "GATEWAY__PASSWORD_FILE": "password", "DATABASE__URL": url}
    secret = cli.having({f"RETRYCLI_{name}": value for name, value in secrets.items()})
    piped, screen = secret("config", "show"), secret.on_terminal("config", "show")
    lines = (line.split("\t") for line in piped.stdout.splitlines())
    found = {key: (value, source) for key, value, source in lines}
    assert found["gateway.token"] == ("********", "environment RETRYCLI_GATEWAY__TOKEN")
    assert found["gateway.password"] == ("********", "file password")
    masked = url.replace("hun/ter3", "********").replace("hunter4", "********")
    assert found["database.url"] == (masked, "environment RETRYCLI_DATABASE__URL")
    everything = piped.stdout + secret("config", "show", "--json").stdout + "".join(screen.text.split())
    assert "hunter" not in everything
    assert "ter3" not in everything
    assert max(map(len, screen.text.splitlines())) <= COLUMNS
    assert "…" not in screen.text


def test_config_check_finds_settings_that_no_pass_could_send_with(cli: Cli, application: Application) -> None:
    application.add(101)
    wrong = {"RETRYCLI_GATEWAY__CA_FILE": "gone.pem"}
    env = {**application.variables("https://127.0.0.1:9"), **wrong}
    done = cli("config", "check", env=env)
    assert (done.returncode, done.stdout) == (78, "")
    assert "gateway.ca_file: can't use gone.pem: No such file or directory" in done.stderr
    assert done.stderr == cli("run-once", env=env).stderr


# -- db and version --------------------------------------------------------------------------------------------------


HISTORY = ("retrycli_attempts", "retrycli_passes")


@on_both
def test_db_prune_deletes_old_history_and_no_message(cli: Cli, application: Application) -> None:
    """The command prunes in batches until no old row is left. It keeps unfinished attempts and possible deliveries."""
    application.fill()
    attempt = {"message_id": 1, "made_by": "pass", "started_at": "2020-01-01 00:00:00"}
    ended = {number: "2020-01-01 00:00:01" if number > 10 else None for number in range(1, 18_001)}
    outcomes = {number: "refused" if number <= 6_000 or number > 12_000 else "unknown" for number in ended}
    rows = [{**attempt, "number": each, "finished_at": ended[each], "outcome": outcomes[each]} for each in ended]
    application.insert("retrycli_attempts", rows)
    known = cli.having(application.variables("http://127.0.0.1:9"))
    assert known("run-once").returncode == 0  # adds recent history, which must be kept
    before = {name: application.rows(name) for name in application.tables() if name not in HISTORY}
    kept = {
        name: {k: v for k, v in rows.items() if str(v["finished_at"])[:4] != "2020" or v.get("outcome") == "unknown"}
        for name in HISTORY
        for rows in [application.rows(name)]
    }
    prune = ("db", "prune", "--older-than", "90d", "--yes")
    assert known.json(*prune) == {"attempts": 11_990, "acts": 0, "passes": 0}
    assert {name: application.rows(name) for name in HISTORY} == kept
    del before["retrycli_totals"]
    counted = application.asked("SELECT label, value FROM retrycli_totals WHERE name = 'attempts'")
    assert counted == [("refused", 11_990)]
    assert {name: application.rows(name) for name in before} == before
    assert known.json(*prune) == {"attempts": 0, "acts": 0, "passes": 0}


@on_both
def test_db_prune_keeps_the_deliveries_of_rows_that_the_settings_hide(cli: Cli, application: Application) -> None:
    """The application may show such a row again, for example if it was archived."""
    application.add_due(1)
    with Scripted(TAKES) as api:
        where = {"RETRYCLI_DATABASE__WHERE": "confidence_score > 0.5"}
        known = cli.having(application.variables(api.url) | where)
        assert known("table", "accept", "--yes").returncode == 0
        assert known.json("run-once")["sent"] == 1
        application.execute("UPDATE pending_messages SET confidence_score = 0.1")
        long_ago = "started_at = '2020-01-01 00:00:00', finished_at = '2020-01-01 00:00:01'"
        application.execute(f"UPDATE retrycli_attempts SET {long_ago}")
        assert known.json("db", "prune", "--older-than", "90d", "--yes")["attempts"] == 0
        application.execute("UPDATE pending_messages SET confidence_score = 0.9, status = 'failed'")
        assert known.json("run-once")["sent"] == 0
        states = application.asked("SELECT state FROM retrycli_queue")
        assert (len(api.paths), states) == (1, [("escalated",)])
