"""Record attempts to deliver claimed messages, and their results.

Each change requires that the claim still holds the message.
"""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, delete, exc, insert, null, select, update

from retrycli.domain.identity import BY_TICKET, OF_ANY_TICKET
from retrycli.domain.message import MessageType, Place, QueuedMessage, UnusableMessage, ticket_text
from retrycli.domain.outcome import OutcomeKind
from retrycli.domain.transition import Claim, Decision, Transition, TransitionKind, WriteResult, as_written
from retrycli.store.bulk import BulkStatement, id_in
from retrycli.store.connection import NO_RESULT, pipeline_errors
from retrycli.store.database import Queries
from retrycli.store.error_messages import is_busy
from retrycli.store.identity import FIRST_IDENTIFYING, as_found, as_list, identifying, load, with_queue
from retrycli.store.messages import read_rows, row_by_row, status_of
from retrycli.store.own_values import keep_counts
from retrycli.store.row_changes import note_refusals, write_messages
from retrycli.store.schema import MAX_INT, attempts, queue
from retrycli.store.transitions import CLAIM_FREE, HELD_BY_ID, HELD_IDS, let_go, move

HIDDEN = "its row can be read but not changed; check the row-level policies on {}"
OPEN = row_by_row(attempts.c.finished_at.is_(None))

RESULT_COLUMNS = (
    "finished_at",
    "outcome",
    "status_code",
    "error",
    "retry_after_s",
    "duration_ms",
    "external_id",
    "delivered_to",
)
# Columns with the same value for all attempts that one call of `start_attempts` records.
SHARED_COLUMNS = {
    name: bindparam(name, type_=attempts.c[name].type) for name in ("pass_id", "made_by", "started_at", "probe")
}
STARTED = {each.name: each.type for each in attempts.c if each.name not in {"id", *SHARED_COLUMNS, *RESULT_COLUMNS}}
START_ATTEMPTS = BulkStatement(
    lambda of: insert(attempts).from_select([*of, *SHARED_COLUMNS], select(*of.values(), *SHARED_COLUMNS.values())),
    STARTED,
)


def _update_open(*columns: str) -> BulkStatement:
    return BulkStatement(
        lambda of: (
            update(attempts)
            .where(attempts.c.message_id == of["message_id"], OPEN)
            .values({name: of[name] for name in columns})
        ),
        {name: attempts.c[name].type for name in ("message_id", *columns)},
    )


FINISH_ATTEMPTS = _update_open(*RESULT_COLUMNS)

# Stores the outcomes of attempts whose results can't be written into the application's rows yet. Such an attempt has an
# outcome, but no `finished_at`. The process that later writes the row also sets `finished_at`.
KEEP_OUTCOMES = _update_open(*(name for name in RESULT_COLUMNS if name != "finished_at"))

# Records that an attempt delivered its message after all. Its pass or command was suspended for so long that another
# has ended the attempt, with an unknown outcome.
FINISH_LATE = BulkStatement(
    lambda of: (
        update(attempts)
        .where(
            attempts.c.message_id == of["message_id"],
            attempts.c.number == of["number"],
            row_by_row(attempts.c.outcome == OutcomeKind.UNKNOWN.value),
        )
        .values({name: of[name] for name in RESULT_COLUMNS})
    ),
    {name: attempts.c[name].type for name in ("message_id", "number", *RESULT_COLUMNS)},
)

# Corrects the outcome of an attempt whose ambiguous answer was recorded before its meaning was known.
SETTLE = BulkStatement(
    lambda of: (
        update(attempts)
        .where(attempts.c.message_id == of["message_id"], attempts.c.number == of["number"])
        .values(outcome=of["outcome"])
    ),
    {name: attempts.c[name].type for name in ("message_id", "number", "outcome")},
)

CLAIM_AGAIN = CLAIM_FREE.where(row_by_row(queue.c.delivery_key == bindparam("key")))

WITHDRAW = (
    delete(attempts)
    .where(id_in(attempts.c.message_id), OPEN, attempts.c.pass_id == bindparam("owner"))
    .execution_options(**NO_RESULT)
)

FORGET_TICKETS = (
    update(attempts)
    .where(id_in(attempts.c.message_id), OPEN, row_by_row(attempts.c.birth.startswith(BY_TICKET)))
    .values(birth=OF_ANY_TICKET)
)


