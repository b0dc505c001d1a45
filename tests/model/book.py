"""A record of every request to the ticketing API, and the laws on delivery keys and repeated requests.

The application may reuse an id, so a message is identified by its id and its birth: its creation time, or its ticket
if it has no time. The laws are computed from the requests, the application's rows and the attempts in the database.
They use no code of retrycli, so that they do not repeat its errors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.model.picture import time_of

if TYPE_CHECKING:
    from retrycli.domain.message import Message
    from tests.model.picture import Picture, Row
    from tests.model.server import Answer, Sender

UNKNOWN_LIMIT = 2
MAX_RETRIES = 4
BOUND = 3 * MAX_RETRIES
"""The maximum number of requests with an outcome in `ABOUT_THE_MESSAGE` that passes may send with one delivery key
after the last `requeue`."""
DELIVERED, UNKNOWN = "delivered", "unknown"
ABOUT_THE_MESSAGE = {DELIVERED, UNKNOWN, "refused", "permanent"}
"""Outcomes that count towards `BOUND`. Other outcomes may leave the retry count unchanged."""
CHARGED = {"refused", "transient", "unreachable", "unknown"}
"""Outcomes that use up a retry. All except `refused` do so only while the destination is not known to be down."""
LISTS = ("cc_emails", "bcc_emails", "attachments")
TEXT = ("message_type", "recipient_email", "subject", "body", *LISTS)
"""The columns that make up the text of a message."""


class Name(NamedTuple):
    """The identity of one text of one message."""

    message_id: int
    birth: str
    text: tuple[object, ...]


def name_of(row: Row) -> Name:
    return Name(row["id"], _birth(row["created_at"], row["ticket_id"]), _text(row))


def name_in(message: Message) -> Name:
    fields = {**message.fields, "message_type": str(message.message_type)}
    return Name(message.id, _birth(message.created_at, message.ticket_id), _text(fields))


def _birth(created_at: object, ticket: object) -> str:
    return f"ticket {ticket}" if created_at is None else time_of(created_at).isoformat()


def is_still(before: str, ticket: str, row: Row) -> bool:
    """Return whether a row has the birth of an earlier row, or got or lost its creation time and kept its ticket.

    Args:
        before: the birth of the earlier row.
        ticket: its ticket.
        row: the row that has its id now.
    """
    now = name_of(row).birth
    kept = before.startswith("ticket ") != now.startswith("ticket ") and ticket == str(row["ticket_id"])
    return before == now or kept


def _may_be_one(one: str, other: str) -> bool:
    """Return whether two births may belong to one message, which the application may have moved to another ticket."""
    return one == other or (one.startswith("ticket ") and other.startswith("ticket "))


def _text(fields: Mapping[str, Any]) -> tuple[object, ...]:
    return tuple(_as_list(fields[column]) if column in LISTS else fields[column] for column in TEXT)


def _as_list(value: object) -> object:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return value
    return tuple(value) if isinstance(value, list) else ()


@dataclass
class Request:
    """One request that the API received."""

    attempt: int
    """The id of the request's attempt."""
    name: Name
    ticket: str
    key: str
    answer: Answer
    sender: Sender
    answered: bool = False
    """True once the sender has received the answer."""
    lapsed: bool = False
    """True if the sender was suspended until its claim expired. Another pass then ends the attempt."""


