"""Read rows of the application's table; `row_changes` writes them."""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Result,
    Select,
    String,
    Text,
    and_,
    case,
    cast,
    func,
    literal,
    literal_column,
    null,
    or_,
    select,
    true,
)
from sqlalchemy.sql.base import ReadOnlyColumnCollection
from sqlalchemy.sql.elements import KeyedColumnElement

from retrycli.domain.errors import InvalidMessage, SchemaMismatch
from retrycli.domain.message import (
    ADDRESS_SEPARATOR,
    KEY,
    Message,
    MessageId,
    MessageStatus,
    MessageType,
    State,
    UnusableMessage,
)
from retrycli.domain.transition import IdRange, Route
from retrycli.store.bulk import id_in
from retrycli.store.database import Database
from retrycli.store.keys import Keys
from retrycli.store.reflection import CONDITION
from retrycli.store.schema import queue


def rows_of(result: Result[Any]) -> Iterator[dict[str, Any]]:
    """Read all rows as dictionaries, because SQLAlchemy's mappings would look up the column name for every value."""
    names = list(result.keys())
    rows = (dict(zip(names, row, strict=True)) for row in result.all())
    return (row | {"id": MessageId(row["id"], row[KEY])} for row in rows) if KEY in names else rows


def message_of(row: Mapping[str, Any]) -> Message | UnusableMessage:
    """Build a message from a row of the application's table; an `UnusableMessage` if the row is not valid.

    Raises:
        SchemaMismatch: the id is not an integer.
    """
    if not isinstance(row["id"], int):
        raise SchemaMismatch(f"the application's table has an id that is not an integer: {row['id']!r}")
    try:
        return Message.from_row(row)
    except InvalidMessage as error:
        return UnusableMessage.from_row(row, str(error))


# The columns of `Database.messages`.
ColumnsOfMessages: TypeAlias = ReadOnlyColumnCollection[str, KeyedColumnElement[Any]]


def addresses(value: str | None) -> list[str]:
    """Parse the queue's ``delivered_to``: a JSON list of addresses, or null for no addresses."""
    return [] if value is None else list(json.loads(value))


def is_of_type(column: ColumnElement[Any], value: MessageType) -> ColumnElement[bool]:
    """Return the condition that a message has a type. An enumeration may lack it, so texts are compared."""
    return cast(column, Text) == literal_column(f"'{value.value}'")


def has_status(columns: ColumnsOfMessages, status: MessageStatus) -> ColumnElement[bool]:
    """Return the condition that a message is failed or rejected. The columns are those of `Database.messages`."""
    if (condition := CONDITION + status) in columns:
        is_so: ColumnElement[bool] = columns[condition]
        return is_so
    return columns["status"] == literal_column(f"'{status.value}'")


def status_of(m: ColumnsOfMessages) -> ColumnElement[str]:
    """Select a message's status; exactly ``failed`` if SQL considers it equal to ``failed``. In Python they may differ,
    because a column may ignore case, or pad its values with spaces.
    """
    failed: ColumnElement[str] = literal_column(f"'{MessageStatus.FAILED}'")
    return case((has_status(m, MessageStatus.FAILED), failed), else_=m.status).label("status")


