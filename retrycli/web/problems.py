"""Turn errors into problem documents (RFC 9457) with the right HTTP status."""

import logging
from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import Response

from retrycli.domain import errors
from retrycli.domain.sanitize import printable
from retrycli.domain.user import Role, User
from retrycli.views.formatting import as_json

logger = logging.getLogger("retrycli")

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = "5"  # what was in the way is usually over by then

MOST_FAULTS = 10  # maximum number of invalid or unknown fields that a response lists

GONE = "the connection was closed before the request was complete"

# The status and the name of each error. The first class that matches counts.
STATUSES: Mapping[type[errors.RetrycliError], tuple[HTTPStatus, str]] = {
    errors.InvalidArgument: (HTTPStatus.UNPROCESSABLE_ENTITY, "invalid-input"),
    errors.NoSuchMessage: (HTTPStatus.NOT_FOUND, "no-such-message"),
    errors.StaleEdit: (HTTPStatus.PRECONDITION_FAILED, "stale-edit"),
    errors.CountChanged: (HTTPStatus.CONFLICT, "count-changed"),
    errors.MayHaveArrived: (HTTPStatus.CONFLICT, "may-have-arrived"),
    errors.NotActionable: (HTTPStatus.CONFLICT, "not-actionable"),
    errors.InvalidMessage: (HTTPStatus.CONFLICT, "invalid-message"),
    errors.NotEdited: (HTTPStatus.UNPROCESSABLE_ENTITY, "not-edited"),
    errors.LockHeld: (HTTPStatus.SERVICE_UNAVAILABLE, "lock-held"),
    errors.ClockBehind: (HTTPStatus.SERVICE_UNAVAILABLE, "clock-behind"),
    errors.DatabaseUnavailable: (HTTPStatus.SERVICE_UNAVAILABLE, "database-unavailable"),
    errors.ConfigurationError: (HTTPStatus.INTERNAL_SERVER_ERROR, "configuration-error"),
}


def problem(
    status: HTTPStatus, detail: str, name: str = "", *, headers: Mapping[str, str] | None = None, **more: object
) -> Response:
    """Return a problem document of the type ``urn:retrycli:problem:NAME`` or about:blank, with ``more`` members."""
    kind = f"urn:retrycli:problem:{name}" if name else "about:blank"
    body = {"type": kind, "title": status.phrase, "status": status, "detail": printable(detail), **more}
    return Response(as_json(body), status, {"Cache-Control": "no-store", **(headers or {})}, media_type=MEDIA_TYPE)


# What everybody but an operator is told instead of the errors that name files or databases.
GENERAL: Mapping[HTTPStatus, str] = {
    HTTPStatus.NOT_FOUND: "no such message",
    HTTPStatus.SERVICE_UNAVAILABLE: "not possible at the moment; an operator sees the reason here",
    HTTPStatus.INTERNAL_SERVER_ERROR: "something in the installation is wrong; the server's log has the reason",
}


def of_error(error: Exception, user: User | None) -> Response:
    """Return the problem document of an error, for a user."""
    status, name = status_of(error)
    headers = {"Retry-After": RETRY_AFTER_SECONDS} if status == HTTPStatus.SERVICE_UNAVAILABLE else None
    more = {"count": error.count} if isinstance(error, errors.CountChanged) else {}
    return problem(status, detail_of(error, user), name, headers=headers, **more)


def detail_of(error: Exception, user: User | None) -> str:
    """Return what a user is told about an error, in one line. Log it if something in the installation is wrong."""
    status, _ = status_of(error)
    cause = errors.cause_of(error)
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.error("%s", cause)
    return cause if user is not None and user.role is Role.OPERATOR else GENERAL.get(status, cause)


def status_of(error: Exception) -> tuple[HTTPStatus, str]:
    """Return the HTTP status and the problem's name of an error."""
    for kind, found in STATUSES.items():
        if isinstance(error, kind):
            return found
    return HTTPStatus.INTERNAL_SERVER_ERROR, "internal-error"
