"""Reading recorded attempts: which failures are outages, and which outcomes are left for the messages and the rates."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from retrycli.domain.circuit_breaker import BreakerRules
from retrycli.domain.history_reader import FEW, HistoryReader
from retrycli.domain.message import MessageType
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.domain.recorded_history import RecordedAttempt, RecordedHistory, RecordedOutage, RecordedPass
from tests.fakes import START, TICK

SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)
DELIVERED, REFUSED, PERMANENT, DOWN, CUT_OFF, UNKNOWN, BUSY, DENIED, INVALID = (
    ("delivered", 200),
    ("refused", 200),
    ("permanent", 422),
    ("transient", 503),
    ("unreachable", None),
    ("unknown", None),
    ("throttled", 429),
    ("unauthorized", 401),
    ("invalid", None),
)
Said = tuple[str, int | None]


def attempt(tick: int, message_id: int, said: Said, **values: Any) -> RecordedAttempt:  # noqa: ANN401
    """Return an attempt by the pass of a tick, at a message that failed half an hour after the start."""
    at = START + tick * TICK + SECOND
    made = RecordedAttempt(
        message_id=message_id,
        birth="2025-03-03T12:20:00.000000+00:00",
        digest="1:a:b",
        number=1,
        message_type="customer",
        ticket=str(message_id),
        pass_id=f"pass-{tick}",
        made_by="pass",
        started_at=at,
        waited_s=int((at - START - 30 * 60 * SECOND).total_seconds()),
        outcome=said[0],
        status_code=said[1],
        retry_after_s=None,
        probe=None,
    )
    return made._replace(**values)


def reader(**reasons: str) -> HistoryReader:
    """Return a reader that knows the passes of 40 ticks; ``tick_3`` gives the reason of the third one."""
    passes = {
        f"pass-{tick}": RecordedPass(f"pass-{tick}", START + tick * TICK, "completed", reasons.get(f"tick_{tick}"))
        for tick in range(40)
    }
    destinations = {each: "suppliers" if each == "supplier" else "customers" for each in MessageType}
    return HistoryReader(BreakerRules(), passes, destinations, since=START)


def read(*attempts: RecordedAttempt, **reasons: str) -> RecordedHistory:
    found = reader(**reasons)
    for each in attempts:
        found.add(each)
    return found.history()


def outcomes(found: RecordedHistory) -> dict[int, list[str]]:
    return {message.message_id: [str(each.kind) for each in message.outcomes] for message in found.messages}


def test_a_message_keeps_its_outcomes_and_its_first_failure() -> None:
    found = read(attempt(3, 1, REFUSED), attempt(5, 1, DELIVERED, number=2))
    [message] = found.messages
    assert outcomes(found) == {1: ["refused", "delivered"]}
    assert message.first_failed_at == START + 30 * 60 * SECOND
    assert message.created_at == START + 20 * 60 * SECOND
    assert (message.message_type, message.ticket) == (MessageType.CUSTOMER, "1")
    assert found.attempts == 2
    assert found.outages == {}


def test_five_failures_in_a_row_are_an_outage_and_say_nothing_about_their_messages() -> None:
    found = read(
        attempt(3, 9, DELIVERED),
        *(attempt(5, number, DOWN) for number in range(3)),
        *(attempt(6, number, DOWN) for number in range(3, 5)),
        attempt(7, 1, CUT_OFF, probe=True),
        attempt(11, 2, DELIVERED, probe=True),
        attempt(11, 1, DELIVERED),
    )
    tick = [START + number * TICK for number in range(12)]
    said = [Outcome(OutcomeKind.TRANSIENT, 503)] * 5 + [Outcome(OutcomeKind.UNREACHABLE)]
    assert found.outages == {"customers": [RecordedOutage(tick[5], tick[7], tick[11], said)]}
    assert outcomes(found) == {0: [], 1: ["delivered"], 2: ["delivered"], 3: [], 4: [], 9: ["delivered"]}
    assert found.attempts == 3


@pytest.mark.parametrize("failures", [[DOWN] * 4, [CUT_OFF] * 4])
def test_fewer_failures_are_outcomes_of_their_messages(failures: list[Said]) -> None:
    found = read(*(attempt(5, number, said) for number, said in enumerate(failures)), attempt(6, 9, REFUSED))
    assert found.outages == {}
    assert found.attempts == 5
    assert outcomes(found)[0] == [failures[0][0]]


def test_failures_of_one_ticket_are_no_outage() -> None:
    found = read(*(attempt(tick, 1, DOWN, number=tick) for tick in range(3, 12)), attempt(12, 2, DELIVERED))
    assert found.outages == {}
    assert outcomes(found)[1] == ["transient"] * 9


def test_a_failed_probe_shows_an_outage_that_began_before_the_period() -> None:
    found = read(attempt(3, 1, CUT_OFF, probe=True), attempt(7, 2, DELIVERED, probe=True))
    assert [outage.answered_at for outage in found.outages["customers"]] == [START + 7 * TICK]


def test_an_outage_that_began_in_the_middle_of_a_pass_began_after_its_deliveries() -> None:
    failed = [attempt(3, number, CUT_OFF, started_at=START + 3 * TICK + 90 * SECOND) for number in range(5)]
    found = read(attempt(3, 9, DELIVERED), *failed, attempt(7, 9, DELIVERED, number=2))
    [outage] = found.outages["customers"]
    assert outage.began_at == START + 3 * TICK + 90 * SECOND


def test_a_late_answer_to_the_pass_that_noticed_the_outage_does_not_end_it() -> None:
    found = read(
        *(attempt(3, number, CUT_OFF) for number in range(5)),
        attempt(3, 9, DELIVERED),
        attempt(4, 1, CUT_OFF, probe=True),
        attempt(6, 2, DELIVERED, probe=True),
    )
    [outage] = found.outages["customers"]
    assert (outage.began_at, outage.answered_at) == (START + 3 * TICK, START + 6 * TICK)
    assert outcomes(found)[9] == ["delivered"]


def test_an_outage_without_an_answer_has_not_ended() -> None:
    found = read(*(attempt(3, number, CUT_OFF) for number in range(6)))
    [outage] = found.outages["customers"]
    assert outage.answered_at is None
    assert outage.end(0.0, START + 9 * TICK) == START + 9 * TICK


def test_the_end_of_an_outage_is_after_the_last_failure_and_not_after_the_answer() -> None:
    outage = RecordedOutage(START, START + TICK, START + 5 * TICK, ())
    assert outage.end(0.0, START) == START + 5 * TICK
    assert START + TICK < outage.end(0.999, START) < START + 2 * TICK


def test_each_destination_has_its_own_outages() -> None:
    found = read(
        *(attempt(3, number, CUT_OFF, message_type="supplier") for number in range(3)),
        *(attempt(3, number, CUT_OFF) for number in range(3, 6)),
        attempt(4, 9, DELIVERED),
        *(attempt(5, number, CUT_OFF, message_type="supplier") for number in range(10, 12)),
    )
    assert list(found.outages) == ["suppliers"]
    assert outcomes(found)[3] == ["unreachable"]


def test_rejected_credentials_are_an_outage_at_once() -> None:
    found = read(attempt(3, 1, DENIED), attempt(4, 2, DENIED), attempt(5, 1, DELIVERED))
    [outage] = found.outages["customers"]
    assert (outage.began_at, outage.failed_at, outage.answered_at) == tuple(START + each * TICK for each in (3, 4, 5))
    assert outcomes(found) == {1: ["delivered"], 2: []}


@pytest.mark.parametrize("reason", ["credentials_refused", "same_answer"])
def test_answers_that_a_pass_attributed_to_its_access_are_an_outage(reason: str) -> None:
    forbidden = [attempt(3, number, ("permanent", 403)) for number in range(10)]
    found = read(*forbidden, attempt(5, 1, DELIVERED), tick_3=reason)
    assert {each.kind for each in found.outages["customers"][0].outcomes} == {OutcomeKind.UNAUTHORIZED}
    assert outcomes(found)[1] == ["delivered"]
    assert outcomes(read(*forbidden))[1] == ["permanent"]


def test_attempts_by_operators_count_for_their_message_but_not_for_the_rates() -> None:
    by_hand = [attempt(3, number, CUT_OFF, made_by="anna") for number in range(9)]
    found = read(*by_hand, attempt(4, 1, DELIVERED, made_by="anna"))
    assert outcomes(found)[1] == ["unreachable", "delivered"]
    assert (found.attempts, found.outages) == (0, {})


def test_an_operators_delivery_ends_an_outage() -> None:
    down = [attempt(3, number, CUT_OFF) for number in range(5)]
    by_hand = attempt(4, 1, DELIVERED, made_by="anna", pass_id=None)
    [outage] = read(*down, by_hand).outages["customers"]
    assert outage.answered_at == by_hand.started_at


def test_outcomes_of_an_edited_text_are_left_out() -> None:
    found = read(attempt(3, 1, REFUSED), attempt(5, 1, DELIVERED, digest="1:c:b", number=2))
    assert outcomes(found) == {1: ["refused"]}
    assert found.attempts == 1


def test_rows_that_share_an_id_are_separate_messages() -> None:
    found = read(attempt(3, 1, PERMANENT), attempt(5, 1, DELIVERED, birth="2025-03-03T13:00:00.000000+00:00"))
    assert [[str(each.kind) for each in message.outcomes] for message in found.messages] == [
        ["permanent"],
        ["delivered"],
    ]


def test_a_delivered_message_that_the_application_fails_again_is_another_failure() -> None:
    later = attempt(9, 1, DELIVERED, number=2, waited_s=900, digest="1:c:b")
    found = read(attempt(3, 1, DELIVERED), later)
    assert [message.first_failed_at for message in found.messages] == [
        START + 30 * 60 * SECOND,
        START + 8 * TICK + SECOND,
    ]


def test_a_message_that_failed_before_the_period_counts_only_for_the_rates() -> None:
    old = [attempt(3, number, DELIVERED, number=3, waited_s=86_400) for number in range(FEW)]
    found = read(*old)
    assert found.messages == []
    assert [(rate.attempts, rate.pooled) for rate in found.rates] == [(FEW, True), (FEW, True), (FEW, False)]


def test_rates_are_counted_by_the_number_of_the_try_outside_outages() -> None:
    first = [attempt(3, number, REFUSED) for number in range(FEW)]
    second = [attempt(4, number, BUSY, number=2, retry_after_s=60) for number in range(FEW)]
    found = read(*first, *second, attempt(5, 1, DELIVERED, number=3))
    rates = {rate.name: rate for rate in found.rates}
    assert {name: rate.kinds for name, rate in rates.items()} == {
        "first": {"refused": FEW},
        "second": {"throttled": FEW},
        "later": {"refused": FEW, "throttled": FEW, "delivered": 1},
    }
    assert [rate.pooled for rate in found.rates] == [False, False, True]
    assert rates["second"].draw(0.5) == Outcome(OutcomeKind.THROTTLED, 429, retry_after=timedelta(seconds=60))
    drawn = [str(rates["later"].draw(number / (2 * FEW + 1)).kind) for number in range(2 * FEW + 1)]
    assert {kind: drawn.count(kind) for kind in drawn} == rates["later"].kinds


def test_attempts_that_are_under_way_and_unknown_types_are_skipped() -> None:
    found = read(attempt(3, 1, DELIVERED, outcome=None), attempt(3, 2, DELIVERED, message_type="pigeon"))
    assert (found.messages, found.attempts) == ([], 0)


def untried(found: HistoryReader, number: int, **values: Any) -> None:  # noqa: ANN401
    given: dict[str, Any] = {"ticket": "7", "first_failed_at": START + HOUR, "reason": None} | values
    found.add_untried(number, given.pop("birth", None), given.pop("message_type", "customer"), **given)


def test_messages_of_the_queue_are_added_unless_their_attempts_are_known() -> None:
    found = reader()
    found.add(attempt(3, 1, REFUSED))
    untried(found, 1, birth="2025-03-03T12:20:00.000000+00:00")
    untried(found, 2)
    untried(found, 3, reason="invalid")
    untried(found, 4, reason="expired")
    untried(found, 5, reason="exhausted")
    untried(found, 6, first_failed_at=START - HOUR)
    untried(found, 7, message_type="pigeon")
    assert outcomes(found.history()) == {1: ["refused"], 2: [], 3: ["invalid"], 4: []}


@pytest.mark.parametrize("birth", [None, "ticket 17", "no time", "2025-13-01T00:00:00"])
def test_a_birth_without_a_time_is_no_creation_time(birth: str | None) -> None:
    [message] = read(attempt(3, 1, DELIVERED, birth=birth)).messages
    assert message.created_at is None


def test_a_first_failure_at_a_whole_second_is_exact() -> None:
    """A wait of 900.4 s is recorded as 900 s."""
    [message] = read(attempt(3, 1, DELIVERED, started_at=START + TICK + 0.4 * SECOND, waited_s=900)).messages
    assert message.first_failed_at == START


def test_a_history_without_waits_counts_from_the_first_attempt() -> None:
    [message] = read(attempt(3, 1, DELIVERED, waited_s=None)).messages
    assert message.first_failed_at == START + 3 * TICK + SECOND
