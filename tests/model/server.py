"""A ticketing API and a gateway to it. The API answers as a script says, and records its requests.

`Server` checks each request over a connection of the application, so an uncommitted attempt counts as missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING

from retrycli.domain.outcome import LookUp, Outcome, OutcomeKind, Presence
from retrycli.domain.passes import HoldKind
from retrycli.domain.transition import Overdue
from tests import fakes
from tests.model.book import Book, Request, name_in
from tests.model.picture import time_of

if TYPE_CHECKING:
    from retrycli.domain.message import QueuedMessage
    from retrycli.domain.passes import Hold
    from tests.fakes import Clock
    from tests.store.application import Application


class Answer(Enum):
    """A reaction of the API to a request: the outcome, and whether the API has stored the message."""

    TAKEN = (fakes.DELIVERED, True)
    REFUSED = (fakes.REFUSED, False)
    LOST = (fakes.LOST, False)
    TAKEN_AND_LOST = (Outcome(OutcomeKind.UNKNOWN, error="the connection broke"), True)
    DOWN = (fakes.DOWN, False)
    DOWN_FOR_LONG = (Outcome(OutcomeKind.TRANSIENT, 503, "HTTP 503", timedelta(hours=2)), False)
    CUT_OFF = (fakes.CUT_OFF, False)
    THROTTLED = (fakes.THROTTLED, False)
    THROTTLED_FOR_LONG = (Outcome(OutcomeKind.THROTTLED, 429, "HTTP 429", timedelta(hours=5)), False)
    UNAUTHORIZED = (fakes.UNAUTHORIZED, False)
    FORBIDDEN = (fakes.FORBIDDEN, False)
    NOT_FOUND = (fakes.NOT_FOUND, False)

    @property
    def outcome(self) -> Outcome:
        return self.value[0]

    @property
    def stored(self) -> bool:
        return self.value[1]


@dataclass
class Sender:
    """A process that sends, and the limits that its requests must obey."""

    by_pass: bool
    due_by: datetime | None = None
    """The time by which every message that it sends must be due."""
    paused: bool = False
    holds: Sequence[Hold] = ()
    """The holds that are active when its pass starts."""
    per_ticket_order: bool = False
    limit: int | None = None
    requests: int = 0
    killed: bool = False


@dataclass
class Server:
    """The API, with its book of requests and the violations that it saw.

    Args:
        application: the owner of the database.
        clock: the clock of the place.
    """

    application: Application
    clock: Clock
    broken: list[str] = field(default_factory=list)
    takes: timedelta = timedelta(seconds=1)
    """The duration of a request."""
    on_answer: Callable[[Request], None] = lambda _: None
    """Called at the end of each request, before its sender knows the answer. The application may write to its rows."""

    def __post_init__(self) -> None:
        self.book = Book(self.application.asked)

    def receive(self, queued: QueuedMessage, answer: Answer, sender: Sender) -> Request:
        """Check and record a request."""
        sender.requests += 1
        under_way = self._look_at_the_attempt(queued)
        self._look_at_the_queue(queued, sender)
        if sender.paused:
            self._object(queued, "a pass sent while deliveries were paused")
        active = [hold for hold in sender.holds if hold.until is None or hold.until > self.clock.now]
        # The pass enrols a reused id as a new message, which the hold of the message that had the id does not cover.
        of_it = [hold for hold in active if hold.kind is not HoldKind.MESSAGE or hold.is_of(queued.birth)]
        if any(_is_covered(queued, hold) for hold in of_it):
            self._object(queued, "a pass sent a held message")
        if sender.limit is not None and sender.requests > sender.limit:
            self._object(queued, f"a pass sent more than its limit of {sender.limit}")
        ticket = str(queued.ticket_id)
        request = Request(under_way, name_in(queued.message), ticket, queued.delivery_key, answer, sender)
        for complaint in self.book.enter(request):
            self._object(queued, complaint)
        return request

    def _look_at_the_attempt(self, queued: QueuedMessage) -> int:
        """Check that a request's attempt was committed before the request; return the attempt's id."""
        under_way = self.application.asked(
            "SELECT id, number FROM retrycli_attempts"
            f" WHERE message_id = {int(queued.message_id)} AND outcome IS NULL ORDER BY id"
        )
        numbers = [entry["number"] for entry in under_way]
        if numbers != [queued.attempt_number]:
            self._object(queued, f"a request went out as attempt {queued.attempt_number}, under way are {numbers}")
        return int(under_way[-1]["id"]) if under_way else 0

    def _look_at_the_queue(self, queued: QueuedMessage, sender: Sender) -> None:
        row = self.application.asked(
            "SELECT q.*, m.status, (SELECT count(*) FROM retrycli_queue AS e WHERE e.ticket = q.ticket"
            " AND e.message_id < q.message_id AND e.state <> 'escalated') AS earlier"
            " FROM retrycli_queue AS q JOIN pending_messages AS m ON m.id = q.message_id"
            f" WHERE q.message_id = {int(queued.message_id)}"
        )
        if not row or row[0]["state"] != "sending" or row[0]["claimed_by"] is None:
            self._object(queued, "a request went out without a claim")
        elif row[0]["status"] != "failed":
            self._object(queued, f"a message was sent that is {row[0]['status']}")
        elif sender.by_pass and row[0]["escalated_at"] is not None:
            self._object(queued, "a pass sent an escalated message")
        elif sender.due_by is not None and time_of(row[0]["next_attempt_at"]) > sender.due_by:
            self._object(queued, "a pass sent a message that was not due")
        elif sender.per_ticket_order and row[0]["earlier"]:
            self._object(queued, "a request went out before an earlier message of its ticket was seen to")

    def _object(self, queued: QueuedMessage, what: str) -> None:
        self.broken.append(f"message {queued.message_id}: {what}")


def _is_covered(queued: QueuedMessage, hold: Hold) -> bool:
    """Return whether a hold covers a message. It does not call `withheld`, so that it does not repeat its errors."""
    of_message = {
        HoldKind.MESSAGE: queued.message_id,
        HoldKind.TICKET: queued.ticket_id,
        HoldKind.TYPE: queued.message.message_type.value,
    }
    return hold.target == str(of_message[hold.kind])


@dataclass
class ScriptedGateway:
    """A gateway to the API. The answers come in turn, and the last one repeats.

    Args:
        server: the API.
        answers: the API's answers.
        sender: the process of the gateway.
        interfere: called during the first request, with the id of its message.
        a_call: counts a delivery as a call, at which the sender may die.
    """

    server: Server
    answers: Sequence[Answer]
    sender: Sender
    interfere: Callable[[int], None] | None
    a_call: Callable[[], AbstractContextManager[None]]
    overdue: Sequence[Overdue] = ()

    async def deliver(self, queued: QueuedMessage) -> Outcome:
        with self.a_call():
            answer = self.answers[min(self.sender.requests, len(self.answers) - 1)]
            request = self.server.receive(queued, answer, self.sender)
            await asyncio.sleep(0)  # an HTTP request suspends here too, so that other requests can begin
            self.server.clock.now += self.server.takes
            interfere, self.interfere = self.interfere, None
            if interfere is not None:
                interfere(queued.message_id)
            self.server.on_answer(request)
        request.answered = True
        return answer.outcome

    async def look_up(self, queued: QueuedMessage) -> LookUp:
        """Return an unknown presence, because this API has no look-up."""
        del queued
        return LookUp(Presence.UNKNOWN, "no look-up")
