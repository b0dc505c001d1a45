"""Provide the databases: SQLite files, or databases of a PostgreSQL server. Each is named by its URL."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Protocol

from tests.benchmarks.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

SQLITE = "sqlite:///"


class Databases(Protocol):
    """A factory of databases of one engine."""

    @property
    def name(self) -> str:
        """Return the engine's name, as shown in reports."""

    @property
    def hosts_share(self) -> bool:
        """Return whether several hosts can work on one database."""

    def database(self, like: str | None = None) -> AbstractContextManager[str]:
        """Provide a database for a `with` block: empty, or a copy of another that has been settled."""

    def settle(self, url: str) -> None:
        """Prepare a database for copying: bring it into the state that an idle database reaches by itself."""


class SqliteFiles:
    """SQLite files in one folder, with a write-ahead log. Opening a file creates it."""

    name = "SQLite"
    hosts_share = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count(1)

    @contextmanager
    def database(self, like: str | None = None) -> Iterator[str]:
        file = self._folder / f"{next(self._numbers)}.db"
        if like is not None:
            shutil.copyfile(_file_of(like), file)
        yield f"{SQLITE}{file}"
        for path in self._folder.glob(f"{file.name}*"):  # including its write-ahead log, if any
            path.unlink()

    def settle(self, url: str) -> None:
        with closing(sqlite3.connect(_file_of(url))) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # only the main file is copied


class PostgresqlServer:
    """`postgresql.py` in a separate process: the measuring process must stay small, see `processes.run_together`."""

    name = "PostgreSQL"
    hosts_share = True

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @contextmanager
    def database(self, like: str | None = None) -> Iterator[str]:
        url = self._ask("new") if like is None else self._ask(f"copy {like}")
        yield url
        self._ask(f"drop {url}")

    def settle(self, url: str) -> None:
        self._ask(f"settle {url}")

    def _ask(self, command: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(command, file=self._process.stdin, flush=True)
        if answer := self._process.stdout.readline().strip():
            return answer
        raise SystemExit(f"the PostgreSQL server failed at {command!r}")


@contextmanager
def sqlite() -> Iterator[Databases]:
    with TemporaryDirectory() as folder:
        yield SqliteFiles(Path(folder))


@contextmanager
def postgresql() -> Iterator[Databases]:
    command = [sys.executable, "-m", "tests.benchmarks.postgresql"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        yield PostgresqlServer(process)
        # Leaving the block closes the server's input, which ends the process.


ENGINES: Mapping[str, Callable[[], AbstractContextManager[Databases]]] = {"sqlite": sqlite, "postgresql": postgresql}


def _file_of(url: str) -> Path:
    return Path(url.removeprefix(SQLITE))
