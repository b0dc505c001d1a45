"""One step in the life of messages: what happened, and which changes to the database the laws permit for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from tests.model.picture import Row, time_of

if TYPE_CHECKING:
    from retrycli.domain.passes import Event
    from tests.model.book import Request


@dataclass
class Step:
    """The facts about a step that decide which changes the laws permit."""

    name: str
    touched: set[int] = field(default_factory=set)
    """Messages that the application gave another status, deleted, replaced, or changed during a request."""
    written: set[int] = field(default_factory=set)
    """Messages that the application wrote to in this step."""
    held: set[int] = field(default_factory=set)
    """Messages whose rows the application had locked, so that a later step may write their results."""
    marked: set[int] = field(default_factory=set)
    """Messages into whose rows the application's sender has written the result of its request."""
    renewed: set[int] = field(default_factory=set)
    """Messages that the application gave another creation time before the pass of this step."""
    events: list[Event] = field(default_factory=list)
    """What the passes of this step reported."""
    acts: dict[str, int] = field(default_factory=dict)
    """By action: the message that an operator acted on."""
    seen_at: datetime | None = None
    """The start of a pass that ran to its end and was not paused, so that it has seen all messages."""
    alone: bool = True
    """True if no other process interfered and no process was scheduled to die."""
    killed: bool = False
    put_right_at: datetime | None = None
    """The start of a pass with the correct clock, after a pass whose clock was ahead."""
    latest: datetime | None = None
    """In a step with `put_right_at`: the latest time that the correct clock has shown."""


def is_put_right(was: Row, row: Row, step: Step) -> bool:
    """Return whether a clock's correction made a message due earlier, but not before the time of the correction."""
    before, after = was["next_attempt_at"], row["next_attempt_at"]
    if step.put_right_at is None or before is None or after is None:
        return False
    return step.put_right_at <= time_of(after) < time_of(before)


def is_the_same(was: Row, row: Row | None, step: Step) -> bool:
    """Return whether a row of the history is unchanged, except for corrected times."""
    return row is not None and all(has_been(was, name, step) == has_been(row, name, step) for name in was)


def has_been(row: Row, name: str, step: Step) -> object:
    """Return a value of a history row. A time after a clock's correction counts as just before the correction."""
    value = row[name]
    if step.put_right_at is None or value is None or not (name == "at" or name.endswith("_at")):
        return value
    time = time_of(value)
    return step.put_right_at - timedelta.resolution if time > step.put_right_at else time


def told_truly(row: Row, request: Request | None, step: Step, *, begun_before: bool) -> Iterator[str]:
    """Check that a finished attempt has the API's answer as its outcome, or `unknown` if its process died."""
    allowed = {"unknown"} if begun_before or not step.alone else set()
    if request is not None and not begun_before:
        allowed.add(request.answer.outcome.kind.value)
        if request.answer.outcome.status_code == 403:
            allowed.add("unauthorized")  # more lenient than necessary: a 403 is recorded as `permanent`
    elif not begun_before and not step.alone:
        allowed.add("unreachable")  # the process was suspended before its request
    if row["outcome"] not in allowed:
        yield f"an attempt came to {row['outcome']}, and could only come to {allowed}: {dict(row)}"
