"""The README against the program: what it names is there, and what is there it names."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from retrycli.config.settings import Settings

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")

KEYS = [
    f"{section}.{key}"
    for section in Settings.model_fields
    for key in type(getattr(Settings(), section)).model_fields
    if key != "types"
]
COMMANDS = [
    "run-once",
    "status",
    "list-failed",
    "escalations",
    "show",
    "explain",
    "metrics",
    "retry",
    "requeue",
    "reject",
    "look-up",
    "mark-sent",
    "edit",
    "notify",
    "pause",
    "resume",
    "passes",
    "stats",
    "report",
    "init",
    "config",
    "table",
    "db",
    "doctor",
    "presets",
    "deliver-test",
    "cron",
    "version",
    "sandbox",
    "demo",
]


@pytest.mark.parametrize("key", KEYS)
def test_every_setting_has_its_row(key: str) -> None:
    assert f"| `{key}` |" in TEXT


def test_no_row_is_about_a_setting_that_is_not_there() -> None:
    assert set(re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \|", TEXT, re.MULTILINE)) == set(KEYS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_told_of(command: str) -> None:
    assert re.search(rf"`(retrycli )?{command}[ `]", TEXT)


def test_the_commands_told_of_are_all_there_are() -> None:
    shown = subprocess.run([sys.executable, "-m", "retrycli", "--help"], capture_output=True, text=True, check=True)
    listed = re.findall(r"^  ([a-z][a-z-]+)  ", shown.stdout.partition("Core commands")[2], re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)


def test_its_python_compiles() -> None:
    for source in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        compile(source, str(README), "exec")


def test_the_files_it_points_to_are_there() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (README.parent / target).exists(), target


PRESETS = [
    text for text in re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL) if re.search(r"^\[messages", text, re.MULTILINE)
]


def test_its_preset_is_one(tmp_path: Path) -> None:
    """The first is a whole one; the others are pieces."""
    file = tmp_path / "own.toml"
    file.write_text(PRESETS[0], encoding="utf-8")
    checked = subprocess.run([sys.executable, "-m", "retrycli", "presets", "check", file], cwd=tmp_path, check=False)
    assert checked.returncode == 0


TOML = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("text", TOML)
def test_its_toml_can_be_read(text: str) -> None:
    assert tomllib.loads(text)


def test_it_shows_how_old_messages_are_kept_from_going_out() -> None:
    assert any("expires_after_hours" in tomllib.loads(text).get("schedule", {}) for text in TOML)


def test_the_security_page_says_which_versions_are_supported_and_how_soon_a_report_is_answered() -> None:
    page = README.with_name("SECURITY.md").read_text(encoding="utf-8")
    assert "\n## Supported versions\n" in page
    assert re.search(r"an answer within \d+ working days", page)
