"""The notifications that each target receives about the start, the continuation and the end of incidents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest

from retrycli.domain.incidents import Incident, Memory, Topic, Turn
from retrycli.domain.passes import PassResult, StopReason
from retrycli.notify.notices import (
    Escalated,
    EscalationCause,
    IncidentChange,
    Item,
    Missed,
    Situation,
    introduction,
    to_tell,
)
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
    """A target of notifications, and what it has received."""

    memory: Memory = field(default_factory=dict)
    heard: list[list[Item]] = field(default_factory=list)
    deaf: bool = False


@dataclass
class World:
    """A simulated installation that makes one pass per tick."""

    target: Target = field(default_factory=Target)
    passes: list[Past] = field(default_factory=list)
    """The passes, newest first."""
    at: datetime = NOON
    down_since: datetime | None = None
    expiring: bool | None = None
    """True if messages are about to expire; None if the pass did not check."""
    escalated: list[datetime] = field(default_factory=list)
    others: Sequence[Target] = ()

    def tick(self, kind: Past = BUSY, *, escalates: int = 0, after: timedelta = TICK) -> list[str]:
        """Make one pass, and return the notifications that the target receives, abbreviated."""
        self.at += after
        self.passes.insert(0, replace(kind, started_at=self.at))
        if kind is DOWN:
            self.down_since = self.down_since or self.at
        elif kind.sent:
            self.down_since = None
        self.escalated += [self.at + timedelta(seconds=1)] * escalates
        for target in (self.target, *self.others):
            self._tell(target)
        return [short(notice) for notice in self.target.heard[-1]]

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
        new = [cause for cause in self.escalated if since is None or cause > since]
        return [EscalationCause(len(new), {"customer": len(new)}, "HTTP 422", 1, ["4711"])] if new else []


def short(item: Item) -> str:
    match item:
        case IncidentChange():
            return f"{item.topic} {item.turn}"
        case Missed():
            return f"missed {(item.until - item.after) // timedelta(minutes=1)}"
        case Escalated():
            return f"escalated {sum(cause.count for cause in item.causes)}"


def told(world: World, kinds: Iterable[Past]) -> list[tuple[int, str]]:
    """Make these passes, and return the notifications that the target receives, each with the number of its pass."""
    return [(number, notice) for number, kind in enumerate(kinds) for notice in world.tick(kind)]


@pytest.fixture
def world() -> World:
    """Provide a world after one pass."""
    made = World()
    made.tick()
    return made


@pytest.mark.parametrize("topic", STANDING)
def test_an_incident_is_announced_at_its_start_every_six_hours_and_at_its_end(world: World, topic: Topic) -> None:
    heard = told(world, [*[STANDING[topic]] * 60, *[BUSY] * 60])
    assert heard == [(0, f"{topic} began"), (24, f"{topic} lasts"), (48, f"{topic} lasts"), (60, f"{topic} ended")]
    assert since(world.target.heard[1 + 60]) == NOON + 2 * TICK, "the end names the start"


def since(heard: Sequence[Item]) -> datetime | None:
    [item] = heard
    assert isinstance(item, IncidentChange)
    return item.incident.since


def test_a_reminder_tolerates_a_tick_that_is_slightly_early(world: World) -> None:
    world.tick(DOWN)
    heard = [world.tick(DOWN, after=TICK - timedelta(seconds=2)) for _ in range(24)]
    assert heard[-1] == ["down lasts"]


@pytest.mark.parametrize("topic", STANDING)
def test_a_pass_that_did_not_run_neither_reports_nor_ends_an_incident(world: World, topic: Topic) -> None:
    world.tick(STANDING[topic])
    assert told(world, [SKIPPED, SKIPPED, STANDING[topic], *[PAUSED] * 40]) == []
    assert world.tick(STANDING[topic]) == [f"{topic} lasts"]
    assert {text for _, text in told(world, [SKIPPED] * 40)} == {"skipped began", "skipped lasts"}
    assert {*world.tick()} == {f"{topic} ended", "skipped ended"}


def test_messages_about_to_expire_are_announced_also_during_a_pause(world: World) -> None:
    world.expiring = True
    heard = told(world, [PAUSED] * 30)
    assert heard == [(0, "expiry began"), (24, "expiry lasts")]
    world.expiring = None
    assert told(world, [SKIPPED, replace(BUSY, sent=0)]) == []
    world.expiring = False
    assert world.tick() == ["expiry ended"]


def test_refused_credentials_stay_refused_if_nothing_was_sent_or_the_api_is_down(world: World) -> None:
    idle = replace(BUSY, sent=0)
    assert told(world, [REFUSED, idle, DOWN, REFUSED]) == [(0, "credentials began"), (2, "down began")]


@pytest.mark.parametrize("topic", [Topic.DOWN, Topic.CREDENTIALS, Topic.SAME_ANSWER])
def test_a_pass_with_nothing_to_send_sends_no_reminder(world: World, topic: Topic) -> None:
    """A pass that sends nothing does not find out whether the incident continues."""
    idle = replace(BUSY, sent=0)
    world.tick(STANDING[topic])
    assert told(world, [idle] * 60) == []
    assert world.tick(STANDING[topic]) == [f"{topic} lasts"]


def test_a_new_target_hears_of_an_incident_from_a_pass_that_meets_it(world: World) -> None:
    world.tick(REFUSED)
    world.target = Target()
    assert world.tick(replace(BUSY, sent=0)) == []
    assert world.tick(REFUSED) == ["credentials began"]


def test_a_graver_incident_does_not_hide_others(world: World) -> None:
    """A pass records only its most serious problem, so the record does not show that the other incident has ended."""
    world.tick(DOWN)
    assert (23, "down lasts") in told(world, [REFUSED] * 30)


def test_two_incidents_that_end_together_are_one_notification(world: World) -> None:
    world.tick(REFUSED)
    world.tick(DOWN)
    assert world.tick(escalates=3) == ["down ended", "credentials ended", "escalated 3"]


def test_an_intermittent_incident_is_announced_twice_and_then_after_an_hour(world: World) -> None:
    twice = [(0, "down began"), (1, "down ended"), (2, "down began"), (3, "down ended")]
    assert told(world, [DOWN, BUSY] * 8) == twice
    assert told(world, [DOWN, DOWN, BUSY, BUSY]) == []
    assert told(world, [*[DOWN] * 6, BUSY]) == [(4, "down began"), (6, "down ended")]
    told(world, [BUSY] * 96)
    assert told(world, [DOWN, BUSY] * 3) == twice


@pytest.mark.parametrize("topic", [Topic.DOWN, Topic.CREDENTIALS, Topic.SAME_ANSWER, Topic.DEADLINE])
def test_a_failed_pass_only_reports_its_failure(world: World, topic: Topic) -> None:
    world.tick(STANDING[topic])
    assert told(world, [FAILED] * 30) == [(0, "fault began"), (24, "fault lasts")]


def test_a_pass_stopped_before_any_attempt_does_not_end_a_failure(world: World) -> None:
    """A pass that waits for a probe ends early, so it does not show whether the failure continues."""
    waits_for_probe = replace(DOWN, rescheduled=0)
    world.tick(DOWN)
    assert told(world, [FAILED, waits_for_probe, FAILED, waits_for_probe]) == [(0, "fault began")]
    assert world.tick() == ["fault ended", "down ended"]


def test_three_consecutive_skipped_passes_are_reported(world: World) -> None:
    assert told(world, [SKIPPED] * 2 + [BUSY] + [SKIPPED] * 40 + [BUSY] * 3) == [
        (5, "skipped began"),
        (29, "skipped lasts"),
        (43, "skipped ended"),
    ]


def test_a_pass_that_outlasts_skipped_ones_reports_its_own_end(world: World) -> None:
    """The history that a pass reads ends with the pass itself. The skipped passes, which began later, are missing."""
    told(world, [SKIPPED] * 3)
    world.passes = [Past(started_at=NOON + TICK / 2), Past()]
    world._tell(world.target)
    assert [short(notice) for notice in world.target.heard[-1]] == ["skipped ended"]


@pytest.mark.parametrize(("minutes", "heard"), [(34, []), (35, ["missed 35"]), (600, ["missed 600"])])
def test_missing_passes_are_reported_once_when_they_resume(world: World, minutes: int, heard: list[str]) -> None:
    assert world.tick(after=timedelta(minutes=minutes)) == heard
    assert told(world, [BUSY] * 100) == []


def test_gaps_before_a_target_was_configured_are_ignored() -> None:
    world = World(passes=[Past(started_at=NOON - timedelta(days=1)), Past(started_at=NOON - timedelta(days=3))])
    assert world.tick(after=timedelta()) == ["missed 1440"]
    assert told(world, [BUSY] * 3) == []
    assert World().tick() == [], "no gap before the first pass"


def test_new_escalations_are_announced_once_but_all_of_them_to_a_new_target() -> None:
    world = World(escalated=[NOON - timedelta(days=3)] * 4)
    assert told(world, [BUSY, BUSY]) == [(0, "escalated 4")]
    assert world.tick(escalates=3) == ["escalated 3"]
    assert world.tick(SKIPPED, escalates=2) == [], "the pass with the lock reports them"
    assert told(world, [BUSY, BUSY]) == [(0, "escalated 2")]


def test_escalations_are_announced_after_the_clock_was_set_back(world: World) -> None:
    world.tick(escalates=1)
    world.escalated.clear()
    assert world.tick(escalates=2, after=timedelta(hours=-3)) == ["escalated 2"]


def test_a_failed_target_is_notified_by_the_next_pass_and_others_only_once(world: World) -> None:
    other = Target(world.target.memory)
    world.others = [other]
    world.target.deaf = True
    told(world, [DOWN, DOWN])
    world.tick(DOWN, escalates=2)
    world.target.deaf = False
    assert world.tick(DOWN) == ["down began", "escalated 2"]
    assert [[short(item) for item in notice] for notice in other.heard] == [["down began"], [], ["escalated 2"], []]


def test_a_target_unreachable_during_a_whole_incident_hears_of_its_end_and_start(world: World) -> None:
    """A network failure may make both the API and the mail server unreachable."""
    world.target.deaf = True
    told(world, [*[DOWN] * 31, BUSY])
    world.target.deaf = False
    assert world.tick() == ["down ended"]
    assert since(world.target.heard[-1]) == NOON + 2 * TICK
    assert told(world, [BUSY] * 30) == []


def test_a_target_unreachable_at_the_start_is_told_later_and_reminded_from_then(world: World) -> None:
    world.target.deaf = True
    world.tick(after=timedelta(hours=2))
    told(world, [DOWN] * 3)
    world.target.deaf = False
    assert told(world, [*[DOWN] * 25, BUSY]) == [
        (0, "down began"), (0, "missed 120"), (24, "down lasts"), (25, "down ended"),
    ]  # fmt: skip
