"""What can come of an attempt: a small closed set, and how an HTTP answer falls into it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import NamedTuple

RETRY_AFTER_CAP = timedelta(hours=6)
"""No server can make a message wait longer than this."""

ERROR_LENGTH = 500
"""How many characters of an error text are kept."""


class OutcomeKind(StrEnum):
    """The closed set. Each member says what is known about the message afterwards."""

    DELIVERED = "delivered"
    """The other side has it."""
    REFUSED = "refused"
    """A success status, but the answer's content says no."""
    UNKNOWN = "unknown"
    """It may or may not have arrived."""
    TRANSIENT = "transient"
    """The other side could not take it just now."""
    UNREACHABLE = "unreachable"
    """Nothing left this machine: the connection was never made."""
    THROTTLED = "throttled"
    """The other side asks us to slow down."""
    UNAUTHORIZED = "unauthorized"
    """Our credentials, or the other side's certificate, are not accepted."""
    PERMANENT = "permanent"
    """It will never be taken as it stands."""
    INVALID = "invalid"
    """It can't be turned into a request as its row stands; nothing was sent."""


ALIVE = frozenset({OutcomeKind.DELIVERED, OutcomeKind.REFUSED, OutcomeKind.PERMANENT})
"""Outcomes that show the destination to be at work, whatever it thinks of the message."""

OUTAGE = frozenset({OutcomeKind.UNKNOWN, OutcomeKind.TRANSIENT, OutcomeKind.UNREACHABLE})
"""Outcomes that a destination in trouble gives, whatever the message is."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one attempt. ``error`` is None only for ``delivered``."""

    kind: OutcomeKind
    status_code: int | None = None
    error: str | None = None
    retry_after: timedelta | None = None
    """How long from the answer on the other side wants to be left alone."""
    delivered_to: tuple[str, ...] = ()
    """Addresses that have it now, whatever came of the others; none of them is ever sent it again."""
    external_id: str | None = None
    """What the other side calls it."""
    in_doubt: bool = False
    """Whether it may be about us, or about what stands between, rather than about the message: see `in_doubt`."""
    found: bool = False
    """Whether the message was delivered before this attempt: nothing was sent, so it proves nothing of the route."""


class Presence(StrEnum):
    """What a look-up finds out about a message."""

    ARRIVED = "arrived"
    ABSENT = "absent"
    UNKNOWN = "unknown"
    """The other side could not be asked, or its answer proves nothing."""


class LookUp(NamedTuple):
    """The result of asking whether a message has arrived."""

    result: Presence
    error: str | None = None
    """Why nobody knows; or, if it arrived, what could not be written."""


INTERRUPTED = frozenset({500, 502, 504})
"""A server or a proxy that answers so may have stored the message before it gave up. A 503 says that it did not."""


def may_have_arrived(outcome: str | None, status_code: int | None) -> bool:
    """Tell if an attempt with this result may have delivered its message, though nobody knows."""
    return outcome == OutcomeKind.UNKNOWN or (outcome == OutcomeKind.TRANSIENT and status_code in INTERRUPTED)


PROCESS_DIED = Outcome(
    OutcomeKind.UNKNOWN, error="no answer was recorded: the process was killed, or the disk was full"
)
"""What came of an attempt whose claim lapsed."""

CLAIM_EXPIRED_BEFORE_SEND = Outcome(
    OutcomeKind.UNREACHABLE, error="not sent: this process stood still until another might have taken the message"
)
"""What comes of an attempt that was begun and then held up for longer than its claim lasts."""


def kind_of_status(status: int, *, retry_after: timedelta | None = None) -> OutcomeKind:
    """The outcome that an HTTP status stands for where the preset has no rule of its own.

    Args:
        status: the status code; a final one is 200 to 599 (RFC 9110, section 15).
        retry_after: the answer's Retry-After; with it a 413 passes (RFC 9110, section 15.5.14).
    """
    match status:
        case 401 | 407:
            return OutcomeKind.UNAUTHORIZED
        case 429:
            return OutcomeKind.THROTTLED
        case 408 | 425:
            return OutcomeKind.TRANSIENT
        case 413 if retry_after is not None:
            return OutcomeKind.TRANSIENT
        case 501 | 505:
            return OutcomeKind.PERMANENT
        case _ if status < 200:  # noqa: PLR2004  no answer yet, or none of HTTP's
            return OutcomeKind.UNKNOWN
        case _ if status < 300:  # noqa: PLR2004  the class of success
            return OutcomeKind.DELIVERED
        case _ if status >= 500:  # noqa: PLR2004  the class of server errors
            return OutcomeKind.TRANSIENT
        case _:
            return OutcomeKind.PERMANENT


IN_DOUBT = frozenset({*range(300, 400), 403, 404, 405, 501})
"""The class of redirects, and others."""


def in_doubt(status: int) -> bool:
    """Return whether an HTTP status may be about us, or about what stands between, rather than about the message.

    A closed ticket and a user without rights both give a 403; a deleted ticket and a proxy that has lost its way to the
    API both give a 404; and a maintenance page is often a redirect.
    """
    return status in IN_DOUBT


def parse_retry_after(value: str | None, now: datetime) -> timedelta | None:
    """Read a Retry-After header (RFC 9110, section 10.2.3).

    Args:
        value: the header, in seconds or as an HTTP date; None where there is none.
        now: the time of the answer, aware.

    Returns:
        How long to wait from ``now`` on, between 0 and `RETRY_AFTER_CAP`; None for no header and for garbage.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        # Ten digits are far beyond the cap already, and int() is slow on a header full of them.
        return min(timedelta(seconds=int(text.lstrip("0")[:10] or "0")), RETRY_AFTER_CAP)
    try:
        until = parsedate_to_datetime(text)
    except (ValueError, OverflowError, IndexError):
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(timedelta(0), min(until - now, RETRY_AFTER_CAP))


def one_line(text: str) -> str:
    """An error text as one line of at most `ERROR_LENGTH` characters, in which every database can keep it.

    The other side's JSON may hold a NUL or half of a surrogate pair, and no database takes both.
    """
    line = " ".join(text.replace("\0", " ").encode(errors="replace").decode().split())
    return line if len(line) <= ERROR_LENGTH else line[: ERROR_LENGTH - 1] + "…"
