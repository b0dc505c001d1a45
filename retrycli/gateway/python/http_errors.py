"""Judge an error of httpx or requests as an HTTP preset would, for a sender that makes its requests itself.

The libraries are not imported: errors are known by the names of their classes, and an application may use another
library as well.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from retrycli.domain.outcome import IN_DOUBT, Outcome, OutcomeKind, kind_of_status, parse_retry_after
from retrycli.domain.sender import SendingFailed

# Errors that prove that no connection was made. An error of httpx alone proves it only if its own transport raised it:
# others use httpx's names also for a connection that broke after the request.
NEVER_CONNECTED = frozenset(
    {
        *("httpcore.ConnectError", "httpcore.ConnectTimeout", "httpcore.PoolTimeout"),
        *("aiohttp.ClientConnectorError", "aiohttp.ConnectionTimeoutError"),
        *("requests.ConnectTimeout", "urllib3.NewConnectionError", "urllib3.ConnectTimeoutError"),
    }
)
STATUS_ERRORS = frozenset({"httpx.HTTPStatusError", "requests.HTTPError"})
BAD_CERTIFICATE = "ssl.SSLCertVerificationError"
DEEPEST = 20  # maximum number of causes to examine


class HttpFailure(SendingFailed):
    """A request of the application that failed."""

    def __init__(self, failed: Outcome) -> None:
        super().__init__(failed.error)
        self._outcome = failed

    @property
    def outcome(self) -> Outcome:
        """Return the outcome of the attempt."""
        return self._outcome


def from_http_error(error: BaseException) -> SendingFailed:
    """Return the exception that a sender raises for a failed request.

    An error status means what it means to a preset: see `retrycli manual outcomes`. An error that proves that no
    connection was made means that the message was certainly not delivered. After any other error, the message may have
    arrived.

    Args:
        error: raised by the one call of httpx or requests that sends the message, or by ``raise_for_status()`` of its
            response. The client must not repeat requests by itself: the last error hides what became of the first. If
            it has followed a redirect by GET, the message may have arrived.
    """
    response = getattr(error, "response", None) if STATUS_ERRORS & _names_of(error) else None
    if _is_of_another_request(error, response):
        what = type(error).__name__ if response is None else f"HTTP {int(response.status_code)} after a redirect"
        return HttpFailure(Outcome(OutcomeKind.UNKNOWN, error=what))
    if response is not None:
        return HttpFailure(_of_status(int(response.status_code), response.headers))
    causes = [_names_of(cause) for cause in _causes(error)]
    if any(BAD_CERTIFICATE in cause for cause in causes):
        return HttpFailure(Outcome(OutcomeKind.UNAUTHORIZED, error="the certificate can't be verified"))
    proven = any(NEVER_CONNECTED & cause for cause in causes)
    kind = OutcomeKind.UNREACHABLE if proven else OutcomeKind.UNKNOWN
    return HttpFailure(Outcome(kind, error=type(error).__name__))  # its text may quote the URL or the message


def _is_of_another_request(error: BaseException, response: Any) -> bool:  # noqa: ANN401  of either library
    """Return whether an error concerns a request that a client made by itself after it had sent the message: a POST
    that is answered with 301, 302 or 303 is followed by a GET (RFC 9110, section 15.4).
    """
    with suppress(RuntimeError):  # httpx raises it if the request is unknown
        if response is not None:
            return any(each.request.method != response.request.method for each in response.history)
        return getattr(getattr(error, "request", None), "method", None) in {"GET", "HEAD"}
    return False


def _of_status(status: int, headers: Mapping[str, str]) -> Outcome:
    now = datetime.now(UTC)
    with suppress(ValueError, OverflowError):  # the receiver's clock decides how long its date is away
        now = parsedate_to_datetime(headers.get("Date", "")).astimezone(UTC)
    retry_after = parse_retry_after(headers.get("Retry-After"), now)
    kind = kind_of_status(status, retry_after=retry_after)
    if kind is OutcomeKind.DELIVERED:  # the application itself calls it an error
        kind = OutcomeKind.UNKNOWN
    return Outcome(kind, status, f"HTTP {status}", retry_after, in_doubt=status in IN_DOUBT)


def _names_of(error: BaseException) -> frozenset[str]:
    """Return the names of an error's class and its base classes, each with the library's name."""
    return frozenset(f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(error).__mro__)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and those that it was raised from. urllib3 keeps such errors in an attribute, and requests in the
    arguments. An error's context is left out, because it may belong to an earlier request.
    """
    waiting, seen = [error], list[BaseException]()
    while waiting and len(seen) < DEEPEST:
        this = waiting.pop(0)
        if any(this is known for known in seen):
            continue
        seen.append(this)
        yield this
        found = (this.__cause__, getattr(this, "reason", None), *this.args)
        waiting += [each for each in found if isinstance(each, BaseException)]
