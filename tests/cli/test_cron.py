"""``cron print``, ``cron install``, ``cron check`` and ``cron remove``, with a stand-in for the crontab."""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import socket
import stat
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import retrycli
from retrycli.operations.reliance import this_python
from tests.cli.command import COLUMNS, Cli
from tests.cli.schedulers import Crontab, a_cron
from tests.environment import NO_FILE, needs_no_file
from tests.users import THEIRS, need_own_program, need_root, open_place

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.application import Application

OWN = ("--user", "--run-as", "root") if os.geteuid() == 0 else ("--user",)
"""Options for the user's own schedule. Root must name itself as the user."""
OTHERS = b"MAILTO=ana\n# caf\xe9\n0 5 * * * backup 100\\%\n"


@pytest.fixture
def crontab(tmp_path: Path) -> Crontab:
    made = Crontab(tmp_path)
    made.file.write_bytes(OTHERS)
    return made


@pytest.fixture
def desk(cli: Cli, application: Application, crontab: Crontab, tmp_path: Path) -> Iterator[Cli]:
    """Provide the command with settings in a file, and a running cron."""
    (cli.cwd / "retrycli.toml").write_text(
        f'[database]\nurl = "{application.url}"\n[gateway]\nbase_url = "http://127.0.0.1:9"\n'
    )
    with a_cron(tmp_path):
        yield cli.having(crontab.variables)


def line(desk: Cli) -> str:
    return (
        f"umask 077; exec {this_python()} -P -m retrycli --config {desk.cwd}/retrycli.toml run-once --started-by cron"
    )


def test_print_shows_what_install_writes_and_remove_removes(desk: Cli, crontab: Crontab) -> None:
    """``cron check`` and ``cron remove`` also recognise a printed line that an operator has pasted."""
    done = desk("cron", "print", *OWN)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"*/15 * * * * {line(desk)}\n" in done.stdout
    assert crontab.file.read_bytes() == OTHERS
    assert desk.json("cron", "print", *OWN)["files"][0]["text"] == done.stdout
    crontab.file.write_text(done.stdout)
    assert desk("cron", "check").returncode == 0
    removed = desk.json("cron", "remove", "--user", "--yes")
    assert removed["changed"] is True
    _, _, *lines = "\n".join(removed["diff"]).split("\n")
    assert lines == [f"@@ -1,{done.stdout.count(chr(10))} +0,0 @@", *(f"-{each}" for each in done.stdout.splitlines())]
    assert not crontab.file.exists()
    assert desk.json("cron", "remove", "--user", "--yes") == {"changed": False, "diff": []}
    crontab.file.write_bytes(OTHERS)
    assert desk.json("cron", "install", *OWN, "--yes")["changed"] is True
    assert crontab.file.read_bytes() == OTHERS + done.stdout.encode()
    assert desk.json("cron", "install", *OWN, "--yes") == {"changed": False, "place": "own crontab", "diff": []}
    assert desk("cron", "remove", "--user", "--yes").returncode == 0
    assert crontab.file.read_bytes() == OTHERS


def test_an_unreadable_crontab_is_reported(desk: Cli, crontab: Crontab) -> None:
    crontab.program.write_text("#!/bin/sh\necho 'you are not allowed' >&2; exit 1\n")
    done = desk("cron", "check")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (3, "retrycli: `crontab` failed: you are not allowed")
    assert "you are not allowed" in desk.json("cron", "check", code=3)["unread"]


def test_check_reports_the_schedule_and_its_problems(desk: Cli, crontab: Crontab) -> None:
    done = desk("cron", "check")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "retrycli: nothing is known to start passes; run `retrycli cron install`\n"
    assert desk("cron", "install", *OWN, "--yes").returncode == 0
    [block] = desk.json("cron", "check")["schedulers"]
    assert (block["when"], block["user"], block["running"]) == ("*/15 * * * *", getpass.getuser(), True)
    crontab.file.write_bytes(crontab.file.read_bytes().replace(b"*/15", b"*/5"))
    screen = desk.on_terminal("cron", "check")
    assert screen.returncode == 3
    assert max(map(len, screen.text.splitlines()[:3])) <= COLUMNS
    assert "it starts passes at */5 * * * *, but schedule.retry_interval_minutes requires */15 * * * *" in screen.words


def test_passes_from_elsewhere_are_named_and_shown_before_a_line_is_installed(desk: Cli, crontab: Crontab) -> None:
    assert desk("run-once", "--started-by", "timer").returncode == 0
    done = desk("cron", "check")
    words = f"asses come from a timer on {socket.gethostname()}, not from a block of retrycli's"
    assert (done.returncode, done.stdout, done.stderr) == (0, f"P{words}.\n", "")
    assert desk.json("cron", "check")["elsewhere"] == [f"p{words}"]
    asked = desk("cron", "install", *OWN)
    assert asked.returncode == 2
    assert "retrycli: passes have begun on this host lately, and not from this cron line: " in asked.stderr
    assert " (timer). Unless what started them" in asked.stderr
    assert crontab.file.read_bytes() == OTHERS
    assert desk("cron", "install", *OWN, "--yes").returncode == 0
    assert "passes also come from a timer on" in desk("doctor").stdout
    assert "lately" not in desk("cron", "install", *OWN, "--yes").stderr, "nothing is changed"


def test_a_user_is_accepted_only_if_the_schedule_names_one(desk: Cli, crontab: Crontab) -> None:
    done = desk("cron", "install", "--user", "--run-as", "daemon", "--yes")
    assert done.returncode == 2
    assert "Invalid value for --run-as: your own crontab runs passes as " in done.stderr
    assert crontab.file.read_bytes() == OTHERS