def row_by_row(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Combine conditions so that no planner uses an index for them, for rows that are looked up by id, a few hundred at
    a time. Without table statistics, a planner assumes that few rows have a given state. It may then use the index on
    the state and scan a million rows.
    """
    return case((and_(true(), *conditions), 1), else_=0) == 1


def is_due(due_by: datetime) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions for due messages. Claims, counts, lists and explanations all use these conditions."""
    return queue.c.state == State.WAITING.value, queue.c.next_attempt_at <= due_by


def in_route(database: Database, route: Route | None, *, joined: bool = False) -> list[ColumnElement[bool]]:
    """Return the conditions for queued messages that a route includes and does not withhold. ``joined`` tells that the
    statement joins the queue with the application's table.
    """
    if route is None:
        return []
    m, withheld = database.messages.c, route.withheld

    def of_row(value: ColumnElement[Any]) -> ColumnElement[Any]:
        # This is a scalar subquery, because with `exists` a planner may scan the application's whole table.
        return value if joined else select(value).where(m.id == queue.c.message_id).scalar_subquery()

    def is_of(types: Collection[MessageType]) -> ColumnElement[int]:
        kind = of_row(m.message_type)
        return case((or_(*(is_of_type(kind, message_type) for message_type in sorted(types))), 1), else_=0)

    conditions = [is_of(but) == 0] if (but := route.but | withheld.types) else []
    if route.only is not None:
        conditions.append(is_of(route.only) == 1)
    if withheld.tickets:
        # A cast may write a number or JSON in another way than the queue does. The row may have moved since.
        tickets = queue.c.ticket, of_row(cast(m.ticket_id, Text))
        conditions += [func.coalesce(ticket, "").not_in(sorted(withheld.tickets)) for ticket in tickets]
    if withheld.messages:
        number = m.id if joined else queue.c.message_id  # a joined message may not be in the queue yet
        conditions.append(number.not_in([*numbers_of(database, withheld.messages).values()]))
    return conditions


def ticket_of(m: ColumnsOfMessages) -> ColumnElement[str]:
    """Select the ticket of a row of the application's table, joined with its queue row, if any, as `ticket_text`."""
    return func.coalesce(queue.c.ticket, cast(m.ticket_id, String))


def numbers_of(database: Database, texts: Collection[str]) -> dict[str, int]:
    """Return the ids of messages, sorted, by the texts that stand for them. Leave out texts that can't be ids."""
    if database.table.key is not None:
        found: Mapping[str, int] = Keys(database).find(texts) if texts else {}
    else:
        found = {text: int(text) for text in texts if re.fullmatch(r"-?[0-9]{1,19}", text)}
    return {
        text: found[text] for text in sorted(found, key=found.__getitem__) if LOWEST_ID <= found[text] <= -LOWEST_ID - 1
    }


def with_keys(database: Database, numbers: Sequence[int]) -> Sequence[int]:
    """Return messages that a query has found with their keys, if these are not integers."""
    if database.table.key is None:
        return numbers
    return Keys(database).named(numbers)


LOWEST_ID = -(2**63)  # the lowest integer that both databases can store

ESCALATED = queue.c.state == State.ESCALATED.value
FIRST_IN_QUEUE = select(func.min(queue.c.message_id))
EARLIER = queue.alias("earlier")
UNFINISHED = (State.WAITING.value, State.SENDING.value)

# The conditions under which `run.per_ticket_order` holds a message back: an earlier message of its ticket waits or
# is being sent.
HELD_BACK = (
    EARLIER.c.ticket == queue.c.ticket,
    EARLIER.c.message_id < queue.c.message_id,
    EARLIER.c.state.in_(UNFINISHED),
)


def columns_without_body(database: Database) -> list[ColumnElement[Any]]:
    """Select all columns, but an empty string instead of the body. A body that is not a string is read unchanged."""
    return [without_body(database, column) for column in visible(database.messages)]


def without_body(database: Database, column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Select an empty string instead of a body that is a string, and any other column unchanged."""
    if column.key != "body":
        return column
    # In SQLite, even a text column may contain a body that is not a string. SQLite stores types apart from values, so
    # this check reads no body.
    is_text = func.typeof(column) == "text" if database.is_sqlite else column.is_not(None)
    return case((is_text, literal("")), else_=column if database.is_sqlite else None).label("body")


def column_names(database: Database) -> list[str]:
    """Return the names of the columns to which a preset's templates may refer."""
    return [column.name for column in visible(database.messages) if column.name not in {KEY, ADDRESS_SEPARATOR}]


@lru_cache
def visible(messages: FromClause) -> Sequence[KeyedColumnElement[Any]]:
    """Select all columns of messages, without the conditions of `has_status`."""
    return [column for column in messages.c if not column.name.startswith(CONDITION)]


def same_id(left: ColumnElement[int], right: ColumnElement[int], span: IdRange) -> ColumnElement[bool]:
    """Return the condition to join two tables by id. A range on both sides lets PostgreSQL read both tables in the
    order of ids, instead of looking up each row.
    """
    return and_(left == right, *within(right, span))


def within(column: ColumnElement[int], span: IdRange) -> list[ColumnElement[bool]]:
    """Return the conditions that a column of ids is in a range."""
    above = [] if span.after is None else [column > span.after]
    return above if span.upto is None else [*above, column <= span.upto]


def queued_ids(connection: Connection, ids: Collection[int]) -> set[int]:
    """Return which of the ids are in the queue."""
    queued = select(queue.c.message_id).where(id_in(queue.c.message_id))
    return set(connection.execute(queued, {"ids": list(ids)}).scalars())


def without_locked(database: Database, connection: Connection, ids: Sequence[int]) -> list[int]:
    """Leave out the ids of rows that the application has locked. Lock the others. SQLite has no row locks. On a server,
    a missing row counts as unlocked.
    """
    if database.is_sqlite:
        return list(ids)
    m = database.messages.c
    rows = select(m.id).where(id_in(m.id))
    existing = set(connection.execute(rows, {"ids": list(ids)}).scalars())
    free = set(connection.execute(rows.with_for_update(skip_locked=True), {"ids": list(ids)}).scalars())
    return [message_id for message_id in ids if message_id in free or message_id not in existing]


REMEMBERED = 1_000  # number of characters of an error that the queue stores, to detect changes by the application


class RowState(NamedTuple):
    """The state of a row. If it differs from the last seen state, the application has changed the row."""

    failed: bool
    retry_count: object
    last_error: object
    updated_at: str | None


def read_rows(database: Database, connection: Connection, ids: Collection[int]) -> Mapping[int, RowState]:
    """Read the current states of rows, by id."""
    found = connection.execute(_row_states(database.messages), {"ids": list(ids)}).all() if ids else ()
    return {message_id: RowState(bool(failed), *values) for message_id, failed, *values in found}


@lru_cache
def updated_at_text(messages: FromClause) -> ColumnElement[Any]:
    """Select ``updated_at`` as a string in the database's own format; null if the table has no such column."""
    return cast(messages.c.updated_at, Text) if "updated_at" in messages.c else cast(null(), Text)


@lru_cache
def _row_states(messages: FromClause) -> Select[Any]:
    m = messages.c
    failed = case((has_status(m, MessageStatus.FAILED), 1), else_=0)
    return select(m.id, failed, m.retry_count, m.last_error, updated_at_text(messages)).where(id_in(m.id))
