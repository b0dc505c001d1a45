"""Rows by their ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from sqlalchemy import ARRAY, BigInteger, String, TypeDecorator, any_, bindparam
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Dialect
    from sqlalchemy.sql.compiler import SQLCompiler

IDS = "ids"


class id_in(FunctionElement[bool]):  # noqa: N801  SQLAlchemy's functions have small letters
    """Whether a column's value is one of the parameter ``ids``.

    SQLite is given them one by one, which it is quickest with. A server would have another statement for each number of
    ids, put together, sent and parsed anew: it is given an array.
    """

    inherit_cache = True
    name = "among_ids"  # and no type: a boolean is compared with 1 on SQLite, which then uses no index

    @property
    def column(self) -> ColumnElement[Any]:
        """The column."""
        [column] = self.clauses
        return column


@compiles(id_in)
def _one_by_one(element: id_in, compiler: SQLCompiler, **how: Any) -> str:  # noqa: ANN401  SQLAlchemy's own
    return compiler.process(element.column.in_(bindparam(IDS, expanding=True)), **how)


@compiles(id_in, "postgresql")
def _as_an_array(element: id_in, compiler: SQLCompiler, **how: Any) -> str:  # noqa: ANN401
    kind = element.column.type
    # The application's columns have no type here, or one that only reads.
    array = bindparam(IDS, type_=ARRAY(kind) if isinstance(kind, String) else _Numbers())
    return compiler.process(element.column == any_(array), **how)


class _Numbers(TypeDecorator[Iterable[int]]):
    """An array of whole numbers, written as one text: the driver would write them in Python, one by one."""

    impl = ARRAY(BigInteger())
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], str]:
        """Return what writes them."""
        return lambda numbers: f"{{{','.join(map(str, numbers))}}}"