@dataclass
class Book:
    """The recorded requests, and a check of each new one.

    Args:
        asked: queries the application's database.
    """

    asked: Callable[[str], list[dict[str, Any]]]
    requests: list[Request] = field(default_factory=list)
    _since: dict[int, tuple[int, int]] = field(default_factory=dict)
    """By message id: the number of requests, and the id of the newest attempt, at the last `requeue`."""
    _named: dict[str, tuple[int, object]] = field(default_factory=dict)
    """By delivery key: the id and the text that were first sent with it."""
    _keys: dict[tuple[Name, int], str] = field(default_factory=dict)
    """By text and its number of recorded deliveries: the delivery key."""

    def requeued(self, message_id: int) -> None:
        """Record that an operator gave a message all its retries back."""
        newest = max((attempt["id"] for attempt in self._attempts(message_id)), default=0)
        self._since[message_id] = len(self.requests), newest

    def stood_still(self) -> None:
        """Record that every sender with a request in flight has lost its claim."""
        for request in self.requests:
            request.lapsed |= not request.answered

    def enter(self, request: Request) -> Iterator[str]:
        """Record a request; yield its violations."""
        attempts = self._attempts(request.name.message_id)
        yield from self._broken(request, attempts)
        self.requests.append(request)

    def _broken(self, request: Request, attempts: Sequence[Row]) -> Iterator[str]:
        """Yield the violations by a request. Only deliveries that were recorded before it count."""
        name, key, by_pass = request.name, request.key, request.sender.by_pass
        outcomes = {attempt["id"]: attempt["outcome"] for attempt in attempts}
        began, newest = self._since.get(name.message_id, (0, 0))
        delivered = [earlier for earlier in self.requests if outcomes.get(earlier.attempt) == DELIVERED]
        if by_pass and any(earlier.name == name for earlier in delivered if earlier in self.requests[began:]):
            yield "a pass sent a text again that is recorded as delivered"
        if any(earlier.key == key for earlier in delivered):
            yield "a key was used again after a recorded delivery"
        if self._named.setdefault(key, (name.message_id, name.text)) != (name.message_id, name.text):
            yield f"a key was used for another text: {self._named[key]}, and then {name}"
        deliveries = sum(earlier.name == name for earlier in delivered)
        if self._keys.setdefault((name, deliveries), key) != key:
            yield f"a text that was not delivered was sent under another key, after {self._keys[name, deliveries]}"
        if by_pass:
            yield from self._too_often(key, attempts, began, newest)
            made = self.requests_since_delivery(name, delivered)
            if made >= BOUND:
                yield f"a pass sent it again after {made} requests for its message, whatever their texts"

    def _too_often(self, key: str, attempts: Sequence[Row], began: int, newest: int) -> Iterator[str]:
        """Yield the limits that a pass exceeds by sending one more request with a key."""
        ours = {request.attempt for request in self.requests if request.key == key}
        unknown = [
            attempt
            for attempt in attempts
            if (attempt["id"] in ours or attempt["delivery_key"] == key)
            and (attempt["outcome"], attempt["made_by"]) == (UNKNOWN, "pass")
            and attempt["id"] > newest
        ]
        if len(unknown) > UNKNOWN_LIMIT:
            yield f"a pass sent it again after {len(unknown)} unknown outcomes under its key"
        made = sum(
            request.key == key and request.sender.by_pass and request.answer.outcome.kind in ABOUT_THE_MESSAGE
            for request in self.requests[began:]
        )
        if made >= BOUND:
            yield f"a pass sent it again after {made} requests under its key"

    def requests_since_delivery(self, name: Name, delivered: Sequence[Request]) -> int:
        """Count the passes' requests for a message, whatever its texts, since its last delivery or `requeue`."""
        began, _ = self._since.get(name.message_id, (0, 0))
        made = 0
        for request in self.requests[began:]:
            is_of_it = request.name.message_id == name.message_id and _may_be_one(request.name.birth, name.birth)
            if is_of_it and request in delivered:
                made = 0
            elif request.name[:2] == name[:2]:
                made += request.sender.by_pass and request.answer.outcome.kind in ABOUT_THE_MESSAGE
        return made

    def requeued_after(self, message_id: int) -> int:
        """Return the id of the newest attempt at a message when it was last requeued; 0 if it never was."""
        return self._since.get(message_id, (0, 0))[1]

    def _attempts(self, message_id: int) -> list[dict[str, Any]]:
        return self.asked(f"SELECT * FROM retrycli_attempts WHERE message_id = {int(message_id)} ORDER BY id")

    # -- what a picture shows ---------------------------------------------------------------------------------

    def was_delivered(self, row: Row, after: Picture) -> bool:
        """Return whether a delivery of exactly a row's text is recorded."""
        name = name_of(row)
        recorded = (
            request
            for request in self.requests
            if (request.name.message_id, request.name.text) == (name.message_id, name.text)
            and is_still(request.name.birth, request.ticket, row)
            and request.answer.outcome.kind == DELIVERED
        )
        return any(after.attempts[request.attempt]["outcome"] == DELIVERED for request in recorded)

    def has_sent(self, row: Row) -> bool:
        """Return whether a row's text was sent."""
        name = name_of(row)
        return any(request.name == name for request in self.requests)

    def has_moved(self, row: Row) -> bool:
        """Return whether a row's text was also sent for another ticket. Only an operator may decide such a case."""
        id_and_text = row["id"], _text(row)
        return any(
            (request.name.message_id, request.name.text) == id_and_text and request.ticket != str(row["ticket_id"])
            for request in self.requests
        )

    def dropped(self, after: Picture) -> Iterator[str]:
        """Yield the answers that reached a living sender, but are wrongly recorded as `unknown` or not at all."""
        for request in self.requests:
            if not request.answered or request.lapsed or request.sender.killed:
                continue
            outcome = after.attempts[request.attempt]["outcome"]
            if outcome is None or (outcome == UNKNOWN and request.answer.outcome.kind != UNKNOWN):
                yield f"the answer {request.answer.name} to attempt {request.attempt} is recorded as {outcome}"
