"""Values that a PostgreSQL server holds and Python does not, or the reverse.

Rows with such values can be read and named all the same, and results can be recorded.
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
"""Types with such values: ``infinity``, the year 10000 or 44 BC, 24:00, deeply nested JSON."""

UTF_8 = "utf-8"
"""The driver's name of the encoding."""


def register_text_fallback(connection: Connection, _record: object) -> None:
    """Read a value that Python can't hold as the text that the server writes for it.

    Otherwise the driver raises, and one such row prevents reading all others.
    """
    adapters = connection.adapters
    for name in BEYOND_PYTHON:
        oid = adapters.types[name].oid
        usual = adapters.get_loader(oid, Format.TEXT)
        assert usual is not None  # noqa: S101  told to the type checker
        adapters.register_loader(oid, _or_text(usual))


def register_escaping(connection: Connection, _record: object) -> None:
    r"""Write characters that the database's encoding lacks as ``\u2026``.

    Otherwise the driver raises, and an attempt whose answer has such a character could not be recorded.
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
