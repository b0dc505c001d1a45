"""Another user of the host can't make retrycli use a file that they control."""

from __future__ import annotations

import os
import pwd
import shutil
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from retrycli.domain.errors import ConfigurationError
from retrycli.gateway.presets.loader import preset_text
from retrycli.operations.setup import write_config
from tests.cli.api import TAKES, Scripted
from tests.cli.application import Application
from tests.cli.command import Cli
from tests.cli.schedulers import Crontab
from tests.users import OURS, THEIRS, need_own_program, need_root, open_place, with_private_etc, wrapper

if TYPE_CHECKING:
    from collections.abc import Iterator

    from retrycli.operations.sandbox import Sandbox

SECRET = "for root alone"
EXAMPLE = Path(__file__).parents[2] / "ticketing_agent.db.example"


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """Create another user's folder, in which root then runs commands."""
    need_root()
    made = tmp_path / "trap"
    made.mkdir(0o755)
    os.chown(made, THEIRS, THEIRS)
    (tmp_path / "secret").touch(0o600)
    (tmp_path / "secret").write_text(SECRET)
    return made


def test_root_in_another_users_directory_neither_sends_a_secret_nor_replaces_its_own_file(
    cli: Cli, trap: Path, tmp_path: Path
) -> None:
    with Scripted((200, {"access_token": "t1", **TAKES[1]})) as api:
        file = trap / "retrycli.toml"
        file.write_text(
            f'[gateway]\nbase_url = "{api.url}"\nauth = "login"\nusername = "eve"\npassword_file = "../secret"\n'
            f'[report]\npath = "{tmp_path}/secret"\n'
        )
        os.chown(file, THEIRS, THEIRS)
        root = cli.having(cwd=trap)
        doctor, status, report = root("doctor"), root("status"), root("report", "--html", "page.html")
        passed, named = root("run-once"), root("run-once", "--config", "./retrycli.toml")
        assert api.paths == []
    assert [done.returncode for done in (doctor, status, report, passed, named)] == [3, 78, 78, 78, 78]
    for said in (status.stderr, doctor.stdout, named.stderr):
        assert f"belongs to {THEIRS}; run this as the user {THEIRS}" in said
    assert (tmp_path / "secret").read_text() == SECRET


def test_init_writes_no_password_into_another_users_directory(trap: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"belongs to {THEIRS}"):
        write_config(trap / "retrycli.toml", database_url="postgresql://desk:S3cret@db.example/desk", base_url=None)
    assert list(trap.iterdir()) == []


def test_settings_that_root_writes_serve_root_and_the_user_of_the_passes(cli: Cli, sandbox: Sandbox) -> None:
    """`init` lets the group of the settings' folder read them: ``root:ticketing``, mode 0640."""
    need_own_program()
    with open_place() as place:
        own, data = place / "etc", place / "data"
        for folder, mode in ((own, 0o750), (data, 0o700)):
            folder.mkdir(mode)
            os.chown(folder, OURS if folder == data else 0, OURS)
        root, config = cli.having(cwd=place), own / "retrycli.toml"
        database = ("--database-url", f"sqlite:///{data}/agent.db", "--base-url", sandbox.url)
        made = root.on_terminal("init", "--config", config, *database, "--example", columns=400)
        assert made.returncode == 0, made.text
        found = config.stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (0, OURS, 0o640)
        assert {(file.stat().st_uid, file.stat().st_mode & 0o777) for file in data.iterdir()} == {(OURS, 0o600)}
        assert f"Root does not open a database of {OURS}." in made.words
        assert f"Next: sudo -u '#{OURS}' " in made.words
        assert made.words.endswith(f" --config {config} config check")
        ours = root.under(*wrapper(OURS)).having({"RETRYCLI_CONFIG": str(config)})
        assert ours("config", "check").returncode == 0
        assert ours("run-once").returncode == 0
        levels = {finding["name"]: finding for finding in ours.json("doctor")["findings"]}
        assert levels["files"]["level"] == "ok", levels["files"]
        os.chown(config, THEIRS, OURS)
        assert {each("config", "show", "--config", config).returncode for each in (ours, root)} == {78}


