"""Gateways and presets of other packages, which entry points name."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from retrycli.gateway.presets.sources import known_presets, preset_text

if TYPE_CHECKING:
    from pathlib import Path

    from retrycli.operations.sandbox import Sandbox
    from tests.cli.application import Application
    from tests.cli.command import Cli

ENTRIES = """
[retrycli.gateways]
pigeon = pigeon:open_loft
gone = pigeon_gone:open_loft
[retrycli.presets]
loft = pigeon
lost = pigeon
zammad = pigeon
"""
LOFT = """
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
import retrycli
from retrycli import LookUp, Outcome, OutcomeKind, Presence

class Loft:
    def __init__(self, settings):
        self.settings = settings

    async def deliver(self, queued):
        CODE

    async def look_up(self, queued):
        return LookUp(Presence.ARRIVED)

@asynccontextmanager
async def open_loft(settings):
    yield Loft(settings)
"""
SENDS = "return Outcome(OutcomeKind.DELIVERED, external_id=f'{self.settings.base_url} {queued.message_id}')"


def install(cli: Cli, application: Application, folder: Path, *, code: str = SENDS, more: str = "") -> Cli:
    """Install a package, and return the command with the settings that use its gateway."""
    info = folder / "site" / "pigeon-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pigeon\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    package = folder / "site" / "pigeon"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").write_text(LOFT.replace("CODE", code) + more)
    (package / "loft.toml").write_text(preset_text("generic").replace("A plain HTTP API", "A loft"))
    return cli.having(
        {
            "RETRYCLI_DATABASE__URL": application.url,
            "RETRYCLI_GATEWAY__KIND": "pigeon",
            "PYTHONPATH": os.pathsep.join([str(folder / "site"), *sys.path]),
        }
    )


def test_a_gateway_of_a_package_delivers(cli: Cli, application: Application, tmp_path: Path) -> None:
    command = install(cli, application, tmp_path)
    application.add_due(2)
    assert command.having({"RETRYCLI_GATEWAY__BASE_URL": "PIGEON://roof"}).json("run-once")["sent"] == 2
    attempts = application.rows("retrycli_attempts").values()
    assert {row["external_id"] for row in attempts} == {"pigeon://roof 101", "pigeon://roof 102"}
    assert {row["destination"] for row in attempts} == {"pigeon://roof"}


def test_without_a_base_url_the_destination_is_the_kind(cli: Cli, application: Application, tmp_path: Path) -> None:
    command = install(cli, application, tmp_path)
    assert command.json("config", "check")["api"] == "pigeon:"
    application.add(101)
    assert command("pause", "--destination", "pigeon:", "--reason", "rain").returncode == 0
    assert command.json("run-once")["sent"] == 0
    assert "\tan installed package provides pigeon\t" in command("doctor").stdout


@pytest.mark.parametrize(
    ("code", "outcome", "error"),
    [
        ("raise retrycli.Permanent('no roof')", "permanent", "no roof"),
        ("raise KeyError('hush-hush')", "unknown", "the gateway pigeon raised KeyError"),
        ("return None", "unknown", "the gateway pigeon returned no outcome, or one without error"),
        ("return Outcome(OutcomeKind.REFUSED)", "unknown", "the gateway pigeon returned no outcome, or one without"),
        ("import asyncio; await asyncio.sleep(600)", "unknown", "the gateway pigeon raised TimeoutError"),
        ("return Outcome(OutcomeKind.REFUSED, error=queued.message.fields['body'])", "refused", "…"),
        ("return Outcome(OutcomeKind.REFUSED, error='geheim')", "refused", "***"),
    ],
)
def test_whatever_a_gateway_does_ends_one_attempt(
    cli: Cli, application: Application, tmp_path: Path, code: str, outcome: str, error: str
) -> None:
    command = install(cli, application, tmp_path, code=code)
    application.add(101, body="The body is longer than sixteen characters.")
    seconds = "0.5" if "sleep" in code else "60"
    settings = {"RETRYCLI_GATEWAY__REQUEST_TIMEOUT_SECONDS": seconds, "RETRYCLI_GATEWAY__TOKEN": "geheim"}
    assert command("run-once", env=settings).returncode == 0
    [attempt] = application.rows("retrycli_attempts").values()
    assert attempt["outcome"] == outcome
    assert str(attempt["error"]).startswith(error)


def test_a_gateway_has_a_look_up_if_its_factory_says_so(cli: Cli, application: Application, tmp_path: Path) -> None:
    command = install(cli, application, tmp_path)
    application.add(101)
    assert "its gateway has no look-up" in command("look-up", "101").stderr
    command = install(cli, application, tmp_path, more="open_loft.looks_up = True\n")
    assert command("look-up", "101").returncode == 0
    assert application.row(101)["status"] == "sent"


@pytest.mark.parametrize(
    ("kind", "more", "said"),
    [
        ("dove", "", "must be http, smtp, python, application, or a gateway that an installed package provides"),
        ("gone", "", "gateway.kind: importing pigeon_gone:open_loft raised ModuleNotFoundError; reinstall the package"),
        ("pigeon", "open_loft = 5", "gateway.kind: preparing the gateway pigeon raised TypeError"),
        ("pigeon", "def open_loft(settings): raise KeyError('hush')", "preparing the gateway pigeon raised KeyError"),
        ("pigeon", "def open_loft(settings): return 5", "gateway.kind: opening the gateway pigeon raised "),
    ],
)
def test_a_gateway_that_can_not_be_used_is_one_clear_line(
    cli: Cli, application: Application, tmp_path: Path, kind: str, more: str, said: str
) -> None:
    command = install(cli, application, tmp_path, more=more)
    application.add(101)
    for words in (("config", "check"), ("run-once",)):
        done = command(*words, env={"RETRYCLI_GATEWAY__KIND": kind})
        assert (done.returncode, done.stderr.count("\n")) == (78, 1), done.stderr
        assert said in done.stderr
        assert "hush" not in done.stderr
    assert application.row(101)["status"] == "failed"


# -- presets -------------------------------------------------------------------------------------------------------


def test_a_preset_of_a_package_is_used_by_its_name(
    cli: Cli, application: Application, sandbox: Sandbox, tmp_path: Path
) -> None:
    command = install(cli, application, tmp_path).having(
        {"RETRYCLI_GATEWAY__KIND": "http", "RETRYCLI_GATEWAY__PRESET": "loft", "TICKETING_API_BASE_URL": sandbox.url}
    )
    application.add(101)
    assert command.json("run-once")["sent"] == 1
    assert 'title = "A loft"' in command("presets", "show", "loft").stdout


def test_the_list_has_the_presets_of_packages_after_the_bundled_ones(
    cli: Cli, application: Application, tmp_path: Path
) -> None:
    command = install(cli, application, tmp_path)
    lost = command("presets")
    assert (lost.returncode, lost.stderr.count("\n")) == (78, 1)
    assert "can't read lost.toml of the package pigeon: FileNotFoundError; reinstall the package" in lost.stderr
    (tmp_path / "site" / "pigeon" / "lost.toml").write_text(preset_text("generic"))
    names = [preset["name"] for preset in command.json("presets")["presets"]]
    assert names == [*known_presets(), "loft", "lost"]
    assert 'title = "Zammad' in command("presets", "show", "zammad").stdout, "a bundled preset can't be replaced"
