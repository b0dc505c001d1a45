"""Decide which values of a column may be shown. A text column may hold customers' words instead of statuses."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from retrycli.domain.known_table import TableColumn, ValueKind
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


@dataclass(frozen=True, slots=True)
class ShownValues:
    """The values of a column that may be shown.

    Attributes:
        counts: the values, with the numbers of their rows; the most frequent first.
        hidden: the number of rows with another value, which may be a customer's words.
        empty: the number of rows without a value.
    """

    counts: tuple[tuple[Scalar, int], ...] = ()
    hidden: int = 0
    empty: int = 0


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
    known: dict[Scalar, int] = dict.fromkeys(column.labels, 0)
    if column.kind is ValueKind.BOOLEAN:
        known = {False: 0, True: 0}
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
