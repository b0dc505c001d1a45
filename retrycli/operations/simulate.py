"""Simulate a schedule: replay it, and today's, against the recorded outages and outcomes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta

from retrycli.config.loader import with_schedule
from retrycli.config.settings import Settings
from retrycli.config.template import toml_value
from retrycli.domain import schedule_grid
from retrycli.domain.duration import utc_text
from retrycli.domain.errors import TooLittleHistory
from retrycli.domain.history_reader import HistoryReader
from retrycli.domain.message import MessageType
from retrycli.domain.passes import PassResult
from retrycli.domain.recorded_history import RecordedHistory, RecordedPass
from retrycli.domain.schedule_grid import Ticks
from retrycli.domain.simulation import (
    Estimate,
    ObservedRate,
    ReplayTally,
    SimulatedOutage,
    SimulatedSchedule,
    Simulation,
    describe,
)
from retrycli.engine.ports import PassRules
from retrycli.gateway import router
from retrycli.operations.replay import replay
from retrycli.operations.wiring import open_database, pass_rules, utc_now
from retrycli.store.database import Database
from retrycli.store.recorded_history import HistoryQueries
from retrycli.views.formatting import count

MONTH = timedelta(days=30)
# Minimum number of messages, and of attempts outside outages. With fewer, the figures would say nothing.
ENOUGH = 20
# The number of replays of each schedule, by the maximum number of attempts. The numbers are odd, so that each figure
# has a median. Large histories get fewer replays, because theirs differ less and take longer.
REPLAYS = ((10_000, 9), (50_000, 5), (200_000, 3))
DELIVERING = frozenset({PassResult.COMPLETED, PassResult.STOPPED, PassResult.INTERRUPTED})


def simulate(
    settings: Settings,
    changes: Mapping[str, object],
    *,
    message_type: MessageType | None = None,
    span: timedelta = MONTH,
    now: Callable[[], datetime] = utc_now,
) -> Simulation:
    """Replay today's schedule and, if changes are given, a proposed one.

    Args:
        settings: the settings, with today's schedule.
        changes: the values to change in ``[schedule]``, by key, such as ``{"backoff": "fixed", "base_minutes": 30}``.
        message_type: change only the schedule of this type, and count only its messages. The replays cover all types,
            because they share the breaker.
        span: the length of the period.
        now: the clock.

    Raises:
        InvalidSchedule: the settings would reject the proposed schedule.
        TooLittleHistory: fewer than `ENOUGH` messages or attempts are recorded.
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    proposed = with_schedule(settings, changes, message_type)
    until = now()
    rules = pass_rules(settings, to_send=False)
    with open_database(settings) as database:
        record = _Record(settings, database, rules, until - span, until)
    record.require_enough(message_type)
    types = [message_type] if message_type else list(MessageType)
    return Simulation(
        since=record.since,
        until=until,
        message_type=message_type,
        attempts=record.history.attempts,
        replays=record.replays,
        outages=record.outages,
        rates=[ObservedRate(rate.name, rate.attempts, rate.pooled, rate.kinds) for rate in record.history.rates],
        today=record.simulate(rules, types),
        proposed=record.simulate(rules._replace(policies=proposed.policies), types) if changes else None,
        section="schedule" if message_type is None else f"schedule.types.{message_type}",
        lines=_lines(proposed, changes, message_type),
    )


def fields(found: Simulation) -> dict[str, object]:
    """Return a simulation as the fields of a JSON object."""
    return {
        "since": found.since,
        "until": found.until,
        "type": found.message_type,
        "attempts": found.attempts,
        "replays": found.replays,
        "outages": [asdict(outage) for outage in found.outages],
        "rates": [asdict(rate) for rate in found.rates],
        "today": _schedule_fields(found.today),
        "proposed": None if found.proposed is None else _schedule_fields(found.proposed),
        "section": found.section,
        "lines": list(found.lines),
    }


