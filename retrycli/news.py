"""What is worth telling a person of a pass: troubles when they begin, now and then while they last, and when they end.

Cron mails whatever a pass prints; the same trouble every 15 minutes would teach people to delete those mails unread.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import takewhile

from retrycli.events import PassResult, StopReason

REMIND_AFTER = timedelta(hours=6)

LOOKBACK = 1000
"""How many passes back a trouble is followed to its beginning: ten days of them."""

TROUBLE: dict[str | None, str] = {
    StopReason.BREAKER_OPEN: "The ticketing API can't be reached ({detail}). No message is lost, "
    "and none loses its tries to the outage. `retrycli status` tells more",
    StopReason.CREDENTIALS_REFUSED: "The ticketing API refuses our credentials ({detail}). No message loses its tries. "
    "Check gateway.auth and its secrets with `retrycli config show`",
    StopReason.DEADLINE: "The pass ran out of time with messages left. Raise run.concurrency or run.deadline_minutes",
}
"""Reasons that go on from pass to pass until somebody or something changes."""

SILENT = frozenset({PassResult.SKIPPED, PassResult.PAUSED, PassResult.INTERRUPTED})
"""Results that say nothing about whether a trouble lasts."""


def news(detail: str | None, passes: Sequence[tuple[datetime, PassResult | None, str | None]]) -> str | None:
    """What to tell of the newest pass.

    Args:
        detail: what the newest pass says of its reason.
        passes: start, result and reason of the last passes, newest first.

    Returns:
        One line, or None where there is nothing new.
    """
    if not passes or passes[0][1] in SILENT:
        return None
    (started_at, reason), *earlier = [(start, why) for start, result, why in passes if result not in SILENT]
    if reason not in TROUBLE:
        ended = bool(earlier) and earlier[0][1] in TROUBLE
        return f"Message retry passes go on as usual; the one before had stopped: {earlier[0][1]}" if ended else None
    lasting = [start for start, _ in takewhile(lambda each: each[1] == reason, earlier)]
    if lasting:
        began = lasting[-1]
        if (started_at - began) // REMIND_AFTER == (lasting[0] - began) // REMIND_AFTER:
            return None
    return TROUBLE[reason].format(detail=detail)
