"""A recorder of the statements that a database receives."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event

from retrycli.store.connection import OWN_SETTINGS
from retrycli.store.database import Database

BEGINNINGS = ("BEGIN", OWN_SETTINGS)
"""The statements with which a transaction may begin."""


@contextmanager
def statements(database: Database) -> Iterator[list[tuple[str, Any]]]:
    """Record the statements that the database receives in the block, each as one line with its values."""
    heard: list[tuple[str, Any]] = []

    def hear(_connection: object, _cursor: object, statement: str, values: object, *_: object) -> None:
        heard.append((" ".join(statement.split()), values))

    event.listen(database._engine, "before_cursor_execute", hear)
    yield heard
    event.remove(database._engine, "before_cursor_execute", hear)


@contextmanager
def told_of(database: Database, wanted: str, act: Callable[[], object]) -> Iterator[None]:
    """Call a function before the database receives a statement."""

    def hear(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement == wanted:
            act()

    event.listen(database._engine, "before_cursor_execute", hear)
    yield
    event.remove(database._engine, "before_cursor_execute", hear)