@needs_no_file
@pytest.mark.parametrize(
    ("config", "said"),
    [
        (None, "no configuration file"),
        ("[schedule]\nretry_interval_minutes = 7\n", "cron supports only intervals of whole minutes"),
    ],
)
def test_refuses_what_cron_cannot_run(cli: Cli, crontab: Crontab, config: str | None, said: str) -> None:
    if config is not None:
        (cli.cwd / "retrycli.toml").write_text(config)
    done = cli.having({**NO_FILE, **crontab.variables})("cron", "install", *OWN, "--yes")
    assert done.returncode == 78
    assert said in done.stderr
    assert crontab.file.read_bytes() == OTHERS


def test_names_settings_that_come_from_the_environment(desk: Cli) -> None:
    done = desk("cron", "print", *OWN, env={"RETRYCLI_GATEWAY__TOKEN": "s3cret", "RETRYCLI_RUN__LIMIT": "5"})
    assert done.returncode == 78
    assert "run.limit (environment RETRYCLI_RUN__LIMIT)" in done.stderr
    assert "s3cret" not in done.stderr


# -- the log ---------------------------------------------------------------------------------------------------------


def test_install_sets_a_log_file_and_keeps_the_other_settings(
    desk: Cli, application: Application, crontab: Crontab
) -> None:
    file = desk.cwd / "retrycli.toml"
    file.write_text(f"# mine\n{file.read_text()}[logging]\n# file =\nformat = 'json'  # mine too\n")
    file.chmod(0o600)
    before = file.read_text()
    screen = desk.on_terminal("cron", "install", *OWN, answers=["n"])
    assert f'+file = "{application.path.parent}/retrycli.log"' in screen.text.replace("\n", "")
    assert f"+*/15 * * * * {line(desk)}" in screen.text.replace("\n", "")
    assert screen.words.endswith("Nothing was changed.")
    assert (file.read_text(), crontab.file.read_bytes()) == (before, OTHERS)
    assert desk("cron", "install", *OWN, "--yes").returncode == 0
    assert file.read_text() == before.replace("# file =", f'file = "{application.path.parent}/retrycli.log"')
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert desk("run-once").stderr == ""
    assert "Message retry pass started" in (application.path.parent / "retrycli.log").read_text()
    file.write_text(before.replace("# file =", "file = 'mine.log'"))
    changed = file.read_text()
    assert desk.json("cron", "install", *OWN, "--yes")["changed"] is False
    assert file.read_text() == changed


# -- who makes the passes --------------------------------------------------------------------------------------------

DAEMON, ANOTHER = "daemon", "nobody"
"""Users that every Unix system has. The tests run nothing as these users."""


@contextmanager
def the_best_set_up() -> Iterator[Path]:
    """Create the recommended setup: the config is root:service 0640, and the database is the service user's."""
    need_root()
    need_own_program()
    service = pwd.getpwnam(DAEMON)
    with open_place() as place:
        (place / "data").mkdir()
        (place / "data/agent.db").touch()
        for path in (place / "data", place / "data/agent.db"):
            os.chown(path, service.pw_uid, service.pw_gid)
        config = place / "retrycli.toml"
        config.write_text('[database]\nurl = "sqlite:///data/agent.db"\n')
        os.chown(config, 0, service.pw_gid)
        config.chmod(0o640)
        yield place


def test_the_recommended_setup_works(cli: Cli, crontab: Crontab) -> None:
    with the_best_set_up() as place:
        config = place / "retrycli.toml"
        command = cli.having(crontab.variables)
        done = command("--config", config, "cron", "print")
        assert (done.returncode, done.stderr) == (0, "")
        assert f"\n*/15 * * * * {DAEMON} umask 077; exec " in done.stdout
        config.write_text('[database]\nurl = "postgresql://db/desk"\n')
        assert command("--config", config, "cron", "print").returncode == 78
        done = command("--config", config, "cron", "print", "--run-as", DAEMON)
        assert f"\n*/15 * * * * {DAEMON} umask 077; exec " in done.stdout


def test_no_line_calls_a_package_that_another_user_may_change(cli: Cli, crontab: Crontab) -> None:
    """Users who can write to the package or its folder could run code as the user of the passes."""
    need_root()
    need_own_program()
    with open_place() as place:
        shutil.copytree(Path(retrycli.__file__).parent, place / "site/retrycli")
        config = place / "retrycli.toml"
        config.write_text('[database]\nurl = "postgresql://db/desk"\n')
        copy = replace(cli, program=(sys.executable, "-P", "-m", "retrycli"))
        command = copy.having({**crontab.variables, "PYTHONPATH": f"{place}/site"})
        arguments = ("cron", "print", "--run-as", DAEMON, "--config", config)
        assert command(*arguments).returncode == 0
        for path in (place / "site", place / "site/retrycli"):
            os.chown(path, THEIRS, 0)
            done = command(*arguments)
            assert (done.returncode, done.stdout) == (78, "")
            exposes = "" if path.name == "retrycli" else f", which exposes {place}/site/retrycli"
            assert f"{path} belongs to {THEIRS}{exposes}, and passes run by" in done.stderr
            assert f"{path} belongs to {THEIRS}" in command("doctor", "--config", config).stdout
            os.chown(path, 0, 0)


def test_root_schedules_no_passes_by_the_settings_of_another_user(cli: Cli, crontab: Crontab) -> None:
    """That user could obtain the rights of the database's owner."""
    with the_best_set_up() as place:
        config = place / "retrycli.toml"
        os.chown(config, pwd.getpwnam(ANOTHER).pw_uid, -1)
        done = cli.having(crontab.variables)("--config", config, "cron", "print", "--run-as", ANOTHER)
        assert (done.returncode, done.stdout) == (78, "")
        assert f"{config} belongs to {ANOTHER}; run `sudo -u {ANOTHER} " in done.stderr
