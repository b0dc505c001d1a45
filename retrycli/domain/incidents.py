"""Incidents of passes: reported when they begin, at intervals while they last, and when they end.

Cron mails what a pass prints; the same problem every 15 minutes would teach operators to delete those mails unread.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import dropwhile, takewhile
from typing import Protocol, TypeVar

from retrycli.domain.fingerprint import cause
from retrycli.domain.pass_record import is_late
from retrycli.domain.pass_summary import SCHEDULERS, PassResult, StartedBy, StopReason

REMIND_AFTER = timedelta(hours=6)

LOOKBACK = 1000
"""The number of passes in which the start of an incident is searched: ten days."""

COST = (
    "No message is lost. The failures that showed it used up one retry each. So does a probe that is answered, from a "
    "message's third probe on; the other messages keep theirs."
)
"""The cost of an outage (see `retrycli.engine.destination`)."""

TROUBLE: dict[str, str] = {
    StopReason.BREAKER_OPEN: f"The ticketing API can't be reached ({{detail}}). {COST} Next: `retrycli status`",
    StopReason.CREDENTIALS_REFUSED: "The ticketing API refuses our credentials ({detail}). No message uses up a retry. "
    "Check gateway.auth and its secrets with `retrycli config show`",
    StopReason.SAME_ANSWER: "{detail}. No message uses up a retry or is escalated for it. "
    "Check gateway.base_url, the preset, and the proxy before the API",
    StopReason.DEADLINE: "The pass ran out of time with messages left. Raise run.concurrency or run.deadline_minutes",
}
"""Reasons that recur from pass to pass until something changes, with their texts."""

REFUSED = (StopReason.CREDENTIALS_REFUSED, StopReason.SAME_ANSWER)
"""Reasons for which a destination rejects everything until an operator acts. Each pass tries again."""
OVER: dict[str, str] = {
    StopReason.BREAKER_OPEN: "The ticketing API accepts messages again (it was down {when})",
    StopReason.CREDENTIALS_REFUSED: "The ticketing API accepts our credentials again (it refused them {when})",
    StopReason.SAME_ANSWER: "The ticketing API works again (it gave everything the same answer {when})",
    StopReason.DEADLINE: "Message retry passes have enough time again (they ran out of it {when})",
}
"""Texts for the end of an incident."""

SILENT = frozenset({PassResult.SKIPPED, PassResult.PAUSED, PassResult.INTERRUPTED, PassResult.FAILED, None})
"""Results that do not tell if an incident lasts; None is a pass that has not ended."""


class PastPass(Protocol):
    """The properties of a past pass that are needed here."""

    @property
    def started_at(self) -> datetime:
        """Return when it started."""

    @property
    def started_by(self) -> StartedBy:
        """Return who started it."""

    @property
    def result(self) -> PassResult | None:
        """Return its result; None while it runs."""

    @property
    def reason(self) -> str | None:
        """Return why it ended early."""

    @property
    def detail(self) -> str | None:
        """Return details of the reason."""

    @property
    def sent(self) -> int:
        """Return the number of delivered messages."""

    @property
    def rescheduled(self) -> int:
        """Return the number of rescheduled messages."""


@dataclass(frozen=True, slots=True)
class Incident:
    """A problem, and when it began."""

    since: datetime
    detail: str | None = None
    next_step: str | None = None
    """The command to run, without the program, if it differs each time."""
    at_the_latest: bool = False
    """It may have begun earlier, when no pass ran or none could write."""


Past = TypeVar("Past", bound=PastPass)


def lasting(reason: str, passes: Sequence[Past]) -> list[Past]:
    """Return the passes, newest first, during which an incident lasted; none if it is over.

    Passes in between that do not tell are left out: one that delivered nothing has not found out if it could.
    """
    telling = (past for past in passes if _is_informative(reason, past))
    return list(takewhile(lambda past: past.reason == reason, telling))


def _is_informative(reason: str, past: PastPass) -> bool:
    if past.result in SILENT or (past.reason in TROUBLE and past.reason != reason):
        return False
    return reason in {past.reason, StopReason.DEADLINE} or past.sent > 0


def as_mailed(passes: Sequence[Past]) -> list[Past]:
    """Return the passes whose output goes to the reader of the newest one: a terminal's output is not mailed."""
    if not passes or passes[0].started_by is StartedBy.PERSON:
        return [*passes]
    return [past for past in passes if past.started_by is not StartedBy.PERSON]


