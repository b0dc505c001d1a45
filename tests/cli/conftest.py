"""What most tests of the command need: its folder, an application's database, a ticketing API."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from retrycli.app import open_database
from retrycli.sandbox import Behaviour, Sandbox
from retrycli.settings import Database, Settings
from tests.cli.application import Application
from tests.cli.command import Cli

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command in a folder of its own and a bare environment."""
    return Cli(tmp_path)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that retrycli has its tables in already: making them takes longer than all else in a pass."""
    made = Application(tmp_path_factory.mktemp("prepared") / "agent.db")
    with open_database(Settings(database=Database(url=made.url))):
        return made.path


@pytest.fixture
def application(prepared: Path, tmp_path: Path) -> Application:
    """An application's database with its own tables and retrycli's, and no message yet."""
    return Application(tmp_path / "agent.db", like=prepared)


@pytest.fixture
def untouched(tmp_path: Path) -> Application:
    """An application's database that retrycli has never seen."""
    return Application(tmp_path / "agent.db")


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A ticketing API that takes everything."""
    with Sandbox(Behaviour(), rng=Random(0)) as server:
        yield server


@pytest.fixture
def at_work(cli: Cli, application: Application, sandbox: Sandbox) -> Cli:
    """The command, told by two environment variables where database and API are."""
    return cli.having(application.variables(sandbox.url))
