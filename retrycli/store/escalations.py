"""Group escalated messages by cause."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, or_

from retrycli.domain.filter import Filter
from retrycli.domain.fingerprint import cause
from retrycli.domain.listing import EscalationGroup, ListedMessage
from retrycli.domain.message import State
from retrycli.store.listing import MessageQueries
from retrycli.store.schema import queue

if TYPE_CHECKING:
    from retrycli.store.database import Database

ESCALATED = Filter(state=State.ESCALATED)
MAX_GROUPS = 1000
"""Maximum number of causes to return: no operator reads more."""


def escalation_groups(database: Database, among: Filter = ESCALATED) -> list[EscalationGroup]:
    """Group escalated messages by cause, the largest groups first, at most `MAX_GROUPS`.

    Messages that the application has taken back are left out.
    """
    m = database.messages.c
    views = MessageQueries(database)
    at, number, first = queue.c.escalated_at, func.count().label("n"), func.min(m.id).label("example")
    largest = (
        views.failed(
            among,
            queue.c.fingerprint,
            number,
            func.count(queue.c.acknowledged_at).label("seen"),
            func.min(at, type_=at.type).label("oldest"),
            func.max(at, type_=at.type).label("newest"),
            first,
        )
        .group_by(queue.c.fingerprint)
        .order_by(number.desc(), first)
        .limit(MAX_GROUPS)
    )
    types: dict[str | None, dict[str, int]] = {}
    with database.read() as connection:
        rows = connection.execute(largest).mappings().all()
        if not rows:
            return []
        known = [row["fingerprint"] for row in rows if row["fingerprint"] is not None]
        by_type = (
            views.failed(among, queue.c.fingerprint, m.message_type, func.count())
            .where(or_(queue.c.fingerprint.is_(None), queue.c.fingerprint.in_(known)))
            .group_by(queue.c.fingerprint, m.message_type)
        )
        for fingerprint, message_type, count in connection.execute(by_type):
            types.setdefault(fingerprint, {})[str(message_type)] = count
    examples = {message.id: message for message in views.pages(array("q", (row["example"] for row in rows)), among)}
    return [
        _group(row, types[row["fingerprint"]], examples[row["example"]]) for row in rows if row["example"] in examples
    ]


def _group(row: Mapping[Any, Any], types: dict[str, int], example: ListedMessage) -> EscalationGroup:
    return EscalationGroup(
        fingerprint=row["fingerprint"],
        cause=None if example.last_error is None else cause(example.last_error),
        count=row["n"],
        new=row["n"] - row["seen"],
        oldest=row["oldest"],
        newest=row["newest"],
        types=types,
        example=example,
    )
