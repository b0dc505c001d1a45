"""Fixtures for tests of the command: its folder, an application's database, and a ticketing API."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from pathlib import Path
from random import Random

import pytest

from retrycli.config.settings import DatabaseSettings, Settings
from retrycli.operations.sandbox import Behaviour, Sandbox
from retrycli.operations.wiring import open_database
from tests.cli.application import Application
from tests.cli.command import Cli
from tests.cli.story import Api, Begin, Story, tables_without
from tests.store.conftest import Factory, reusable

Prepared = Callable[[Path], AbstractContextManager[Application]]
"""A function that creates an application's database in a folder, with all tables but no messages."""


@pytest.fixture
def cli(request: pytest.FixtureRequest, tmp_path: Path) -> Cli:
    """Provide the command in its own folder and a bare environment."""
    return Cli(tmp_path, is_real=request.node.get_closest_marker("real") is not None)


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Factory], str]]:
    """Provide one template database per engine, because creating all tables takes longer than a pass."""
    with ExitStack() as until_the_end:

        @cache
        def template(engine: Factory) -> str:
            url = until_the_end.enter_context(engine(tmp_path_factory.mktemp("template"), None))
            Application(url)
            with open_database(Settings(database=DatabaseSettings(url=url))):
                pass
            until_the_end.enter_context(reusable(url))
            return url

        yield template


@pytest.fixture(scope="session")
def prepared(engine: Factory, templates: Callable[[Factory], str]) -> Prepared:
    """Provide a function that copies the template database; fixtures of any scope can use it."""

    @contextmanager
    def make(folder: Path) -> Iterator[Application]:
        with engine(folder, templates(engine)) as url:
            application = Application(url, tables=None)
            yield application
            application.lock.unlink(missing_ok=True)

    return make


@pytest.fixture
def application(prepared: Prepared, tmp_path: Path) -> Iterator[Application]:
    """Provide an application's database with its own tables and retrycli's, without messages."""
    with prepared(tmp_path) as made:
        yield made


@pytest.fixture
def untouched(engine: Factory, tmp_path: Path) -> Iterator[Application]:
    """Provide an application's database without retrycli's tables."""
    with engine(tmp_path, None) as url:
        made = Application(url)
        yield made
        made.lock.unlink(missing_ok=True)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Provide a ticketing API that accepts everything."""
    with Sandbox(Behaviour(), rng=Random(0)) as server:
        yield server


@pytest.fixture
def at_work(cli: Cli, application: Application, sandbox: Sandbox) -> Cli:
    """Provide the command with the environment variables for the database and the API."""
    return cli.having(application.variables(sandbox.url))


@pytest.fixture
def begin(engine: Factory, prepared: Prepared, cli: Cli, tmp_path: Path) -> Begin:
    """Provide a function that begins a `Story`."""

    @contextmanager
    def story(*answers: object, without: Collection[str] = ()) -> Iterator[Story]:
        with ExitStack() as until_the_end:
            if without:
                url = until_the_end.enter_context(engine(tmp_path, None))
                application = Application(url, tables=tables_without(without))
                until_the_end.callback(application.lock.unlink, missing_ok=True)
            else:
                application = until_the_end.enter_context(prepared(tmp_path))
            api = until_the_end.enter_context(Api(*answers))
            command = cli.having(application.variables(api.url))
            yield Story(application, api, command, frozenset(application.columns()))

    return story