class Results(Queries):
    """Start attempts to deliver claimed messages, and write the results."""

    def begin(
        self,
        claim: Claim,
        ids: Sequence[int],
        *,
        made_by: str,
        pass_id: str | None,
        now: datetime,
        fit: Callable[[QueuedMessage], bool],
        place_of: Callable[[MessageType], Place] = lambda _: Place(),
        probe: bool = False,
    ) -> list[QueuedMessage | UnusableMessage]:
        """Load claimed messages, start an attempt for each one that ``fit`` accepts, and return all loaded messages.
        Those that the application has sent, rejected or withdrawn since the claim leave the queue, and those whose ids
        now belong to other messages, which a pass enrols as new.
        """
        with self._database.write() as connection:
            found = connection.execute(self._held_messages, {"ids": ids, "owner": claim.owner})
            loaded = load(connection, found, ids)
            let_go(self._database, connection, claim, set(ids) - {message.message_id for message in loaded})
            fit_messages = [message for message in loaded if isinstance(message, QueuedMessage) and fit(message)]
            keep_counts(self._database.table, connection, fit_messages)  # a stored one may be that of another text
            start_attempts(
                connection, fit_messages, pass_id=pass_id, made_by=made_by, place_of=place_of, probe=probe, now=now
            )
            return loaded

    # These statements run in the innermost loop. Each is built once, because building takes longer than executing.

    @cached_property
    def _held_messages(self) -> Select[Any]:
        return with_queue(self._database).where(*HELD_BY_ID)

    @cached_property
    def _held_rows(self) -> Select[Any]:
        m = self._database.messages
        # A count that retrycli keeps itself is changed by nobody else.
        count = null() if "retry_count" in self._database.table.own else m.c.retry_count
        return (
            select(m.c.id, status_of(m.c), count, *identifying(m))
            .join_from(queue, m, m.c.id == queue.c.message_id)
            .where(*HELD_BY_ID)
        )

    @cached_property
    def _locked(self) -> Select[Any]:
        return self._held_rows.with_for_update(skip_locked=True)

    def record_arrival(
        self, claim: Claim, decision: Decision, *, made_by: str, destination: str, started_at: datetime
    ) -> None:
        """Record a look-up that found a claimed message at its destination, as an attempt. The message stays claimed
        until `record` writes its row. If the process dies first, a later pass writes the row.
        """
        with self._database.write() as connection:
            ours = _still_held(connection, claim, [decision])
            start_attempts(
                connection,
                [decision.message for decision in ours if isinstance(decision.message, QueuedMessage)],
                made_by=made_by,
                place_of=lambda _: Place(destination),
                now=started_at,
            )
            KEEP_OUTCOMES.execute(connection, _results(ours, started_at))

    def withdraw(self, claim: Claim, ids: Sequence[int]) -> None:
        """Delete the unfinished attempts of a pass, because their requests were not sent."""
        with self._database.write() as connection:
            connection.execute(WITHDRAW, {"ids": list(ids), "owner": claim.owner})

    def record_answers(self, claim: Claim, decisions: Sequence[Decision], now: datetime) -> None:
        """Record the results of attempts, so that a crash does not lose them. The messages stay claimed."""
        with self._database.write() as connection:
            finish_attempts(connection, _still_held(connection, claim, decisions), now)

    def keep_outcomes(self, claim: Claim, decisions: Sequence[Decision], now: datetime) -> None:
        """Record the outcomes of attempts. The messages stay claimed, and a later pass writes their rows."""
        with self._database.write() as connection:
            KEEP_OUTCOMES.execute(connection, _results(_still_held(connection, claim, decisions), now))

    def record(self, claim: Claim, decisions: Sequence[Decision], now: datetime) -> WriteResult:
        """Write the results of claimed messages, in one transaction. The application may have locked a row, or a row
        that a trigger of the table writes. If so, write only the attempt's outcome, and keep the message claimed.

        Raises:
            TransactionLost: the change of a row rolled back the transaction. Repeat the call until it succeeds: the
                repeated calls identify the row and leave it out.
        """
        by_id = {int(decision.message_id): decision for decision in decisions}
        with self._database.write() as connection:
            names, found = self._lock(connection, claim, by_id)
            if len(found) < len(by_id) and _take_back(connection, claim, decisions, now):
                names, found = self._lock(connection, claim, by_id)
            as_they_are = {row[0]: as_found(by_id[row[0]], names, row) for row in found}
            unlockable, done = set[int](), set[int]()
            hidden: dict[int, str] = {}
            if len(as_they_are) < len(by_id):
                others = self._others(connection, claim, by_id.keys() - as_they_are.keys())
                unlockable = {message_id for message_id, is_there in others.items() if is_there}
                as_they_are |= dict.fromkeys(gone := others.keys() - unlockable)
                # Many senders delete the row of a message that they have delivered.
                done = {message_id for message_id in gone if by_id[message_id].was_delivered}
                hidden = dict.fromkeys(
                    self._hidden(connection, claim, unlockable), HIDDEN.format(self._database.table.written.fullname)
                )
            ours = {message_id: one for message_id, one in as_they_are.items() if one is not None}
            theirs = [by_id[message_id] for message_id in as_they_are.keys() - ours.keys()]
            changed = {message_id: one for message_id, one in ours.items() if one is not by_id[message_id]}
            written = write_messages(self._database, connection, list(ours.values()))
            refused = {**written.refused, **hidden}
            locked = unlockable.difference(hidden).union(written.locked)
            if locked:
                KEEP_OUTCOMES.execute(connection, _results([by_id[message_id] for message_id in locked], now))
            writable = [one for message_id, one in ours.items() if message_id not in locked]
            final = as_written([*writable, *(by_id[message_id] for message_id in hidden)], refused)
            # The rows were deleted, are no longer failed, or belong to other messages, so no decision is written.
            left_alone = [decision._replace(transition=Transition.released()) for decision in theirs]
            finish_attempts(connection, [*final, *left_alone], now)
            unmarked = [one for one in final if one.message_id in refused and one.transition.last_error is not None]
            note_refusals(self._database, connection, unmarked)
            known = written.rows.keys() - {decision.message_id for decision in unmarked}
            unread = {decision.message_id for decision in final if decision.transition.reason} - known
            rows = {**written.rows, **read_rows(self._database, connection, unread)}
            move(connection, claim, final, rows, now)
            let_go(self._database, connection, claim, as_they_are.keys() - ours.keys())
        lost = by_id.keys() - ours.keys() - unlockable - done
        return WriteResult(frozenset(lost), frozenset(locked), refused, changed)

    def _lock(
        self, connection: Connection, claim: Claim, ids: Collection[int]
    ) -> tuple[Sequence[str], Sequence[Row[Any]]]:
        """Lock the rows of claimed messages that are free. Return the identifying columns' names, and the rows."""
        found = connection.execute(self._locked, {"ids": list(ids), "owner": claim.owner})
        return [*found.keys()][FIRST_IDENTIFYING:], found.all()

    def _hidden(self, connection: Connection, claim: Claim, unlockable: Collection[int]) -> set[int]:
        """Return the ids of rows that a row-level policy hides from changes. Such a row can't be locked, although no
        other transaction holds it. If one holds any of the rows, return no ids: a later call checks them again.
        """
        if not unlockable:
            return set()
        try:
            with pipeline_errors(connection):
                connection.exec_driver_sql("SAVEPOINT hidden", execution_options=NO_RESULT)
                statement = self._held_rows.with_for_update(nowait=True)
                free = connection.execute(statement, {"ids": list(unlockable), "owner": claim.owner}).all()
        except exc.DBAPIError as error:
            if not is_busy(error):
                raise
            connection.exec_driver_sql("ROLLBACK TO SAVEPOINT hidden")
            return set()
        # The application may have deleted the others in the meantime.
        others = self._others(connection, claim, set(unlockable) - {row[0] for row in free})
        return {message_id for message_id, is_there in others.items() if is_there}

    def _others(self, connection: Connection, claim: Claim, ids: Collection[int]) -> dict[int, bool]:
        """Return which of these messages the claim still holds, and whether the row of each one exists."""
        m = self._database.messages.c
        others = (
            select(queue.c.message_id, m.id)
            .join_from(queue, self._database.messages, m.id == queue.c.message_id, isouter=True)
            .where(*HELD_BY_ID)
        )
        found = connection.execute(others, {"ids": list(ids), "owner": claim.owner})
        return {message_id: its_row is not None for message_id, its_row in found.all()}


