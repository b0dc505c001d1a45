"""Holds: stored, read with the pause, and left out by every claim and every count of due messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest
from sqlalchemy import select

from retrycli.domain.fair_share import FairShare
from retrycli.domain.message import MessageType
from retrycli.domain.operator_action import OperatorAction
from retrycli.domain.passes import Hold, HoldKind, HoldTarget, Pause, withheld
from retrycli.domain.transition import ActionKind, IdRange, Route, Withheld
from retrycli.store import schema
from retrycli.store.claims import Claims
from retrycli.store.counters import prune
from retrycli.store.database import Database
from retrycli.store.enrolment import Enrolment
from retrycli.store.holds import Holds
from retrycli.store.listing import MessageQueries
from retrycli.store.passes import Ledger
from retrycli.store.summaries import QueueCounts
from tests.store.application import HOUR, MINUTE, NOON, TICKET, Application, naive, opened
from tests.store.own_tables import PASS, enrol, retire

API = "https://tickets.example.com"
MAIL = "smtp://mail.example.com"
HELD, FREE = 1, 2
TICKETS = [str(TICKET + 1), str(TICKET + 2)]
MOMENT = timedelta(microseconds=1)


def a_hold(kind: HoldKind, target: str, *, until: datetime | None = None, birth: str | None = None) -> Hold:
    return Hold(kind, target, NOON, until, "anna", "wrong price", birth)


def to_api(kind: MessageType) -> str:
    return MAIL if kind is MessageType.SUPPLIER else API


def types_to(destination: str) -> list[MessageType]:
    return [kind for kind in MessageType if to_api(kind) == destination]


@pytest.fixture
def holds(database: Database) -> Holds:
    return Holds(database)


HOLDS = {
    HoldKind.MESSAGE: a_hold(HoldKind.MESSAGE, str(HELD)),  # of the default table; see `hold_of`
    HoldKind.TICKET: a_hold(HoldKind.TICKET, str(TICKET + 1)),
    HoldKind.TYPE: a_hold(HoldKind.TYPE, "supplier"),
    HoldKind.DESTINATION: a_hold(HoldKind.DESTINATION, MAIL),
}
"""A hold of each kind that covers message 1 and not message 2."""


def hold_of(kind: HoldKind, application: Application) -> Hold:
    hold = HOLDS[kind]
    return hold._replace(target=str(application.id_of(HELD))) if kind is HoldKind.MESSAGE else hold


@pytest.fixture
def two(application: Application, database: Database) -> None:
    """Add and enrol two due messages. Message 1 has been due for longer."""
    application.add_all([{"ticket_id": TICKET + 1}, {"ticket_id": TICKET + 2, "message_type": "customer"}])
    for message_id, minutes, ticket in ((HELD, 30, TICKET + 1), (FREE, 20, TICKET + 2)):
        enrol(database, [message_id], at=NOON - minutes * MINUTE)
        change = "UPDATE retrycli_queue SET ticket = :ticket WHERE message_id = :id"
        application.sql(change, ticket=str(ticket), id=message_id)


@dataclass(frozen=True)
class Way:
    """A way to claim messages. ``both`` are the messages that it claims if nothing is held."""

    claim: Callable[[Claims, Route], list[int]]
    both: list[int]


WAYS = {
    "claim": Way(lambda claims, route: claims.claim(PASS, NOON, 16, FairShare(16), route), [HELD, FREE]),
    "in order": Way(
        lambda claims, route: claims.claim(PASS, NOON, 16, FairShare(16, per_ticket_order=True), route), [HELD, FREE]
    ),
    "first of ticket": Way(lambda claims, route: claims.claim_first_of(PASS, NOON, TICKETS, route), [HELD, FREE]),
    "probe": Way(lambda claims, route: claims.claim_probe(PASS, NOON, NOON - HOUR, route), [HELD]),
    "elsewhere": Way(lambda claims, route: claims.claim_elsewhere(PASS, NOON, ["7"], route), [FREE]),
}


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [None, *HoldKind])
def test_no_way_claims_a_held_message(
    application: Application, claims: Claims, way: str, kind: HoldKind | None
) -> None:
    wanted = [] if kind is None else [hold_of(kind, application)]
    found = WAYS[way].claim(claims, Route(API, withheld=withheld(wanted, to_api)))
    assert sorted(found) == (WAYS[way].both if kind is None else [FREE])


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("kind", HoldKind)
def test_a_held_message_is_in_no_count_of_due_messages(
    application: Application, database: Database, claims: Claims, kind: HoldKind
) -> None:
    views = MessageQueries(database)
    route = Route("", withheld=withheld([hold_of(kind, application)], to_api))
    assert (claims.count_due(NOON), claims.count_due(NOON, route)) == (2, 1)
    counts = QueueCounts(database).counts(NOON, route)
    assert {state: number for state, number in counts.items() if number} == {"waiting": 2, "due": 1}
    assert [message_id for _, message_id in views.due(NOON, route)] == [FREE]
    assert [message_id for message_id, *_ in views.expiry_facts(NOON, route)] == [FREE]
    assert (views.count_ahead(FREE, NOON), views.count_ahead(FREE, NOON, route)) == (1, 0)
    assert views.count_due_among([HELD, FREE], NOON, route) == 1
    assert claims.any_due(NOON, route)
    both = Withheld(route.withheld.types | {MessageType.CUSTOMER}, route.withheld.tickets, route.withheld.messages)
    assert not claims.any_due(NOON, Route(API, withheld=both))


@pytest.mark.usefixtures("two")
def test_a_hold_of_a_type_applies_within_a_route_of_types(claims: Claims) -> None:
    supplier = frozenset({MessageType.SUPPLIER})
    covered = withheld([HOLDS[HoldKind.TYPE]], to_api)
    assert not claims.any_due(NOON, Route(MAIL, only=supplier, withheld=covered))
    assert claims.claim(PASS, NOON, 16, None, Route(API, but=supplier, withheld=covered)) == [FREE]


def test_a_hold_of_a_ticket_covers_a_message_that_the_application_has_just_moved_there(
    application: Application, database: Database, claims: Claims
) -> None:
    """The queue keeps the old ticket until a pass compares the rows."""
    moved, left, without = application.add_all([{}, {"ticket_id": TICKET + 1}, {}])
    enrol(database, [moved, left, without])
    application.change(moved, ticket_id=TICKET + 1)
    application.change(left, ticket_id=TICKET + 2)
    application.change(without, ticket_id=None)
    route = Route(API, withheld=withheld([HOLDS[HoldKind.TICKET]], to_api))
    assert claims.claim(PASS, NOON, 16, None, route) == [left, without]


def test_a_held_first_message_of_a_ticket_holds_back_the_later_ones(
    application: Application, database: Database, claims: Claims
) -> None:
    enrol(database, application.add_all([{}, {}]))
    route = Route(API, withheld=withheld([hold_of(HoldKind.MESSAGE, application)], to_api))
    assert claims.claim(PASS, NOON, 16, FairShare(16, per_ticket_order=True), route) == []
    assert claims.claim_first_of(PASS, NOON, [str(TICKET)], route) == []
    assert claims.claim_probe(PASS, NOON, NOON - HOUR, route, per_ticket_order=True) == []
    assert claims.claim_elsewhere(PASS, NOON, ["7"], route, per_ticket_order=True) == []
    assert claims.claim(PASS, NOON, 16, FairShare(16), route) == [2]


# -- stored holds ----------------------------------------------------------------------------------------------------


def test_a_pause_and_holds_are_read_together_and_end_at_their_times(ledger: Ledger, holds: Holds) -> None:
    """The oldest hold comes first. A hold replaces an earlier one of the same part only."""
    first = a_hold(HoldKind.TICKET, "17", until=NOON + 2 * HOUR)
    newer = a_hold(HoldKind.TYPE, "internal")._replace(since=NOON + HOUR)
    holds.begin([newer, first], {})
    paused = Pause(NOON, NOON + HOUR, "bob", None)
    ledger.set_pause(paused)
    assert ledger.pause_and_holds(NOON) == (paused, (first, newer))
    assert ledger.pause_and_holds(NOON + HOUR) == (None, (first, newer))
    again = first._replace(until=NOON + 3 * HOUR, by="bob")
    holds.begin([again], {first.part: first})
    holds.begin([], {})
    assert ledger.pause_and_holds(NOON + 3 * HOUR - MOMENT) == (None, (again, newer))
    assert ledger.pause_and_holds(NOON + 3 * HOUR) == (None, (newer,))


def test_only_the_named_holds_end_and_the_history_keeps_all(
    application: Application, ledger: Ledger, holds: Holds
) -> None:
    name = str(application.id_of(application.add(id=17)))
    ticket, message = a_hold(HoldKind.TICKET, "17"), a_hold(HoldKind.MESSAGE, name, until=NOON + HOUR)
    holds.begin([ticket, message], {})
    act = OperatorAction(ActionKind.RESUMED, "bob", NOON)
    holds.end([], [], act)
    holds.end([message], [message.part, HoldTarget(HoldKind.TYPE, "internal")], act)
    assert ledger.pause_and_holds(NOON) == (None, (ticket,))
    rows = ledger._database.rows(select(schema.acts).order_by(schema.acts.c.id))
    held = f"message {name} until 2025-03-03T13:00:00Z: wrong price"
    ended = f"the hold of message {name} by anna until 2025-03-03T13:00:00Z: wrong price"
    assert [(row.message_id, row.by, row.act, row.detail) for row in rows] == [
        (None, "anna", "held", "ticket 17 until resumed: wrong price"),
        (None, "anna", "held", held),
        (17, "anna", "held", held),
        (None, "bob", "resumed", ended),
        (17, "bob", "resumed", ended),
    ]


def test_a_hold_of_a_kind_that_only_a_newer_version_knows_is_ignored(
    application: Application, ledger: Ledger, holds: Holds
) -> None:
    holds.begin([a_hold(HoldKind.TICKET, "17")], {})
    application.sql("UPDATE retrycli_holds SET kind = 'moon'")
    assert ledger.pause_and_holds(NOON) == (None, ())


@pytest.mark.parametrize("target", ["tea", "1e3", "", "99999999999999999999", "-9223372036854775808", "0x11", "１７"])
def test_a_hold_of_a_message_whose_id_is_no_number_of_the_table_covers_nothing(
    application: Application, database: Database, holds: Holds, target: str
) -> None:
    enrol(database, [application.add()])
    holds.begin([a_hold(HoldKind.MESSAGE, target)], {})
    found = Ledger(database).pause_and_holds(NOON)[1]
    assert Claims(database).count_due(NOON, Route("", withheld=withheld(found, to_api))) == 1
    assert holds.count_waiting(found, types_to) == [0]


def test_a_hold_does_not_cover_a_later_message_with_the_same_id(
    application: Application, database: Database, ledger: Ledger, holds: Holds
) -> None:
    """SQLite gives the id of a deleted row to a new row."""
    message_id = application.add()
    enrol(database, [message_id])
    name = str(application.id_of(message_id))
    hold = a_hold(HoldKind.MESSAGE, name, birth=holds.births([message_id])[message_id])
    holds.begin([hold], {})
    application.change(message_id, subject="Re: tea", retry_count=3)
    assert ledger.pause_and_holds(NOON)[1] == (hold,), "the same message, edited"
    retire(Enrolment(database), IdRange(None, None))
    application.change(message_id, status="sent")
    retire(Enrolment(database), IdRange(None, None))
    assert ledger.pause_and_holds(NOON)[1] == (hold,), "the message is not queued, but may fail again"
    application.change(message_id, status="failed", created_at=naive(NOON - MINUTE))
    enrol(database, [message_id])
    assert ledger.pause_and_holds(NOON)[1] == ()


def test_a_hold_stays_if_the_application_writes_times_in_another_format(loose_application: Application) -> None:
    loose_application.sql("ALTER TABLE pending_messages ADD COLUMN created_at TEXT")
    loose_application.add()
    loose_application.sql("UPDATE pending_messages SET created_at = '2025-03-03T09:00:00Z'")
    with opened(loose_application) as database:
        enrol(database, [1])
        Holds(database).begin([a_hold(HoldKind.MESSAGE, "1", birth="2025-03-03 09:00:00.000000")], {})
        assert len(Ledger(database).pause_and_holds(NOON)[1]) == 1


def test_in_a_table_without_creation_times_a_hold_stays_if_the_message_moves_to_another_ticket(
    bare_application: Application,
) -> None:
    bare_application.add()
    with opened(bare_application) as database:
        enrol(database, [1])
        holds = Holds(database)
        holds.begin([a_hold(HoldKind.MESSAGE, "1", birth=holds.births([1])[1])], {})
        bare_application.sql("UPDATE retrycli_queue SET birth = 'ticket 7'")
        assert len(Ledger(database).pause_and_holds(NOON)[1]) == 1


def test_counts_the_waiting_messages_of_each_hold(
    application: Application, database: Database, claims: Claims, holds: Holds
) -> None:
    """Messages that the next pass will enrol count; sent, escalated and claimed ones do not."""
    to_customers: dict[str, object] = {"message_type": "customer"}
    elsewhere: dict[str, object] = {"ticket_id": TICKET + 1}
    rows = [{}, elsewhere, to_customers, to_customers, to_customers | {"status": "sent"}]
    ids = application.add_all(rows)
    enrol(database, [2, 3])
    application.sql("UPDATE retrycli_queue SET state = 'escalated' WHERE message_id = 3")
    claims.claim(PASS, NOON, 1)
    wanted = [
        *(a_hold(HoldKind.MESSAGE, str(application.id_of(message_id))) for message_id in ids),
        a_hold(HoldKind.TICKET, str(TICKET)),
        a_hold(HoldKind.TYPE, "supplier"),
        a_hold(HoldKind.TYPE, "internal"),
        a_hold(HoldKind.DESTINATION, API),
        a_hold(HoldKind.DESTINATION, "https://elsewhere.example.com"),
    ]
    assert holds.count_waiting(wanted, types_to) == [1, 0, 0, 1, 0, 2, 1, 0, 1, 0]
    assert holds.count_waiting([], types_to) == []


def test_pruning_deletes_holds_that_ended_long_ago(application: Application, ledger: Ledger, holds: Holds) -> None:
    ends = {"1": NOON - HOUR, "2": NOON + HOUR, "3": None}
    holds.begin([a_hold(HoldKind.TICKET, ticket, until=until) for ticket, until in ends.items()], {})
    prune(ledger._database, NOON, 100)
    left = application.asked("SELECT target FROM retrycli_holds ORDER BY target")
    assert [row["target"] for row in left] == ["2", "3"]
