"""Hand messages over to the application's own sender, and record what became of them."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from sqlalchemy import ColumnElement, Select, Text, case, cast, delete, func, null, select, update

from retrycli.domain.circuit_breaker import APPLICATION
from retrycli.domain.hand_over import Answers, HandedOver, fate_of
from retrycli.domain.identity import birth_of
from retrycli.domain.message import BY_PASS, QueuedMessage, State, UnusableMessage
from retrycli.domain.transition import Claim, Decision, IdRange, WriteResult
from retrycli.store.bulk import id_in
from retrycli.store.database import Queries
from retrycli.store.identity import BIRTH, OWN, birth_in, birth_text, load, with_queue
from retrycli.store.messages import read_rows, row_by_row, rows_of, status_of, updated_at_text, within, without_locked
from retrycli.store.own_values import forget_errors
from retrycli.store.results import Results, finish_attempts, start_attempts
from retrycli.store.schema import attempts, queue
from retrycli.store.transitions import CLAIM, HELD_BY_ID, NOT_ESCALATED, escalate, seen_values

GIVEN = queue.c.handed_over_at.is_not(None)
ATTEMPT_BY = (
    select(attempts.c.made_by)
    .where(attempts.c.message_id == queue.c.message_id, attempts.c.finished_at.is_(None))
    .limit(1)
    .scalar_subquery()
)
LEAVE = delete(queue).where(id_in(queue.c.message_id), row_by_row(GIVEN))
# A message that was left behind, and failed after all, is not escalated any longer.
NOT_LEFT_BEHIND = (
    update(queue)
    .where(id_in(queue.c.message_id), row_by_row(GIVEN, queue.c.state == State.ESCALATED.value))
    .values({name: value for name, value in NOT_ESCALATED.items() if name != "state"})
)
TAKE = CLAIM.where(row_by_row(GIVEN)).values(handed_over_at=None)


class HandOvers(Queries):
    """Hand messages over, and compare them with the application's table."""

    def hand_over(
        self,
        claim: Claim,
        decisions: Sequence[Decision],
        *,
        made_by: str,
        pass_id: str | None,
        destination_of: Callable[[str], str | None],
        now: datetime,
    ) -> WriteResult:
        """Hand claimed messages over, and start their attempts, in one transaction.

        A message whose row is locked, or has changed since it was read, is not handed over, and gets no attempt.
        """
        with self._database.transaction(), self._database.write() as connection:
            written = Results(self._database).record(claim, decisions, now)
            left_out = {*written.lost, *written.locked, *written.not_written, *written.changed}
            given = [decision.message for decision in decisions if decision.message_id not in left_out]
            start_attempts(
                connection,
                [message for message in given if isinstance(message, QueuedMessage)],
                pass_id=pass_id,
                made_by=made_by,
                destination_of=destination_of,
                probe=False,
                now=now,
            )
            return written

    def find(self, span: IdRange, limit: int) -> list[HandedOver]:
        """Return at most ``limit`` messages that were handed over, in the order of their ids, with what became of them.

        The queue rows stay locked until the transaction ends, so that two passes do not record the same result.
        """
        statement = self._found.where(*within(queue.c.message_id, span)).limit(limit)
        with self._database.write() as connection:
            rows = rows_of(connection.execute(statement.with_for_update(of=queue)))
            return [_handed_over(row) for row in rows]

    @cached_property
    def _found(self) -> Select[Any]:
        m = self._database.messages
        error: ColumnElement[Any] = m.c.last_error
        if "last_error" in self._database.table.own:
            error = cast(null(), Text)  # only retrycli writes it
        return (
            select(
                queue.c.message_id,
                queue.c.state,
                queue.c.handed_over_at,
                queue.c.seen_count,
                queue.c.seen_updated_at,
                queue.c.birth.label(OWN + "queue_birth"),
                ATTEMPT_BY.label("made_by"),
                m.c.id,
                m.c.ticket_id,
                m.c.message_type,
                status_of(self._database),
                error.label("error"),
                updated_at_text(m).label("updated"),
                birth_text(m).label(BIRTH),
            )
            .join_from(queue, m, m.c.id == queue.c.message_id, isouter=True)
            .where(GIVEN)
            .order_by(queue.c.message_id)
        )

    def take(self, claim: Claim, found: Mapping[int, HandedOver]) -> list[QueuedMessage | UnusableMessage]:
        """Claim messages that failed again, with the retry counts that they had before. Their attempts stay open.

        Skip messages whose rows the application has locked, or that are not failed any longer.
        """
        with self._database.write() as connection:
            free = without_locked(self._database, connection, list(found))
            read = with_queue(self._database).where(id_in(queue.c.message_id), row_by_row(GIVEN))
            failed = [one.message_id for one in load(connection, connection.execute(read, {"ids": free}), free)]
            connection.execute(NOT_LEFT_BEHIND, {"ids": failed})
            connection.execute(TAKE, {"ids": failed, "owner": claim.owner, "until": claim.expires_at})
            held = with_queue(self._database).where(*HELD_BY_ID)
            loaded = load(connection, connection.execute(held, {"ids": failed, "owner": claim.owner}), failed)
            return [_with_count(message, found[message.message_id].retry_count) for message in loaded]

    def leave(self, decisions: Sequence[Decision], now: datetime) -> None:
        """End the attempts of messages that the application has sent or withdrawn, and remove them from the queue."""
        with self._database.write() as connection:
            ids = [decision.message_id for decision in decisions]
            finish_attempts(connection, decisions, now)
            forget_errors(self._database.table, connection, ids)
            connection.execute(LEAVE, {"ids": ids})

    def see(self, ids: Sequence[int]) -> None:
        """Store the current states of rows, so that a later change by the application is noticed."""
        with self._database.write() as connection:
            for message_id, row in read_rows(self._database, connection, ids).items():
                connection.execute(update(queue).where(queue.c.message_id == message_id).values(seen_values(row)))

    def leave_behind(self, decisions: Sequence[Decision], now: datetime) -> None:
        """Escalate messages that the sender has left behind. Their attempts stay open."""
        with self._database.write() as connection:
            escalate(self._database, connection, decisions, now)

    def answers(self, since: datetime, until: datetime) -> Answers:
        """Return when the application's sender answered.

        Args:
            since: leave out answers up to this time.
            until: the latest time of answers that overtake other messages.
        """
        a = attempts.c
        early = case((a.finished_at <= until, a.started_at))
        statement = select(
            func.max(a.finished_at, type_=a.finished_at.type), func.max(early, type_=a.started_at.type)
        ).where(a.finished_at > since, a.destination == APPLICATION, a.duration_ms.is_not(None))
        return Answers(*self._database.rows(statement)[0])


def _handed_over(row: Mapping[str, Any]) -> HandedOver:
    is_there = row["id"] is not None and _is_the_same(row)
    fate = fate_of(row["status"] if is_there else None, row["updated"], row["seen_updated_at"])
    return HandedOver(
        row["message_id"],
        fate,
        row["handed_over_at"],
        State(row["state"]),
        row["made_by"] or BY_PASS,
        row["seen_count"],
        None if row["error"] is None else str(row["error"]),
        ticket_id=ticket if isinstance(ticket := row["ticket_id"], int | str) else "",
        message_type=str(row["message_type"]),
    )


def _is_the_same(row: Mapping[str, Any]) -> bool:
    known = row[OWN + "queue_birth"]
    return known is None or birth_of(known) == birth_in(row)


def _with_count(message: QueuedMessage | UnusableMessage, count: int | None) -> QueuedMessage | UnusableMessage:
    if count is None:
        return message
    if isinstance(message, UnusableMessage):
        return message._replace(retry_count=count)
    return message._replace(message=message.message._replace(retry_count=count))
