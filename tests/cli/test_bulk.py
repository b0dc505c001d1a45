"""Actions on many messages in slices of time, as the console and the HTTP API call them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING

import pytest

import retrycli
from retrycli.domain.errors import CountChanged, InvalidArgument
from retrycli.domain.listing import Filter
from retrycli.domain.message import State
from retrycli.operations import words
from retrycli.operations.bodies import bulk as body
from retrycli.operations.bulk import BulkAction, BulkRequest, Canary
from retrycli.operations.message_actions import BATCH, BulkResult, act, preview
from retrycli.operations.wiring import Runtime
from tests.cli.api import BUSY, REJECTS, TAKES, Scripted
from tests.cli.test_act import due, escalate, escalate_many
from tests.conftest import on_both

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from retrycli.config.settings import Settings
    from tests.cli.application import Application

pytestmark = on_both

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
AT_NOON = Runtime(now=lambda: NOON)
NOWHERE = "http://127.0.0.1:9"
OF_CAUSE = Filter(fingerprint="c0ffee")
ESCALATED = Filter(state=State.ESCALATED)
TWO_HOURS = timedelta(hours=2)


def ticking(step: float) -> Callable[[], float]:
    """Return a monotonic clock that advances by `step` seconds at each reading."""
    readings = count()
    return lambda: next(readings) * step


def slices(
    settings: Settings, request: BulkRequest, *, step: float, runtime: Runtime = AT_NOON
) -> Iterator[BulkResult]:
    """Yield each slice of an action; at each check between two batches or attempts, `step` seconds have passed."""
    after: str | None = None
    for _ in range(50):
        done = act(settings, request, after=after, by="anna", runtime=runtime, elapsed=ticking(step))
        yield done
        after = done.next
        if after is None:
            return
    pytest.fail("the action does not end")


def counts(done: BulkResult) -> tuple[int, int, int, str | None]:
    return done.result.matched, done.result.done, done.result.left, done.result.reason


def test_500_messages_of_one_cause_are_requeued_over_two_hours_after_a_canary(application: Application) -> None:
    escalate_many(application, 500)
    request = BulkRequest(BulkAction.REQUEUE, wanted=OF_CAUSE, expected=500, spread=TWO_HOURS, canary=Canary(3))
    with Scripted(TAKES) as api:
        settings = application.settings(api.url)
        seen = preview(settings, request)
        done = act(settings, request, by="anna", runtime=AT_NOON)
    assert (len(seen.ids), [message.id for message in seen.first], seen.expired) == (500, [1, 2, 3, 4, 5], set())
    assert (counts(done), done.next) == ((500, 497, 0, None), None)
    assert [attempt.delivered for attempt in done.result.tried] == [True] * 3
    assert [application.row(message_id)["status"] for message_id in (1, 2, 3, 4)] == ["sent"] * 3 + ["failed"]
    times = [due(application, message_id) - NOON for message_id in (4, 5, 500)]
    assert times == [timedelta(0), TWO_HOURS / 497, TWO_HOURS * 496 / 497]


def test_a_spread_goes_on_where_the_last_slice_stopped(application: Application) -> None:
    """The due times are those of a single slice. Only the first slice attempts canaries."""
    number = 4 * BATCH + 3
    escalate_many(application, number)
    request = BulkRequest(BulkAction.REQUEUE, wanted=OF_CAUSE, expected=number, spread=TWO_HOURS, canary=Canary(3))
    ticks = count()
    runtime = Runtime(now=lambda: NOON + next(ticks) * timedelta(seconds=1))  # later slices begin later
    with Scripted(TAKES) as api:
        found = [*slices(application.settings(api.url), request, step=3.5, runtime=runtime)]
        assert len(api.paths) == 3
    assert [counts(done)[1:] for done in found] == [
        (0, 4 * BATCH, "time"),
        (3 * BATCH, BATCH, "time"),
        (BATCH, 0, None),
    ]
    assert {done.result.matched for done in found} == {number}
    times = [due(application, message_id) for message_id in range(4, number + 1)]
    begin = times[0]
    assert NOON <= begin < NOON + timedelta(minutes=1)
    assert times == [begin + TWO_HOURS * position / (4 * BATCH) for position in range(4 * BATCH)]


def test_a_filter_that_matches_another_number_does_nothing(application: Application) -> None:
    escalate_many(application, 5)
    settings, before = application.settings(NOWHERE), application.dump()
    for action in BulkAction:
        for expected in (4, 6):
            request = BulkRequest(action, wanted=OF_CAUSE, expected=expected, reason=REASONS.get(action))
            with pytest.raises(CountChanged, match=f"is now 5, not {expected}; nothing was done") as raised:
                act(settings, request)
            assert raised.value.count == 5
    assert application.dump() == before


REASONS = {BulkAction.REJECT: "no longer needed", BulkAction.MARK_SENT: "seen in the ticket"}


@pytest.mark.parametrize(
    ("action", "states"),
    [(BulkAction.REJECT, {"rejected"}), (BulkAction.MARK_SENT, {"sent"}), (BulkAction.ACKNOWLEDGE, {"failed"})],
)
@pytest.mark.parametrize("by_filter", [False, True])
def test_each_action_goes_on_until_no_message_is_left(
    application: Application, action: BulkAction, states: set[str], *, by_filter: bool
) -> None:
    number = 2 * BATCH + 7
    escalate_many(application, number)
    selection = {"wanted": OF_CAUSE} if by_filter else {"ids": [*range(number, 0, -1), 3, 2]}
    request = BulkRequest(action, reason=REASONS.get(action), **selection)
    found = [*slices(application.settings(NOWHERE), request, step=8)]
    assert [counts(done) for done in found] == [
        (number, BATCH, BATCH + 7, "time"),
        (number, BATCH, 7, "time"),
        (number, 7, 0, None),
    ]
    assert {row["status"] for row in application.rows().values()} == states
    acts = application.rows("retrycli_acts").values()
    assert sorted((row["message_id"], row["by"]) for row in acts) == [(n + 1, "anna") for n in range(number)]


def test_messages_that_match_later_are_not_reached(application: Application) -> None:
    """The operator confirmed a number. A pass escalates messages again between two slices."""
    escalate_many(application, 2 * BATCH)
    settings = application.settings(NOWHERE)
    request = BulkRequest(BulkAction.ACKNOWLEDGE, wanted=OF_CAUSE, expected=2 * BATCH)
    first = act(settings, request, elapsed=ticking(8))
    application.execute("UPDATE retrycli_queue SET acknowledged_at = NULL, acknowledged_by = NULL")
    for message_id in range(2 * BATCH + 1, 2 * BATCH + 4):
        escalate(application, message_id)
    application.execute("UPDATE retrycli_queue SET fingerprint = 'c0ffee'")
    second = act(settings, request, after=first.next)
    assert (counts(first)[1:], counts(second)[1:]) == ((BATCH, BATCH, "time"), (BATCH, 0, None))
    acknowledged = "SELECT message_id FROM retrycli_queue WHERE acknowledged_at IS NOT NULL ORDER BY 1"
    assert [row for (row,) in application.asked(acknowledged)] == [*range(BATCH + 1, 2 * BATCH + 1)]


def test_canaries_go_on_in_the_next_slice(application: Application) -> None:
    """A slow API may use up the time before all canaries are attempted."""
    escalate_many(application, 20)
    request = BulkRequest(BulkAction.REQUEUE, wanted=OF_CAUSE, canary=Canary(5))
    with Scripted(TAKES) as api:
        found = [*slices(application.settings(api.url), request, step=7)]
        assert len(api.paths) == 5
    tried = [(1, 0, left, "time") for left in (19, 18, 17, 16, 15)]
    assert [(len(done.result.tried), *counts(done)[1:]) for done in found] == [*tried, (0, 15, 0, None)]


def test_failing_canaries_end_the_action_in_any_slice(application: Application) -> None:
    escalate_many(application, 20)
    request = BulkRequest(BulkAction.REQUEUE, wanted=OF_CAUSE, canary=Canary(3, abort_over=0.5))
    with Scripted(TAKES, REJECTS) as api:
        *_, last = slices(application.settings(api.url), request, step=7)
        assert len(api.paths) == 3
    assert (counts(last), last.next) == ((20, 0, 17, "canary_failed"), None)
    assert "waiting" not in {row["state"] for row in application.rows("retrycli_queue").values()}


def test_canaries_skip_messages_that_were_sent_meanwhile(application: Application) -> None:
    escalate_many(application, 10)
    application.execute("UPDATE pending_messages SET status = 'sent' WHERE id IN (10, 8)")
    request = BulkRequest(BulkAction.REQUEUE, ids=[10, 9, 8, 7, 6], canary=Canary(2))
    with Scripted(TAKES) as api:
        done = act(application.settings(api.url), request)
        assert len(api.paths) == 2
    assert ([attempt.message_id for attempt in done.result.tried], counts(done)) == ([10, 9, 8, 7], (5, 1, 0, None))
    assert application.state(6) == "waiting"


def test_expired_messages_are_neither_canaries_nor_requeued(application: Application) -> None:
    escalate_many(application, 6)
    application.execute("UPDATE pending_messages SET created_at = ?", str(datetime.now(UTC).replace(tzinfo=None)))
    application.execute("UPDATE pending_messages SET created_at = '2026-01-02 03:04:05' WHERE id IN (1, 4)")
    births = "SELECT CAST(created_at AS TEXT) FROM pending_messages WHERE id = message_id"
    application.execute(f"UPDATE retrycli_queue SET birth = ({births})")
    with Scripted(TAKES) as api:
        given = application.settings(api.url)
        schedule = given.schedule.model_copy(update={"expires_after_hours": 24.0})
        settings = given.model_copy(update={"schedule": schedule})
        request = BulkRequest(BulkAction.REQUEUE, wanted=OF_CAUSE, canary=Canary(1))
        assert preview(settings, request).expired == {1, 4}
        done = act(settings, request)
    assert [attempt.message_id for attempt in done.result.tried] == [2]
    assert (counts(done), [*done.result.refused]) == ((6, 3, 0, None), [1, 4])


def test_retries_stop_once_the_api_is_down_also_across_slices(application: Application) -> None:
    """Each slice has the time for one attempt; five failures in a row end the action, unless ids were given."""
    escalate_many(application, 20)
    request = BulkRequest(BulkAction.RETRY, wanted=OF_CAUSE)
    with Scripted(TAKES, BUSY) as api:
        settings = application.settings(api.url)
        found = [*slices(settings, request, step=8)]
        assert len(api.paths) == 6
        chosen = [*slices(settings, replace(request, wanted=None, ids=[8, 7, 6, 5, 4, 3, 2]), step=4)]
    assert [counts(done)[1:] for done in found] == [
        (1, 19, "time"),
        *[(0, left, "time") for left in (18, 17, 16, 15)],
        (0, 14, "destination_down"),
    ]
    told = body(found[0])
    delivered = {"id": 1, "outcome": "delivered", "status_code": 200, "error": None}
    assert (told["canaries"], told["results"]) == ([], [delivered])
    assert [attempt.message_id for done in chosen for attempt in done.result.tried] == [8, 7, 6, 5, 4, 3, 2]
    assert [counts(done)[2] for done in chosen] == [5, 3, 1, 0]


def test_canaries_stop_as_soon_as_too_many_have_failed_in_all_slices(application: Application) -> None:
    escalate_many(application, 20)
    request = BulkRequest(BulkAction.REQUEUE, wanted=OF_CAUSE, canary=Canary(9))
    with Scripted(REJECTS) as api:
        *_, last = slices(application.settings(api.url), request, step=7)
        assert len(api.paths) == 3, "more than 30% of nine"
    assert counts(last) == (20, 0, 17, "canary_failed")
    assert words.left_unchanged(last.result) == "17 messages were left unchanged: 3 of 3 canaries failed."


def test_a_stopped_action_can_go_on(application: Application) -> None:
    escalate_many(application, BATCH + 1)
    settings, request = application.settings(NOWHERE), BulkRequest(BulkAction.ACKNOWLEDGE, wanted=OF_CAUSE)
    stopped = act(settings, request, runtime=replace(AT_NOON, stop_requested=lambda: True))
    assert counts(stopped) == (BATCH + 1, 0, BATCH + 1, "signal")
    assert counts(act(settings, request, after=stopped.next, seconds=None)) == (BATCH + 1, BATCH + 1, 0, None)


def test_progress_is_only_valid_for_its_own_request(application: Application) -> None:
    escalate_many(application, 2 * BATCH)
    settings = application.settings(NOWHERE)
    request = BulkRequest(BulkAction.REQUEUE, ids=range(1, 2 * BATCH + 1), spread=TWO_HOURS)
    after = act(settings, request, elapsed=ticking(8)).next
    before = application.dump()
    for other in (
        replace(request, spread=timedelta(hours=3)),
        replace(request, ids=range(2, 2 * BATCH + 2)),
        replace(request, due=NOON),
        replace(request, canary=Canary()),
        BulkRequest(BulkAction.ACKNOWLEDGE, ids=request.ids),
        BulkRequest(BulkAction.REQUEUE, wanted=OF_CAUSE, spread=TWO_HOURS),
    ):
        with pytest.raises(InvalidArgument, match="not the progress of this request"):
            act(settings, other, after=after)
    assert application.dump() == before
    assert counts(act(settings, replace(request, expected=7), after=after))[2:] == (0, None)


def test_a_filter_reaches_only_messages_in_a_suitable_state(application: Application) -> None:
    """A filter for other states matches nothing. It is never widened to all escalated messages."""
    escalate_many(application, 4)
    application.add(9, hours_ago=0)
    settings = application.settings(NOWHERE)
    retrycli.run_once(settings)
    sending = "state = 'sending', claimed_by = 'a pass', claim_expires_at = '2999-01-01', escalated_at = NULL"
    application.execute(f"UPDATE retrycli_queue SET {sending} WHERE message_id = 4")
    for states, expected in (
        (State.WAITING, 0),
        ([State.WAITING, State.SENDING], 0),
        ([State.WAITING, State.ESCALATED], 3),
        (None, 3),
    ):
        wanted = Filter(state=states, message_type=retrycli.MessageType.CUSTOMER)
        for action in (BulkAction.REQUEUE, BulkAction.ACKNOWLEDGE):
            assert len(preview(settings, BulkRequest(action, wanted=wanted)).ids) == expected
    for action in (BulkAction.RETRY, BulkAction.REJECT, BulkAction.MARK_SENT):
        found = [preview(settings, BulkRequest(action, wanted=wanted)) for wanted in (Filter(error="503"), ESCALATED)]
        assert [len(each.ids) for each in found] == [5, 3]
    nothing = act(settings, BulkRequest(BulkAction.REQUEUE, wanted=Filter(state=State.WAITING), expected=0))
    assert (counts(nothing), nothing.next) == ((0, 0, 0, None), None)
