"""Notifications after a pass: what has changed since a target was last notified.

Notifications are not queued. Each notification is derived from the situation and from the target's memory, which holds
the reports that have reached the target. If a notification fails, its reports are not stored as received, so the next
pass sends them again, together with any later news.

A lasting incident is reported when it begins, every ``remind_hours`` while passes encounter it, and when it ends. An
intermittent incident is reported as new at most twice within ``remind_hours``, and after that only if it lasts for an
hour.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise, takewhile

from retrycli.domain.incidents import Incident, Memory, Told, Topic, Turn, failing_since, follow, lasting, works
from retrycli.domain.passes import PassRecord, PassResult, StopReason, is_late

# Number of consecutive skipped passes that count as an incident. One skipped pass shows only that the previous pass
# took long. Three suggest that a pass hangs.
SKIPPED_IN_A_ROW = 3

# The stop reason of a pass that encounters an incident, by topic; the most severe topic comes first. A pass that
# encounters several incidents stops for the most severe one.
MET_BY = {
    Topic.CREDENTIALS: StopReason.CREDENTIALS_REFUSED,
    Topic.UNREAD: StopReason.UNREAD_ANSWER,
    Topic.SAME_ANSWER: StopReason.SAME_ANSWER,
    Topic.DOWN: StopReason.BREAKER_OPEN,
    Topic.DEADLINE: StopReason.DEADLINE,
}


@dataclass(frozen=True, slots=True)
class EscalationCause:
    """Escalated messages with the same cause."""

    count: int
    types: Mapping[str, int]
    error: str | None  # ``last_error`` of one of the messages
    example: int
    tickets: Sequence[str]
    # True if only some of the messages were examined. The others may belong to tickets that are not listed.
    more_tickets: bool = False


@dataclass(frozen=True, slots=True)
class Escalated:
    """Escalations that have not been reported to a target yet, grouped by cause."""

    causes: Sequence[EscalationCause]


@dataclass(frozen=True, slots=True)
class Missed:
    """A period, longer than the schedule allows, in which no pass was recorded."""

    after: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class IncidentChange:
    """A report that an incident began, still lasts or ended."""

    topic: Topic
    turn: Turn
    incident: Incident


Item = Escalated | Missed | IncidentChange


@dataclass(frozen=True, slots=True)
class Situation:
    """The facts at the end of a pass, from which notifications are derived."""

    now: datetime
    passes: Sequence[PassRecord]  # last passes, newest first; this pass is the first
    down: Incident | None  # outage, if a breaker is open
    # Maps `Topic.EXPIRY` to an incident if messages will soon expire undelivered, else to None. Empty if this pass
    # can't tell.
    expiry: Mapping[Topic, Incident | None]
    interval: timedelta
    remind: timedelta


def introduction(passes: Sequence[PassRecord]) -> Memory:
    """Return the initial memory of a new target.

    The target still gets a report of a gap directly before the newest pass. Earlier gaps count as reported.
    """
    return {Topic.MISSED: Told(passes[:2][-1].started_at, passes[0].started_at)}


def to_tell(
    situation: Situation, memory: Memory, causes: Callable[[datetime | None], Sequence[EscalationCause]]
) -> tuple[list[Item], Memory, Memory]:
    """Return what to report to one target, and what to remember about it afterwards.

    Args:
        situation: the situation at the end of the pass.
        memory: the reports that the target has already received.
        causes: returns the causes of the escalations since a given time; None means since the beginning.

    Returns:
        The items to report, the memory if the report reaches the target, and the memory if the report fails.
    """
    newest = situation.passes[0]
    items: list[Item] = []
    known, unheard = dict(memory), dict(memory)
    for topic, incident in _incidents(situation).items():
        before = memory.get(topic)
        if incident is not None and not _may_have_met(topic, newest) and (before is None or before.times):
            continue  # this pass could not find out whether the incident is over
        turn, told = follow(incident, before, newest.started_at, situation.remind)
        if told is None:
            continue
        known[topic] = told
        if turn is not None:
            shown = incident
            if shown is None or shown.since != told.since:  # show the start that was reported to the target
                shown = (shown or Incident(told.since))._replace(since=told.since, at_the_latest=False)
            items.append(IncidentChange(topic, turn, shown))
        if turn is Turn.BEGAN:
            unheard[topic] = told._replace(times=0)
    if gaps := _new_gaps(situation, memory):
        items.extend(gaps)
        known[Topic.MISSED] = Told(newest.started_at, newest.started_at)
    if newest.result is not PassResult.SKIPPED:
        since = memory[Topic.ESCALATIONS].since if Topic.ESCALATIONS in memory else None
        # If the clock was set back, the last report is dated in the future, but this pass's escalations are still new.
        if new := causes(since if since is None or since <= situation.now else newest.started_at):
            items.append(Escalated(new))
            known[Topic.ESCALATIONS] = Told(situation.now, newest.started_at)
    return items, known, unheard


def _incidents(situation: Situation) -> dict[Topic, Incident | None]:
    """Return the incident of each topic that this pass can judge; None for a topic without an incident."""
    passes, newest = situation.passes, situation.passes[0]
    skipped = [*takewhile(lambda past: past.result is PassResult.SKIPPED, passes)]
    is_stuck = len(skipped) >= SKIPPED_IN_A_ROW
    found = {Topic.SKIPPED: Incident(skipped[-1].started_at, newest.detail) if is_stuck else None}
    if newest.result is PassResult.SKIPPED:
        return found  # the pass that holds the lock reports the rest
    found |= situation.expiry
    if newest.result is PassResult.PAUSED:
        return found  # the pass after the pause reports the rest
    if newest.result is PassResult.FAILED:
        since, before = failing_since(passes)
        is_gap = before is not None and is_late(before.started_at, since, situation.interval)
        return found | {Topic.FAULT: Incident(since, newest.detail, at_the_latest=is_gap)}
    if works(newest):
        found[Topic.FAULT] = None
    met = {topic: _lasting_incident(MET_BY[topic], passes) for topic in Topic if topic in MET_BY}
    # The breakers show an outage better than the passes do, because a delivery by an operator also ends an outage.
    return found | met | {Topic.DOWN: situation.down}


def _may_have_met(topic: Topic, newest: PassRecord) -> bool:
    """Return whether the newest pass stopped for an incident, or for a more severe one, which may hide the incident.

    For a topic that stops no pass, return True.
    """
    gravity = [*MET_BY]
    reasons = [MET_BY[graver] for graver in gravity[: gravity.index(topic) + 1]] if topic in MET_BY else [newest.reason]
    return newest.reason in reasons


def _lasting_incident(reason: StopReason, passes: Sequence[PassRecord]) -> Incident | None:
    met = lasting(reason, passes)
    return Incident(met[-1].started_at, passes[0].detail if met[0] is passes[0] else None) if met else None


def _new_gaps(situation: Situation, memory: Memory) -> list[Missed]:
    known = memory[Topic.MISSED].since if Topic.MISSED in memory else situation.passes[0].started_at
    return [
        Missed(before, after)
        for before, after in pairwise(past.started_at for past in reversed(situation.passes))
        if after > known and is_late(before, after, situation.interval)
    ]
