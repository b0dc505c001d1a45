"""Record decisions, and create the events that follow."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from retrycli.domain.errors import DatabaseBusy
from retrycli.domain.fingerprint import fingerprint
from retrycli.domain.message import EscalationReason, Message, QueuedMessage, UnusableMessage
from retrycli.domain.passes import (
    Event,
    MessageDelivered,
    MessageEscalated,
    MessageMovedOn,
    MessageReleased,
    MessageRescheduled,
)
from retrycli.domain.transition import Claim, Decision, TransitionKind, WriteResult
from retrycli.engine.rules import Dependencies, PassRules

if TYPE_CHECKING:
    from retrycli.engine.supply import Supply

MAX_LOCKED_ROWS = 8  # maximum number of locked rows for which a transaction waits
TRY_AGAIN_SECONDS = 0.05  # seconds to wait before a transaction is started or committed again
# Maximum number of attempts to commit. Then the lock, which blocks the application's readers, is released.
COMMIT_TIMES = 100


async def commit_patiently(commit: Callable[[], bool], sleep: Callable[[float], Awaitable[None]]) -> None:
    """Commit as soon as no reader of a SQLite file blocks the commit.

    Raises:
        DatabaseBusy: the application read the file for too long.
    """
    for _ in range(COMMIT_TIMES):
        if commit():
            return
        await sleep(TRY_AGAIN_SECONDS)
    raise DatabaseBusy("the application has kept a read transaction open for too long; end the transaction, or use WAL")


def record(deps: Dependencies, claim: Claim, decisions: Sequence[Decision]) -> tuple[list[Event], list[Decision]]:
    """Record decisions about claimed messages in one transaction.

    Returns:
        An event for each message whose row is not locked by the application, and the decisions about the other
        messages, to be written later.
    """
    if not decisions:
        return [], []
    written = deps.claims.results.record(claim, decisions, deps.now())
    events = [_event(decision, written) for decision in decisions if decision.message_id not in written.locked]
    return events, [decision for decision in decisions if decision.message_id in written.locked]


def _event(decision: Decision, written: WriteResult) -> Event:
    message_id = decision.message_id
    if decision.message is None or message_id in written.lost:
        return MessageMovedOn(message_id, decision.outcome.kind if decision.outcome else None)
    refusal = written.not_written.get(message_id)
    return event_of(decision.message, written.changed.get(message_id, decision), refusal=refusal)


class ResultWriter:
    """Write decisions, and keep those whose rows the application has locked. Its attributes are replaced, never changed
    in place.

    Args:
        deps: the database and the clock.
        rules: show whether tickets keep their order.
        supply: holds the claim, and the tickets whose next message follows a written result.
    """

    def __init__(self, deps: Dependencies, rules: PassRules, supply: Supply) -> None:
        # Decisions that could not be written because the application has locked the rows. Their outcomes are recorded.
        self.locked: Sequence[Decision] = ()
        self.locked_in_a_row = 0  # number of locked results since a result was last written
        self.events: Sequence[Event] = ()  # events to emit after the commit
        self._deps = deps
        self._rules = rules
        self._supply = supply

    def write(self, decisions: Sequence[Decision]) -> None:
        """Write new decisions."""
        if decisions:
            locked = self._write(decisions)
            self.locked_in_a_row = len(locked) + (self.locked_in_a_row if len(locked) == len(decisions) else 0)
            self.locked = [*self.locked, *locked]

    def write_locked(self) -> None:
        """Write the decisions whose rows were locked at the last attempt to write."""
        locked = self._write(self.locked)
        if len(locked) < len(self.locked):
            self.locked_in_a_row = 0
        # Rotate the list, so that the next transaction waits for other rows.
        self.locked = locked[MAX_LOCKED_ROWS:] + locked[:MAX_LOCKED_ROWS]

    def _write(self, decisions: Sequence[Decision]) -> list[Decision]:
        events, locked = record(self._deps, self._supply.claim, decisions)
        self.events = [*self.events, *events]
        if self._rules.per_ticket_order:
            unwritten = {decision.message_id for decision in locked}
            written = [decision.message for decision in decisions if decision.message_id not in unwritten]
            self._supply.unblock(str(message.ticket_id) for message in written if message is not None)
        return locked


def event_of(
    message: Message | QueuedMessage | UnusableMessage, decision: Decision, *, refusal: str | None = None
) -> Event:
    """Return the event of a decision. If there is a ``refusal``, the row rejected the change and the message is
    escalated.
    """
    if refusal is not None:
        decision = decision.refused(refusal)
    change = decision.transition
    outcome = decision.outcome
    row = message.message if isinstance(message, QueuedMessage) else message
    about = (
        decision.message_id,
        row.ticket_id,
        row.message_type,
        row.retry_count if change.retry_count is None else change.retry_count,
    )
    match change.kind:
        case TransitionKind.DELIVERED:
            return MessageDelivered(*about)
        case TransitionKind.ESCALATED:
            unusable = message.problem if isinstance(message, UnusableMessage) else None
            problem = "; ".join(filter(None, (unusable, refusal))) or None
            reason = change.reason or EscalationReason.INVALID
            status = None if outcome is None else outcome.status_code
            return MessageEscalated(*about, reason, problem, fingerprint(decision), status)
        case TransitionKind.RESCHEDULED if outcome is not None and change.next_attempt_at is not None:
            return MessageRescheduled(*about, outcome.kind, outcome.status_code, change.next_attempt_at)
        case _ if outcome is not None:
            return MessageReleased(*about, outcome.kind, outcome.status_code)
        case _:
            return MessageReleased(*about, None, None)
