"""Fixtures for the databases of the store's tests: one factory per engine, one database per test."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import Column, MetaData, Table, make_url

from retrycli.store.claims import Claims
from retrycli.store.database import Database
from retrycli.store.enrolment import Enrolment
from retrycli.store.listing import MessageQueries
from retrycli.store.passes import Ledger
from tests import postgresql
from tests.store.application import Application, bare_table, is_sqlite, opened
from tests.store.mapped import MappedApplication, prepare

Factory = Callable[[Path, str | None], AbstractContextManager[str]]
"""A function that creates a database in a folder, empty or as a copy of the database at a URL, and yields its URL."""


@contextmanager
def sqlite_file(folder: Path, template: str | None) -> Iterator[str]:
    """Create a SQLite file with a rollback journal, its default mode."""
    path = folder / "agent.db"
    if template is None:
        path.touch()
    else:
        shutil.copy(file_of(template), path)
    yield f"sqlite:///{path}"


@contextmanager
def sqlite_file_with_wal(folder: Path, template: str | None) -> Iterator[str]:
    """Create a SQLite file with a write-ahead log."""
    with sqlite_file(folder, template) as url:
        with closing(sqlite3.connect(file_of(url))) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        yield url


@contextmanager
def postgresql_database(_folder: Path, template: str | None) -> Iterator[str]:
    with postgresql.database(template) as url:
        yield url


FACTORIES: dict[str, Factory] = {
    "sqlite": sqlite_file,
    "sqlite-wal": sqlite_file_with_wal,
    "postgresql": postgresql_database,
}
ENGINES = ["sqlite", "postgresql"]
"""The engines on which tests run by default."""
on_default_table = pytest.mark.parametrize("application_class", [Application], indirect=True)
"""A mark for tests that would need other statements or values for the mapped table."""
in_every_mode = pytest.mark.parametrize("engine", [*ENGINES, "sqlite-wal"], indirect=True)
"""A mark for tests with concurrent connections. With a write-ahead log, readers do not block writers."""


def reusable(url: str) -> AbstractContextManager[object]:
    """Mark a database as unchanged from now on, so that its copies may be reused."""
    return nullcontext() if is_sqlite(url) else postgresql.reusable(url)


def file_of(url: str) -> str:
    return str(make_url(url).database)


@pytest.fixture(scope="session", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Factory:
    return FACTORIES[cast("str", request.param)]


@pytest.fixture(scope="session", params=[Application, MappedApplication])
def application_class(request: pytest.FixtureRequest) -> type[Application]:
    return cast("type[Application]", request.param)


@pytest.fixture(scope="session")
def template(
    engine: Factory, application_class: type[Application], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Provide a template with all tables and no message, because creating tables for each test would be slow."""
    with engine(tmp_path_factory.mktemp("template"), None) as url:
        prepare(url, application_class)
        with reusable(url):
            yield url


@pytest.fixture
def untouched(engine: Factory, tmp_path: Path) -> Iterator[Application]:
    """Provide an application whose database has no tables of retrycli."""
    with engine(tmp_path, None) as url, closing(Application(url)) as made:
        yield made


@pytest.fixture
def application(
    engine: Factory, application_class: type[Application], template: str, tmp_path: Path
) -> Iterator[Application]:
    """Provide an application whose database has retrycli's tables."""
    with engine(tmp_path, template) as url, closing(application_class(url, made=True)) as made:
        yield made


@pytest.fixture
def bare_application(engine: Factory, tmp_path: Path) -> Iterator[Application]:
    """Provide an application whose table has only the required columns."""
    with engine(tmp_path, None) as url, closing(Application(url, kind=bare_table)) as made:
        yield made


@contextmanager
def application_with(engine: Factory, folder: Path, column: Column[Any]) -> Iterator[Application]:
    """Open an application whose table has a given column."""

    def kind(metadata: MetaData, name: str, schema_name: str | None) -> Table:
        table = bare_table(metadata, name, schema_name)
        table.append_column(column, replace_existing=True)
        return table

    with engine(folder, None) as url, closing(Application(url, kind=kind)) as made:
        yield made


@pytest.fixture
def sqlite_application(tmp_path: Path) -> Iterator[Application]:
    """Provide an application that uses a SQLite file with a rollback journal."""
    with sqlite_file(tmp_path, None) as url, closing(Application(url)) as made:
        yield made


@pytest.fixture
def loose_application(tmp_path: Path) -> Iterator[Application]:
    """Provide an application whose SQLite table stores values of any type in any column."""
    with sqlite_file(tmp_path, None) as url, closing(Application(url, kind=bare_table)) as made:
        yield made


@pytest.fixture
def database(application: Application) -> Iterator[Database]:
    with opened(application) as it:
        yield it


@pytest.fixture
def enrolment(database: Database) -> Enrolment:
    return Enrolment(database)


@pytest.fixture
def claims(database: Database) -> Claims:
    return Claims(database)


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)


@pytest.fixture
def views(database: Database) -> MessageQueries:
    return MessageQueries(database)
