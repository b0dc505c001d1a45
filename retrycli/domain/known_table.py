"""A table as the database's catalogue describes it, and the values counted in some of its rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class RelationKind(StrEnum):
    """The kinds of relation that can hold messages."""

    TABLE = "table"
    PARTITIONED = "partitioned table"
    FOREIGN = "foreign table"
    VIEW = "view"


class ValueKind(StrEnum):
    """The kinds of value that a column holds. ``ANY`` is a SQLite column without a type."""

    INTEGER = "integer"
    TEXT = "text"
    TIME = "time"
    BOOLEAN = "boolean"
    ENUM = "enum"
    JSON = "json"
    UUID = "uuid"
    BYTES = "bytes"
    OTHER = "other"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column of a table.

    Attributes:
        name: its name.
        kind: the kind of its values.
        sql: its name, quoted for SQL if necessary.
        labels: the values of an enumeration, in their order.
    """

    name: str
    kind: ValueKind
    sql: str
    labels: tuple[str, ...] = ()


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
        sql: its name, with the schema if necessary, quoted for SQL.
        alias: its name without the schema, quoted for SQL, as expressions qualify its columns.
        kind: the kind of relation.
        columns: its columns, in their order.
        keys: the columns that are unique on their own, the primary key first.
        indexed: the columns that are the first column of an index over all rows.
        references: its foreign keys of one column.
        has_row_numbers: SQLite numbers its rows in the order in which they were added.
        is_readable: the role may read all its columns.
    """

    relation: str
    schema: str | None
    sql: str
    alias: str
    kind: RelationKind
    columns: tuple[TableColumn, ...]
    keys: tuple[str, ...] = ()
    indexed: frozenset[str] = frozenset()
    references: tuple[ForeignKey, ...] = ()
    has_row_numbers: bool = False
    is_readable: bool = True

    @property
    def name(self) -> str:
        """Return the table's name as the setting ``database.table`` expects it."""
        return self.relation if self.schema is None else f"{self.schema}.{self.relation}"

    def reference(self, column: str) -> ForeignKey | None:
        """Return the foreign key of a column, if it has one."""
        return next((each for each in self.references if each.column == column), None)


@dataclass(frozen=True, slots=True)
class Sample:
    """What was counted in some rows of a table. It contains no text except the values of status and type columns.

    Attributes:
        rows: the number of rows that were read.
        is_whole: these are all rows of the table.
        is_newest: these are the newest rows; otherwise any rows.
        values: the values of a column with the numbers of their rows, by the column's name.
        older: values of an indexed column that occur only in other rows, with the numbers of their rows, up to a limit.
        lists: the number of rows with several e-mail addresses in the recipient's column, by separator.
        json_bodies: the number of rows whose body is a JSON object.
        problem: why the rows could not be read; None if they were read.
    """

    rows: int = 0
    is_whole: bool = True
    is_newest: bool = False
    values: Mapping[str, tuple[tuple[object, int], ...]] = field(default_factory=dict)
    older: Mapping[str, tuple[tuple[object, int], ...]] = field(default_factory=dict)
    lists: Mapping[str, int] = field(default_factory=dict)
    json_bodies: int = 0
    problem: str | None = None