def _schedule_fields(schedule: SimulatedSchedule) -> dict[str, object]:
    return {
        "schedule": schedule.description,
        "figures": {name: found._asdict() for name, found in schedule.figures.items()},
    }


def _lines(proposed: Settings, changes: Mapping[str, object], message_type: MessageType | None) -> list[str]:
    schedule = proposed.schedule
    values = schedule if message_type is None else schedule.types.get(message_type)
    return [f"{key} = {toml_value(getattr(values, key))}" for key in changes]


class _Record:
    """The recorded history of a period, and the replays of schedules on it."""

    def __init__(
        self, settings: Settings, database: Database, rules: PassRules, since: datetime, until: datetime
    ) -> None:
        queries = HistoryQueries(database)
        passes = queries.passes(since)
        # Attempts from before the first pass are the rest of a history that was pruned.
        self.since = max([since, *(made.started_at for made in passes[:1])])
        self._is_whole = self.since > since  # the history begins within the period
        self._until = until
        self._passes = [made.started_at for made in passes if made.result in DELIVERING]
        self._has_times = queries.has_times
        self._looks_up = {
            message_type: router.looks_up(settings.gateway.of(message_type), message_type)
            for message_type in MessageType
        }
        self._later = _ticks_after(passes, settings.schedule.interval, until)
        reader = HistoryReader(
            rules.breaker,
            {made.pass_id: made for made in passes},
            {message_type: rules.destination_of(message_type) for message_type in MessageType},
            since=self.since,
        )
        queries.read_into(reader, self.since)
        self.history: RecordedHistory = reader.history()

    def require_enough(self, message_type: MessageType | None) -> None:
        """Raise `TooLittleHistory` if a simulation would say nothing."""
        messages = sum(message_type in {None, message.message_type} for message in self.history.messages)
        if min(messages, self.history.attempts) < ENOUGH:
            of_type = f" of type {message_type}" if message_type else ""
            remedy = "simulate later" if self._is_whole else "choose a longer period with --since, or simulate later"
            raise TooLittleHistory(
                f"too little history since {utc_text(self.since)}: {count(messages, 'message')}{of_type} first failed "
                f"since then, and {count(self.history.attempts, 'attempt')} outside outages; at least {ENOUGH} of each "
                f"are needed: {remedy}"
            )

    @property
    def replays(self) -> int:
        """Return the number of replays of each schedule."""
        size = self.history.attempts + len(self.history.messages)
        return next((number for most, number in REPLAYS if size <= most), 1)

    @property
    def outages(self) -> list[SimulatedOutage]:
        """Return the recorded outages, the first one first."""
        found = [
            SimulatedOutage(destination, outage.began_at, outage.failed_at, outage.answered_at, len(outage.outcomes))
            for destination, outages in self.history.outages.items()
            for outage in outages
        ]
        return sorted(found, key=lambda outage: outage.began_at)

    def simulate(self, rules: PassRules, types: Sequence[MessageType]) -> SimulatedSchedule:
        """Replay one schedule, and count the messages of the given types."""
        found = [self._figures(rules, types, seed) for seed in range(self.replays)]
        figures = {name: Estimate.of([each[name] for each in found]) for name in found[0]}
        return SimulatedSchedule(describe({each: rules.policies[each] for each in types}), figures)

    def _figures(self, rules: PassRules, types: Sequence[MessageType], seed: int) -> dict[str, int | None]:
        tallies = replay(
            self.history,
            rules,
            seed=seed,
            passes=self._passes,
            later=self._later,
            until=self._until,
            looks_up=self._looks_up,
            has_times=self._has_times,
        )
        whole = ReplayTally()
        for message_type in types:
            whole.add(tallies[message_type])
        return whole.figures()


def _ticks_after(passes: Sequence[RecordedPass], interval: timedelta, until: datetime) -> Ticks:
    newest = [made.started_at for made in passes[: -schedule_grid.PASSES_LOOKED_AT - 1 : -1]]
    return schedule_grid.grid(newest, interval) or schedule_grid.by_clock(interval, until)
