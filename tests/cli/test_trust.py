"""Another user of the host can't make retrycli use a file that they control."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.api import TAKES, Scripted
from tests.cli.application import Application
from tests.cli.command import Cli
from tests.users import OURS, THEIRS, need_own_program, need_root, open_place, wrapper

if TYPE_CHECKING:
    from retrycli.operations.sandbox import Sandbox

SECRET = "for root alone"


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


def test_root_in_another_users_directory_does_not_send_a_secret_to_their_server(cli: Cli, trap: Path) -> None:
    with Scripted((200, {"access_token": "t1", **TAKES[1]})) as api:
        file = trap / "retrycli.toml"
        file.write_text(
            f'[gateway]\nbase_url = "{api.url}"\nauth = "login"\nusername = "eve"\npassword_file = "../secret"\n'
        )
        os.chown(file, THEIRS, THEIRS)
        root = cli.having(cwd=trap)
        doctor, status = root("doctor"), root("status")
        named = root("doctor", "--config", "./retrycli.toml")
        assert api.paths == ["/auth/login"], "only the one that was named is obeyed"
    assert (doctor.returncode, status.returncode) == (3, 78)
    assert f"belongs to {THEIRS}; to read the file anyway, pass --config ./retrycli.toml" in status.stderr
    assert f"belongs to {THEIRS}; to read the file anyway, pass --config ./retrycli.toml" in doctor.stdout
    assert "\tapi\t" in named.stdout


def test_root_in_another_users_directory_does_not_replace_its_own_file(cli: Cli, trap: Path, tmp_path: Path) -> None:
    precious = tmp_path / "secret"
    with Scripted(TAKES) as api:
        file = trap / "retrycli.toml"
        file.write_text(f'[gateway]\nbase_url = "{api.url}"\n[report]\npath = "{precious}"\n')
        os.chown(file, THEIRS, THEIRS)
        done = cli.having(cwd=trap)("report", "--html", "page.html")
        passed = cli.having(cwd=trap)("run-once")
    assert (done.returncode, passed.returncode) == (78, 78)
    assert precious.read_text() == SECRET


def test_a_config_owned_by_root_and_readable_by_one_user_is_accepted(cli: Cli, sandbox: Sandbox) -> None:
    """The config has the owner ``root:svc`` and the mode 0640, and the database belongs to the user of the passes."""
    need_own_program()
    with open_place() as place:
        config, data = place / "retrycli.toml", place / "data"
        data.mkdir(0o700)
        application = Application(f"sqlite:///{data}/agent.db")
        config.touch(0o640)
        config.write_text(
            f'[database]\nurl = "{application.url}"\n[gateway]\nbase_url = "{sandbox.url}"\ntoken = "s"\n'
        )
        os.chown(config, 0, OURS)
        for path in (data, *data.iterdir()):
            os.chown(path, OURS, OURS)
        ours = cli.having(cwd=place).under(*wrapper(OURS))
        assert ours("run-once").returncode == 0
        levels = {finding["name"]: finding for finding in ours.json("doctor")["findings"]}
        assert levels["files"]["level"] == "ok", levels["files"]
        os.chown(config, THEIRS, OURS)
        assert ours("run-once").returncode == 78
        found = ours.json("doctor", "--config", "retrycli.toml", code=3)["findings"]
        assert any(entry["name"] == "files" and entry["found"] == f"{config} belongs to {THEIRS}" for entry in found)
