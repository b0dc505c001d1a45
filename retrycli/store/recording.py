"""Writing down what came of messages that a claim holds: the attempt's end, and the message's new state."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, assert_never

from sqlalchemy import BindParameter, ColumnElement, Integer, bindparam, case, delete, func, update

from retrycli.fingerprint import fingerprint
from retrycli.message import Claim, State
from retrycli.policy import Settled, TransitionKind
from retrycli.schema import attempts, queue
from retrycli.store.application import row_by_row

if TYPE_CHECKING:
    from sqlalchemy import Connection


def held(claimant: str | BindParameter[Any]) -> tuple[ColumnElement[bool], ...]:
    """What a claim holds: the guard of every change that a claim allows, to messages by their ids."""
    return (row_by_row(queue.c.state == State.SENDING.value, queue.c.claimed_by == claimant),)


HELD = held(bindparam("claimant"))
LEAVE_THE_QUEUE = delete(queue).where(queue.c.message_id == bindparam("of_id"), *HELD)
UNDER_WAY = row_by_row(attempts.c.finished_at.is_(None))
FINISH_ATTEMPT = update(attempts).where(attempts.c.message_id == bindparam("of_id"), UNDER_WAY)


def where_it_was() -> ColumnElement[str]:
    """An escalated message that an operator tried by hand is escalated again, any other waits."""
    return case((queue.c.escalated_at.is_(None), State.WAITING.value), else_=State.ESCALATED.value)


def finish_attempts(connection: Connection, settled: Sequence[Settled], now: datetime) -> None:
    """Write down what came of attempts, of messages that a claim is known to hold."""
    finished = [
        {
            "of_id": each.message_id,
            "finished_at": each.finished_at or now,
            "outcome": each.outcome.kind,
            "status_code": each.outcome.status_code,
            "error": each.outcome.error,
            "retry_after_s": None
            if each.outcome.retry_after is None
            else round(each.outcome.retry_after.total_seconds()),
            "duration_ms": None if each.duration is None else round(each.duration.total_seconds() * 1000),
        }
        for each in settled
        if each.outcome is not None
    ]
    if finished:
        connection.execute(FINISH_ATTEMPT, finished)


def move(connection: Connection, claim: Claim, settled: Sequence[Settled], now: datetime) -> None:
    """Move messages that this claim holds to the state that their transition says."""
    of_mine = (queue.c.message_id == bindparam("of_id"), *HELD)
    free: dict[str, Any] = {"claimed_by": None, "claim_expires_at": None}
    unknowns: ColumnElement[int] = func.coalesce(bindparam("unknowns", type_=Integer), queue.c.unknown_count)
    gone, back, escalated = [], [], []
    for each in settled:
        change = each.transition
        row = {"of_id": each.message_id, "claimant": claim.claimant, "unknowns": change.unknown_count}
        match change.kind:
            case TransitionKind.DELIVERED:
                gone.append({"of_id": each.message_id, "claimant": claim.claimant})
            case TransitionKind.RESCHEDULED | TransitionKind.RELEASED:
                back.append({**row, "at": change.next_attempt_at})
            case TransitionKind.ESCALATED:
                escalated.append({**row, "reason": change.reason, "cause": fingerprint(each)})
            case TransitionKind.ENROLLED:
                raise AssertionError("a message is enrolled before it is claimed")
            case _:
                assert_never(change.kind)
    if gone:
        connection.execute(LEAVE_THE_QUEUE, gone)
    if back:
        at = func.coalesce(bindparam("at", type_=queue.c.next_attempt_at.type), queue.c.next_attempt_at)
        values: dict[str, Any] = {"state": where_it_was(), "next_attempt_at": at, "unknown_count": unknowns}
        connection.execute(update(queue).where(*of_mine).values(**free, **values), back)
    if escalated:
        values = {
            "state": State.ESCALATED.value,
            "next_attempt_at": None,
            "unknown_count": unknowns,
            "escalated_at": now,
            "escalation_reason": bindparam("reason"),
            "fingerprint": bindparam("cause"),
        }
        connection.execute(update(queue).where(*of_mine).values(**free, **values), escalated)
