"""Whom to tell what: each topic begins, is repeated and ends, for each target on its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest

from retrycli.domain.incidents import Incident, Memory, Topic, Turn
from retrycli.domain.notices import (
    Escalated,
    EscalationCause,
    IncidentChange,
    Item,
    Missed,
    Situation,
    introduction,
    to_tell,
)
from retrycli.domain.passes import PassResult, StopReason
from tests.unit.domain.passes import NOON, TICK, Past

REMIND = timedelta(hours=6)
BEGAN, LASTS, ENDED = Turn.BEGAN, Turn.LASTS, Turn.ENDED


BUSY = Past(sent=1)
SKIPPED = Past(result=PassResult.SKIPPED, reason=StopReason.LOCK_HELD)
PAUSED = Past(result=PassResult.PAUSED, reason=StopReason.PAUSED)
DOWN = Past(result=PassResult.STOPPED, reason=StopReason.BREAKER_OPEN, rescheduled=5)
REFUSED = Past(result=PassResult.STOPPED, reason=StopReason.CREDENTIALS_REFUSED)
LATE = Past(result=PassResult.STOPPED, reason=StopReason.DEADLINE, sent=900)
ALIKE = Past(result=PassResult.STOPPED, reason=StopReason.SAME_ANSWER)
FAILED = Past(result=PassResult.FAILED, reason=StopReason.FAULT, detail="its disk is full")
EXPIRING = Incident(NOON, "3 messages expire")
STANDING = {
    Topic.DOWN: DOWN,
    Topic.CREDENTIALS: REFUSED,
    Topic.SAME_ANSWER: ALIKE,
    Topic.DEADLINE: LATE,
    Topic.FAULT: FAILED,
}


@dataclass
class Target:
    """One that notifications go to, and what it has heard."""

    memory: Memory = field(default_factory=dict)
    heard: list[list[Item]] = field(default_factory=list)
    deaf: bool = False


@dataclass
class World:
    """Passes, breaker and escalations, a tick at a time."""

    target: Target = field(default_factory=Target)
    passes: list[Past] = field(default_factory=list)
    """Newest first."""
    at: datetime = NOON
    down_since: datetime | None = None
    expiring: bool | None = None
    """None if the pass does not tell."""
    escalated: list[datetime] = field(default_factory=list)
    others: Sequence[Target] = ()

    def tick(self, kind: Past = BUSY, *, escalates: int = 0, after: timedelta = TICK) -> list[str]:
        """One pass, and what the target hears of it in short."""
        self.at += after
        self.passes.insert(0, replace(kind, started_at=self.at))
        if kind is DOWN:
            self.down_since = self.down_since or self.at
        elif kind.sent:
            self.down_since = None
        self.escalated += [self.at + timedelta(seconds=1)] * escalates
        for each in (self.target, *self.others):
            self._tell(each)
        return [short(each) for each in self.target.heard[-1]]

    def _tell(self, target: Target) -> None:
        here = Situation(
            now=self.at + timedelta(seconds=2),
            passes=self.passes,
            down=Incident(self.down_since) if self.down_since else None,
            expiry={} if self.expiring is None else {Topic.EXPIRY: EXPIRING if self.expiring else None},
            interval=TICK,
            remind=REMIND,
        )
        target.memory = target.memory or introduction(self.passes)
        items, heard, unheard = to_tell(here, target.memory, self.causes)
        target.heard.append(items if not target.deaf else [])
        target.memory = unheard if items and target.deaf else heard

    def causes(self, since: datetime | None) -> Sequence[EscalationCause]:
        new = [each for each in self.escalated if since is None or each > since]
        return [EscalationCause(len(new), {"customer": len(new)}, "HTTP 422", 1, ["4711"])] if new else []


def short(item: Item) -> str:
    match item:
        case IncidentChange():
            return f"{item.topic} {item.turn}"
        case Missed():
            return f"missed {(item.until - item.after) // timedelta(minutes=1)}"
        case Escalated():
            return f"escalated {sum(each.count for each in item.causes)}"


def told(world: World, kinds: Iterable[Past]) -> list[tuple[int, str]]:
    """What is heard, by the number of the pass."""
    return [(number, each) for number, kind in enumerate(kinds) for each in world.tick(kind)]


@pytest.fixture
def world() -> World:
    """One in which a pass has been made."""
    made = World()
    made.tick()
    return made


# -- troubles that stand ---------------------------------------------------------------------------------------------


def test_a_pass_as_any_other_has_nothing_to_tell(world: World) -> None:
    assert told(world, [BUSY] * 100) == []


@pytest.mark.parametrize("topic", STANDING)
def test_a_trouble_is_told_when_it_begins_every_six_hours_and_when_it_ends(world: World, topic: Topic) -> None:
    heard = told(world, [*[STANDING[topic]] * 60, *[BUSY] * 60])
    assert heard == [(0, f"{topic} began"), (24, f"{topic} lasts"), (48, f"{topic} lasts"), (60, f"{topic} ended")]


@pytest.mark.parametrize("topic", STANDING)
def test_the_end_tells_since_when_it_was(world: World, topic: Topic) -> None:
    world.tick(STANDING[topic])
    began = world.at
    for _ in range(30):
        world.tick(STANDING[topic])
    world.tick()
    [ended] = world.target.heard[-1]
    assert isinstance(ended, IncidentChange)
    assert (ended.turn, ended.incident.since) == (ENDED, began)


def test_a_reminder_does_not_wait_for_a_tick_because_cron_is_a_little_early(world: World) -> None:
    world.tick(DOWN)
    heard = [world.tick(DOWN, after=TICK - timedelta(seconds=2)) for _ in range(24)]
    assert heard[-1] == ["down lasts"]


@pytest.mark.parametrize("nothing", [SKIPPED, PAUSED])
@pytest.mark.parametrize("topic", STANDING)
def test_a_pass_that_was_not_made_tells_nothing_of_a_trouble(world: World, topic: Topic, nothing: Past) -> None:
    world.tick(STANDING[topic])
    assert told(world, [nothing, nothing, STANDING[topic], nothing]) == []
    assert world.tick() == [f"{topic} ended"]


@pytest.mark.parametrize("topic", STANDING)
def test_nobody_is_reminded_of_a_trouble_while_deliveries_are_paused(world: World, topic: Topic) -> None:
    world.tick(STANDING[topic])
    assert told(world, [PAUSED] * 40) == []
    assert world.tick(STANDING[topic]) == [f"{topic} lasts"]


def test_messages_that_are_about_to_expire_are_told_of_also_while_deliveries_are_paused(world: World) -> None:
    world.expiring = True
    heard = told(world, [PAUSED] * 30)
    assert heard == [(0, "expiry began"), (24, "expiry lasts")]
    world.expiring = None
    assert told(world, [SKIPPED, replace(BUSY, sent=0)]) == []
    world.expiring = False
    assert world.tick() == ["expiry ended"]


@pytest.mark.parametrize("topic", STANDING)
def test_a_skipped_pass_reminds_of_nothing_but_that_passes_are_skipped(world: World, topic: Topic) -> None:
    world.tick(STANDING[topic])
    assert {each for _, each in told(world, [SKIPPED] * 40)} == {"skipped began", "skipped lasts"}


def test_refused_credentials_are_not_accepted_because_nothing_was_to_be_sent_or_the_api_is_down(world: World) -> None:
    idle = replace(BUSY, sent=0)
    assert told(world, [REFUSED, idle, DOWN, REFUSED]) == [(0, "credentials began"), (2, "down began")]


@pytest.mark.parametrize("topic", [Topic.DOWN, Topic.CREDENTIALS, Topic.SAME_ANSWER])
def test_a_pass_with_nothing_to_send_reminds_of_no_trouble(world: World, topic: Topic) -> None:
    """It has not found out whether the trouble lasts."""
    idle = replace(BUSY, sent=0)
    world.tick(STANDING[topic])
    assert told(world, [idle] * 60) == []
    assert world.tick(STANDING[topic]) == [f"{topic} lasts"]


def test_a_target_that_is_new_hears_of_a_trouble_from_a_pass_that_meets_it(world: World) -> None:
    world.tick(REFUSED)
    world.target = Target()
    assert world.tick(replace(BUSY, sent=0)) == []
    assert world.tick(REFUSED) == ["credentials began"]


def test_a_graver_trouble_hides_no_other(world: World) -> None:
    """A pass ends for the gravest reason, and may have met others."""
    world.tick(DOWN)
    assert (23, "down lasts") in told(world, [REFUSED] * 30)


def test_two_troubles_that_end_together_are_one_notification(world: World) -> None:
    world.tick(REFUSED)
    world.tick(DOWN)
    assert world.tick(escalates=3) == ["down ended", "credentials ended", "escalated 3"]


def test_a_trouble_that_comes_and_goes_is_told_as_new_twice_in_six_hours(world: World) -> None:
    heard = told(world, [DOWN, BUSY] * 12)
    assert heard == [(0, "down began"), (1, "down ended"), (2, "down began"), (3, "down ended")]


def test_one_that_comes_back_a_third_time_is_told_once_it_has_lasted_for_an_hour(world: World) -> None:
    told(world, [DOWN, BUSY] * 2)
    assert told(world, [DOWN] * 6) == [(4, "down began")]
    assert world.tick() == ["down ended"]


def test_one_that_was_not_told_of_is_not_told_to_be_over(world: World) -> None:
    told(world, [DOWN, BUSY] * 2)
    assert told(world, [DOWN, DOWN, BUSY, BUSY]) == []


def test_one_that_comes_back_the_next_day_is_as_new_as_the_first(world: World) -> None:
    told(world, [DOWN, BUSY] * 2)
    told(world, [BUSY] * 96)
    assert told(world, [DOWN, BUSY, DOWN, BUSY, DOWN]) == [
        (0, "down began"), (1, "down ended"), (2, "down began"), (3, "down ended"),
    ]  # fmt: skip


@pytest.mark.parametrize("topic", [Topic.DOWN, Topic.CREDENTIALS, Topic.SAME_ANSWER, Topic.DEADLINE])
def test_a_pass_that_failed_tells_of_nothing_but_that(world: World, topic: Topic) -> None:
    world.tick(STANDING[topic])
    assert told(world, [FAILED] * 30) == [(0, "fault began"), (24, "fault lasts")]


def test_a_pass_that_had_to_stop_before_it_tried_anything_does_not_show_that_passes_no_longer_fail(
    world: World,
) -> None:
    """While the API is down, it does not come as far as the one that failed."""
    waits_for_probe = replace(DOWN, rescheduled=0)
    world.tick(DOWN)
    assert told(world, [FAILED, waits_for_probe, FAILED, waits_for_probe]) == [(0, "fault began")]
    assert world.tick() == ["fault ended", "down ended"]


# -- skipped, and missed ---------------------------------------------------------------------------------------------


def test_three_skipped_passes_in_a_row_are_told_of(world: World) -> None:
    assert told(world, [SKIPPED] * 2 + [BUSY] + [SKIPPED] * 40 + [BUSY] * 3) == [
        (5, "skipped began"),
        (29, "skipped lasts"),
        (43, "skipped ended"),
    ]


def test_a_pass_that_outlasts_skipped_ones_tells_of_its_own_end(world: World) -> None:
    """Its row is older than theirs, so what it knows of begins with itself."""
    told(world, [SKIPPED] * 3)
    world.passes = [Past(started_at=NOON + TICK / 2), Past()]
    assert [short(each) for each in _told_at(world)] == ["skipped ended"]


def _told_at(world: World) -> list[Item]:
    world._tell(world.target)
    return world.target.heard[-1]


@pytest.mark.parametrize(("minutes", "heard"), [(34, []), (35, ["missed 35"]), (600, ["missed 600"])])
def test_passes_that_stayed_away_are_told_of_when_they_come_back_and_once(
    world: World, minutes: int, heard: list[str]
) -> None:
    assert world.tick(after=timedelta(minutes=minutes)) == heard
    assert told(world, [BUSY] * 100) == []


def test_a_pause_is_no_gap(world: World) -> None:
    assert told(world, [PAUSED] * 20) == []


def test_gaps_from_before_a_target_was_set_are_history() -> None:
    world = World(passes=[Past(started_at=NOON - timedelta(days=1)), Past(started_at=NOON - timedelta(days=3))])
    assert world.tick(after=timedelta()) == ["missed 1440"]
    assert told(world, [BUSY] * 3) == []


def test_the_very_first_pass_comes_after_no_gap() -> None:
    assert World().tick() == []


# -- escalations -----------------------------------------------------------------------------------------------------


def test_new_escalations_are_told_once(world: World) -> None:
    assert world.tick(escalates=3) == ["escalated 3"]
    assert world.tick() == []
    assert world.tick(escalates=2) == ["escalated 2"]


def test_a_new_target_hears_of_all_that_are_open() -> None:
    world = World(escalated=[NOON - timedelta(days=3)] * 4)
    assert world.tick() == ["escalated 4"]


def test_what_a_skipped_pass_finds_is_left_to_the_one_that_holds_the_lock(world: World) -> None:
    assert world.tick(SKIPPED, escalates=2) == []
    assert world.tick() == ["escalated 2"]


def test_where_the_clock_was_set_back_new_ones_are_told_all_the_same(world: World) -> None:
    world.tick(escalates=1)
    world.escalated.clear()
    assert world.tick(escalates=2, after=timedelta(hours=-3)) == ["escalated 2"]


# -- targets ---------------------------------------------------------------------------------------------------------


def test_a_target_that_was_deaf_hears_it_with_the_next_pass_and_the_other_one_nothing_twice(world: World) -> None:
    other = Target(world.target.memory)
    world.others = [other]
    world.target.deaf = True
    told(world, [DOWN, DOWN])
    world.tick(DOWN, escalates=2)
    world.target.deaf = False
    assert world.tick(DOWN) == ["down began", "escalated 2"]
    assert [[short(item) for item in each] for each in other.heard] == [["down began"], [], ["escalated 2"], []]


def test_a_target_that_was_deaf_for_all_of_a_trouble_hears_that_it_is_over_and_since_when_it_was(world: World) -> None:
    """As when the network was down, and with it the API and the mail server."""
    world.target.deaf = True
    world.tick(DOWN)
    began = world.at
    told(world, [DOWN] * 30 + [BUSY])
    world.target.deaf = False
    assert world.tick() == ["down ended"]
    [ended] = world.target.heard[-1]
    assert isinstance(ended, IncidentChange)
    assert ended.incident.since == began
    assert told(world, [BUSY] * 30) == []


def test_a_target_that_was_deaf_at_the_beginning_hears_of_it_and_is_reminded_from_then_on(world: World) -> None:
    world.target.deaf = True
    told(world, [DOWN] * 3)
    world.target.deaf = False
    assert told(world, [DOWN] * 25 + [BUSY]) == [(0, "down began"), (24, "down lasts"), (25, "down ended")]


def test_a_target_that_was_deaf_when_passes_came_back_hears_of_the_gap(world: World) -> None:
    world.target.deaf = True
    world.tick(after=timedelta(hours=2))
    world.tick()
    world.target.deaf = False
    assert world.tick() == ["missed 120"]


def test_a_night_is_told_of_in_three_notifications(world: World) -> None:
    """Nine hours down, 300 messages fail; three of them turn out to be permanent when the API is back."""
    night = [world.tick(DOWN) for _ in range(36)]
    morning = [world.tick(replace(BUSY, sent=297), escalates=3), *[world.tick() for _ in range(8)]]
    heard = [each for each in night + morning if each]
    assert heard == [["down began"], ["down lasts"], ["down ended", "escalated 3"]]
