"""What an operator looks at. Bodies are read by `Views.message` alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import ColumnElement, Select, String, and_, case, cast, func, literal, or_, select

from retrycli.errors import InvalidMessage, NoSuchMessage
from retrycli.fingerprint import cause
from retrycli.message import EscalationReason, MessageType, State, Status, utc_time
from retrycli.schema import acts, attempts, queue
from retrycli.store.application import word
from retrycli.store.claims import BEFORE_IT, EARLIER, is_due

if TYPE_CHECKING:
    from retrycli.store.database import Database


@dataclass(frozen=True, slots=True)
class Filter:
    """Which messages to show; None is: whichever."""

    state: State | None = None
    message_type: MessageType | None = None
    ticket: str | None = None
    error: str | None = None
    """A piece of ``last_error``, in any case; SQLite knows the two cases of ASCII letters alone."""
    failed_before: datetime | None = None
    due_by: datetime | None = None
    """Waiting, and due by then."""
    reason: EscalationReason | None = None
    fingerprint: str | None = None
    ids: Collection[int] | None = None
    new: bool = False
    """Acknowledged by nobody yet."""
    escalated_after: datetime | None = None
    escalated_until: datetime | None = None


ESCALATED = Filter(state=State.ESCALATED)


@dataclass(frozen=True, slots=True)
class ListedMessage:
    """A failed message in a list. What a bad row holds in place of a number or a time is None."""

    id: int
    ticket_id: object
    message_type: str
    state: State
    retry_count: int | None
    next_attempt_at: datetime | None
    last_error: str | None
    created_at: datetime | None
    reason: str | None
    escalated_at: datetime | None
    claimed_by: str | None
    fingerprint: str | None = None
    acknowledged_by: str | None = None
    acknowledged_at: datetime | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class EscalationGroup:
    """Escalated messages of one cause."""

    fingerprint: str | None
    """None where they were escalated before there were fingerprints."""
    cause: str | None
    """The error of one of them, with its numbers and ids taken out."""
    count: int
    new: int
    """How many of them nobody has acknowledged."""
    oldest: datetime
    newest: datetime
    types: dict[str, int]
    """How many there are of each message type."""
    example: ListedMessage
    """The one with the lowest id."""


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One attempt as it is written down; ``outcome`` is None while it runs."""

    number: int
    made_by: str
    pass_id: str | None
    started_at: datetime
    finished_at: datetime | None
    outcome: str | None
    status_code: int | None
    error: str | None
    retry_after_s: int | None
    duration_ms: int | None


@dataclass(frozen=True, slots=True)
class ActRecord:
    """What a person did about a message, as it is written down."""

    at: datetime
    by: str
    act: str
    detail: str | None


@dataclass(frozen=True, slots=True)
class MessageDetails:
    """Everything about one message."""

    row: Mapping[str, Any]
    queue: Mapping[str, Any] | None
    attempts: list[AttemptRecord]
    acts: list[ActRecord]


Record = TypeVar("Record", AttemptRecord, ActRecord)
MOST_GROUPS = 1000
"""So many causes are told apart: no person looks at more, and a statement takes only so many ids."""
SORTS = ("next", "id", "tries", "age")


