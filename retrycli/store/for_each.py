"""A change for each of many rows, with values of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sqlalchemy import ARRAY, ColumnElement, bindparam, column, func
from sqlalchemy.types import NullType, TypeEngine

from retrycli.store.connecting import UNREAD

if TYPE_CHECKING:
    from sqlalchemy import Connection, Executable

OF = "of_"
"""A parameter's name begins so, for those that are columns' names are SQLAlchemy's own."""

Values = Mapping[str, ColumnElement[Any]]
"""What a statement has of a row, by name."""


class ForEach:
    """A statement that is carried out for each of some rows.

    SQLite prepares it once and runs it again and again. A server, where nothing is left prepared, plans it anew each
    time, which takes longer than to carry it out: there it is one statement for all rows, given an array of each value.

    Args:
        make: puts the statement together, of a row's values.
        types: what type each of them has. Where one is of a type that is not known, a server goes row by row too.
    """

    def __init__(self, make: Callable[[Values], Executable], **types: TypeEngine[Any]) -> None:
        self._make = make
        self._types = types
        self._all_are_known = not any(isinstance(each, NullType) for each in types.values())

    def execute(self, connection: Connection, rows: Sequence[Mapping[str, Any]], **shared: object) -> int | None:
        """Carry it out, and return how many rows were changed; None if that is not known without asking the server.

        Args:
            connection: of a transaction that writes.
            rows: the values of each.
            shared: parameters of the statement that all rows share.
        """
        if not rows:
            return 0
        if connection.dialect.name == "sqlite" or not self._all_are_known:
            each = [{OF + name: row[name] for name in self._types} | shared for row in rows]
            result = connection.execute(self._row_by_row, each, execution_options=UNREAD)
            return result.rowcount if connection.dialect.name == "sqlite" else None
        all_ = {OF + name: [row[name] for row in rows] for name in self._types} | shared
        connection.execute(self._at_once, all_, execution_options=UNREAD)
        return None

    @cached_property
    def _row_by_row(self) -> Executable:
        return self._make({name: bindparam(OF + name, type_=kind) for name, kind in self._types.items()})

    @cached_property
    def _at_once(self) -> Executable:
        arrays = [bindparam(OF + name, type_=ARRAY(kind)) for name, kind in self._types.items()]
        columns = [column(name, kind) for name, kind in self._types.items()]
        rows = func.unnest(*arrays).table_valued(*columns, name="given").render_derived()
        return self._make(dict(rows.c.items()))
