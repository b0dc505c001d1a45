"""Notifications after a pass: what has changed since a target was last notified.

Notifications are not queued. Each notification is derived from the situation and from the target's memory, which holds
the reports that have reached the target. If a notification fails, its reports are not stored as received, so the next
pass sends them again, together with any later news.

A lasting incident is reported when it begins, every ``remind_hours`` while passes encounter it, and when it ends. An
intermittent incident is reported as new at most twice within ``remind_hours``, and after that only if it lasts for an
hour.

The texts have counts and causes, but no text of a ticket message. Ticket ids and error texts come from other systems.
They are escaped, so that no service interprets them as markup.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise, takewhile

from retrycli.domain import suggested
from retrycli.domain.fingerprint import cause
from retrycli.domain.incidents import (
    COST,
    Incident,
    Memory,
    Told,
    Topic,
    Turn,
    failing_since,
    follow,
    lasting,
    utc,
    works,
)
from retrycli.domain.message import type_text
from retrycli.domain.passes import PassRecord, PassResult, StopReason, is_late
from retrycli.domain.sanitize import inert

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


# Maximum numbers of items to show.
CAUSES = 10  # the most frequent causes
TICKETS = TYPES = 5  # tickets and message types per cause
GAPS = 3  # the latest gaps without a pass
# Maximum numbers of characters to show.
LONGEST_CAUSE = 120
LONGEST_NAME = 40
LONGEST_SAME = 320  # space for a base URL of 255 characters and the response that every request gets


@dataclass(frozen=True, slots=True)
class NoticeContext:
    """Facts about the host, the destination and the queue, for the text of a notification."""

    host: str
    destination: str  # the destinations that are down; if none is down, all destinations ("one of …")
    at: datetime
    waiting: int
    escalated: int


@dataclass(frozen=True, slots=True)
class Notice:
    """One notification, in plain text."""

    title: str
    body: str
    good: bool  # the notification is a test, or reports only that incidents have ended


def worded(items: Sequence[Item], context: NoticeContext) -> Notice:
    """Combine the items into one notification."""
    gaps = [item for item in items if isinstance(item, Missed)]
    earlier = gaps[:-GAPS]
    headlines, paragraphs = zip(*(_said(item, context) for item in items if item not in earlier), strict=True)
    title = f"retrycli on {inert(context.host, LONGEST_NAME)}: " + "; ".join(headlines)
    body = "\n\n".join(paragraphs)
    if earlier:
        body += f"\n\nEarlier gaps without a pass: {len(earlier):,}. {_next('retrycli passes')}"
    good = all(isinstance(item, IncidentChange) and item.turn is Turn.ENDED for item in items)
    return Notice(title, body, good)


def trial(host: str) -> Notice:
    """Return the notification that ``notify test`` sends."""
    return Notice(
        f"retrycli on {inert(host, LONGEST_NAME)}: a test",
        "Nothing is wrong: this is a test.\nretrycli's notifications arrive here.",
        good=True,
    )


HEADLINES = {
    (Topic.DOWN, Turn.BEGAN): "the ticketing API is down",
    (Topic.DOWN, Turn.LASTS): "the ticketing API is still down",
    (Topic.DOWN, Turn.ENDED): "the ticketing API is back",
    (Topic.CREDENTIALS, Turn.BEGAN): "the credentials are refused",
    (Topic.CREDENTIALS, Turn.LASTS): "the credentials are still refused",
    (Topic.CREDENTIALS, Turn.ENDED): "the credentials are accepted again",
    (Topic.SAME_ANSWER, Turn.BEGAN): "the ticketing API gives every request the same response",
    (Topic.SAME_ANSWER, Turn.LASTS): "the ticketing API still gives every request the same response",
    (Topic.SAME_ANSWER, Turn.ENDED): "the ticketing API works again",
    (Topic.UNREAD, Turn.BEGAN): "the preset can't judge the responses",
    (Topic.UNREAD, Turn.LASTS): "the preset still can't judge the responses",
    (Topic.UNREAD, Turn.ENDED): "the preset can judge the responses again",
    (Topic.DEADLINE, Turn.BEGAN): "a pass ran out of time",
    (Topic.DEADLINE, Turn.LASTS): "passes still run out of time",
    (Topic.DEADLINE, Turn.ENDED): "passes no longer run out of time",
    (Topic.EXPIRY, Turn.BEGAN): "messages are about to expire",
    (Topic.EXPIRY, Turn.LASTS): "messages are still about to expire",
    (Topic.EXPIRY, Turn.ENDED): "waiting messages are no longer about to expire",
    (Topic.FAULT, Turn.BEGAN): "passes fail",
    (Topic.FAULT, Turn.LASTS): "passes still fail",
    (Topic.FAULT, Turn.ENDED): "passes no longer fail",
    (Topic.SKIPPED, Turn.BEGAN): "passes are skipped",
    (Topic.SKIPPED, Turn.LASTS): "passes are still skipped",
    (Topic.SKIPPED, Turn.ENDED): "passes are no longer skipped",
}


def _said(item: Item, context: NoticeContext) -> tuple[str, str]:
    match item:
        case IncidentChange():
            return HEADLINES[item.topic, item.turn], _incident_text(item.topic, item.turn, item.incident, context)
        case Missed():
            return "no pass was recorded for " + _length(item.until - item.after), (
                f"No pass was recorded between {utc(item.after)} and {utc(item.until)}: nothing started `retrycli "
                "run-once`, or it failed before it could record a pass.\n"
                + _next("`retrycli passes`; then check cron or whatever starts the passes")
            )
        case Escalated():
            number = sum(group.count for group in item.causes)
            headline = f"{_count(number, 'message')} {'needs' if number == 1 else 'need'} an operator"
            total = f"\n{context.escalated:,} messages are escalated in total." if context.escalated > number else ""
            causes = sorted(item.causes, key=lambda group: -group.count)
            lines = [_cause_line(group) for group in causes[:CAUSES]]
            if (more := len(causes) - CAUSES) > 0:
                lines.append(f"and {_count(more, 'other cause')}")
            return headline, "\n".join([f"{headline}:", *lines]) + f"{total}\n{_next('retrycli escalations')}"


def _incident_text(topic: Topic, turn: Turn, incident: Incident, context: NoticeContext) -> str:
    if turn is Turn.ENDED:
        where = context.destination
        lasted = f"since {utc(incident.since)}, for {_length(context.at - incident.since)}"
        times = f"from {utc(incident.since)} until it accepted a message at {utc(context.at)}"
        return {
            Topic.DOWN: f"{where} accepts messages again. It had been down {lasted}; no message was lost.",
            Topic.CREDENTIALS: f"{where} accepts the credentials again. It refused them {times}.",
            Topic.SAME_ANSWER: f"{where} works again. It gave every request the same response {times}.",
            Topic.UNREAD: f"The preset can judge the responses of {where} again. It could not {times}.",
            Topic.DEADLINE: f"Passes no longer run out of time. They had been running out of time {lasted}.",
            Topic.EXPIRY: f"Waiting messages are no longer about to expire. Some had been at risk "
            f"{lasted}; any that expired are escalated.",
            Topic.FAULT: f"Passes no longer fail. They had been failing {lasted}; no message was lost.",
            Topic.SKIPPED: f"Passes run again. They had been skipped {lasted}.",
        }[topic] + f"\n{_count(context.waiting, 'message')} still waiting. {_next('retrycli status')}"
    since = f"since {utc(incident.since)}" + (" at the latest" if incident.at_the_latest else "")
    detail = f" ({inert(incident.detail, LONGEST_CAUSE)})" if incident.detail else ""
    said = inert(incident.detail or "", LONGEST_SAME)
    fault = f": {said}" if said else ""
    unread = said or f"The preset can't judge the responses of {context.destination}"
    refusing = f"{'The ticketing API' if said else context.destination} has refused the credentials"
    refusing += f" ({said})" if said else ""
    same = said or f"{context.destination} gives every request the same response"
    waiting = _count(context.waiting, "message")
    step = incident.next_step or "list-failed --state waiting"
    return {
        Topic.DOWN: f"Deliveries to {context.destination} have been failing {since}. "
        f"{COST} "
        f"Passes detect when the outage ends. {waiting} waiting.\n{_next('retrycli status')}",
        Topic.CREDENTIALS: f"{refusing} {since}. This uses up "
        f"no retries. {waiting} waiting.\n{_next('`retrycli config show`; check gateway.auth and its secrets')}",
        Topic.SAME_ANSWER: f"{same}. It has done so {since}. This uses up no retries and escalates no messages. "
        f"{waiting} waiting.\n"
        + _next("`retrycli passes`; check gateway.base_url, the preset, and any proxy in front of the API"),
        Topic.UNREAD: f"{unread}. This has been so {since}. A message with such a response may have arrived, so no "
        f"pass sends it again unless a look-up shows that it is missing. {waiting} waiting.\n"
        + _next("add [success] to the preset: `retrycli manual presets`; then `retrycli run-once --probe`"),
        Topic.DEADLINE: f"Passes have been running out of time {since}, with messages unsent. {waiting} waiting.\n"
        + _next("`retrycli passes`; raise run.concurrency or run.deadline_minutes"),
        Topic.EXPIRY: f"{said or 'Messages are about to expire'}. Expired messages are "
        f"escalated. Messages have been at risk of expiring {since}.\n{_next(f'retrycli {step}')}",
        Topic.FAULT: f"Passes fail{fault}. They have been failing {since}. No message is lost. {waiting} waiting.\n"
        + _next("`retrycli passes`; then `retrycli doctor`"),
        Topic.SKIPPED: f"Passes have been skipped {since}, because another pass holds the lock{detail}.\n"
        + _next("`retrycli status`; if the pass that holds the lock hangs, kill it"),
    }[topic]


def _cause_line(group: EscalationCause) -> str:
    types = ", ".join(f"{number:,} {type_text(name)}" for name, number in [*group.types.items()][:TYPES])
    types += ", …" if len(group.types) > TYPES else ""
    tickets = ", ".join(inert(ticket, LONGEST_NAME) for ticket in group.tickets[:TICKETS])
    more = ", …" if len(group.tickets) > TICKETS or group.more_tickets else ""
    said = inert(cause(group.error), LONGEST_CAUSE) if group.error else "no error text"
    noun = "tickets" if len(group.tickets) > 1 or group.more_tickets else "ticket"
    # An id of text may come from another system. One that could form markup can't be shown as it is.
    is_safe = inert(shown := str(group.example), LONGEST_NAME) == shown
    step = f"; {suggested.own(suggested.line('show', group.example))}" if is_safe else ""
    return f"{group.count:,} × {said}\n    {types}; {noun} {tickets}{more}{step}"


def _next(steps: str) -> str:
    return f"Next: {suggested.own(steps)}"


def _length(time: timedelta) -> str:
    if time < timedelta(minutes=1):
        return "less than a minute"
    hours, minutes = divmod(round(time.total_seconds() / 60), 60)
    parts = [f"{hours} h" if hours else "", f"{minutes} min" if minutes or not hours else ""]
    return " ".join(filter(None, parts))


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
