"""Which single message a pass picks from those that are due, when the message itself is to tell it something."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, or_, select, true

from retrycli.store.schema import attempts, queue

if TYPE_CHECKING:
    from sqlalchemy import Select


def probes_of(message_id: Any, since: datetime) -> Select[Any]:  # noqa: ANN401  an id, or the column that has it
    """Select the times of the probes that a message has been since a time."""
    return select(attempts.c.started_at).where(
        attempts.c.message_id == message_id, attempts.c.probe.is_(true()), attempts.c.started_at >= since
    )


def to_probe(due: Select[Any], since: datetime) -> tuple[Select[Any], Select[Any]]:
    """Pick the message to probe with: the oldest that has been none since a time; else the one that was it longest ago.

    They are two questions. The first is answered by the index of due messages, however many there are. The second is
    asked only if all of them have been probes, and then there are few.
    """
    probes = probes_of(queue.c.message_id, since)
    last = probes.with_only_columns(func.max(attempts.c.started_at)).scalar_subquery()
    # As a value for each row, and not by `exists`: for that a planner may go through all attempts.
    was_none = probes.limit(1).scalar_subquery().is_(None)
    oldest = queue.c.next_attempt_at, queue.c.message_id
    return due.where(was_none).order_by(*oldest).limit(1), due.order_by(last, *oldest).limit(1)


def elsewhere(due: Select[Any], tickets: Collection[str]) -> Select[Any]:
    """Pick the message that came due last, of a ticket that is not among these."""
    other = or_(queue.c.ticket.is_(None), queue.c.ticket.not_in(tickets))
    return due.where(other).order_by(queue.c.next_attempt_at.desc(), queue.c.message_id.desc()).limit(1)
