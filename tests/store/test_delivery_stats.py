"""The statistics of attempts and passes: each figure, its limits, and unusual data."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import insert

from retrycli.domain.delivery_stats import FailureCause, Group, GroupBy, Outage, PassMark, Slice
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.domain.transition import Decision, Transition
from retrycli.store import schema
from retrycli.store.claims import Claims
from retrycli.store.delivery_stats import MAX_TEXTS, Statistics, first_id
from tests.store.application import HOUR, MINUTE, NOON, TICKET, Application
from tests.store.conftest import on_default_table
from tests.store.own_tables import PASS, attempt_rows, begin, enrol

if TYPE_CHECKING:
    from retrycli.store.database import Database

DAY = timedelta(days=1)
WEEK = 7 * DAY


@pytest.fixture
def statistics(database: Database) -> Statistics:
    return Statistics(database)


def attempt(
    database: Database, at: datetime, outcome: str | None = "delivered", message_id: int = 1, **columns: object
) -> None:
    """Add an attempt that began at `at`. It is unfinished if `outcome` is None."""
    row: dict[str, Any] = {
        "message_id": message_id,
        "pass_id": "the-pass",
        "number": 1,
        "made_by": "pass",
        "started_at": at,
        "finished_at": None if outcome is None else at + timedelta(seconds=1),
        "outcome": outcome,
        "waited_s": 900,
    }
    with database.write() as connection:
        connection.execute(insert(schema.attempts).values(row | columns))


def passes(database: Database, *told: tuple[datetime, str | None, str | None, int]) -> None:
    """Add passes, given by their start, result, reason and number of sent messages."""
    nothing = dict.fromkeys(("rescheduled", "escalated", "unknown", "released"), 0)
    rows = [
        {
            "id": f"pass-{number}",
            "host": "mill",
            "pid": 7,
            "started_at": at,
            "heartbeat_at": at,
            "result": result,
            "reason": reason,
            "sent": sent,
        }
        | nothing
        for number, (at, result, reason, sent) in enumerate(told)
    ]
    with database.write() as connection:
        connection.execute(insert(schema.passes), rows)


# -- attempts over time ----------------------------------------------------------------------------------------------


def test_without_any_history_all_figures_are_empty(statistics: Statistics) -> None:
    found = statistics.figures(NOON - WEEK, NOON)
    assert (found.attempts, found.delivered, found.outcomes, found.tries, found.waits) == (0, 0, {}, {}, {})
    assert (list(found.slices), list(found.troubles), list(found.outages)) == ([], [], [])
    assert statistics.first_and_last_pass() == (None, None)
    assert [statistics.groups(by, NOON - WEEK, limit=9) for by in GroupBy if by is not GroupBy.ERROR] == [[]] * 4


@pytest.mark.parametrize(
    ("span", "unit", "first", "second"),
    [
        (DAY, 10 * MINUTE, NOON - 3 * HOUR + 20 * MINUTE, NOON - 3 * HOUR + 30 * MINUTE),
        (WEEK, HOUR, NOON - 3 * HOUR, NOON - 3 * HOUR),
        (90 * DAY, DAY, NOON - 12 * HOUR, NOON - 12 * HOUR),
    ],
)
def test_attempts_are_counted_in_aligned_time_slices(
    database: Database, statistics: Statistics, span: timedelta, unit: timedelta, first: datetime, second: datetime
) -> None:
    """Slices must have the same edges on every engine, to the microsecond."""
    edge = NOON - 3 * HOUR + 30 * MINUTE
    attempt(database, edge - timedelta(microseconds=1))
    attempt(database, edge, "transient", error="HTTP 503")
    attempt(database, edge + timedelta(microseconds=1))
    found = statistics.figures(NOON - span, NOON)
    assert found.unit == unit
    counted = {(each.at, each.outcome): each.attempts for each in found.slices}
    expected = {(first, "delivered"): 0, (second, "delivered"): 0, (second, "transient"): 1}
    expected[first, "delivered"] += 1
    expected[second, "delivered"] += 1
    assert counted == expected
    assert found.outcomes == {"delivered": 2, "transient": 1}


def test_an_unfinished_attempt_is_in_progress(database: Database, statistics: Statistics) -> None:
    """An attempt without an outcome is neither an error nor a delivery."""
    attempt(database, NOON - HOUR, None)
    found = statistics.figures(NOON - WEEK, NOON)
    assert list(found.slices) == [Slice(NOON - HOUR, "under way", 1)]
    assert (found.attempts, found.delivered, list(found.troubles)) == (1, 0, [])
    assert statistics.groups(GroupBy.OUTCOME, NOON - WEEK, limit=9) == [Group("under way", 1, 0)]


def test_only_attempts_since_the_given_time_count(database: Database, statistics: Statistics) -> None:
    """The clocks of two hosts may differ, so ids need not be in the order of time."""
    for days in (30, 8, 1, 9, 6):
        attempt(database, NOON - days * DAY, number=days)
    assert statistics.figures(NOON - WEEK, NOON).tries == {1: 1, 6: 1}
    assert statistics.figures(NOON - 8 * DAY, NOON).tries == {1: 1, 6: 1, 8: 1}
    assert statistics.figures(NOON - 40 * DAY, NOON).delivered == 5


@pytest.mark.parametrize("gap", [1, 2, 7])
def test_the_first_attempt_since_a_time_is_found_without_reading_all(database: Database, gap: int) -> None:
    """Pruning leaves gaps between the ids."""
    ids = [3 + gap * number for number in range(20)]
    for number, message_id in enumerate(ids):
        attempt(database, NOON + number * HOUR, id=message_id)
    with database.read() as connection:
        found = [first_id(connection, NOON + (number - 0.5) * HOUR) for number in range(20)]
        # An id in the gap before the attempt is correct too. A later id would miss the attempt.
        assert all(before < got <= message_id for before, got, message_id in zip([0, *ids], found, ids, strict=False))
        assert first_id(connection, NOON + 99 * HOUR) > ids[-2]


# -- deliveries ------------------------------------------------------------------------------------------------------


def test_deliveries_are_counted_by_attempts_and_by_minutes_waited(database: Database, statistics: Statistics) -> None:
    for number, waited in ((1, 899), (1, 900), (2, 959), (11, 86_400), (2, None)):
        attempt(database, NOON - HOUR, number=number, waited_s=waited)
    attempt(database, NOON - HOUR, "refused", number=5, error="no")
    found = statistics.figures(NOON - WEEK, NOON)
    assert found.tries == {1: 2, 2: 2, 11: 1}
    assert found.waits == {14: 1, 15: 2, 1440: 1}


def test_an_attempt_has_the_time_since_its_messages_first_failure(
    application: Application, database: Database, statistics: Statistics
) -> None:
    """After an outage, a first attempt may be late, so the number of attempts does not show the wait."""
    application.add_all([{}, {}])
    enrol(database, [1], failed_at=NOON - 9 * HOUR)
    enrol(database, [2], failed_at=NOON + HOUR)
    claims = Claims(database)
    assert claims.claim(PASS, NOON, 9) == [1, 2]
    begin(claims, [1, 2])
    done = Outcome(OutcomeKind.DELIVERED, 200)
    claims.results.record(
        PASS, [Decision(message_id, Transition.delivered(), done, finished_at=NOON) for message_id in (1, 2)], NOON
    )
    assert [attempt_rows(database, message_id)[0]["waited_s"] for message_id in (1, 2)] == [9 * 3600, 0]
    assert statistics.figures(NOON - WEEK, NOON).waits == {540: 1, 0: 1}


# -- errors ----------------------------------------------------------------------------------------------------------


def test_errors_are_counted_by_cause_most_frequent_first(database: Database, statistics: Statistics) -> None:
    for minutes in (2, 1, 0):
        attempt(database, NOON - minutes * MINUTE, "permanent", status_code=422, error=f"HTTP 422: no ticket {minutes}")
    attempt(database, NOON - HOUR, "transient", status_code=422, error="HTTP 422: no ticket 1")
    for person in ("ana", "zoe"):
        attempt(database, NOON - 3 * HOUR, "refused", status_code=200, error=f"refused: {person}@example.com is away")
    attempt(database, NOON - 2 * HOUR, "unknown", error=None)
    found = statistics.figures(NOON - WEEK, NOON)
    assert list(found.troubles) == [
        FailureCause("permanent", 422, "HTTP 422: no ticket …", 3, NOON),
        FailureCause("refused", 200, "refused: … is away", 2, NOON - 3 * HOUR),
        FailureCause("transient", 422, "HTTP 422: no ticket …", 1, NOON - HOUR),
        FailureCause("unknown", None, "", 1, NOON - 2 * HOUR),
    ]


@on_default_table
def test_more_errors_than_are_read_are_counted_if_they_differ_only_in_digits(
    database: Database, statistics: Statistics
) -> None:
    with database.write() as connection:
        rows = [
            {
                "message_id": 1,
                "number": 1,
                "made_by": "pass",
                "started_at": NOON - HOUR,
                "finished_at": NOON,
                "outcome": "transient",
                "error": f"no ticket {number}",
            }
            for number in range(MAX_TEXTS + 1)
        ]
        connection.execute(insert(schema.attempts), rows)
    [found] = statistics.figures(NOON - WEEK, NOON).troubles
    assert found == FailureCause("transient", None, "no ticket …", MAX_TEXTS + 1, NOON - HOUR)


# -- groups ----------------------------------------------------------------------------------------------------------


def test_attempts_are_grouped_by_shared_properties(
    application: Application, database: Database, statistics: Statistics
) -> None:
    application.add_all([{}, {"message_type": "customer", "ticket_id": TICKET + 1}])
    for message_id, hours, outcome in ((1, 1, "delivered"), (1, 2, "refused"), (2, 2, None), (99, 2, "delivered")):
        attempt(database, NOON - hours * HOUR, outcome, message_id, error="no")
    attempt(database, NOON - HOUR + MINUTE, "refused", 1, error="no")

    def found(by: GroupBy, limit: int = 9) -> list[Group]:
        return statistics.groups(by, NOON - WEEK, limit=limit)

    assert set(found(GroupBy.TYPE)) == {Group("supplier", 3, 1), Group("customer", 1, 0), Group(None, 1, 1)}
    assert set(found(GroupBy.TICKET)) == {Group(str(TICKET), 3, 1), Group(str(TICKET + 1), 1, 0), Group(None, 1, 1)}
    assert found(GroupBy.TICKET, limit=1) == [Group(str(TICKET), 3, 1)]
    assert found(GroupBy.HOUR) == [Group(NOON - 2 * HOUR, 3, 1), Group(NOON - HOUR, 2, 1)]
    assert found(GroupBy.OUTCOME) == [Group("delivered", 2, 2), Group("refused", 2, 0), Group("under way", 1, 0)]


# -- passes and outages ----------------------------------------------------------------------------------------------

DOWN = "breaker_open"


def test_an_outage_lasts_until_a_pass_succeeds(database: Database, statistics: Statistics) -> None:
    """A pass succeeds if it is throttled, or sends or reschedules a message, and the breaker does not stop it."""
    told = [
        (0, "completed", None, 3),
        (1, "stopped", DOWN, 2),
        (2, "stopped", DOWN, 0),
        (3, "completed", None, 0),
        (4, "paused", "paused", 0),
        (5, "skipped", "lock_held", 0),
        (6, "stopped", DOWN, 0),
        (6.5, "stopped", "credentials_refused", 0),
        (7, "completed", None, 5),
        (8, "completed", None, 5),
        (9, "stopped", DOWN, 0),
        (10, "stopped", "throttled", 0),
        (11, "stopped", DOWN, 0),
    ]
    passes(database, *((NOON + hour * HOUR, result, reason, sent) for hour, result, reason, sent in told))
    found = statistics.figures(NOON, NOON + DAY).outages
    assert [
        ((outage.began_at - NOON) / HOUR, outage.ended_at and (outage.ended_at - NOON) / HOUR) for outage in found
    ] == [(1, 7), (9, 10), (11, None)]
    cut = statistics.figures(NOON + 1.5 * HOUR, NOON + 7 * HOUR).outages
    assert cut[0] == Outage(NOON + 2 * HOUR, NOON + 7 * HOUR), "it had begun before the time"


def test_passes_are_sorted_by_their_start(database: Database, statistics: Statistics) -> None:
    def marks(hours: Iterable[int]) -> list[PassMark]:
        return [PassMark(NOON + hour * HOUR, None, None) for hour in hours]

    passes(database, *((NOON + hour * HOUR, None, None, 0) for hour in (3, 1, 2)))
    assert statistics.passes(NOON) == marks([1, 2, 3])
    assert statistics.passes(NOON + 2 * HOUR) == marks([2, 3])
    assert statistics.first_and_last_pass() == (NOON + HOUR, NOON + 3 * HOUR)
