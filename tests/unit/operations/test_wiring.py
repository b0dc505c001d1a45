"""The rules and the lock that a pass gets from the settings, and the operator's name."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from retrycli.config.settings import Settings
from retrycli.operations.wiring import lock_path
from retrycli.system.pass_lock import PassLock
from retrycli.system.process import login_name
from tests.users import OURS, as_user, need_root, open_place


@pytest.mark.parametrize(
    ("given", "name"), [("anna", "anna"), *[(each, f"uid {os.getuid()}") for each in ("caf\udce9", "a" * 256)]]
)
def test_the_operators_name_fits_the_database(monkeypatch: pytest.MonkeyPatch, given: str, name: str) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.setenv("LOGNAME", given)
    assert login_name() == name


def test_under_sudo_the_calling_user_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under `sudo -u ticketing` every action would otherwise be attributed to "ticketing"."""
    monkeypatch.setenv("LOGNAME", "ticketing")
    monkeypatch.setenv("SUDO_USER", "anna")
    assert login_name() == "anna"
    for unusable in ("", "an\x1bna"):
        monkeypatch.setenv("SUDO_USER", unusable)
        assert login_name() == "ticketing"


SERVER = Settings.model_validate({"database": {"url": "postgresql://retrycli@db.example.com/desk"}})


def test_a_servers_lock_is_in_the_state_directory_in_any_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = lock_path(SERVER, state=tmp_path)
    assert found.parent == tmp_path
    assert str(os.getuid()) not in found.name.split("-")
    for name in ("HOME", "TMPDIR", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, "/elsewhere")
        assert lock_path(SERVER, state=tmp_path) == found
    another = SERVER.model_copy(update={"run": SERVER.run.model_copy(update={"lock_file": tmp_path / "own"})})
    assert lock_path(another, state=tmp_path) == tmp_path / "own"


def test_the_name_of_a_lock_tells_nothing_of_the_password(tmp_path: Path) -> None:
    """Everybody can read the names in /tmp, and could try passwords against a digest."""
    names = set()
    for url in ("postgresql://retrycli:summer24@db/desk", "postgresql://retrycli:winter25@db/desk"):
        names.add(lock_path(Settings.model_validate({"database": {"url": url}}), state=tmp_path).name)
    assert len(names) == 1
    assert lock_path(SERVER, state=tmp_path).name not in names


def test_without_a_state_directory_the_lock_is_in_the_account_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In the account's home, no other user can create the lock first. Under sudo, $HOME may be the operator's."""
    (tmp_path / "home").mkdir()
    none = tmp_path / "none"
    found = lock_path(SERVER, state=none, home=tmp_path / "home")
    assert found.parent == tmp_path / "home/.local/state/retrycli"
    assert list((tmp_path / "home").iterdir()) == [], "who looks makes nothing"
    PassLock(found).check()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (found.parent, found)] == [0o700, 0o600]
    assert lock_path(SERVER, state=none, home=tmp_path / "home") == found
    usual = lock_path(SERVER, state=none)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert lock_path(SERVER, state=none) == usual


def test_without_a_home_each_user_has_a_lock_in_tmp(tmp_path: Path) -> None:
    """Users of containers often have no home, or an unwritable one. One user could not open another user's lock."""
    in_tmp = f"/tmp/retrycli-{os.getuid()}-"
    assert str(lock_path(SERVER, state=tmp_path / "none", home=tmp_path / "none")).startswith(in_tmp)
    (tmp_path / "file").touch()
    assert str(lock_path(SERVER, state=tmp_path / "none", home=tmp_path / "file")).startswith(in_tmp)
    need_root()
    with open_place() as place:
        found = as_user(OURS, lambda: lock_path(SERVER, state=place, home=place))
    assert str(found).startswith(f"/tmp/retrycli-{OURS}-")
    assert as_user(OURS, lambda: lock_path(SERVER, state=place)) == found, "one without an account"
