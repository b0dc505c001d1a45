"""Writing down what becomes of messages that a claim holds: attempts, and the messages' new states."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, assert_never

from sqlalchemy import BindParameter, ColumnElement, and_, bindparam, case, delete, func, insert, or_, select, update

from retrycli.fingerprint import fingerprint
from retrycli.message import Claim, State
from retrycli.outcome import OutcomeKind
from retrycli.policy import Settled, TransitionKind
from retrycli.schema import attempts, queue
from retrycli.store.application import addresses, row_by_row
from retrycli.store.connecting import UNREAD
from retrycli.store.for_each import ForEach, Values
from retrycli.store.these import among_ids

if TYPE_CHECKING:
    from sqlalchemy import Connection, Update
    from sqlalchemy.types import TypeEngine


def held(claimant: str | BindParameter[Any]) -> tuple[ColumnElement[bool], ...]:
    """What a claim holds: the guard of every change that a claim allows, to messages by their ids."""
    return (row_by_row(queue.c.state == State.SENDING.value, queue.c.claimed_by == claimant),)


HELD = held(bindparam("claimant"))
HELD_OF_THESE = (among_ids(queue.c.message_id), *HELD)
LEAVE_THE_QUEUE = delete(queue).where(*HELD_OF_THESE).execution_options(**UNREAD)
UNDER_WAY = row_by_row(attempts.c.finished_at.is_(None))
AT_IT = attempts.c.message_id == queue.c.message_id
NEXT_NUMBER = select(func.coalesce(func.max(attempts.c.number), 0) + 1).where(AT_IT).scalar_subquery()
MAY_HAVE_ARRIVED = or_(
    attempts.c.outcome == OutcomeKind.UNKNOWN.value,
    # A server or a proxy that gives up in the middle may have stored it before; a 503 has not begun.
    and_(attempts.c.outcome == OutcomeKind.TRANSIENT.value, attempts.c.status_code.in_((500, 502, 504))),
)
UNSETTLED_SINCE = (
    # By its number and not the largest of the times: for that a planner goes through the index of all times.
    select(attempts.c.finished_at)
    .where(AT_IT, row_by_row(MAY_HAVE_ARRIVED))
    .order_by(attempts.c.number.desc())
    .limit(1)
    .scalar_subquery()
)
OF_ALL = {name: bindparam(name, type_=attempts.c[name].type) for name in ("pass_id", "made_by", "started_at", "probe")}
"""What attempts that begin together have in common."""
START_ATTEMPTS = ForEach(
    lambda of: insert(attempts).from_select([*of, *OF_ALL], select(*of.values(), *OF_ALL.values())),
    **{name: attempts.c[name].type for name in ("message_id", "number", "waited_s")},
)
FOUND_OUT = ("finished_at", "outcome", "status_code", "error", "retry_after_s", "duration_ms", "external_id")
"""What is known of an attempt when it has ended."""
FINISH_ATTEMPTS = ForEach(
    lambda of: (
        update(attempts)
        .where(attempts.c.message_id == of["message_id"], UNDER_WAY)
        .values({name: of[name] for name in FOUND_OUT})
    ),
    **{name: attempts.c[name].type for name in ("message_id", *FOUND_OUT)},
)


HAVE_IT = select(queue.c.message_id, queue.c.delivered_to).where(*HELD_OF_THESE)
NOTE_RECIPIENTS = ForEach(
    lambda of: (
        update(queue).where(queue.c.message_id == of["message_id"], *HELD).values(delivered_to=of["delivered_to"])
    ),
    **{name: queue.c[name].type for name in ("message_id", "delivered_to")},
)


def where_it_was() -> ColumnElement[str]:
    """An escalated message that an operator tried by hand is escalated again, any other waits."""
    return case((queue.c.escalated_at.is_(None), State.WAITING.value), else_=State.ESCALATED.value)


def finish_attempts(connection: Connection, settled: Sequence[Settled], now: datetime) -> None:
    """Write down what came of attempts, of messages that a claim is known to hold."""
    finished = [
        {
            "message_id": each.message_id,
            "finished_at": each.finished_at or now,
            "outcome": each.outcome.kind,
            "status_code": each.outcome.status_code,
            "error": each.outcome.error,
            "retry_after_s": None
            if each.outcome.retry_after is None
            else round(each.outcome.retry_after.total_seconds()),
            "duration_ms": None if each.duration is None else round(each.duration.total_seconds() * 1000),
            "external_id": each.outcome.external_id,
        }
        for each in settled
        if each.outcome is not None
    ]
    FINISH_ATTEMPTS.execute(connection, finished)


def note_recipients(connection: Connection, claim: Claim, settled: Sequence[Settled]) -> None:
    """Add who has got a message now to who had it before, of messages that this claim holds."""
    now = {each.message_id: each.outcome.delivered_to for each in settled if each.outcome and each.outcome.delivered_to}
    if not now:
        return
    before = connection.execute(HAVE_IT, {"ids": list(now), "claimant": claim.claimant})
    have_it = {each: sorted({*addresses(had), *now[each]}) for each, had in before.all()}
    rows = [{"message_id": each, "delivered_to": json.dumps(them)} for each, them in have_it.items()]
    NOTE_RECIPIENTS.execute(connection, rows, claimant=claim.claimant)


def move(connection: Connection, claim: Claim, settled: Sequence[Settled], now: datetime) -> None:
    """Move messages that this claim holds to the state that their transition says."""
    gone, back, escalated = [], [], []
    for each in settled:
        change = each.transition
        row: dict[str, Any] = {"message_id": each.message_id, "unknown_count": change.unknown_count}
        match change.kind:
            case TransitionKind.DELIVERED:
                gone.append(each.message_id)
            case TransitionKind.RESCHEDULED | TransitionKind.RELEASED:
                back.append({**row, "next_attempt_at": change.next_attempt_at})
            case TransitionKind.ESCALATED:
                escalated.append({**row, "escalation_reason": change.reason, "fingerprint": fingerprint(each)})
            case TransitionKind.ENROLLED:
                raise AssertionError("a message is enrolled before it is claimed")
            case _:
                assert_never(change.kind)
    if gone:
        connection.execute(LEAVE_THE_QUEUE, {"ids": gone, "claimant": claim.claimant})
    GO_BACK.execute(connection, back, claimant=claim.claimant)
    ESCALATE.execute(connection, escalated, claimant=claim.claimant, now=now)


def _moved(of: Values, **values: Any) -> Update:  # noqa: ANN401  whatever a column takes
    """A message that a claim holds is free, with values of its own; its count stays where it has none."""
    unknown_count = func.coalesce(of["unknown_count"], queue.c.unknown_count)
    moved = update(queue).where(queue.c.message_id == of["message_id"], *HELD)
    return moved.values(claimed_by=None, claim_expires_at=None, unknown_count=unknown_count, **values)


def _gone_back(of: Values) -> Update:
    at = func.coalesce(of["next_attempt_at"], queue.c.next_attempt_at)
    return _moved(of, state=where_it_was(), next_attempt_at=at)


def _escalated(of: Values) -> Update:
    """In a person's hands; one that was tried by hand has been there since it was escalated first."""
    return _moved(
        of,
        state=State.ESCALATED.value,
        next_attempt_at=None,
        escalated_at=func.coalesce(queue.c.escalated_at, bindparam("now", type_=queue.c.escalated_at.type)),
        escalation_reason=of["escalation_reason"],
        fingerprint=of["fingerprint"],
    )


def _types(*names: str) -> dict[str, TypeEngine[Any]]:
    return {name: queue.c[name].type for name in ("message_id", "unknown_count", *names)}


GO_BACK = ForEach(_gone_back, **_types("next_attempt_at"))
ESCALATE = ForEach(_escalated, **_types("escalation_reason", "fingerprint"))
