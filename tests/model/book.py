"""The book of the ticketing API: every request with the text that it carried, and the laws of identity.

A message is an id and a birth, and not an id alone. The laws are computed from the requests, from the application's
rows and from the attempts in the database; no code of retrycli's is asked which message or which text is which.
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
"""The maximum of requests that passes make under one key."""
DELIVERED, UNKNOWN = "delivered", "unknown"
ABOUT_THE_MESSAGE = {DELIVERED, UNKNOWN, "refused", "permanent"}
"""Answers that the bound counts: a request that nothing answered, or that was only put off, may be excused."""
LISTS = ("cc_emails", "bcc_emails", "attachments")
TEXT = ("message_type", "recipient_email", "subject", "body", *LISTS)
"""The columns that make the text of a message."""


class Name(NamedTuple):
    """One text of one message."""

    message_id: int
    birth: str
    text: tuple[object, ...]


def name_of(row: Row) -> Name:
    """Name the text that is in a row."""
    return Name(row["id"], _birth(row["created_at"], row["ticket_id"]), _text(row))


def name_in(message: Message) -> Name:
    """Name the text that a request carries."""
    fields = {**message.fields, "message_type": str(message.message_type)}
    return Name(message.id, _birth(message.created_at, message.ticket_id), _text(fields))


def _birth(created_at: object, ticket: object) -> str:
    return f"ticket {ticket}" if created_at is None else time_of(created_at).isoformat()


def _text(fields: Mapping[str, Any]) -> tuple[object, ...]:
    return tuple(_as_list(fields[each]) if each in LISTS else fields[each] for each in TEXT)


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
    """The id of its attempt."""
    name: Name
    ticket: str
    key: str
    answer: Answer
    sender: Sender
    answered: bool = False
    """Whether the sender has the answer."""
    lapsed: bool = False
    """Whether the sender stood still until its claim had expired: another pass ends the attempt."""


@dataclass
class Book:
    """The requests, and what is wrong with them.

    Args:
        asked: asks the database of the application.
    """

    asked: Callable[[str], list[dict[str, Any]]]
    requests: list[Request] = field(default_factory=list)
    _since: dict[int, tuple[int, int]] = field(default_factory=dict)
    """By message id: the number of requests and the newest attempt at its last `requeue`."""
    _named: dict[str, tuple[int, object]] = field(default_factory=dict)
    """By key: the id and the text that it stands for."""
    _keys: dict[tuple[Name, int], str] = field(default_factory=dict)
    """By text and its recorded deliveries: the key."""

    def requeued(self, message_id: int) -> None:
        """Note that an operator gave a message all its attempts back."""
        newest = max((each["id"] for each in self._attempts(message_id)), default=0)
        self._since[message_id] = len(self.requests), newest

    def stood_still(self) -> None:
        """Note that all senders with a request out have lost their claims."""
        for each in self.requests:
            each.lapsed |= not each.answered

    def enter(self, request: Request) -> Iterator[str]:
        """Enter a request that has arrived; what is wrong with it."""
        attempts = self._attempts(request.name.message_id)
        yield from self._broken(request, attempts)
        self.requests.append(request)

    def _broken(self, request: Request, attempts: Sequence[Row]) -> Iterator[str]:
        """Yield the laws that a request breaks. A delivery counts if it was recorded before the request."""
        name, key, by_pass = request.name, request.key, request.sender.by_pass
        outcomes = {each["id"]: each["outcome"] for each in attempts}
        began, newest = self._since.get(name.message_id, (0, 0))
        delivered = [each for each in self.requests if outcomes.get(each.attempt) == DELIVERED]
        if by_pass and any(each.name == name for each in delivered if each in self.requests[began:]):
            yield "a pass sent a text again that is recorded as delivered"
        if any(each.key == key for each in delivered):
            yield "a key was used again after a recorded delivery"
        if self._named.setdefault(key, (name.message_id, name.text)) != (name.message_id, name.text):
            yield f"a key was used for another text: {self._named[key]}, and then {name}"
        deliveries = sum(each.name == name for each in delivered)
        if self._keys.setdefault((name, deliveries), key) != key:
            yield f"a text that was not delivered was sent under another key, after {self._keys[name, deliveries]}"
        if by_pass:
            yield from self._too_often(key, attempts, began, newest)

    def _too_often(self, key: str, attempts: Sequence[Row], began: int, newest: int) -> Iterator[str]:
        """Yield the limits that one more request of a pass under a key breaks."""
        ours = {each.attempt for each in self.requests if each.key == key}
        unknown = [
            each
            for each in attempts
            if (each["id"] in ours or each["delivery_key"] == key)
            and (each["outcome"], each["made_by"]) == (UNKNOWN, "pass")
            and each["id"] > newest
        ]
        if len(unknown) > UNKNOWN_LIMIT:
            yield f"a pass sent it again after {len(unknown)} unknown outcomes under its key"
        made = sum(
            each.key == key and each.sender.by_pass and each.answer.outcome.kind in ABOUT_THE_MESSAGE
            for each in self.requests[began:]
        )
        if made >= BOUND:
            yield f"a pass sent it again after {made} requests under its key"

    def _attempts(self, message_id: int) -> list[dict[str, Any]]:
        return self.asked(f"SELECT * FROM retrycli_attempts WHERE message_id = {message_id} ORDER BY id")

    # -- what a picture shows ---------------------------------------------------------------------------------

    def was_delivered(self, row: Row, after: Picture) -> bool:
        """Whether exactly the text in a row was sent, and its delivery is recorded."""
        name = name_of(row)
        recorded = (each for each in self.requests if each.name == name and each.answer.outcome.kind == DELIVERED)
        return any(after.attempts[each.attempt]["outcome"] == DELIVERED for each in recorded)

    def has_moved(self, row: Row) -> bool:
        """Whether the text in a row was also sent for another ticket: an operator decides about such a message."""
        id_and_text = row["id"], _text(row)
        return any(
            (each.name.message_id, each.name.text) == id_and_text and each.ticket != str(row["ticket_id"])
            for each in self.requests
        )

    def dropped(self, after: Picture) -> Iterator[str]:
        """Yield the answers that a living sender had, and that are not recorded as what they were."""
        for each in self.requests:
            if not each.answered or each.lapsed or each.sender.killed:
                continue
            outcome = after.attempts[each.attempt]["outcome"]
            if outcome is None or (outcome == UNKNOWN and each.answer.outcome.kind != UNKNOWN):
                yield f"the answer {each.answer.name} to attempt {each.attempt} is recorded as {outcome}"
