"""Record operators' statements that messages have arrived."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from itertools import groupby

from sqlalchemy import Connection

from retrycli.domain.message import QueuedMessage, UnusableMessage
from retrycli.domain.operator_action import OperatorAction
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.domain.transition import Decision, Transition, as_written
from retrycli.store.bulk import id_in
from retrycli.store.database import Database
from retrycli.store.identity import load, with_queue
from retrycli.store.results import finish_attempts, start_attempts
from retrycli.store.row_changes import Written, write_messages
from retrycli.store.schema import queue

STATED = Outcome(OutcomeKind.DELIVERED, error="stated by an operator")


def mark_delivered(database: Database, connection: Connection, acts: Mapping[int, OperatorAction]) -> Written:
    """Record messages as delivered by operators' statements, and mark their rows as sent.

    An attempt is recorded for each message, even if its row refuses the change, so that no pass sends the text again.
    Nothing is recorded for a message whose row is locked.

    Args:
        database: holds the queue and the application's table.
        connection: in a transaction that has locked their rows. All messages are in the queue.
        acts: the statements, by the messages' ids.
    """
    found = connection.execute(with_queue(database).where(id_in(queue.c.message_id)), {"ids": list(acts)})
    decisions = [_decision_of(message, acts[message.message_id]) for message in load(connection, found, list(acts))]
    written = write_messages(database, connection, decisions)
    stated = [decision for decision in decisions if decision.message_id not in written.locked]
    for (by, at), some in groupby(
        as_written(stated, written.refused), lambda decision: _recorder(acts[decision.message_id])
    ):
        theirs = list(some)
        start_attempts(
            connection,
            [
                decision.message for decision in theirs if isinstance(decision.message, QueuedMessage)
            ],  # others can't be sent
            pass_id=None,
            made_by=by,
            destination_of=lambda _: None,
            probe=False,
            now=at,
        )
        finish_attempts(connection, theirs, at)
    return written


def _decision_of(message: QueuedMessage | UnusableMessage, act: OperatorAction) -> Decision:
    return Decision(message.message_id, Transition.delivered(), STATED, None, act.at, message)


def _recorder(act: OperatorAction) -> tuple[str, datetime]:
    return act.by, act.at
