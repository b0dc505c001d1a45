"""Claims of a single message, as a probe or from another ticket, and answers recorded while it stays claimed."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import update

from retrycli.domain.message import MessageType, State
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.domain.transition import Claim, Decision, Route, Transition
from retrycli.store.claims import Claims
from retrycli.store.database import Database
from retrycli.store.schema import queue
from tests.store.application import HOUR, MINUTE, NOON, Application
from tests.store.own_tables import PASS, attempt_rows, begin, enrol, queue_rows

OPENED = NOON - HOUR
OTHER = Claim("another-pass", NOON + 40 * MINUTE)
FORBIDDEN = Outcome(OutcomeKind.PERMANENT, 403, "HTTP 403", in_doubt=True)
SUPPLIERS = Route("smtp://mail.example.com", only=frozenset({MessageType.SUPPLIER}))


def waiting(application: Application, database: Database, number: int) -> None:
    """Add due messages with a ticket each. Message 1 has been due for the longest time."""
    application.add_all([{}] * number)
    for each in range(1, number + 1):
        enrol(database, [each], at=NOON - (number - each) * MINUTE)
        set_ticket(database, each, str(11 * each))


def set_ticket(database: Database, message_id: int, ticket: str | None) -> None:
    with database.write() as connection:
        connection.execute(update(queue).where(queue.c.message_id == message_id).values(ticket=ticket))


def probe(claims: Claims, at: datetime, *, answered: bool = True) -> list[int]:
    """Claim the next probe and send it. Release it if it is answered."""
    ids = claims.claim_probe(PASS, NOON, OPENED)
    begin(claims, ids, at=at, probe=True)
    if answered:
        outcome = Outcome(OutcomeKind.TRANSIENT, 503, "HTTP 503")
        claims.results.record(PASS, [Decision(message_id, Transition.released(), outcome) for message_id in ids], at)
    return ids


def settled(message_id: int) -> Decision:
    return Decision(message_id, Transition.released(), FORBIDDEN, timedelta(seconds=2), NOON)


def test_every_message_is_a_probe_once_before_one_repeats(
    application: Application, database: Database, claims: Claims
) -> None:
    waiting(application, database, 3)
    probed = [probe(claims, OPENED + minutes * MINUTE) for minutes in range(1, 8)]
    assert probed == [[1], [2], [3], [1], [2], [3], [1]]


def test_only_probes_since_the_breaker_opened_count(
    application: Application, database: Database, claims: Claims
) -> None:
    waiting(application, database, 2)
    probe(claims, OPENED - MINUTE)
    assert claims.count_probes(1, OPENED) == 0
    assert probe(claims, OPENED) == [1]
    assert claims.count_probes(1, OPENED) == 1
    claims.claim_one(PASS, 2, NOON)
    begin(claims, [2])
    claims.results.record(PASS, [settled(2)], NOON)
    assert claims.count_probes(2, OPENED) == 0, "that was no probe"
    assert claims.claim_probe(PASS, NOON, OPENED) == [2]


def test_a_probe_is_claimed_and_counts_while_it_is_in_flight(
    application: Application, database: Database, claims: Claims
) -> None:
    waiting(application, database, 1)
    assert claims.claim_probe(PASS, NOON - timedelta.resolution, OPENED) == [], "it is not due"
    assert probe(claims, NOON, answered=False) == [1]
    assert claims.count_probes(1, OPENED) == 1
    row = queue_rows(database)[1]
    assert (row["state"], row["claimed_by"]) == (State.SENDING.value, PASS.owner)
    assert claims.claim_probe(OTHER, NOON, OPENED) == []


def test_picks_the_message_that_came_due_last_of_other_tickets(
    application: Application, database: Database, claims: Claims
) -> None:
    waiting(application, database, 5)
    assert claims.claim_elsewhere(PASS, NOON, {"55", "33"}) == [4]
    assert claims.claim_elsewhere(PASS, NOON, {"55", "33"}) == [2]
    assert claims.claim_elsewhere(PASS, NOON - 4 * MINUTE, {"22"}) == [1]
    assert claims.claim_elsewhere(PASS, NOON, {"55", "33"}) == []
    set_ticket(database, 3, None)
    assert claims.claim_elsewhere(PASS, NOON, {"55", "33"}) == [3]


def test_both_pickers_respect_route_and_ticket_order(
    application: Application, database: Database, claims: Claims
) -> None:
    types = ("customer", "customer", "supplier", "customer")
    application.add_all([{"message_type": kind} for kind in types])
    enrol(database, [1, 2, 3, 4])
    set_ticket(database, 4, "22")
    assert claims.claim_elsewhere(PASS, NOON, {"22"}, SUPPLIERS, per_ticket_order=True) == []
    assert claims.claim_probe(PASS, NOON, OPENED, SUPPLIERS, per_ticket_order=True) == []
    assert claims.claim_elsewhere(PASS, NOON, {"22"}, SUPPLIERS) == [3]
    claims.release(PASS, [3])
    assert claims.claim_probe(PASS, NOON, OPENED, SUPPLIERS) == [3]
    assert claims.claim_elsewhere(PASS, NOON, {"22"}, per_ticket_order=True) == [1]


def test_an_answer_is_recorded_and_its_message_stays_claimed(
    application: Application, database: Database, claims: Claims
) -> None:
    """If the pass then dies, the message is not unknown."""
    waiting(application, database, 1)
    claims.claim(PASS, NOON, 1)
    begin(claims, [1])
    held = queue_rows(database)
    with application.watched() as changed:
        claims.results.record_answers(OTHER, [settled(1)], NOON)
        assert attempt_rows(database, 1)[0]["outcome"] is None, "the claim is not theirs"
        claims.results.record_answers(PASS, [settled(1)], NOON)
    assert changed == {}
    assert queue_rows(database) == held
    [row] = attempt_rows(database, 1)
    assert (row["outcome"], row["status_code"], row["finished_at"]) == ("permanent", 403, NOON)
    [lapsed] = claims.take_over_expired(OTHER, PASS.expires_at, 10)
    assert lapsed.attempt_by is None
    claims.results.record(OTHER, [settled(1)._replace(outcome=Outcome(OutcomeKind.REFUSED, 200, "no"))], NOON + MINUTE)
    assert attempt_rows(database, 1) == [row], "what has ended is never rewritten"
