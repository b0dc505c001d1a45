"""Store and read holds, and count the messages that they cover."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Row, bindparam, case, delete, func, insert, select

from retrycli.domain.listing import Filter
from retrycli.domain.message import MessageType, State
from retrycli.domain.operator_action import OperatorAction
from retrycli.domain.passes import Hold, HoldKind, HoldTarget
from retrycli.domain.sanitize import as_utf8
from retrycli.domain.transition import ActionKind
from retrycli.store.bulk import id_in
from retrycli.store.database import Database, Queries
from retrycli.store.history import act_values
from retrycli.store.identity import birth_text
from retrycli.store.listing import MessageQueries
from retrycli.store.messages import is_of_type, numbers_of, ticket_of
from retrycli.store.schema import acts, holds, queue

WAITING = Filter(state=State.WAITING)


def holds_of(database: Database, rows: Iterable[Row[Any]]) -> tuple[Hold, ...]:
    """Build holds from rows, the oldest first. Leave out holds of messages whose ids now belong to other messages."""
    known = {kind.value for kind in HoldKind}
    found = [
        Hold(HoldKind(row.kind), row.target, row.since, row.until, row.by, row.reason, row.birth)
        for row in sorted(rows, key=lambda row: (row.since, row.kind, row.target))
        if row.kind in known
    ]
    births = _births(database, [hold.target for hold in found if hold.kind is HoldKind.MESSAGE])
    return tuple(hold for hold in found if hold.kind is not HoldKind.MESSAGE or hold.is_of(births.get(hold.target)))


def _births(database: Database, ids: Collection[str]) -> Mapping[str, str | None]:
    if not ids:
        return {}
    known = select(queue.c.message_id, queue.c.birth).where(id_in(queue.c.message_id))
    numbers = numbers_of(database, ids)
    found = dict(database.rows(known, {"ids": list(numbers.values())}))
    return {text: found[number] for text, number in numbers.items() if number in found}


# One statement for each part: SQLite would not accept a condition with a thousand parts.
THIS_HOLD = delete(holds).where(holds.c.kind == bindparam("of_kind"), holds.c.target == bindparam("of_target"))


class Holds(Queries):
    """Begin and end holds, and count the waiting messages that they cover."""

    def begin(self, begun: Sequence[Hold], replaced: Mapping[HoldTarget, Hold]) -> None:
        """Store holds, and record them in the history. A hold replaces an earlier hold of the same part."""
        self._write(
            begun,
            [hold.part for hold in begun],
            [
                (hold, OperatorAction(ActionKind.HELD, hold.by, hold.since, _begin_in_words(hold, replaced)))
                for hold in begun
            ],
        )

    def end(self, ended: Sequence[Hold], parts: Collection[HoldTarget], act: OperatorAction) -> None:
        """Remove the holds of some parts, and record in the history who ended which active holds, and when."""
        self._write([], parts, [(hold, act._replace(detail=hold.in_words)) for hold in ended])

    def _write(
        self, begun: Sequence[Hold], over: Collection[HoldTarget], done: Sequence[tuple[Hold, OperatorAction]]
    ) -> None:
        if not over:
            return
        entries = [{"message_id": None, **act_values(act)} for _, act in done]
        entries += [
            {"message_id": message_id, **act_values(act)}
            for hold, act in done
            if hold.kind is HoldKind.MESSAGE
            for message_id in numbers_of(self._database, [hold.target]).values()
        ]
        gone = [{"of_kind": part.kind.value, "of_target": part.text} for part in over]
        with self._database.write() as connection:
            self._database.take_turn(connection)
            connection.execute(THIS_HOLD, gone)
            if begun:
                connection.execute(insert(holds), [hold._asdict() for hold in begun])
            if entries:
                connection.execute(insert(acts), entries)

    def births(self, ids: Collection[int]) -> dict[int, str]:
        """Return the births of messages as the database writes them, by id. Leave out ids without a row."""
        m = self._database.messages
        found = self._database.rows(select(m.c.id, birth_text(m)).where(id_in(m.c.id)), {"ids": [*ids]})
        return {message_id: as_utf8(birth) for message_id, birth in found}

    def count_waiting(self, wanted: Sequence[Hold], types_to: Callable[[str], Collection[MessageType]]) -> list[int]:
        """Count the waiting messages that each hold covers, including messages that the next pass will enrol."""
        texts = {kind: [hold.target for hold in wanted if hold.kind is kind] for kind in HoldKind}
        by_ticket = self._waiting_by_ticket(texts[HoldKind.TICKET])
        ids = self._waiting_among(texts[HoldKind.MESSAGE])
        by_type = self._waiting_by_type() if texts[HoldKind.TYPE] or texts[HoldKind.DESTINATION] else {}
        counts = []
        for hold in wanted:
            match hold.kind:
                case HoldKind.MESSAGE:
                    counts.append(int(hold.target in ids))
                case HoldKind.TICKET:
                    counts.append(by_ticket.get(hold.target, 0))
                case HoldKind.TYPE:
                    counts.append(by_type.get(hold.target, 0))
                case HoldKind.DESTINATION:
                    counts.append(sum(by_type[kind] for kind in types_to(hold.target)))
        return counts

    def _waiting_by_ticket(self, tickets: Collection[str]) -> dict[str, int]:
        if not tickets:
            return {}
        ticket = ticket_of(self._database.messages.c)
        counted = MessageQueries(self._database).failed(WAITING, ticket, func.count()).where(ticket.in_(tickets))
        with self._database.read() as connection:
            return {str(name): count for name, count in connection.execute(counted.group_by(ticket))}

    def _waiting_among(self, ids: Collection[str]) -> set[str]:
        if not ids:
            return set()
        m = self._database.messages.c
        numbers = numbers_of(self._database, ids)
        among = MessageQueries(self._database).failed(WAITING, m.id).where(id_in(m.id))
        found = {number for (number,) in self._database.rows(among, {"ids": [*numbers.values()]})}
        return {text for text, number in numbers.items() if number in found}

    def _waiting_by_type(self) -> dict[str, int]:
        its_type = self._database.messages.c.message_type
        counts = [func.count(case((is_of_type(its_type, kind), 1))) for kind in MessageType]
        [found] = self._database.rows(MessageQueries(self._database).failed(WAITING, *counts))
        return dict(zip(MessageType, found, strict=True))


def _begin_in_words(hold: Hold, replaced: Mapping[HoldTarget, Hold]) -> str:
    before = replaced.get(hold.part)
    return f"{hold.part} {hold.end}" if before is None else f"{hold.part} {hold.end} (replaces {before.in_words})"