class Views:
    """Reads, and changes nothing.

    Args:
        database: where to look.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def messages(self, wanted: Filter, *, sort: str = "next", limit: int | None = None) -> list[ListedMessage]:
        """Failed messages, those that the queue does not know yet included: they wait for the next pass."""
        m = self._database.messages.c
        created = m.created_at if "created_at" in m else literal(None)
        statement = self._failed(
            wanted,
            m.id,
            m.ticket_id,
            m.message_type,
            m.retry_count,
            m.last_error,
            created.label("made_at"),
            queue.c.state,
            queue.c.next_attempt_at,
            queue.c.escalation_reason,
            queue.c.escalated_at,
            queue.c.claimed_by,
            queue.c.fingerprint,
            queue.c.acknowledged_by,
            queue.c.acknowledged_at,
            queue.c.note,
        )
        order: dict[str, list[ColumnElement[Any]]] = {
            "next": [case((queue.c.next_attempt_at.is_(None), 1), else_=0), queue.c.next_attempt_at],
            "tries": [func.coalesce(m.retry_count, 0).desc()],
            "age": [case((queue.c.first_failed_at.is_(None), 1), else_=0), queue.c.first_failed_at],
            "id": [],
        }
        statement = statement.order_by(*order[sort], m.id).limit(limit)
        with self._database.read() as connection:
            return [_listed(row) for row in connection.execute(statement).mappings()]

    def failed_beginning(self, digits: str, *, limit: int) -> list[tuple[int, object, object]]:
        """The newest failed messages whose ids begin with some digits: id, ticket, last error.

        It reads the application's table alone, so retrycli's own need not be there.
        """
        m = self._database.messages.c
        statement = (
            select(m.id, m.ticket_id, m.last_error)
            .where(m.status == word(Status.FAILED), cast(m.id, String).startswith(digits, autoescape=True))
            .order_by(m.id.desc())
            .limit(limit)
        )
        with self._database.read() as connection:
            return [(each.id, each.ticket_id, each.last_error) for each in connection.execute(statement)]

    def count(self, wanted: Filter) -> int:
        """How many messages a filter lets through."""
        with self._database.read() as connection:
            return int(connection.execute(self._failed(wanted, func.count())).scalar_one())

    def ids(self, wanted: Filter) -> list[int]:
        """The ids of all messages that a filter lets through, the lowest first."""
        m = self._database.messages.c
        with self._database.read() as connection:
            return list(connection.execute(self._failed(wanted, m.id).order_by(m.id)).scalars())

    def escalation_groups(self, among: Filter = ESCALATED) -> list[EscalationGroup]:
        """Escalated messages by cause, the largest groups first, `MOST_GROUPS` of them at most.

        What the application has taken back is left out.
        """
        m = self._database.messages.c
        by_type = self._failed(
            among,
            queue.c.fingerprint,
            m.message_type,
            func.count().label("n"),
            func.count(queue.c.acknowledged_at).label("seen"),
            func.min(queue.c.escalated_at, type_=queue.c.escalated_at.type).label("oldest"),
            func.max(queue.c.escalated_at, type_=queue.c.escalated_at.type).label("newest"),
            func.min(m.id).label("example"),
        ).group_by(queue.c.fingerprint, m.message_type)
        alike: dict[str | None, list[Mapping[Any, Any]]] = {}
        with self._database.read() as connection:
            for row in connection.execute(by_type).mappings():
                alike.setdefault(row["fingerprint"], []).append(row)
        largest = sorted(alike.items(), key=lambda each: -sum(row["n"] for row in each[1]))[:MOST_GROUPS]
        first = {key: min(row["example"] for row in rows) for key, rows in largest}
        examples = {each.id: each for each in self.messages(Filter(ids=tuple(first.values())))}
        groups = [_group(key, rows, examples[first[key]]) for key, rows in largest if first[key] in examples]
        return sorted(groups, key=lambda each: (-each.count, each.example.id))

    def counts(self, due_by: datetime) -> dict[str, int]:
        """Failed messages: waiting (due ones included), due, sending, escalated."""
        state = func.coalesce(queue.c.state, State.WAITING.value)
        due = func.coalesce(and_(*is_due(due_by)), queue.c.message_id.is_(None))
        columns = (state.label("state"), due.label("due"), func.count().label("n"))
        statement = self._failed(Filter(), *columns).group_by(state, due)
        found = {"waiting": 0, "due": 0, "sending": 0, "escalated": 0}
        with self._database.read() as connection:
            for row in connection.execute(statement):
                found[row.state] += row.n
                found["due"] += row.n if row.due else 0
        return found

    def message(self, message_id: int) -> MessageDetails:
        """One message, whatever its status, with its history.

        Raises:
            NoSuchMessage: there is no row with that id.
        """
        m = self._database.messages
        history = select(attempts).where(attempts.c.message_id == message_id).order_by(attempts.c.number)
        by_people = select(acts).where(acts.c.message_id == message_id).order_by(acts.c.id)
        with self._database.read() as connection:
            row = connection.execute(select(*m.c).where(m.c.id == message_id)).mappings().one_or_none()
            if row is None:
                raise NoSuchMessage(
                    f"there is no message {message_id} in {self._database.place}; see `retrycli list-failed`"
                )
            ours = connection.execute(select(queue).where(queue.c.message_id == message_id)).mappings().one_or_none()
            made = [_record(AttemptRecord, each) for each in connection.execute(history).mappings()]
            done = [_record(ActRecord, each) for each in connection.execute(by_people).mappings()]
        return MessageDetails(dict(row), None if ours is None else dict(ours), made, done)

    def times_ahead(self, message_id: int) -> list[datetime]:
        """When those waiting messages are due that a pass claims before this one, earliest first."""
        this = select(queue.c.next_attempt_at).where(queue.c.message_id == message_id).scalar_subquery()
        earlier = or_(
            queue.c.next_attempt_at < this,
            and_(queue.c.next_attempt_at == this, queue.c.message_id < message_id),
        )
        statement = (
            select(queue.c.next_attempt_at)
            .where(queue.c.state == State.WAITING.value, earlier)
            .order_by(queue.c.next_attempt_at)
        )
        with self._database.read() as connection:
            return list(connection.execute(statement).scalars())

    def before_it(self, message_id: int) -> list[tuple[int, datetime]]:
        """The messages that keep this one back where a ticket's order is kept, with when each is due."""
        statement = (
            select(EARLIER.c.message_id, EARLIER.c.next_attempt_at)
            .where(queue.c.message_id == message_id, *BEFORE_IT)
            .order_by(EARLIER.c.message_id)
        )
        with self._database.read() as connection:
            return [(each.message_id, each.next_attempt_at) for each in connection.execute(statement)]

    def _failed(self, wanted: Filter, *columns: ColumnElement[Any]) -> Select[Any]:
        m = self._database.messages.c
        statement = (
            select(*columns)
            .join_from(self._database.messages, queue, queue.c.message_id == m.id, isouter=True)
            .where(m.status == word(Status.FAILED))
        )
        if wanted.state is not None:
            statement = statement.where(func.coalesce(queue.c.state, State.WAITING.value) == wanted.state.value)
        if wanted.message_type is not None:
            statement = statement.where(m.message_type == word(wanted.message_type))
        if wanted.ticket is not None:
            statement = statement.where(cast(m.ticket_id, String) == wanted.ticket)
        if wanted.error is not None:
            statement = statement.where(m.last_error.icontains(wanted.error, autoescape=True))
        if wanted.failed_before is not None:
            statement = statement.where(queue.c.first_failed_at < wanted.failed_before)
        if wanted.due_by is not None:
            statement = statement.where(*is_due(wanted.due_by))
        if wanted.ids is not None:
            statement = statement.where(m.id.in_(wanted.ids))
        return statement.where(*_of_escalation(wanted))