def _still_held(connection: Connection, claim: Claim, decisions: Sequence[Decision]) -> list[Decision]:
    ids = [int(decision.message_id) for decision in decisions]
    ours = set(connection.execute(HELD_IDS, {"ids": ids, "owner": claim.owner}).scalars())
    return [decision for decision in decisions if decision.message_id in ours]


def _take_back(connection: Connection, claim: Claim, decisions: Sequence[Decision], now: datetime) -> bool:
    """Record deliveries of messages that the claim has lost, because an unknown outcome is no longer true. Claim these
    messages again if nobody is sending them and nobody has changed what is to be sent. Return whether there are any.
    """
    held = {decision.message_id for decision in _still_held(connection, claim, decisions)}
    late = [
        (decision, decision.message)
        for decision in decisions
        if decision.was_delivered and isinstance(decision.message, QueuedMessage) and decision.message_id not in held
    ]
    FINISH_LATE.execute(
        connection,
        [
            {**result, "number": message.attempt_number}
            for decision, message in late
            for result in _results([decision], now, is_final=True)
        ],
    )
    taken = 0
    for _, message in late:
        values = {"ids": [message.message_id], "owner": claim.owner, "until": claim.expires_at}
        taken += connection.execute(CLAIM_AGAIN, {**values, "key": message.delivery_key}).rowcount
    return taken > 0


