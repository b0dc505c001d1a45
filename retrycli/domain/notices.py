"""Notifications after a pass: what has changed since a target was last told.

No notification is queued. It follows from the situation and from what a target knows; a failed one changed neither, so
the next pass sends it again, with whatever else there is by then.

A lasting incident is reported when it begins, every ``remind_hours`` while passes meet it, and when it ends. One that
comes and goes is reported as new twice within ``remind_hours``, and then only if it lasts for an hour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from retrycli.domain.incidents import Incident, PastPass, failing_since, lasting, works
from retrycli.domain.pass_record import is_late
from retrycli.domain.pass_summary import PassResult, StopReason

SKIPPED_IN_A_ROW = 3
"""One skipped pass follows a long one; three mean that something hangs."""
MAX_BEGINNINGS = 2
"""Number of times within ``remind_hours`` that an intermittent incident is reported as new at once."""
LASTING_AFTER = timedelta(hours=1)
"""After this time it is reported as new in any case."""
SLACK = timedelta(minutes=1)
"""cron is not exact to the second; a reminder must not wait for another pass because of that."""


class Topic(StrEnum):
    """The topics of notifications."""

    ESCALATIONS = "escalations"
    DOWN = "down"
    CREDENTIALS = "credentials"
    SAME_ANSWER = "same_answer"
    DEADLINE = "deadline"
    EXPIRY = "expiry"
    FAULT = "fault"
    """Passes fail, whatever the error."""
    SKIPPED = "skipped"
    MISSED = "missed"
    UNHEARD = "unheard"
    """Notifications themselves fail; the log is told."""


MET_BY = {
    Topic.CREDENTIALS: StopReason.CREDENTIALS_REFUSED,
    Topic.SAME_ANSWER: StopReason.SAME_ANSWER,
    Topic.DOWN: StopReason.BREAKER_OPEN,
    Topic.DEADLINE: StopReason.DEADLINE,
}
"""The reason of a pass that meets an incident; the most severe first, which a pass with several ends for."""


@dataclass(frozen=True, slots=True)
class Told:
    """The last report of a topic to a target.

    For an incident ``since`` is its start; for events it is the time up to which the target knows them.
    """

    since: datetime
    told_at: datetime
    ended: bool = False
    times: int = 1
    """Number of times that an intermittent incident was reported as new; 0 if the target has not heard of it yet."""


Memory = Mapping[Topic, Told]


class Turn(StrEnum):
    """The changes of a lasting incident."""

    BEGAN = "began"
    LASTS = "lasts"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class EscalationCause:
    """Escalated messages of one cause."""

    count: int
    types: Mapping[str, int]
    error: str | None
    """The ``last_error`` of one message."""
    example: int
    tickets: Sequence[str]
    more_tickets: bool = False
    """Its messages may be of further tickets: not all were examined."""


@dataclass(frozen=True, slots=True)
class Escalated:
    """Newly escalated messages."""

    causes: Sequence[EscalationCause]


@dataclass(frozen=True, slots=True)
class Missed:
    """No pass started between two times."""

    after: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class IncidentChange:
    """An incident began, lasts or ended."""

    topic: Topic
    turn: Turn
    since: datetime
    detail: str | None = None
    next_step: str | None = None
    at_the_latest: bool = False


Item = Escalated | Missed | IncidentChange


@dataclass(frozen=True, slots=True)
class Situation:
    """The situation at the end of a pass."""

    at: datetime
    """The start of the pass: incidents last from pass to pass."""
    now: datetime
    detail: str | None
    """Details of the pass's reason."""
    passes: Sequence[PastPass]
    """The last passes, newest first; this one is the first."""
    down: Incident | None
    """An open breaker."""
    tells_of_expiry: bool
    """This pass has examined the next field."""
    expiring: Incident | None
    """Messages that expire soon because nothing is delivered."""
    interval: timedelta
    remind: timedelta


def introduction(passes: Sequence[PastPass], at: datetime) -> Memory:
    """Return the assumed knowledge of a new target: all gaps but one before the newest pass."""
    before = passes[1].started_at if len(passes) > 1 else at
    return {Topic.MISSED: Told(before, at)}


