"""The outcomes of an attempt, the results of a look-up, and the mapping of HTTP statuses to outcomes."""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import NamedTuple

from retrycli.domain.sanitize import shortened

RETRY_AFTER_CAP = timedelta(hours=6)  # longer waits that a server requests are cut to this length

ERROR_LENGTH = 500  # maximum length of an error text in characters


class OutcomeKind(StrEnum):
    """The possible outcomes of an attempt. Retries, escalations and the circuit breaker depend on them."""

    DELIVERED = "delivered"  # the destination has the message
    REFUSED = "refused"  # a success status, but the body reports a failure; or a look-up or upload has no usable result
    UNKNOWN = "unknown"  # the message may or may not have arrived
    TRANSIENT = "transient"  # a temporary failure, for example a server error
    UNREACHABLE = "unreachable"  # the message was not sent, for example because there was no connection
    THROTTLED = "throttled"  # the destination asks retrycli to slow down
    UNAUTHORIZED = "unauthorized"  # the credentials are rejected, the certificate is invalid, or TLS is missing
    PERMANENT = "permanent"  # the message was rejected or arrived in the wrong form, or its request can't be built
    INVALID = "invalid"  # the row can't be turned into a request; nothing was sent


# Outcomes after which the destination counts as working, even if it rejected the message.
ALIVE = frozenset({OutcomeKind.DELIVERED, OutcomeKind.REFUSED, OutcomeKind.PERMANENT})

# Outcomes that suggest a problem with the destination, not with the message.
OUTAGE = frozenset({OutcomeKind.UNKNOWN, OutcomeKind.TRANSIENT, OutcomeKind.UNREACHABLE})


class Outcome(NamedTuple):
    """The outcome of one attempt. ``error`` is None only for ``delivered``."""

    kind: OutcomeKind
    status_code: int | None = None
    error: str | None = None
    retry_after: timedelta | None = None  # wait that the destination requested, counted from the answer
    # Recipients that have received the message, even if others have not. They do not get it again unless its content
    # changes.
    delivered_to: tuple[str, ...] = ()
    external_id: str | None = None  # id that the destination assigned to the message
    # The answer may concern retrycli's access or a proxy instead of the message; see `IN_DOUBT`.
    in_doubt: bool = False
    # The status is a success, but the preset has no rule that can judge the content, so the preset must be corrected.
    unread: bool = False
    # A look-up or earlier attempts show that the message had already arrived or, if the outcome is `PERMANENT`, another
    # text of it. Nothing was sent, so this outcome does not show that the destination accepts messages.
    found: bool = False

    def unsent(self) -> "Outcome":
        """Return the outcome of an attempt that failed before its message was sent, for example while logging in. It
        has no status after which the message may have arrived.
        """
        return self._replace(status_code=None) if may_have_arrived(self.kind, self.status_code) else self

    @property
    def of_destination(self) -> OutcomeKind:
        """Return the outcome that counts for the destination, which works if it delivered to any recipient."""
        return OutcomeKind.DELIVERED if self.delivered_to else self.kind

    @property
    def arrived(self) -> bool:
        """Return whether the message is at the destination, although not as intended. The history records a delivery,
        so that no pass sends the text again.
        """
        return self.kind is OutcomeKind.PERMANENT and (self.error or "").startswith(ARRIVED)


# The start of the error of a delivered message whose copy could not be read back.
UNVERIFIED = "delivered, but not verified: "
# The start of the error of a message that arrived, but not as intended. An outcome that is kept until its row can be
# written has nothing else to tell it by.
ARRIVED = "the message arrived, but "


class Presence(StrEnum):
    """The results of a look-up, which asks whether a message is at the destination."""

    ARRIVED = "arrived"
    ABSENT = "absent"
    UNKNOWN = "unknown"  # the look-up failed, or its answer proves nothing


class LookUp(NamedTuple):
    """The result of asking whether a message has arrived."""

    result: Presence
    # Why the result is unknown or, if the message has arrived, that its row could not be marked as sent.
    error: str | None = None
    retry_after: timedelta | None = None  # wait that the destination requested instead of an answer


