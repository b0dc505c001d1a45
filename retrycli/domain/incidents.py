"""Incidents: report them when they begin, at intervals while they last, and when they end.

Cron mails the output of a pass. An email about the same problem every 15 minutes would teach operators to delete such
emails unread. So `follow` decides what to report, based on the last report. The table `retrycli_told` stores the last
report to each receiver about each topic. For the log, `recalled` derives the last report from the recorded passes.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import dropwhile, takewhile
from typing import NamedTuple

from retrycli.domain.fingerprint import cause
from retrycli.domain.passes import SCHEDULERS, PassRecord, PassResult, StartedBy, StopReason, is_late

REMIND_AFTER = timedelta(hours=6)
# Maximum number of times within ``remind_hours`` that an intermittent incident is immediately reported as new.
MAX_BEGINNINGS = 2
LASTING_AFTER = timedelta(hours=1)  # an intermittent incident that lasts this long is always reported as new
# Cron is not exact to the second. Without this slack, a pass that starts a second early would not send a due reminder,
# and the reminder would be late by a whole interval.
SLACK = timedelta(minutes=1)

LOOKBACK = 1000  # number of passes to search for the start of an incident: ten days at the default interval

# Text that tells operators when an outage uses up retries; `retrycli.engine.destination` implements these rules.
COST = (
    "No message is lost. Each failure that revealed the outage used up one retry. From the third probe of the same "
    "message on, a failed probe that got a response also uses up a retry. Other failures use up no retries."
)

# Stop reasons that recur in every pass while their cause lasts, with the texts that report them.
TROUBLE: dict[str, str] = {
    StopReason.BREAKER_OPEN: f"The ticketing API is down ({{detail}}). {COST} Next: `retrycli status`",
    StopReason.CREDENTIALS_REFUSED: "The ticketing API refuses the credentials ({detail}). This uses up no retries. "
    "Check the gateway settings with `retrycli config show`, and the account's rights in the ticketing system",
    StopReason.SAME_ANSWER: "{detail}. This uses up no retries and escalates no messages. "
    "Check gateway.base_url, the preset, and the proxy in front of the API",
    StopReason.UNREAD_ANSWER: "{detail}. A message with such a response may have arrived, so no pass sends it again "
    "unless a look-up shows that it is missing. "
    "Add [success] to the preset: see `retrycli manual presets`",
    StopReason.DEADLINE: "The pass ran out of time with messages unsent. Raise run.concurrency or run.deadline_minutes",
}

# Stop reasons of passes whose destination rejects every request until an operator acts. Such a rejection does not open
# the breaker, so each pass tries the destination again.
REFUSED = (StopReason.CREDENTIALS_REFUSED, StopReason.SAME_ANSWER)
OVER: dict[str, str] = {
    StopReason.BREAKER_OPEN: "The ticketing API accepts messages again (it was down {when})",
    StopReason.CREDENTIALS_REFUSED: "The ticketing API accepts the credentials again (it refused them {when})",
    StopReason.SAME_ANSWER: "The ticketing API works again (it gave many requests the same response {when})",
    StopReason.UNREAD_ANSWER: "The preset can judge the responses again (it could not {when})",
    StopReason.DEADLINE: "Message retry passes have enough time again (they ran out of time {when})",
}

# Results that do not show whether an incident still lasts; None means that no end is recorded.
SILENT = frozenset({PassResult.SKIPPED, PassResult.PAUSED, PassResult.INTERRUPTED, PassResult.FAILED, None})


class Topic(StrEnum):
    """The topics of reports to operators."""

    ESCALATIONS = "escalations"
    DOWN = "down"
    CREDENTIALS = "credentials"
    SAME_ANSWER = "same_answer"
    UNREAD = "unread"
    DEADLINE = "deadline"
    EXPIRY = "expiry"
    FAULT = "fault"  # passes fail, whatever the error
    SKIPPED = "skipped"
    MISSED = "missed"
    UNHEARD = "unheard"  # notifications themselves fail, which only the log reports
    LOG_FILE = "log_file"
    METRICS = "metrics"
    REPORT = "report"


class Turn(StrEnum):
    """What a report says about an incident: it began, it still lasts, or it ended."""

    BEGAN = "began"
    LASTS = "lasts"
    ENDED = "ended"


class Incident(NamedTuple):
    """A problem, and when it began."""

    since: datetime
    detail: str | None = None
    next_step: str | None = None  # command to run, without the program's name; None for the topic's usual command
    at_the_latest: bool = False  # the incident may have begun earlier, when no pass ran or no pass could record it


class Told(NamedTuple):
    """The last report about a topic to a receiver.

    For an incident, ``since`` is its start. For events such as escalations, ``since`` is the time up to which they have
    been reported.
    """

    since: datetime
    told_at: datetime
    ended: bool = False
    # Number of times that an intermittent incident was reported as new; 0 if no report has reached the receiver yet.
    times: int = 1


Memory = Mapping[Topic, Told]


def follow(
    incident: Incident | None, told: Told | None, at: datetime, remind: timedelta
) -> tuple[Turn | None, Told | None]:
    """Return the change to report about an incident or its absence (None to report nothing), and the last report to
    remember, which includes this change. Repeat a report after ``remind``.
    """
    due = told is not None and at - told.told_at >= remind - SLACK
    if told is not None and not told.times:
        return (Turn.BEGAN if incident else Turn.ENDED), Told(told.since, at, ended=incident is None)
    if incident is None:
        if told is None or told.ended:
            return None, told
        return Turn.ENDED, told._replace(told_at=at, ended=True)
    if told is None or (told.ended and due):
        return Turn.BEGAN, Told(incident.since, at)
    if told.ended:
        if told.times >= MAX_BEGINNINGS and at - incident.since < LASTING_AFTER:
            return None, told
        return Turn.BEGAN, Told(incident.since, at, times=told.times + 1)
    return (Turn.LASTS, told._replace(told_at=at)) if due else (None, told)


def recalled(met: Sequence[PassRecord], remind: timedelta) -> Told | None:
    """Return the last report about an incident, derived from the passes that encountered the incident, newest first.

    The oldest of these passes reported the incident, and later passes repeated the report at intervals of ``remind``.
    """
    if not met:
        return None
    began = met[-1].started_at
    return Told(began, began + (met[0].started_at - began + SLACK) // remind * remind)


def lasting(reason: str, passes: Sequence[PassRecord]) -> list[PassRecord]:
    """Return the passes, newest first, during which an incident lasted; an empty list if it is over.

    Ignore passes that do not show whether the incident still lasts. For example, a pass that delivered nothing does not
    show whether deliveries work again.
    """
    telling = (past for past in passes if _is_informative(reason, past))
    return list(takewhile(lambda past: past.reason == reason, telling))


def _is_informative(reason: str, past: PassRecord) -> bool:
    if past.result in SILENT or (past.reason in TROUBLE and past.reason != reason):
        return False
    return reason in {past.reason, StopReason.DEADLINE} or past.sent > 0


def as_mailed(passes: Sequence[PassRecord]) -> list[PassRecord]:
    """Leave out passes that an operator started, because cron did not mail their output.

    If an operator started the newest pass, return all passes.
    """
    if not passes or passes[0].started_by is StartedBy.PERSON:
        return [*passes]
    return [past for past in passes if past.started_by is not StartedBy.PERSON]


def works(past: PassRecord) -> bool:
    """Return whether a pass shows that passes no longer fail.

    Such a pass completed, or stopped after it had sent or rescheduled a message.
    """
    tried = past.sent + past.rescheduled > 0
    return past.result is PassResult.COMPLETED or (past.result is PassResult.STOPPED and tried)


def failed(passes: Iterable[PassRecord]) -> list[PassRecord]:
    """Return the passes, newest first, that have failed or died since the last pass that worked."""
    since_then = takewhile(lambda past: not works(past), passes)
    return [past for past in since_then if past.result is PassResult.FAILED or past.reason == StopReason.DIED]


def failing_since(passes: Sequence[PassRecord]) -> tuple[datetime, PassRecord | None]:
    """Return when passes began to fail, and the last pass before that.

    Passes without a recorded end directly before the first failed pass also count as failed, because they could not
    record their end.

    Args:
        passes: the last passes, newest first; at least one has failed.
    """
    recorded = failed(passes)
    earlier = [*dropwhile(lambda past: past is not recorded[-1], passes)][1:]
    unrecorded = [*takewhile(lambda past: past.result is None, earlier)]
    before = earlier[len(unrecorded) :]
    return (unrecorded or recorded)[-1].started_at, before[0] if before else None


def is_known(passes: Sequence[PassRecord], remind: timedelta = REMIND_AFTER) -> bool:
    """Return whether the newest pass failed in the same way as a pass that was reported less than ``remind`` ago."""
    newest, *earlier = passes
    alike = [past for past in failed(earlier) if cause(past.detail or "") == cause(newest.detail or "")]
    return _turn(newest, alike, remind, lasts=True) is None


def works_again(passes: Sequence[PassRecord]) -> str | None:
    """Return a report that passes work again, if the newest pass works and the passes before it failed."""
    newest, *earlier = passes
    if not works(newest) or not (ended := failed(earlier)):
        return None
    when = _period(ended, failing_since(earlier)[0])
    return f"Message retry passes no longer fail. They failed {when}: {ended[0].detail}"


def _period(passes: Sequence[PassRecord], since: datetime | None = None) -> str:
    first, last = utc(since or passes[-1].started_at), utc(passes[0].started_at)
    return f"at {first}" if first == last else f"from {first} to {last}"


def late_start(passes: Sequence[PassRecord], interval: timedelta) -> str | None:
    """Return a report if the newest pass began too long after the previous one.

    Return None otherwise, or if no scheduler started the newest pass.
    """
    if len(passes) < 2 or passes[0].started_by not in SCHEDULERS:  # noqa: PLR2004
        return None
    until, after = (past.started_at for past in passes[:2])
    if not is_late(after, until, interval):
        return None
    return (
        f"No pass was recorded between {utc(after)} and {utc(until)}: no pass began, or the database could not be "
        "written, for example because the disk was full. Next: `retrycli passes`"
    )


def utc(time: datetime) -> str:
    """Format a time for an operator, in UTC and to the minute."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def news(passes: Sequence[PassRecord], remind: timedelta = REMIND_AFTER) -> list[str]:
    """Return the lines to report about the newest pass: one for each incident that began, ended, or needs a reminder.
    The passes are the last ones, newest first.
    """
    if not passes or passes[0].result in SILENT:
        return []
    newest, *earlier = passes
    lines = []
    for reason, words in TROUBLE.items():
        if not _is_informative(reason, newest):
            continue
        met = lasting(reason, earlier)
        turn = _turn(newest, met, remind, lasts=newest.reason == reason)
        if turn is Turn.ENDED:
            lines.append(OVER[reason].format(when=_period(met)))
        elif turn is not None:
            lines.append(words.format(detail=newest.detail))
    return lines


def _turn(newest: PassRecord, met: Sequence[PassRecord], remind: timedelta, *, lasts: bool) -> Turn | None:
    incident = Incident(newest.started_at) if lasts else None
    return follow(incident, recalled(met, remind), newest.started_at, remind)[0]


def target_name(text: str) -> str:
    """Hash the text of a notification target, such as a URL, because the database must not reveal the text."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]
