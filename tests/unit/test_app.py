"""What a pass is given of the settings, and who asks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from retrycli.app import lock_path, login_name, pass_rules
from retrycli.settings import Settings


@pytest.mark.parametrize(
    ("url", "at_a_server"), [("sqlite:///desk.db", False), ("postgresql://retrycli@db.example.com/desk", True)]
)
def test_a_pass_knows_whether_its_messages_are_at_a_server(url: str, *, at_a_server: bool) -> None:
    settings = Settings.model_validate({"database": {"url": url}, "gateway": {"base_url": "https://api.example.com"}})
    assert pass_rules(settings).at_a_server == at_a_server


@pytest.mark.parametrize(
    ("given", "name"), [("anna", "anna"), *[(each, f"uid {os.getuid()}") for each in ("caf\udce9", "a" * 256)]]
)
def test_who_is_at_the_keyboard_has_a_name_that_a_database_takes(
    monkeypatch: pytest.MonkeyPatch, given: str, name: str
) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.setenv("LOGNAME", given)
    assert login_name() == name


def test_behind_sudo_is_who_called_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under `sudo -u ticketing` all would else have been done by "ticketing"."""
    monkeypatch.setenv("LOGNAME", "ticketing")
    monkeypatch.setenv("SUDO_USER", "anna")
    assert login_name() == "anna"
    for unusable in ("", "an\x1bna"):
        monkeypatch.setenv("SUDO_USER", unusable)
        assert login_name() == "ticketing"


SERVER = Settings.model_validate({"database": {"url": "postgresql://retrycli@db.example.com/desk"}})


def test_a_lock_for_a_server_is_in_the_state_folder_whoever_asks_and_whatever_their_environment(
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


def test_without_a_state_folder_each_user_has_a_lock_of_their_own(tmp_path: Path) -> None:
    """Another's could not be opened."""
    assert lock_path(SERVER, state=tmp_path / "none").name.startswith(f"retrycli-{os.getuid()}-")