def works(past: PastPass) -> bool:
    """Tell if a pass shows that passes no longer fail: it ended by itself and did its work."""
    tried = past.sent + past.rescheduled > 0
    return past.result is PassResult.COMPLETED or (past.result is PassResult.STOPPED and tried)


def failed(passes: Iterable[Past]) -> list[Past]:
    """Return the passes, newest first, that failed or died since the last one that worked."""
    since_then = takewhile(lambda past: not works(past), passes)
    return [past for past in since_then if past.result is PassResult.FAILED or past.reason == StopReason.DIED]


def failing_since(passes: Sequence[Past]) -> tuple[datetime, PastPass | None] | None:
    """Return since when passes have failed, and the pass before; None if none has.

    A pass without an end, directly before the first one that is recorded as failed, has failed as well: it could not
    write its end.

    Args:
        passes: the last passes, newest first.
    """
    if not (recorded := failed(passes)):
        return None
    earlier = [*dropwhile(lambda past: past is not recorded[-1], passes)][1:]
    unrecorded = [*takewhile(lambda past: past.result is None, earlier)]
    before = earlier[len(unrecorded) :]
    return (unrecorded or recorded)[-1].started_at, before[0] if before else None


def is_known(passes: Sequence[PastPass], remind: timedelta = REMIND_AFTER) -> bool:
    """Tell if the newest pass failed like one that was reported less than ``remind`` ago."""
    newest, *earlier = passes
    alike = [past for past in failed(earlier) if cause(past.detail or "") == cause(newest.detail or "")]
    return bool(alike) and not _is_due(newest, alike, remind)


def works_again(passes: Sequence[PastPass]) -> str | None:
    """Return a report that passes work again, if the newest one shows it and those before it failed."""
    newest, *earlier = passes
    if not works(newest) or not (ended := failed(earlier)):
        return None
    began = failing_since(earlier)
    when = _period(ended, None if began is None else began[0])
    return f"Message retry passes no longer fail. They failed {when}: {ended[0].detail}"


def _period(passes: Sequence[PastPass], since: datetime | None = None) -> str:
    first, last = utc(since or passes[-1].started_at), utc(passes[0].started_at)
    return f"at {first}" if first == last else f"from {first} to {last}"


def missing(passes: Sequence[PastPass], interval: timedelta) -> str | None:
    """Return a report that passes were missing before the newest one, if a scheduler started it."""
    if len(passes) < 2 or passes[0].started_by not in SCHEDULERS:  # noqa: PLR2004
        return None
    until, after = (past.started_at for past in passes[:2])
    if not is_late(after, until, interval):
        return None
    return (
        f"No pass was recorded between {utc(after)} and {utc(until)}: none began, or the database could not be "
        "written, as on a full disk. Next: `retrycli passes`"
    )


def utc(time: datetime) -> str:
    """Format a time for an operator."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def news(detail: str | None, passes: Sequence[PastPass], remind: timedelta = REMIND_AFTER) -> list[str]:
    """Return what to report about the newest pass.

    Args:
        detail: details of the newest pass's reason.
        passes: the last passes, newest first.
        remind: the interval after which a lasting incident is reported again.

    Returns:
        One line for each new fact.
    """
    if not passes or passes[0].result in SILENT:
        return []
    newest, *earlier = passes
    if newest.reason is None or newest.reason not in TROUBLE:
        ended = {why: lasting(why, earlier) for why in OVER if _is_informative(why, newest)}
        return [OVER[why].format(when=_period(met)) for why, met in ended.items() if met]
    lasted = lasting(newest.reason, earlier)
    if lasted and not _is_due(newest, lasted, remind):
        return []
    return [TROUBLE[newest.reason].format(detail=detail)]


def _is_due(newest: PastPass, lasted: Sequence[PastPass], remind: timedelta) -> bool:
    """Tell if a reminder is due for an incident that the passes before the newest have met as well."""
    began = lasted[-1].started_at
    return (newest.started_at - began) // remind != (lasted[0].started_at - began) // remind