# Statuses after which the message may have arrived, because the server may have stored it before the request failed:
# all server errors, also those that only proxies use, except for `NOT_PROCESSED`.
INTERRUPTED = range(500, 600)
SUCCESS = range(200, 300)  # HTTP statuses; the answer's content may say all the same that it is a refusal
# Statuses of refusals after which the destination may have stored the message all the same. A form that was accepted is
# answered with a redirect to the next page (RFC 9110, sections 15.4.3 and 15.4.4).
MAY_BE_STORED = frozenset({*SUCCESS, 302, 303})
NOT_PROCESSED = 503  # the server did not process the request (RFC 9110, section 15.6.4)


def may_have_arrived(outcome: str | None, status_code: int | None) -> bool:
    """Return whether it is uncertain if an attempt with this result delivered its message."""
    is_interrupted = status_code in INTERRUPTED and status_code != NOT_PROCESSED
    return outcome == OutcomeKind.UNKNOWN or (outcome == OutcomeKind.TRANSIENT and is_interrupted)


# The outcome of an attempt whose claim expired before an answer was recorded.
PROCESS_DIED = Outcome(
    OutcomeKind.UNKNOWN,
    error="no response was recorded, for example because the process was killed or the disk was full",
)

# The outcome of an attempt that was started and then delayed until its claim expired.
CLAIM_EXPIRED_BEFORE_SEND = Outcome(
    OutcomeKind.UNREACHABLE, error="not sent: the claim expired before the request was sent"
)


def not_sent(fault: Exception) -> Outcome:
    """Return the outcome of an attempt that an error prevented before anything was sent."""
    return Outcome(OutcomeKind.UNREACHABLE, error=f"not sent: {fault}")


def kind_of_status(status: int, *, retry_after: timedelta | None = None) -> OutcomeKind:
    """Return the outcome of an HTTP status for which the preset has no rule.

    Args:
        status: the status code; a final status is 200 to 599 (RFC 9110, section 15).
        retry_after: the answer's Retry-After. A 413 with this header is temporary (RFC 9110, section 15.5.14).
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
        case _ if status < 200:  # noqa: PLR2004  an interim answer, or not an HTTP status
            return OutcomeKind.UNKNOWN
        case _ if status < 300:  # noqa: PLR2004
            return OutcomeKind.DELIVERED
        case _ if status >= 500:  # noqa: PLR2004
            return OutcomeKind.TRANSIENT
        case _:
            return OutcomeKind.PERMANENT


# HTTP statuses that may concern retrycli's permissions or a proxy instead of the message.
#
# A closed ticket and a user without permission both give a 403. A deleted ticket and a proxy that no longer reaches the
# API both give a 404. A maintenance page is often a redirect. A server that does not know its new name, or gets plain
# HTTP at a port for TLS, answers with a 400, one with a lapsed plan with a 402, and a firewall with a 406. Not 409, 422
# and others that only a message's content causes.
IN_DOUBT = frozenset({*range(300, 400), 400, 402, 403, 404, 405, 406, 410, 421, 426, 451, 501})


def parse_retry_after(value: str | None, now: datetime) -> timedelta | None:
    """Parse a Retry-After header (RFC 9110, section 10.2.3).

    Args:
        value: the header, in seconds or as an HTTP date; None if the answer has no such header.
        now: the time of the answer, aware.

    Returns:
        The wait from ``now`` on, between 0 and `RETRY_AFTER_CAP`; None if the header is missing or invalid.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        # Any number of ten digits exceeds the cap, and int() takes quadratic time for longer ones.
        return min(timedelta(seconds=int(text.lstrip("0")[:10] or "0")), RETRY_AFTER_CAP)
    try:
        until = parsedate_to_datetime(text)
    except (ValueError, OverflowError, IndexError):
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(timedelta(0), min(until - now, RETRY_AFTER_CAP))


def one_line(text: str) -> str:
    """Convert an error text to one line of at most `ERROR_LENGTH` characters that every database can store.

    The destination's JSON may hold a NUL or half of a surrogate pair, which not every database accepts.
    """
    line = " ".join(text.replace("\0", " ").encode(errors="replace").decode().split())
    return shortened(line, ERROR_LENGTH)
