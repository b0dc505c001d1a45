"""One step in the life of messages: what was done, and which part of the history it may change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from tests.model.picture import Row, time_of

if TYPE_CHECKING:
    from tests.model.book import Request


@dataclass
class Step:
    """A step, as far as it limits the permitted changes."""

    name: str
    touched: set[int] = field(default_factory=set)
    """Messages that the application took back, deleted, replaced, or wrote to while a request was in flight."""
    written: set[int] = field(default_factory=set)
    """Messages that the application wrote to at any time."""
    held: set[int] = field(default_factory=set)
    """Messages whose rows the application held while their results were to be written."""
    acts: dict[str, int] = field(default_factory=dict)
    """The messages that an operator acted on, by action."""
    seen_at: datetime | None = None
    """The start of a pass that has seen all messages."""
    alone: bool = True
    """Whether no other process interfered and none was to be killed."""
    killed: bool = False
    put_right_at: datetime | None = None
    """The start of a pass with the correct clock, after a pass whose clock was ahead."""
    latest: datetime | None = None
    """The latest time that the correct clock had shown, in such a step."""


def is_put_right(was: Row, row: Row, step: Step) -> bool:
    """Return whether a corrected clock shortened a message's wait, but not below zero."""
    before, after = was["next_attempt_at"], row["next_attempt_at"]
    if step.put_right_at is None or before is None or after is None:
        return False
    return step.put_right_at <= time_of(after) < time_of(before)


def is_the_same(was: Row, row: Row | None, step: Step) -> bool:
    """Return whether a row of the history is unchanged."""
    return row is not None and all(has_been(was, name, step) == has_been(row, name, step) for name in was)


def has_been(row: Row, name: str, step: Step) -> object:
    """Return a value of the history; a time in the future at a clock's correction is just before it."""
    value = row[name]
    if step.put_right_at is None or value is None or not (name == "at" or name.endswith("_at")):
        return value
    time = time_of(value)
    return step.put_right_at - timedelta.resolution if time > step.put_right_at else time


def told_truly(row: Row, request: Request | None, step: Step, *, begun_before: bool) -> Iterator[str]:
    """Check one finished attempt: its pass lives and recorded the answer, or it died and the outcome is unknown."""
    allowed = {"unknown"} if begun_before or not step.alone else set()
    if request is not None and not begun_before:
        allowed.add(request.answer.outcome.kind.value)
        if request.answer.outcome.status_code == 403:
            allowed.add("unauthorized")  # three in a row are about us
    elif not begun_before and not step.alone:
        allowed.add("unreachable")  # its process stood still
    if row["outcome"] not in allowed:
        yield f"an attempt came to {row['outcome']}, and could only come to {allowed}: {dict(row)}"
