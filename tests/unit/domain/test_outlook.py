"""When the next pass begins, and what is said if one has not begun: one table for each way to start passes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrycli.domain.cron_line import Block
from retrycli.domain.outlook import MAX_TICKS, Grid, Outlook, Sight, Ticks, by_clock, is_made, look
from retrycli.domain.passes import PassResult, StartedBy, is_late
from retrycli.domain.retry_policy import LATEST
from tests.unit.domain.passes import Past

MINUTE = timedelta(minutes=1)
CRON, TIMER, UNKNOWN, APPLICATION = StartedBy.CRON, StartedBy.TIMER, StartedBy.UNKNOWN, StartedBy.APPLICATION
HERE, THERE, DONE = "mill", "barn", PassResult.COMPLETED


def at(clock: str) -> datetime:
    """Return a time on 2 March 2026; ``16:45`` is 2 s later, as cron's passes begin."""
    hour, minute, second = (*map(int, clock.split(":")), 2)[:3]
    return datetime(2026, 3, 2, hour, minute, second, 250_000, tzinfo=UTC)


def past(clock: str, by: StartedBy = CRON, host: str = HERE, lasts: float = 0, result: PassResult = DONE) -> Past:
    began = at(clock)
    return Past(started_at=began, finished_at=began + lasts * MINUTE, started_by=by, host=host, result=result)


def every(
    step: float, until: str, number: int = 12, *, by: StartedBy = CRON, host: str = HERE, result: PassResult = DONE
) -> list[Past]:
    """Return the passes of a scheduler, the newest at a time."""
    newest = past(until, by, host, result=result)
    starts = (newest.started_at - step * n * MINUTE for n in range(number))
    return [replace(newest, started_at=each, finished_at=each) for each in starts]


def block(when: str = "*/15 * * * *", written: str | None = "10:00") -> Block:
    return Block("/etc/cron.d/retrycli", "", True, when, "ticketing", None, None if written is None else at(written))  # noqa: FBT003


SIGHT = Sight(at("17:00"), 15 * MINUTE, UTC, HERE)
OURS = replace(SIGHT, block=block())


@dataclass
class Case:
    """What is known, and what must be said at several times: the next run, or the sentence without one."""

    passes: list[Past]
    said: dict[str, str]
    sight: Sight = SIGHT


def seen(case: Case, clock: str) -> Outlook:
    now = at(clock + ":00" if clock.count(":") == 1 else clock)
    known = [record for record in case.passes if record.started_at <= now]
    records = sorted(known, key=lambda record: record.started_at, reverse=True)
    ended = [
        record if record.finished_at is not None and record.finished_at <= now else replace(record, finished_at=None)
        for record in records
    ]
    return look(replace(case.sight, now=now), ended)


def said(found: Outlook) -> str:
    if found.next_run is not None:
        assert found.ticks is not None
        assert found.ticks.next(found.next_run - timedelta.resolution) == found.next_run
        return f"{found.next_run:%H:%M}{'' if found.next_run.microsecond == 0 else ' and a fraction'}"
    assert found.silence is not None
    return found.silence.words(lambda time: f"{time:%H:%M}")


NOTHING = "nothing is known to start passes"


def missed(since: str, due: str) -> str:
    return f"no pass has begun since {since}; cron should have started one at {due}"


