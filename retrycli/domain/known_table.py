"""A table as the database's catalogue describes it, and the values counted in some of its rows."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class ValueKind(StrEnum):
    """The kinds of value that a column holds. ``ANY`` is a SQLite column without a type."""

    INTEGER = "integer"
    TEXT = "text"
    TIME = "time"
    BOOLEAN = "boolean"
    ENUM = "enum"
    JSON = "json"
    UUID = "uuid"
    OTHER = "other"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column of a table.

    Attributes:
        name: its name.
        kind: the kind of its values.
        labels: the values of an enumeration, in their order.
        type: its type in SQL; empty if it has none.
        is_nullable: it may be null.
    """

    name: str
    kind: ValueKind
    labels: tuple[str, ...] = ()
    type: str = ""
    is_nullable: bool = True


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A column that refers to a column of another table. The table is named as ``database.table`` would name it."""

    column: str
    table: str
    target: str


@dataclass(frozen=True, slots=True)
class KnownTable:
    """A table of a database.

    Attributes:
        relation: its name, without the schema.
        schema: its schema; None if the name alone finds the table.
        kind: the kind of relation, in words.
        columns: its columns, in their order.
        primary: the columns of its primary key.
        unique: the columns of each other unique index over all rows.
        indexed: the columns that are the first column of an index over all rows.
        references: its foreign keys of one column.
        has_row_numbers: SQLite numbers its rows in the order in which they were added.
        is_readable: the role may read all its columns.
        home: its schema, even if the name alone finds the table; None for SQLite.
    """

    relation: str
    schema: str | None
    kind: str
    columns: tuple[TableColumn, ...]
    primary: tuple[str, ...] = ()
    unique: tuple[tuple[str, ...], ...] = ()
    indexed: frozenset[str] = frozenset()
    references: tuple[ForeignKey, ...] = ()
    has_row_numbers: bool = False
    is_readable: bool = True
    home: str | None = None

    @property
    def name(self) -> str:
        """Return the table's name as the setting ``database.table`` expects it."""
        return self.relation if self.schema is None else f"{self.schema}.{self.relation}"

    def keys(self, column: str) -> list[str]:
        """Return the keys of which a column is a part, in words, and whether an index begins with it."""
        named = [("primary", self.primary), *(("unique", names) for names in self.unique)]
        found = [(word, [name for name in names if name != column]) for word, names in named if column in names]
        words = [f"{word} with {', '.join(others)}" if others else word for word, others in found]
        return words or ["index"] * (column in self.indexed)

    def target(self, column: str) -> str | None:
        """Return the column of another table to which the foreign key of a column refers; None if it has none."""
        found = self.reference(column)
        return None if found is None else f"{found.table}.{found.target}"

    def reference(self, column: str) -> ForeignKey | None:
        """Return the foreign key of a column, if it has one."""
        return next((each for each in self.references if each.column == column), None)


@dataclass(frozen=True, slots=True)
class Sample:
    """What was counted in some rows of a table.

    Attributes:
        rows: the number of rows that were read.
        is_whole: these are all rows of the table.
        is_newest: these are the newest rows; otherwise any rows.
        values: the values of a column with the numbers of their rows, by the column's name.
        older: values of an indexed column that occur only in other rows, with the numbers of their rows, up to a limit.
    """

    rows: int = 0
    is_whole: bool = True
    is_newest: bool = False
    values: Mapping[str, tuple[tuple[object, int], ...]] = field(default_factory=dict)
    older: Mapping[str, tuple[tuple[object, int], ...]] = field(default_factory=dict)


def plain_name(name: str) -> str:
    """Return a name in lower case, with its words separated by underscores: ``StatusName`` is ``status_name``."""
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()).strip("_")
