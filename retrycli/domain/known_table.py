"""A table as the database's catalogue describes it, and which values in its rows may be shown.

A text column may hold customers' words instead of statuses.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from retrycli.domain.table_mapping import Scalar

FEWEST_ROWS = 3  # a text that fewer rows have is shown only if it is a common word for a status
MOST_VALUES = 20  # a column with more values holds no statuses
LARGEST = 10_000  # larger integers may be numbers of customers or tickets
LONGEST = 24  # maximum number of characters of a text
SHORT_WORDS = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[ _.-][A-Za-z0-9]+){0,2}|[0-9]{1,3}")

# Words for statuses, in lower case and with underscores.
COMMON = re.compile(
    "sent|delivered|done|success|succeeded|successful|completed?|processed|published|failed|failure|fail|errore?d?|"
    "exception|bounced|undeliverable|dead|dead_letter|abandoned|cancell?ed|rejected|expired|skipped|pending|new|"
    "created|queued|waiting|scheduled|ready|outgoing|sending|processing|in_progress|started|running|retry|retrying|"
    "deferred|delayed|held|paused|blocked|draft|approved|received|read|open|not_sent|partially_sent|"
    "partially_errored|customer|supplier|internal"
)


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
    """A column of a table."""

    name: str
    kind: ValueKind
    labels: tuple[str, ...] = ()  # the values of an enumeration, in their order
    type: str = ""  # in SQL; empty if it has none
    is_nullable: bool = True


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A column that refers to a column of another table. The table is named as ``database.table`` would name it."""

    column: str
    table: str
    target: str


@dataclass(frozen=True, slots=True)
class KnownTable:
    """A table of a database."""

    relation: str  # its name, without the schema
    schema: str | None  # None if the name alone finds the table
    kind: str  # such as "foreign table"
    columns: tuple[TableColumn, ...]
    primary: tuple[str, ...] = ()  # the columns of the primary key
    unique: tuple[tuple[str, ...], ...] = ()  # the columns of each other unique index over all rows
    indexed: frozenset[str] = frozenset()  # the first column of each index over all rows
    references: tuple[ForeignKey, ...] = ()  # the foreign keys of one column
    has_row_numbers: bool = False  # SQLite numbers the rows in the order in which they were added
    is_readable: bool = True  # the role may read all columns
    runs_code_of: str | None = None  # another role, whose code runs with our rights if the rows are read
    home: str | None = None  # the schema, even if the name alone finds the table; None for SQLite

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
    """The rows of a table in which values are counted."""

    rows: int = 0
    is_whole: bool = True  # these are all rows of the table
    is_newest: bool = False  # these are the newest rows; otherwise any rows


@dataclass(frozen=True, slots=True)
class ShownValues:
    """The values of a column that may be shown."""

    counts: tuple[tuple[Scalar, int], ...] = ()  # with the numbers of their rows; the most frequent first
    hidden: int = 0  # the number of rows with another value, which may be a customer's words
    empty: int = 0  # the number of rows without a value


def shown_values(counts: Sequence[tuple[object, int]], column: TableColumn, *, is_status: bool = True) -> ShownValues:
    """Return the values that may be shown: labels of an enumeration, booleans, small numbers, and words for statuses.

    A text is shown if it is a common word for a status. Another text is shown only if it is short, several rows have
    it, and every other value of the column is short too.

    Args:
        counts: values of the column, with the numbers of their rows.
        column: the column.
        is_status: the column holds statuses or other codes. If false, texts are shown only if at least one of them is a
            common word for a status, or a number.
    """
    labels = (False, True) if column.kind is ValueKind.BOOLEAN else column.labels
    known: dict[Scalar, int] = dict.fromkeys(labels, 0)
    hidden = empty = 0
    is_free = len(counts) > MOST_VALUES or not all(_is_short(value) for value, _ in counts if value is not None)
    texts = [value for value, _ in counts if isinstance(value, str)]
    if texts and not is_status:
        is_free = is_free or not any(_is_common(text) or text.isdigit() for text in texts)
    for value, rows in counts:
        literal = bool(value) if column.kind is ValueKind.BOOLEAN and value in {0, 1} else value
        if value is None:
            empty += rows
        elif isinstance(literal, str | int) and _may_be_shown(literal, rows, known, is_free=is_free):
            known[literal] = known.get(literal, 0) + rows
        else:
            hidden += rows
    return ShownValues(tuple(sorted(known.items(), key=lambda each: (-each[1], str(each[0])))), hidden, empty)


def _may_be_shown(value: Scalar, rows: int, known: dict[Scalar, int], *, is_free: bool) -> bool:
    if isinstance(value, int):
        return isinstance(value, bool) or not is_free
    return value in known or _is_common(value) or (rows >= FEWEST_ROWS and not is_free)


def _is_common(value: str) -> bool:
    return COMMON.fullmatch(re.sub(r"[ -]", "_", value.lower())) is not None


def _is_short(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= LONGEST and SHORT_WORDS.fullmatch(value) is not None
    return isinstance(value, int) and abs(value) <= LARGEST


def plain_name(name: str) -> str:
    """Return a name in lower case, with its words separated by underscores: ``StatusName`` is ``status_name``."""
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()).strip("_")