def start_attempts(
    connection: Connection,
    messages: Sequence[QueuedMessage],
    *,
    pass_id: str | None = None,
    made_by: str,
    place_of: Callable[[MessageType], Place] = lambda _: Place(),
    probe: bool = False,
    now: datetime,
) -> None:
    """Record attempts without results. The results are added later."""
    rows = [
        {
            "message_id": message.message_id,
            "number": message.attempt_number,
            "waited_s": min(max(int((now - message.first_failed_at).total_seconds()), 0), MAX_INT),
            "birth": message.birth,
            "digest": message.digest,
            "delivery_key": message.delivery_key,
            "deliveries": message.deliveries,
            "ticket": ticket_text(message.ticket_id),
            "message_type": str(message.message.message_type),
            **place_of(message.message.message_type)._asdict(),
        }
        for message in messages
    ]
    START_ATTEMPTS.execute(connection, rows, pass_id=pass_id, made_by=made_by, started_at=now, probe=probe or None)


def finish_attempts(connection: Connection, decisions: Sequence[Decision], now: datetime) -> None:
    """Record the results of unfinished attempts. If a delivered message's row can't be marked as sent, the application
    may later move the row to another ticket. In a table without creation times, this changes the message's birth, so
    the attempt's birth becomes `OF_ANY_TICKET`. The delivery is then still recognised.
    """
    unmarked = [
        decision.message_id
        for decision in decisions
        if decision.was_delivered and decision.transition.kind is not TransitionKind.DELIVERED
    ]
    if unmarked:
        connection.execute(FORGET_TICKETS, {"ids": unmarked})
    FINISH_ATTEMPTS.execute(connection, _results(decisions, now, is_final=True))
    SETTLE.execute(
        connection,
        [
            {"message_id": message.message_id, "number": message.attempt_number, "outcome": outcome.kind}
            for message, outcome in ((decision.message, decision.outcome) for decision in decisions)
            if outcome is not None and outcome.in_doubt and isinstance(message, QueuedMessage)
        ],
    )


def _results(decisions: Sequence[Decision], now: datetime, *, is_final: bool = False) -> list[dict[str, Any]]:
    return [
        {
            "message_id": decision.message_id,
            "finished_at": decision.finished_at or now,
            # A kept outcome still decides about the row, so it stays what it is.
            "outcome": OutcomeKind.DELIVERED if is_final and decision.outcome.arrived else decision.outcome.kind,
            "status_code": decision.outcome.status_code,
            "error": decision.outcome.error,
            "retry_after_s": None
            if decision.outcome.retry_after is None
            else round(decision.outcome.retry_after.total_seconds()),
            "duration_ms": None if decision.duration is None else round(decision.duration.total_seconds() * 1000),
            "external_id": decision.outcome.external_id,
            "delivered_to": as_list(decision.outcome.delivered_to),
        }
        for decision in decisions
        if decision.outcome is not None
    ]