def _of_escalation(wanted: Filter) -> Iterator[ColumnElement[bool]]:
    """What a filter says of escalated messages alone."""
    if wanted.reason is not None:
        yield queue.c.escalation_reason == wanted.reason.value
    if wanted.fingerprint is not None:
        yield queue.c.fingerprint == wanted.fingerprint
    if wanted.new:
        yield queue.c.acknowledged_at.is_(None)
    if wanted.escalated_after is not None:
        yield queue.c.escalated_at > wanted.escalated_after
    if wanted.escalated_until is not None:
        yield queue.c.escalated_at <= wanted.escalated_until


def _record(kind: type[Record], row: Mapping[Any, Any]) -> Record:
    return kind(**{each.name: row[each.name] for each in fields(kind)})


def _listed(row: Mapping[Any, Any]) -> ListedMessage:
    return ListedMessage(
        id=row["id"],
        ticket_id=row["ticket_id"],
        message_type=str(row["message_type"]),
        state=State(row["state"] or State.WAITING),
        retry_count=0 if row["retry_count"] is None else _number(row["retry_count"]),
        next_attempt_at=row["next_attempt_at"],
        last_error=None if row["last_error"] is None else str(row["last_error"]),
        created_at=_time(row["made_at"]),
        reason=row["escalation_reason"],
        escalated_at=row["escalated_at"],
        claimed_by=row["claimed_by"],
        fingerprint=row["fingerprint"],
        acknowledged_by=row["acknowledged_by"],
        acknowledged_at=row["acknowledged_at"],
        note=row["note"],
    )


def _group(fingerprint: str | None, by_type: Sequence[Mapping[Any, Any]], example: ListedMessage) -> EscalationGroup:
    count = sum(row["n"] for row in by_type)
    return EscalationGroup(
        fingerprint=fingerprint,
        cause=None if example.last_error is None else cause(example.last_error),
        count=count,
        new=count - sum(row["seen"] for row in by_type),
        oldest=min(row["oldest"] for row in by_type),
        newest=max(row["newest"] for row in by_type),
        types={str(row["message_type"]): row["n"] for row in by_type},
        example=example,
    )


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _time(value: object) -> datetime | None:
    try:
        return utc_time("created_at", value)
    except InvalidMessage:
        return None
