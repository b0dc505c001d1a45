"""Values that a PostgreSQL server holds and Python does not, or the other way round.

Their rows can be read, and named, all the same; and what came of a message can be written down.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from psycopg import DataError
from psycopg.abc import Loader
from psycopg.pq import Format
from psycopg.types.string import StrDumperUnknown

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.abc import AdaptContext, Buffer

BEYOND_PYTHON = ("date", "time", "timetz", "timestamp", "timestamptz", "interval", "json", "jsonb")
"""Types with such values: ``infinity``, the year 10000 or 44 BC, 24:00, JSON that is nested very deeply."""

UTF_8 = "utf-8"
"""An encoding's name, as the driver has it."""


def read_any(connection: Connection, _record: object) -> None:
    """Have what can't be one of Python's values read as the text that the server writes for it.

    The driver raises otherwise, and no row is read because of one.
    """
    adapters = connection.adapters
    for name in BEYOND_PYTHON:
        oid = adapters.types[name].oid
        usual = adapters.get_loader(oid, Format.TEXT)
        assert usual is not None  # noqa: S101  told to the type checker
        adapters.register_loader(oid, _or_text(usual))


def write_any(connection: Connection, _record: object) -> None:
    r"""Have letters that a database's encoding lacks written as ``\u2026``.

    The driver raises otherwise, and an attempt whose answer has one such letter would never have been made.
    """
    if connection.info.encoding != UTF_8:
        connection.adapters.register_dumper(str, _EscapingDumper)


class _EscapingDumper(StrDumperUnknown):
    def dump(self, obj: str) -> Buffer | None:
        return super().dump(obj.encode(self._encoding, "backslashreplace").decode(self._encoding))


@lru_cache
def _or_text(usual: type[Loader]) -> type[Loader]:
    class OrText(Loader):
        format = Format.TEXT

        def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
            connection = context.connection if context else None
            self._usual = usual(oid, context)
            self._encoding = connection.info.encoding if connection else UTF_8

        def load(self, data: Buffer) -> Any:  # noqa: ANN401  as psycopg declares it
            try:
                return self._usual.load(data)
            except (DataError, ValueError, RecursionError):
                return bytes(data).decode(self._encoding, "surrogateescape")

    return OrText