CRON_MISSED = missed("16:45", "17:00")
NONE_SINCE = "passes came every 15 minutes; none since 16:45"
CASES = {
    "nothing is installed": Case([], {"17:00": NOTHING}),
    "the first pass was by hand": Case([past("16:58", StartedBy.PERSON)], {"17:00": NOTHING}),
    # -- retrycli's own block -------------------------------------------------------------------------------------
    "just installed": Case(
        [],
        {
            "16:51": "17:00",
            "17:00": "17:15",
            "17:04:59": "17:15",
            "17:05": "no pass has begun yet; cron should have started one at 17:00",
        },
        replace(SIGHT, block=block(written="16:50")),
    ),
    "passes at their ticks": Case(
        every(15, "17:00"), {"16:59:59": "17:00", "17:00:03": "17:15", "17:14:59": "17:15"}, OURS
    ),
    "cron is stopped": Case(
        every(15, "16:45"), {"16:59": "17:00", "17:04": "17:15", "17:05": CRON_MISSED, "19:00": CRON_MISSED}, OURS
    ),
    "a pass begins shortly before its tick": Case([*every(15, "16:45"), past("16:59:40")], {"16:59:50": "17:15"}, OURS),
    "cron is started again": Case([*every(15, "16:45"), past("17:30")], {"17:29": CRON_MISSED, "17:31": "17:45"}, OURS),
    "a pass by hand while cron is stopped": Case(
        [*every(15, "16:45"), past("17:01", StartedBy.PERSON, lasts=3)],
        {"17:04": "17:15", "17:06": CRON_MISSED.replace(";", ", except by hand;")},
        OURS,
    ),
    "the block is edited to */5": Case(
        [*every(15, "16:45"), *every(5, "17:05", 3)],
        {"16:54": "16:55", "17:06": "17:10", "17:15": missed("17:05", "17:10")},
        replace(SIGHT, block=block("*/5 * * * *", written="16:52")),
    ),
    "the block is edited from 4 hours to 15 minutes": Case(
        every(240, "12:00"), {"15:52": "16:00", "16:04": "16:15"}, replace(SIGHT, block=block(written="15:51"))
    ),
    "nobody can see when the block was edited": Case(
        every(240, "12:00"),
        {"15:52": "16:00", "16:05": "passes came every 240 minutes; none since 12:00"},
        replace(SIGHT, block=block(written=None)),
    ),
    "installed, and nobody can see when": Case([], {"17:20": "17:30"}, replace(SIGHT, block=block(written=None))),
    "the block has fields of the user's own": Case(
        every(15, "16:52"), {"17:00": "17:07"}, replace(SIGHT, block=block("7,22,37,52 * * * *"))
    ),
    "the host was off": Case(
        every(15, "16:45"), {"17:41": "17:45", "17:50": missed("16:45", "17:45")}, replace(OURS, booted=at("17:40"))
    ),
    "a pass of 12 minutes, and cron's passes are skipped meanwhile": Case(
        [
            *every(5, "16:45"),
            past("16:50", lasts=12),
            past("16:55", result=PassResult.SKIPPED),
            past("17:00", result=PassResult.SKIPPED),
        ],
        {"16:59": "17:00", "17:01": "17:05", "17:10": missed("17:00", "17:05")},
        replace(SIGHT, block=block("*/5 * * * *"), interval=5 * MINUTE),
    ),
    "a long pass is alive": Case(every(15, "16:45"), {"17:25": "17:30"}, replace(OURS, at_work=True)),
    "a long pass has ended": Case(
        [*every(15, "16:30"), past("16:45", lasts=40)], {"17:28": "17:30", "17:34": "17:45"}, OURS
    ),
    "the other host's cron runs and ours is stopped": Case(
        every(15, "17:00", host=THERE), {"17:06": "17:15", "17:14": "17:15"}, OURS
    ),
    "a line of one's own beside the block": Case(
        [*every(15, "17:00"), *every(60, "17:07", 3, by=UNKNOWN)], {"17:06": "17:15", "17:08": "17:15"}, OURS
    ),
    "a pass of 20 minutes, and another skipped at its tick": Case(
        [*every(15, "16:30"), past("16:45", lasts=20), past("16:45:04", result=PassResult.SKIPPED)], {"17:08": "17:15"}
    ),
    # -- recorded starts -------------------------------------------------------------------------------------------
    "a line in another crontab": Case(
        every(15, "16:45"), {"16:59": "17:00", "17:00": "17:15", "17:05": NONE_SINCE, "19:00": NONE_SINCE}
    ),
    "supercronic has just started passes": Case(
        every(15, "16:52", 2, by=UNKNOWN),
        {"16:53": "17:00", "17:06": "17:15", "17:20": "a pass should begin every 15 minutes; none since 16:52"},
    ),
    "supercronic starts passes": Case(every(15, "16:52:35", by=UNKNOWN), {"16:53": "17:08"}),
    "a tick comes before a whole gap has passed": Case(every(15, "16:46:30", 2, by=UNKNOWN), {"17:06": "17:15"}),
    "passes come every ten seconds": Case(
        every(1 / 6, "16:45", by=UNKNOWN), {"16:45:10": "16:45"}, replace(SIGHT, interval=MINUTE / 3)
    ),
    "both of two schedulers have stopped": Case(
        [*every(15, "16:45"), past("16:07", UNKNOWN)], {"19:00": NONE_SINCE}, replace(SIGHT, interval=5 * MINUTE)
    ),
    "the timer delays passes at random": Case(
        [past(clock, TIMER) for clock in ("16:00:40", "16:15:01", "16:30:22", "16:45:59", "17:00:10", "17:18:30")],
        {"16:50": "17:01", "17:06": "17:15", "17:19": "17:34"},
    ),
    "a CronJob is five minutes late": Case(
        [*every(15, "16:45:05", by=UNKNOWN), past("17:04:50", UNKNOWN)], {"17:03": "17:15", "17:06": "17:20"}
    ),
    "the timer waits for a pass of 12 minutes": Case(
        every(15, "16:45", by=TIMER),
        {"16:58": "17:00", "17:12": "17:15"},
        replace(SIGHT, at_work=True, interval=5 * MINUTE),
    ),
    "passes are paused and skipped": Case(
        every(15, "16:45", result=PassResult.PAUSED), {"16:50": "17:00", "17:05": NONE_SINCE}
    ),
    "two hosts at different minutes": Case(
        [*every(15, "17:00"), *every(15, "16:52", host=THERE)], {"16:53": "17:00", "17:01": "17:07"}
    ),
    "one of two hosts has stopped": Case(
        [*every(15, "16:45"), *every(15, "17:22", host=THERE)], {"17:06": "17:07", "17:11": "17:22", "17:23": "17:37"}
    ),
    "this host was off, and nothing shows a block": Case(
        every(15, "16:45", by=TIMER), {"17:12": "17:15", "17:21": NONE_SINCE}, replace(SIGHT, booted=at("17:11"))
    ),
    "this host was started after its scheduler had stopped": Case(
        every(15, "12:00"), {"17:12": NONE_SINCE.replace("16:45", "12:00")}, replace(SIGHT, booted=at("17:11"))
    ),
    "the other host was off": Case(
        every(15, "16:45", host=THERE), {"17:12": NONE_SINCE}, replace(SIGHT, booted=at("17:11"))
    ),
    # -- applications ----------------------------------------------------------------------------------------------
    "an application has just started": Case(
        [],
        {"16:51": "17:00", "17:05": "a pass should begin every 15 minutes; none yet"},
        replace(SIGHT, application=at("16:50")),
    ),
    "the processes of an application take turns": Case(
        [
            past(f"{hour}:{minute:02}:08", APPLICATION, host)
            for hour, minute, host in ((16, 0, HERE), (16, 15, THERE), (16, 30, THERE), (16, 45, HERE), (17, 0, THERE))
        ],
        {"16:50": "17:00", "17:01": "17:15", "17:20": NONE_SINCE.replace("16:45", "17:00")},
    ),
    "an application has replaced cron": Case(
        every(15, "12:07"), {"16:51": "17:00"}, replace(SIGHT, application=at("16:50"))
    ),
    "an application was started again": Case(
        every(15, "12:00", by=APPLICATION),
        {"17:04": "17:15", "17:20": NONE_SINCE.replace("16:45", "12:00")},
        replace(SIGHT, application=at("17:03")),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_next_run_is_that_of_what_starts_passes(name: str) -> None:
    case = CASES[name]
    assert {clock: said(seen(case, clock)) for clock in case.said} == case.said


@pytest.mark.parametrize("name", [name for name in CASES if "hand" not in name])
def test_a_pass_by_hand_changes_no_next_run_and_hides_nothing(name: str) -> None:
    case = CASES[name]
    for clock, words in case.said.items():
        by_hand = past(clock, StartedBy.PERSON)
        by_hand = replace(by_hand, started_at=by_hand.started_at - MINUTE, finished_at=None)
        now = said(seen(replace(case, passes=[*case.passes, by_hand]), clock))
        assert now.replace(", except by hand", "") == words


BERLIN = "Europe/Berlin"


@pytest.mark.skipif(BERLIN not in available_timezones(), reason="needs a time zone database (tzdata)")
@pytest.mark.parametrize(
    ("day", "when", "expected"),
    [
        (datetime(2026, 3, 28, 22, tzinfo=UTC), "0 */2 * * *", ["23:00", "02:00", "04:00"]),  # 02:00 is skipped
        (datetime(2026, 10, 24, 21, tzinfo=UTC), "0 */2 * * *", ["22:00", "00:00", "01:00", "03:00"]),  # twice
        (datetime(2026, 10, 24, 21, tzinfo=UTC), "0 0 * * *", ["22:00", "23:00"]),
    ],
)
def test_the_ticks_are_crons_on_the_day_on_which_the_clock_changes(
    day: datetime, when: str, expected: list[str]
) -> None:
    sight = Sight(
        day, 120 * MINUTE, ZoneInfo(BERLIN), HERE, block=replace(block(when), written=day - timedelta(hours=1))
    )
    times = []
    for _ in expected:
        found = look(sight, [Past(started_at=sight.now, finished_at=sight.now)])
        assert found.next_run is not None
        times.append(f"{found.next_run:%H:%M}")
        assert look(replace(sight, now=found.next_run + 4 * MINUTE), [Past(started_at=sight.now)]).silence is None
        missed = look(replace(sight, now=found.next_run + 5 * MINUTE), [Past(started_at=sight.now)]).silence
        assert missed is not None
        assert missed.times[-1] == found.next_run
        sight = replace(sight, now=found.next_run + timedelta(seconds=2))
    assert times == expected


# -- the ticks of an interval ----------------------------------------------------------------------------------------

NOON = datetime(2026, 3, 2, 12, 0, 3, tzinfo=UTC)
QUARTER, DAY = 15 * MINUTE, timedelta(days=1)


@pytest.mark.parametrize(("seconds", "number"), [(-901, -1), (-900, 0), (-1, 0), (0, 1), (899, 1), (900, 2)])
def test_finds_the_first_tick_after_a_time(seconds: int, number: int) -> None:
    assert Grid(NOON, QUARTER).after(NOON + timedelta(seconds=seconds)) == number


@given(st.integers(-5, 1000), st.integers(-5, 1000))
def test_finds_the_first_tick_that_meets_a_condition(start: int, opens: int) -> None:
    ticks = Grid(NOON, QUARTER)
    assert ticks.first(start, lambda tick: tick >= ticks[opens]) == max(start, opens)


def test_gives_up_early_on_a_condition_that_is_never_met() -> None:
    looks: list[datetime] = []

    def never(tick: datetime) -> bool:
        looks.append(tick)
        return False

    assert Grid(NOON, QUARTER).first(1, never) is None
    assert len(looks) <= MAX_TICKS.bit_length() + 1


@pytest.mark.parametrize(
    ("ticks", "number"), [(Grid(NOON, timedelta(days=400)), 10**6), (by_clock(DAY, NOON, UTC), 10**5)]
)
def test_there_is_a_tick_at_the_end_of_time(ticks: Ticks, number: int) -> None:
    assert ticks[number] == LATEST


@pytest.mark.parametrize(("minutes", "late"), [(0, False), (34, False), (35, True), (600, True)])
def test_the_scheduler_looks_dead_after_two_intervals_and_five_minutes(minutes: int, *, late: bool) -> None:
    assert is_late(NOON, NOON + minutes * MINUTE, QUARTER) is late


# Kathmandu's half hours are quarter hours in UTC.
KATHMANDU = timezone(timedelta(hours=5, minutes=45))


@pytest.mark.parametrize(
    ("minutes", "expected", "zone"),
    [
        (7, ["02 12:02", "02 12:09", "02 12:16"], UTC),
        (7.5, ["02 12:07", "02 12:15", "02 12:22"], UTC),
        (360, ["02 18:00", "03 00:00", "03 06:00"], UTC),
        (1440, ["03 00:00", "04 00:00", "05 00:00"], UTC),
        (30, ["02 12:15", "02 12:45", "02 13:15"], KATHMANDU),
        (1440, ["02 18:15", "03 18:15", "04 18:15"], KATHMANDU),
    ],
)
def test_an_interval_counts_by_the_local_clock(minutes: float, expected: list[str], zone: tzinfo) -> None:
    found = by_clock(minutes * MINUTE, NOON, zone)
    first = found.after(NOON)
    assert [f"{found[first + each]:%d %H:%M}" for each in range(3)] == expected


def test_a_tick_is_strictly_after_the_time() -> None:
    found = by_clock(DAY, NOON, UTC)
    midnight = found.next(NOON)
    assert found.next(midnight) == midnight + DAY
    assert found.first(0, lambda tick: tick >= midnight + 400 * DAY) == found.after(NOON) + 400


@pytest.mark.parametrize(("seconds", "made"), [(-61, False), (-59, True), (0, True), (20, True)])
def test_a_pass_that_begins_a_little_early_belongs_to_its_tick(seconds: int, *, made: bool) -> None:
    assert is_made(NOON, [NOON - QUARTER, NOON + timedelta(seconds=seconds)], QUARTER) is made
