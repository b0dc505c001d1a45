"""What is worth telling a person of passes: troubles when they begin, now and then while they last, and when they end.

Cron mails whatever a pass prints; the same trouble every 15 minutes would teach people to delete those mails unread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Protocol, TypeVar

from retrycli.events import PassResult, StopReason

REMIND_AFTER = timedelta(hours=6)

LOOKBACK = 1000
"""How many passes back a trouble is followed to its beginning: ten days of them."""

TROUBLE: dict[str, str] = {
    StopReason.BREAKER_OPEN: "The ticketing API can't be reached ({detail}). No message is lost. The failures that "
    "showed it used up one retry each; the other messages keep theirs. Next: `retrycli status`",
    StopReason.CREDENTIALS_REFUSED: "The ticketing API refuses our credentials ({detail}). No message uses up a retry. "
    "Check gateway.auth and its secrets with `retrycli config show`",
    StopReason.SAME_ANSWER: "{detail}. No message uses up a retry or is escalated for it. "
    "Check gateway.base_url, the preset, and the proxy before the API",
    StopReason.DEADLINE: "The pass ran out of time with messages left. Raise run.concurrency or run.deadline_minutes",
}
"""Reasons that go on from pass to pass until somebody or something changes."""

REFUSED = (StopReason.CREDENTIALS_REFUSED, StopReason.SAME_ANSWER)
"""Reasons for which a destination takes nothing of ours until somebody does something. Each pass tries again."""

SILENT = frozenset({PassResult.SKIPPED, PassResult.PAUSED, PassResult.INTERRUPTED, PassResult.FAILED, None})
"""Results that say nothing about whether a trouble lasts; None is that of a pass that has not ended."""


class PastPass(Protocol):
    """What is asked of a pass that has been."""

    @property
    def started_at(self) -> datetime:
        """When it began."""

    @property
    def result(self) -> PassResult | None:
        """How it ended; None while it runs."""

    @property
    def reason(self) -> str | None:
        """Why it ended early."""

    @property
    def sent(self) -> int:
        """How many messages it delivered."""

    @property
    def rescheduled(self) -> int:
        """How many it tried in vain."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is wrong, and since when."""

    since: datetime
    detail: str | None = None


Past = TypeVar("Past", bound=PastPass)


def lasting(reason: str, passes: Sequence[Past]) -> list[Past]:
    """The passes, newest first, that a trouble has lasted for; none where it is over.

    Passes between them that say nothing about it are left out: one that had nothing to send has not found out whether
    it could.
    """
    telling = (each for each in passes if _tells_of(reason, each))
    return list(takewhile(lambda each: each.reason == reason, telling))


def _tells_of(reason: str, past: PastPass) -> bool:
    if past.result in SILENT or (past.reason in TROUBLE and past.reason != reason):
        return False
    return reason in {past.reason, StopReason.DEADLINE} or past.sent + past.rescheduled > 0


def news(detail: str | None, passes: Sequence[PastPass]) -> str | None:
    """What to tell of the newest pass.

    Args:
        detail: what the newest pass says of its reason.
        passes: the last passes, newest first.

    Returns:
        One line, or None where there is nothing new.
    """
    if not passes or passes[0].result in SILENT:
        return None
    newest, *earlier = passes
    if newest.reason is None or newest.reason not in TROUBLE:
        ended = [why for why in TROUBLE if _tells_of(why, newest) and lasting(why, earlier)]
        return f"Message retry passes go on as usual; the one before had stopped: {ended[0]}" if ended else None
    lasted = lasting(newest.reason, earlier)
    if lasted:
        began = lasted[-1].started_at
        if (newest.started_at - began) // REMIND_AFTER == (lasted[0].started_at - began) // REMIND_AFTER:
            return None
    return TROUBLE[newest.reason].format(detail=detail)