def to_tell(
    situation: Situation, memory: Memory, causes: Callable[[datetime | None], Sequence[EscalationCause]]
) -> tuple[list[Item], Memory, Memory]:
    """Return what to tell one target, its memory once it has heard that, and its memory until then.

    Args:
        situation: the situation at the end of the pass.
        memory: what the target was told before.
        causes: returns the causes of escalations after a time, up to now.
    """
    items: list[Item] = []
    known, unheard = dict(memory), dict(memory)
    for topic, incident in _incidents(situation).items():
        before = memory.get(topic)
        if incident is not None and not _may_have_met(topic, situation.passes[0]) and (before is None or before.times):
            continue  # the incident may be over by now: this pass could not find out
        turn, told = follow(incident, before, situation.at, situation.remind)
        if told is None:
            continue
        known[topic] = told
        if turn is not None:
            detail, step = (incident.detail, incident.next_step) if incident else (None, None)
            is_latest = incident is not None and incident.at_the_latest and incident.since == told.since
            items.append(IncidentChange(topic, turn, told.since, detail, step, at_the_latest=is_latest))
        if turn is Turn.BEGAN:
            unheard[topic] = replace(told, times=0)
    if gaps := _new_gaps(situation, memory):
        items.extend(gaps)
        known[Topic.MISSED] = Told(situation.at, situation.at)
    if not _was_skipped(situation):
        since = memory[Topic.ESCALATIONS].since if Topic.ESCALATIONS in memory else None
        # If the clock was set back, escalations of this pass are new all the same.
        if new := causes(since if since is None or since <= situation.now else situation.at):
            items.append(Escalated(new))
            known[Topic.ESCALATIONS] = Told(situation.now, situation.at)
    return items, known, unheard


def follow(
    incident: Incident | None, told: Told | None, at: datetime, remind: timedelta
) -> tuple[Turn | None, Told | None]:
    """Return what to report about an incident, or about none, and what to remember after that."""
    due = told is not None and at - told.told_at >= remind - SLACK
    if told is not None and not told.times:
        heard = Told(told.since, at, ended=incident is None)
        return (Turn.BEGAN if incident else Turn.ENDED), heard
    if incident is None:
        if told is None or told.ended:
            return None, told
        return Turn.ENDED, replace(told, told_at=at, ended=True)
    if told is None or (told.ended and due):
        return Turn.BEGAN, Told(incident.since, at)
    if told.ended:
        if told.times >= MAX_BEGINNINGS and at - incident.since < LASTING_AFTER:
            return None, told
        return Turn.BEGAN, Told(incident.since, at, times=told.times + 1)
    return (Turn.LASTS, replace(told, told_at=at)) if due else (None, told)


def _incidents(situation: Situation) -> dict[Topic, Incident | None]:
    """Return what this pass knows about each topic; None if there is no incident."""
    newest = situation.passes[0]
    skipped = {Topic.SKIPPED: _skip_incident(situation)}
    if newest.result is PassResult.SKIPPED:
        return skipped  # the pass that holds the lock reports the rest
    if situation.tells_of_expiry:
        skipped[Topic.EXPIRY] = situation.expiring
    if newest.result is PassResult.PAUSED:
        return skipped  # the pass after the pause reports the rest
    if newest.result is PassResult.FAILED:
        return skipped | {Topic.FAULT: _failure_incident(situation)}
    if works(newest):
        skipped[Topic.FAULT] = None
    return skipped | {
        Topic.DOWN: situation.down,
        Topic.CREDENTIALS: _lasting_incident(StopReason.CREDENTIALS_REFUSED, situation),
        Topic.SAME_ANSWER: _lasting_incident(StopReason.SAME_ANSWER, situation),
        Topic.DEADLINE: _lasting_incident(StopReason.DEADLINE, situation),
    }


def _failure_incident(situation: Situation) -> Incident:
    since, before = failing_since(situation.passes) or (situation.at, None)
    is_gap = before is not None and is_late(before.started_at, since, situation.interval)
    return Incident(since, situation.detail, at_the_latest=is_gap)


def _may_have_met(topic: Topic, newest: PastPass) -> bool:
    """Tell if the newest pass may have met an incident itself: a more severe one hides it."""
    gravity = [*MET_BY]
    reasons = [MET_BY[graver] for graver in gravity[: gravity.index(topic) + 1]] if topic in MET_BY else [newest.reason]
    return newest.reason in reasons


def _lasting_incident(reason: StopReason, situation: Situation) -> Incident | None:
    passes = lasting(reason, situation.passes)
    detail = situation.detail if situation.passes[0].reason == reason else None
    return Incident(passes[-1].started_at, detail) if passes else None


def _was_skipped(situation: Situation) -> bool:
    return situation.passes[0].result is PassResult.SKIPPED


def _skip_incident(situation: Situation) -> Incident | None:
    count = next(
        (n for n, past in enumerate(situation.passes) if past.result is not PassResult.SKIPPED), len(situation.passes)
    )
    return Incident(situation.passes[count - 1].started_at, situation.detail) if count >= SKIPPED_IN_A_ROW else None


def _new_gaps(situation: Situation, memory: Memory) -> list[Missed]:
    """Return the gaps between passes that the target was not told about, oldest first."""
    known = memory[Topic.MISSED].since if Topic.MISSED in memory else situation.at
    pairs = zip(situation.passes[1:], situation.passes, strict=False)
    return [
        Missed(before.started_at, after.started_at)
        for before, after in pairs
        if after.started_at > known and is_late(before.started_at, after.started_at, situation.interval)
    ][::-1]