def plant_journal(database: Path, named: Path) -> None:
    """Put a journal beside a database, as a crash leaves one. SQLite deletes the file that it names (the super-journal
    of https://www.sqlite.org/atomiccommit.html#_multi_file_commit) when it opens the database.
    """
    magic, name = bytes.fromhex("d9d505f920a163d7"), str(named).encode()
    head, page = database.read_bytes()[:100], 4096
    assert int.from_bytes(head[16:18]) == page
    begin = struct.pack(">8sIIIII", magic, 0, 1, int.from_bytes(head[28:32]), 512, page).ljust(512, b"\0")
    end = struct.pack(f">I{len(name)}sII8s", 2**30 // page + 1, name, len(name), sum(name), magic)
    database.with_name(f"{database.name}-journal").write_bytes(begin + end)


@pytest.mark.parametrize(
    "command",
    [
        "run-once",
        "doctor",
        "cron check",
        "cron install --user --yes",
        "table describe --url {url}",
        "init --config new.toml --database-url {url}",
        "init --config new.toml --example --database-url {url}",
    ],
)
def test_root_follows_no_journal_beside_another_users_database(
    cli: Cli, trap: Path, tmp_path: Path, command: str
) -> None:
    precious, database = tmp_path / "secret", trap / "agent.db"
    shutil.copyfile(EXAMPLE, database)
    plant_journal(database, precious)
    if "--example" in command:
        database.unlink()
    else:
        os.chown(database, THEIRS, THEIRS)
    config = tmp_path / "own.toml"
    config.write_text(f'[database]\nurl = "sqlite:///{database}"\n[gateway]\nbase_url = "http://127.0.0.1:9"\n')
    config.chmod(0o600)
    root = cli.having({**Crontab(tmp_path).variables, "RETRYCLI_CONFIG": str(config)}, cwd=tmp_path)
    done = root(*command.format(url=f"sqlite:///{database}").split())
    assert precious.read_text() == SECRET
    assert "internal error" not in done.stderr
    if not command.startswith(("init", "cron install")):
        words = " ".join((done.stdout + done.stderr).replace(";", "").split())
        assert f"belongs to {THEIRS} run this as the user {THEIRS}" in words


@pytest.mark.parametrize("linked", ["file", "folder", None])
def test_root_opens_no_database_that_another_user_may_choose_or_add_a_journal_to(
    cli: Cli, trap: Path, tmp_path: Path, linked: str | None
) -> None:
    """Root's own file is in a folder for everybody, with another user's journal. Or a link of that user leads to it."""
    public, precious = tmp_path / "public", tmp_path / "secret"
    public.mkdir()
    public.chmod(0o1777)
    shutil.copyfile(EXAMPLE, public / "agent.db")
    plant_journal(public / "agent.db", precious)
    (trap / "link").symlink_to(public if linked == "folder" else public / "agent.db")
    os.chown(trap / "link", THEIRS, THEIRS, follow_symlinks=False)
    chosen = {"file": trap / "link", "folder": trap / "link/agent.db", None: public / "agent.db"}[linked]
    done = cli.having({"RETRYCLI_DATABASE__URL": f"sqlite:///{chosen}"}, cwd=tmp_path)("status")
    assert (done.returncode, precious.read_text()) == (78, SECRET), done.stderr
    assert (f"belongs to {THEIRS}" if linked else "is writable by every user") in done.stderr


@pytest.mark.parametrize(
    "setting", ["REPORT__PATH", "METRICS__PATH", "LOGGING__FILE", "RUN__LOCK_FILE", "GATEWAY__ATTACHMENTS_DIR"]
)
def test_no_file_is_used_in_a_folder_to_which_another_user_leads(
    cli: Cli, trap: Path, tmp_path: Path, sandbox: Sandbox, setting: str
) -> None:
    """Otherwise the other user could replace files that only this user may change, or send any that it may read."""
    (tmp_path / "private").mkdir()
    (trap / "link").symlink_to(tmp_path / "private")
    os.chown(trap / "link", THEIRS, THEIRS, follow_symlinks=False)
    shutil.copyfile(EXAMPLE, tmp_path / "agent.db")
    settings = {
        "RETRYCLI_DATABASE__URL": f"sqlite:///{tmp_path}/agent.db",
        "TICKETING_API_BASE_URL": sandbox.url,
        "RETRYCLI_RUN__LOCK_FILE": str(tmp_path / "lock"),
        f"RETRYCLI_{setting}": str(trap / ("link" if setting.endswith("DIR") else "link/file.prom")),
    }
    at_work = cli.having(settings, cwd=tmp_path)
    done = at_work("run-once")
    assert [*(tmp_path / "private").iterdir()] == []
    assert f"{trap}/link is a link that belongs to {THEIRS}" in done.stderr
    assert f"run this as the user {THEIRS}" in done.stderr
    if setting.endswith("DIR"):
        assert (done.returncode, sandbox.received) == (78, ())
        return
    os.chown(trap / "link", 0, 0, follow_symlinks=False)
    at_work("run-once")
    assert [path.name for path in (tmp_path / "private").iterdir()] == ["file.prom"]


def test_the_suggested_command_shows_no_password(cli: Cli, trap: Path) -> None:
    file, url = trap / "retrycli.toml", "postgresql://desk:p/a@ss@db.example/desk?sslpassword=s3cret"
    file.touch()
    os.chown(trap, pwd.getpwnam("daemon").pw_uid, -1)
    done = cli("--config", file, "table", "describe", "--url", url)
    assert (done.returncode, "p/a@ss" in done.stderr, "s3cret" in done.stderr) == (78, False, False)
    assert "; run `sudo -u daemon " in done.stderr
    assert "postgresql://desk:********@db.example/desk?sslpassword=********" in done.stderr


NO_SETTINGS = dict.fromkeys(("HOME", "XDG_CONFIG_HOME"), "/nonexistent")
SYSTEM_SETTINGS = """
[gateway]
kind = "python"
call = "desk_sender:send"
modules_dir = "code"
[gateway.customer]
kind = "http"
preset = "own.toml"
auth = "bearer"
token_file = "token"
base_url = "{api}"
[notify]
urls_file = "urls"
"""
SENDER = "import desk_helper\n\n\ndef send(message):\n    desk_helper.note()\n"
HELPER = "from pathlib import Path\n\n\ndef note():\n    Path({!r}).touch()\n"


@pytest.fixture
def system(tmp_path: Path, application: Application) -> Iterator[tuple[Path, Scripted, Path]]:
    """Put settings into a private /etc/retrycli. Yield /etc, the API, and a file that the sender creates."""
    etc, mark = tmp_path / "etc", tmp_path / "sent"
    own = etc / "retrycli"
    (own / "code").mkdir(parents=True)
    application.add(1, message_type="internal")
    application.add(2)
    with Scripted(TAKES, TAKES) as api:
        settings = f'[database]\nurl = "{application.url}"\n{SYSTEM_SETTINGS.format(api=api.url)}'
        (own / "retrycli.toml").write_text(settings)
        (own / "own.toml").write_text(preset_text("generic"))
        (own / "token").write_text("s3cret")
        (own / "urls").touch()
        (own / "code/desk_sender.py").write_text(SENDER)
        (own / "code/desk_helper.py").write_text(HELPER.format(str(mark)))
        yield etc, api, mark


@pytest.mark.parametrize(
    "name", ["", "retrycli.toml", "own.toml", "token", "urls", "code", "code/desk_sender.py", "code/desk_helper.py"]
)
def test_root_uses_nothing_in_the_system_folder_that_another_user_can_change(
    cli: Cli, system: tuple[Path, Scripted, Path], name: str
) -> None:
    """Neither the settings nor what they name: with it, the user of the passes could act as root."""
    etc, api, mark = system
    root = cli.having(NO_SETTINGS).under(*with_private_etc(etc))
    os.chown(etc / "retrycli" / name, OURS, OURS)
    done = root("run-once")
    assert (done.returncode, api.paths, mark.exists()) == (78, [], False)
    assert f"{Path('/etc/retrycli', name)} belongs to ticketing; run `sudo -u ticketing " in done.stderr
    assert done.stderr.endswith("retrycli run-once`\n")
    os.chown(etc / "retrycli" / name, 0, 0)
    done = root("run-once")
    assert (done.returncode, len(api.paths), mark.exists()) == (0, 1, True), done.stderr


def test_root_in_another_users_directory_opens_no_database_that_nobody_named(
    cli: Cli, trap: Path, tmp_path: Path
) -> None:
    """SQLite deletes the files that a journal beside a database names."""
    database = trap / "ticketing_agent.db"
    shutil.copyfile(EXAMPLE, database)
    os.chown(database, THEIRS, THEIRS)
    (tmp_path / "etc").mkdir()
    done = cli.having(NO_SETTINGS, cwd=trap).under(*with_private_etc(tmp_path / "etc"))("status")
    assert (done.returncode, done.stdout) == (78, ""), done.stderr
    assert f"database.url: {trap.resolve()}" in done.stderr
    assert f"belongs to {THEIRS}" in done.stderr
