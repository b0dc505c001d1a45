"""List and count messages for operators, without reading bodies.

A list may hold a million messages, and an operator may take an hour to read it. A transaction must not last that long.
So all ids are read first, in order, which needs eight bytes per id. The messages are then read page by page, each page
in a short transaction.
"""

from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    CompoundSelect,
    FromClause,
    Row,
    Select,
    Text,
    and_,
    bindparam,
    case,
    cast,
    func,
    literal,
    null,
    or_,
    select,
    true,
    tuple_,
    union_all,
)

from retrycli.domain.cursor import Cursor, MessageCursor, Sort
from retrycli.domain.errors import SchemaMismatch
from retrycli.domain.listing import (
    COLUMNS,
    LISTED_ERROR,
    Either,
    Filter,
    ListedColumn,
    ListedMessage,
    ListedState,
    Origin,
    Value,
    number_of,
    time_of,
)
from retrycli.domain.message import KEY, EscalationReason, MessageId, MessageStatus, State
from retrycli.domain.transition import Route, Withheld
from retrycli.store.bulk import id_in
from retrycli.store.database import Database, Queries
from retrycli.store.history import UNSETTLED
from retrycli.store.messages import (
    EARLIER,
    HELD_BACK,
    has_status,
    in_route,
    is_due,
    is_of_type,
    row_by_row,
    ticket_of,
    with_keys,
)
from retrycli.store.schema import MAX_INT, queue


@dataclass(frozen=True, slots=True)
class Order:
    """An order of failed messages, with the id as the last criterion."""

    value: ColumnElement[Any]  # the sort column; null for an order by id
    by: tuple[ColumnElement[Any], ...]  # the values of ORDER BY before the id
    id: ColumnElement[Any]

    @classmethod
    def of(cls, messages: FromClause, sort: Sort) -> "Order":
        """Return an order of the rows of the application's table, joined with their queue rows."""
        m = messages.c
        match sort:
            case "next":
                return cls._by_time(queue.c.next_attempt_at, m.id)
            case "age":
                return cls._by_time(queue.c.first_failed_at, m.id)
            case "tries":
                tries = _count(m.retry_count)
                return cls(tries, (tries.desc(),), m.id)
            case "id":
                return cls(null(), (), m.id)

    @classmethod
    def _by_time(cls, time: ColumnElement[Any], message_id: ColumnElement[Any]) -> "Order":
        return cls(time, (case((time.is_(None), 1), else_=0), time), message_id)

    def after(self, end: MessageCursor) -> ColumnElement[bool]:
        """Return the condition for the rows that follow a cursor of this order."""
        follows = self.id > end.key
        if end.order == "id":
            return follows
        if end.order == "tries":
            return or_(self.value < end.value, and_(self.value == end.value, follows))
        if end.value is None:  # rows without a time come last
            return and_(self.value.is_(None), follows)
        return or_(self.value > end.value, and_(self.value == end.value, follows), self.value.is_(None))


def soonest(
    database: Database, states: Collection[State], after: MessageCursor | None, limit: int
) -> CompoundSelect[Any]:
    """Select the ids and times of the failed messages with the earliest next attempts, in the order ``next``. The index
    of the queue has this order for each state, so few rows are read. Messages without a next attempt, which come last,
    are left out.
    """
    due, number = queue.c.next_attempt_at, queue.c.message_id
    within: ColumnElement[bool] = due.is_not(None)
    if after is not None:
        within = tuple_(due, number) > tuple_(literal(after.value, due.type), after.key)
    parts = [
        select(number.label("id"), due.label("due"))
        .join_from(queue, database.messages, database.messages.c.id == number)
        .where(queue.c.state == state.value, within, has_status(database.messages.c, MessageStatus.FAILED))
        .order_by(due, number)
        .limit(limit)
        .subquery()
        for state in states
    ]
    return union_all(*(select(part) for part in parts)).order_by("due", "id").limit(limit)


def _count(column: ColumnElement[Any]) -> ColumnElement[int]:
    """Return a retry count as an integer. Values that are not valid counts, which SQLite can store, come first."""
    count = func.coalesce(column, 0)
    return case((count.between(-MAX_INT, MAX_INT), cast(count, BigInteger)), else_=MAX_INT + 1)


PAGE = 500  # number of messages to read in one transaction
FETCH_SIZE = 10_000  # number of rows to fetch at a time; otherwise psycopg would hold all rows in memory

