"""Claims in the order of tickets, renewed claims, and the state that hosts share."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from retrycli.domain.circuit_breaker import Breaker, BreakerState
from retrycli.domain.fair_share import FairShare
from retrycli.domain.message import MessageType
from retrycli.domain.transition import Claim, Decision, IdRange, Route, Transition
from tests.store.application import HOUR, MINUTE, NOON, TICKET, naive
from tests.store.own_tables import FAILED_AT, PASS, enrol, queue_rows, retire

if TYPE_CHECKING:
    from retrycli.store.claims import Claims
    from retrycli.store.database import Database
    from retrycli.store.enrolment import Enrolment
    from retrycli.store.passes import Ledger
    from tests.store.application import Application

API = "https://tickets.example.com"
OPEN = Breaker(API, BreakerState.OPEN, 5, opened_at=NOON - HOUR, probe_at=NOON)
SECOND = timedelta(seconds=1)
SEVEN, EIGHT, NINE = TICKET, TICKET + 1, TICKET + 2
IN_ORDER = FairShare(16, per_ticket_order=True)


@pytest.fixture(autouse=True)
def _messages(application: Application) -> None:
    """Add six failed messages that are not in the queue."""
    application.add_all([{}] * 6)


def wait(enrolment: Enrolment, *tickets: int | str, at: datetime = NOON) -> None:
    """Enrol messages 1, 2, … with one ticket each, due at `at`."""
    entries = [
        (Decision(message_id, Transition.enrolled(at)), FAILED_AT, ticket)
        for message_id, ticket in enumerate(tickets, 1)
    ]
    enrolment.enrol(entries, NOON - HOUR)


def move(application: Application, *tickets: int) -> None:
    """Move messages 1, 2, … to one ticket each, as an application does when it merges tickets."""
    for message_id, ticket in enumerate(tickets, 1):
        application.change(message_id, ticket_id=ticket)


def tickets_in_queue(database: Database) -> list[str]:
    return [row["ticket"] for _, row in sorted(queue_rows(database).items())]


def test_merged_tickets_are_ordered_by_id(application: Application, enrolment: Enrolment, claims: Claims) -> None:
    wait(enrolment, SEVEN, EIGHT, NINE, EIGHT)
    move(application, SEVEN, SEVEN, NINE, SEVEN)
    assert retire(enrolment, IdRange(None, None)) == 0
    assert claims.claim(PASS, NOON, 16, IN_ORDER) == [1, 3]


def test_a_message_being_sent_keeps_its_claim_and_delays_its_merged_ticket(
    application: Application, database: Database, enrolment: Enrolment, claims: Claims
) -> None:
    wait(enrolment, SEVEN, EIGHT)
    assert claims.claim(PASS, NOON, 1) == [1]
    before = queue_rows(database)[1]
    move(application, EIGHT, EIGHT)
    assert retire(enrolment, IdRange(None, None)) == 0
    assert queue_rows(database)[1] == {**before, "ticket": str(EIGHT)}
    assert claims.claim(PASS, NOON, 16, IN_ORDER) == []


def test_a_message_locked_by_another_pass_is_not_awaited(
    application: Application, database: Database, enrolment: Enrolment
) -> None:
    """Waiting could deadlock with the other pass, so the next sweep updates the ticket."""
    wait(enrolment, SEVEN, EIGHT)
    move(application, NINE, NINE)
    if not database.is_sqlite:
        with database.write() as connection:
            connection.exec_driver_sql("SELECT 1 FROM retrycli_queue WHERE message_id = 1 FOR UPDATE")
            enrolment.retire(IdRange(None, None))
        assert tickets_in_queue(database) == [str(SEVEN), str(NINE)]
    enrolment.retire(IdRange(None, None))
    assert tickets_in_queue(database) == [str(NINE), str(NINE)]


def test_a_message_that_reuses_an_id_in_flight_does_not_change_its_ticket(
    application: Application, database: Database, enrolment: Enrolment, claims: Claims
) -> None:
    wait(enrolment, SEVEN)
    assert claims.claim(PASS, NOON, 1) == [1]
    application.change(1, ticket_id=EIGHT, created_at=naive(NOON))
    enrolment.retire(IdRange(None, None))
    assert tickets_in_queue(database) == [str(SEVEN)]


def test_skipped_tickets_are_not_claimed(application: Application, enrolment: Enrolment, claims: Claims) -> None:
    """A message without a ticket is never skipped."""
    wait(enrolment, 7, 7, 7, 8, "AB-9", 7)
    turns = FairShare(16)
    assert claims.claim(PASS, NOON, 16, turns) == [1, 2, 4, 5]
    assert claims.claim(PASS, NOON, 16, turns) == []
    application.sql("UPDATE retrycli_queue SET ticket = NULL WHERE message_id = 3")
    assert claims.claim(PASS, NOON, 16, turns) == [3]
    assert turns.widen()
    assert claims.claim(PASS, NOON, 16, turns) == [6]


def test_in_order_only_the_first_message_of_a_ticket_is_claimed(enrolment: Enrolment, claims: Claims) -> None:
    wait(enrolment, 7, 8, 7, 8, 9, 7)
    assert claims.claim(PASS, NOON, 16, IN_ORDER) == [1, 2, 5]
    assert claims.claim(PASS, NOON, 16, IN_ORDER) == [], "those before them are being sent"


@pytest.mark.parametrize(
    "transition", [Transition.delivered(), Transition.invalid("no body")], ids=["sent", "escalated"]
)
def test_the_next_message_of_a_ticket_follows_after_the_previous_one(
    enrolment: Enrolment, claims: Claims, transition: Transition
) -> None:
    wait(enrolment, 7, 7, 7, 8, 8, 8)
    assert claims.claim(PASS, NOON, 16, IN_ORDER) == [1, 4]
    claims.results.record(PASS, [Decision(1, transition)], NOON)
    assert claims.claim_first_of(PASS, NOON, {"8", "9"}) == []
    assert claims.claim_first_of(PASS, NOON, {"7", "8"}) == [2]


def test_the_first_message_of_a_ticket_is_not_claimed_before_it_is_due(enrolment: Enrolment, claims: Claims) -> None:
    wait(enrolment, 7, 7, at=NOON + MINUTE)
    assert claims.claim_first_of(PASS, NOON, {"7"}) == []
    assert claims.claim_first_of(PASS, NOON + MINUTE, {"7"}) == [1]


def test_only_the_own_claims_are_renewed(database: Database, claims: Claims) -> None:
    enrol(database, [1, 2])
    claims.claim(PASS, NOON, 1)
    before = queue_rows(database)
    longer = Claim(PASS.owner, PASS.expires_at + HOUR)
    claims.renew(longer)
    assert queue_rows(database) == {1: before[1] | {"claim_expires_at": longer.expires_at}, 2: before[2]}
    other = Claim("another", NOON + 9 * HOUR)
    assert claims.take_over_expired(other, PASS.expires_at, 9) == []
    assert len(claims.take_over_expired(other, longer.expires_at, 9)) == 1
    lost = queue_rows(database)
    claims.renew(Claim(PASS.owner, NOON + 99 * HOUR))
    assert queue_rows(database) == lost


def test_only_one_claim_gets_the_probe(ledger: Ledger) -> None:
    ledger.save_breaker(OPEN)
    until = NOON + MINUTE
    assert ledger.take_probe(OPEN, until)
    assert not ledger.take_probe(OPEN, until)
    assert ledger.breaker(API) == Breaker(API, BreakerState.OPEN, 5, opened_at=NOON - HOUR, probe_at=until)
    ledger.save_breaker(Breaker(API))
    assert not ledger.take_probe(OPEN, until), "a healthy destination offers no probe"


def test_turns_are_one_interval_apart_across_hosts(ledger: Ledger) -> None:
    """A turn that comes too late is left to others, and an unused one is not made up for."""
    turns = [ledger.take_turn(API, NOON, SECOND, NOON + HOUR) for _ in range(3)]
    assert turns == [NOON, NOON + SECOND, NOON + 2 * SECOND]
    assert ledger.take_turn("https://elsewhere.example", NOON, SECOND, NOON + HOUR) == NOON
    assert ledger.take_turn(API, NOON, SECOND, NOON + 3 * SECOND) == NOON + 3 * SECOND
    assert ledger.take_turn(API, NOON, SECOND, NOON + HOUR) == NOON + 3 * SECOND
    later = NOON + 30 * SECOND
    assert [ledger.take_turn(API, later, SECOND, NOON + HOUR) for _ in range(2)] == [later, later + SECOND]


def test_a_route_has_its_own_messages_and_one_route_has_the_rest(
    application: Application, enrolment: Enrolment, claims: Claims
) -> None:
    wait(enrolment, 1, 2, 3, 4, 5, 6)
    for message_id, kind in enumerate(["customer", "supplier", "customer", "internal", "supplier"], 1):
        application.change(message_id, message_type=kind)
    application.delete(6)
    mail = frozenset({MessageType.SUPPLIER})
    assert claims.any_due(NOON, Route(API, only=mail))
    assert not claims.any_due(NOON - HOUR, Route(API, only=mail))
    assert claims.claim(PASS, NOON, 16, route=Route(API, only=mail)) == [2, 5]
    assert not claims.any_due(NOON, Route(API, only=mail)), "all of them are being sent"
    assert claims.claim(PASS, NOON, 16, route=Route(API, but=mail)) == [1, 3, 4, 6], "what is deleted is dropped there"


def test_ticket_order_only_applies_within_a_route(
    application: Application, enrolment: Enrolment, claims: Claims
) -> None:
    wait(enrolment, 7, 8)
    application.change(1, message_type="customer")
    application.change(2, message_type="supplier")
    route = Route(API, but=frozenset({MessageType.SUPPLIER}))
    assert claims.claim_first_of(PASS, NOON, {"7", "8"}, route) == [1]