# Expressions of listed values that are more than a column.
EXPRESSIONS: Mapping[str, ColumnElement[Any]] = {"may_have_arrived": UNSETTLED}
# The listed values that the database has.
READ = {name: column for name, column in COLUMNS.items() if column.origin is not Origin.CALCULATED}
# The ids of a page. They are bound at execution, so that all pages share one statement.
THESE: BindParameter[Any] = bindparam("ids", expanding=True)


class MessageQueries(Queries):
    """Read-only queries that list and count failed messages."""

    def messages(self, wanted: Filter, *, sort: Sort = "next", limit: int | None = None) -> Iterator[ListedMessage]:
        """List failed messages, including messages that the next pass will enrol. The order is fixed when the list
        begins, but each message is read with its page, and left out if it no longer matches the filter by then. No
        message appears twice.
        """
        return self.pages(self.ids(wanted, sort=sort, limit=limit), wanted)

    def pages(self, ids: Sequence[int], wanted: Filter) -> Iterator[ListedMessage]:
        """Read messages by id, each page in one transaction. Leave out messages that no longer match the filter."""
        m = self._database.messages.c
        values = (self._value(name, column).label(name) for name, column in READ.items())
        statement = self._joined(*values, self._optional(KEY).label(KEY))
        statement = statement.where(m.id.in_(THESE), row_by_row(*self._conditions(wanted)))
        for start in range(0, len(ids), PAGE):
            page = list(ids[start : start + PAGE])
            found = {row.id: _listed(row) for row in self._database.rows(statement, {"ids": page})}
            yield from (found[message_id] for message_id in page if message_id in found)

    def ids(
        self, wanted: Filter, *, sort: Sort = "id", after: MessageCursor | None = None, limit: int | None = None
    ) -> "array[int]":
        """Return the ids of failed messages that match a filter, after a cursor, sorted by ``sort`` and then by id.

        Raises:
            SchemaMismatch: an id is not an integer.
        """
        return self.ids_and_end(wanted, sort=sort, after=after, limit=limit)[0]

    def ids_and_end(
        self, wanted: Filter, *, sort: Sort, after: MessageCursor | None = None, limit: int | None = None
    ) -> "tuple[array[int], MessageCursor | None]":
        """Return the ids as `ids` does, and the cursor of the last one; None if no more messages match.

        Raises:
            SchemaMismatch: an id is not an integer.
        """
        has_time = sort == "next" and (after is None or after.value is not None)
        if has_time and limit is not None and (states := _only_states(wanted)):
            ids, end = self._read_ids(soonest(self._database, states, after, limit + 1), sort, limit)
            if end is not None:
                return ids, end
        order = Order.of(self._database.messages, sort)
        statement = self.failed(wanted, order.id, order.value).order_by(*order.by, order.id)
        statement = statement.limit(None if limit is None else limit + 1)
        return self._read_ids(statement if after is None else statement.where(order.after(after)), sort, limit)

    def _read_ids(
        self, statement: Select[Any] | CompoundSelect[Any], sort: Sort, limit: int | None
    ) -> "tuple[array[int], MessageCursor | None]":
        ids, last, has_more = array("q"), None, False
        with self._database.read() as connection:
            # Read to the end, because PostgreSQL's cursor must be closed.
            for message_id, value in connection.execute(statement.execution_options(yield_per=FETCH_SIZE)):
                if not isinstance(message_id, int):
                    raise SchemaMismatch("the ids in the application's table must be integers")
                if len(ids) == limit:
                    has_more = True
                else:
                    ids.append(message_id)
                    last = value
        return ids, Cursor(sort, last, ids[-1]) if ids and has_more else None

    def due(self, due_by: datetime, route: Route | None = None) -> Iterator[tuple[datetime, int]]:
        """Yield the due time and id of messages that are due by a given time, in the order in which a pass claims them.
        With a route, leave out messages that it does not include or withholds. The transaction lasts until the last row
        is read.
        """
        due = (queue.c.next_attempt_at, queue.c.message_id)
        statement = self.failed(Filter(due_by=due_by), *due).where(*self._in(route)).order_by(*due)
        with self._database.read() as connection:
            for row in connection.execute(statement.execution_options(yield_per=FETCH_SIZE)):
                yield row.next_attempt_at, row.message_id

    def expiry_facts(
        self, due_by: datetime | None, route: Route | None = None, *, tries: int | None = None
    ) -> Iterator[tuple[int, str, int | None, datetime | None]]:
        """Yield the data that determine whether a waiting message that is due by a given time, or at any time, may
        still be sent: the id, the type, the retry count, and the creation time (without one, the first failure). Leave
        out messages that the route does not include or withholds, or with a lower retry count than ``tries``.
        """
        m = self._database.messages.c
        statement = self.failed(
            Filter(due_by=due_by),
            m.id,
            m.message_type,
            m.retry_count,
            self._optional("created_at").label("made_at"),
            queue.c.first_failed_at,
        ).where(queue.c.state == State.WAITING.value, *self._in(route))
        statement = statement if tries is None else statement.where(m.retry_count >= tries)
        with self._database.read() as connection:
            for row in connection.execute(statement.execution_options(yield_per=FETCH_SIZE)):
                began = time_of(row.made_at) or row.first_failed_at
                yield row.id, str(row.message_type), number_of(row.retry_count), began

    def oldest(self) -> datetime | None:
        """Return the creation time of the oldest failed message that is not escalated. If the application's table has
        no creation times, return the earliest first failure instead; None without retrycli's own tables.
        """
        m = self._database.messages.c
        is_known = self._database.revision() is not None
        if "created_at" in m:
            oldest = select(func.min(m.created_at)).where(has_status(m, MessageStatus.FAILED))
            is_escalated = (queue.c.message_id == m.id, row_by_row(queue.c.state == State.ESCALATED.value))
            if is_known:
                oldest = oldest.where(~select(queue.c.message_id).where(*is_escalated).exists())
        elif is_known:
            first = func.min(queue.c.first_failed_at, type_=queue.c.first_failed_at.type)
            oldest = select(first).where(queue.c.state != State.ESCALATED.value)
        else:
            return None
        return time_of(self._database.scalar(oldest))

    def count(self, wanted: Filter) -> int:
        """Count the failed messages that match a filter."""
        return self._database.scalar(self.failed(wanted, func.count())) or 0

    def count_due_among(self, ids: Collection[int], due_by: datetime, route: Route) -> int:
        """Count the messages among the given ones that are due by a given time and that a route does not withhold."""
        if not ids:
            return 0
        m = self._database.messages.c
        among = self.failed(Filter(due_by=due_by), func.count()).where(id_in(m.id), *self._in(route))
        return self._database.scalar(among, {"ids": list(ids)}) or 0

    def _in(self, route: Route | None) -> list[ColumnElement[bool]]:
        return in_route(self._database, route, joined=True)

    def count_ahead(
        self, message_id: int, due_by: datetime, route: Route | None = None, *, after: datetime | None = None
    ) -> int:
        """Count the messages due by a given time that a pass claims before a given message. Leave out messages that the
        route does not include or withholds, or that were already due by the time ``after``.
        """
        due, number = queue.c.next_attempt_at, queue.c.message_id
        this = select(due).where(number == message_id).scalar_subquery()
        earlier = or_(due < this, and_(due == this, number < message_id))
        since = () if after is None else (due > after,)
        ahead = (*is_due(due_by), *since, earlier, *in_route(self._database, route))
        return self._database.scalar(select(func.count()).select_from(queue).where(*ahead)) or 0

    def earlier_in_ticket(self, message_id: int) -> list[tuple[int, datetime, str]]:
        """Return the ids, due times and types of the messages that hold a message back if `run.per_ticket_order` is
        set.
        """
        m = self._database.messages.c
        kind = select(m.message_type).where(m.id == EARLIER.c.message_id).scalar_subquery()
        earlier = select(EARLIER.c.message_id, EARLIER.c.next_attempt_at, kind.label("kind"))
        held_back = earlier.where(queue.c.message_id == message_id, *HELD_BACK).order_by(EARLIER.c.message_id)
        rows = self._database.rows(held_back)
        ids = with_keys(self._database, [row.message_id for row in rows])
        return [(each, row.next_attempt_at, str(row.kind)) for each, row in zip(ids, rows, strict=True)]

    def failed(self, wanted: Filter, *columns: ColumnElement[Any]) -> Select[Any]:
        """Select columns of the failed messages that match a filter, joined with their queue rows."""
        return self._joined(*columns).where(*self._conditions(wanted))

    def _is_in(self, state: State | ListedState, held_by: Withheld | None) -> ColumnElement[bool]:
        waits = func.coalesce(queue.c.state, State.WAITING.value) == State.WAITING.value  # also if it is not queued yet
        if state == ListedState.HELD:
            return waits & ~and_(true(), *self._in(held_by and Route("", withheld=held_by)))
        if state == ListedState.MAY_HAVE_ARRIVED:  # as `retrycli.domain.listing.is_in_doubt`
            reason = func.coalesce(queue.c.escalation_reason, "")
            return or_(reason == EscalationReason.UNKNOWN.value, UNSETTLED & (reason != EscalationReason.CHANGED.value))
        return waits if state == State.WAITING else queue.c.state == state.value

    def _optional(self, name: str) -> ColumnElement[Any]:
        m = self._database.messages.c
        return m[name] if name in m else literal(None)

    def _value(self, name: str, column: ListedColumn) -> ColumnElement[Any]:
        m, source = self._database.messages.c, column.name or name
        match column.origin:
            case Origin.QUEUE:
                return queue.c[source]
            case Origin.ROW if column.is_optional and source not in m:
                return literal(None)
            case Origin.ROW:
                return m[source] if column.longest is None else func.substr(m[source], 1, column.longest + 1)
            case _:
                return EXPRESSIONS[name]

    def _joined(self, *columns: ColumnElement[Any]) -> Select[Any]:
        m = self._database.messages
        joined = select(*columns).join_from(m, queue, queue.c.message_id == m.c.id, isouter=True)
        return joined.where(has_status(m.c, MessageStatus.FAILED))

    def _contains(self, value: ColumnElement[Any], text: str) -> ColumnElement[bool]:
        """Return the condition that a value contains a text, ignoring case. LIKE would take quadratic time."""
        position = func.instr if self._database.is_sqlite else func.strpos
        return position(func.lower(cast(value, Text)), func.lower(text)) > 0

    def _conditions(self, wanted: Filter) -> Iterator[ColumnElement[bool]]:
        m = self._database.messages.c
        yield from _any_of(wanted.state, lambda state: self._is_in(state, wanted.held_by))
        yield from _any_of(wanted.message_type, lambda message_type: is_of_type(m.message_type, message_type))
        yield from _any_of(wanted.ticket, lambda ticket: ticket_of(m) == ticket)
        yield from _any_of(wanted.error, lambda text: self._contains(func.substr(m.last_error, 1, LISTED_ERROR), text))
        yield from _any_of(wanted.recipient, lambda text: self._contains(self._optional("recipient_email"), text))
        yield from _any_of(wanted.subject, lambda text: self._contains(m.subject, text))
        if wanted.failed_after is not None:
            yield queue.c.first_failed_at >= wanted.failed_after
        if wanted.failed_before is not None:
            yield queue.c.first_failed_at < wanted.failed_before
        if wanted.due_by is not None:
            yield and_(*is_due(wanted.due_by))
        yield from _any_of(wanted.reason, lambda reason: queue.c.escalation_reason == reason.value)
        yield from _any_of(wanted.fingerprint, lambda fingerprint: queue.c.fingerprint == fingerprint)
        if wanted.new:
            yield queue.c.acknowledged_at.is_(None)
        if wanted.escalated_after is not None:
            yield queue.c.escalated_at > wanted.escalated_after
        if wanted.escalated_until is not None:
            yield queue.c.escalated_at <= wanted.escalated_until
        if wanted.other_than:
            yield or_(queue.c.fingerprint.is_(None), queue.c.fingerprint.not_in(wanted.other_than))


def _any_of(wanted: Either[Value], condition: Callable[[Value], ColumnElement[bool]]) -> Iterator[ColumnElement[bool]]:
    values = [] if wanted is None else [wanted] if isinstance(wanted, str) else wanted
    if values:
        yield or_(*map(condition, values))


def _only_states(wanted: Filter) -> Collection[State]:
    """Return the states that a filter matches; an empty collection if it has other conditions."""
    has_others = any(getattr(wanted, each.name) for each in fields(wanted) if each.name != "state")
    states = [State(state) for state in wanted.states or State if state in {*State}]
    return () if has_others or len(states) < len(wanted.states) else states


def _listed(row: Row[Any]) -> ListedMessage:
    values = {name: column.value(getattr(row, name)) for name, column in READ.items()}
    key = row[-1]
    return ListedMessage(**values if key is None else values | {"id": MessageId(row.id, key)})
