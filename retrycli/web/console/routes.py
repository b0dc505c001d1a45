"""Declare the console's pages, each with its method, its path and the right that it needs, and turn their errors into
pages that say what was wrong and what to do next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from http import HTTPStatus
from typing import Any, Final, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from retrycli.domain import errors
from retrycli.domain.user import Right, User
from retrycli.web import problems
from retrycli.web.access import CHALLENGE, SAFE_METHODS, AccessDenied, Method
from retrycli.web.console.context import Console, Visit, id_of
from retrycli.web.console.forms import Form, FormRejected, checked, read_form, read_query
from retrycli.web.routing import Busy, EncodedRoute

TITLES: Mapping[int, str] = {
    HTTPStatus.UNAUTHORIZED: "Sign in first",
    HTTPStatus.FORBIDDEN: "Not allowed",
    HTTPStatus.NOT_FOUND: "Not found",
    HTTPStatus.METHOD_NOT_ALLOWED: "Not a page",
    HTTPStatus.CONFLICT: "Not possible now",
    HTTPStatus.PRECONDITION_FAILED: "Changed meanwhile",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "Too large",
    HTTPStatus.REQUEST_URI_TOO_LONG: "Too long",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "Not a form",
    HTTPStatus.MISDIRECTED_REQUEST: "Unknown host name",
    HTTPStatus.UNPROCESSABLE_ENTITY: "Not a valid request",
    HTTPStatus.SERVICE_UNAVAILABLE: "Not available now",
}
# Maximum number of characters of the page to show after signing in. Encoded, each may take three, and by default nginx
# answers 502 if all headers take more than 4 KiB.
LONGEST_NEXT = 1_000
# After these errors the same form may be sent again.
TEMPORARY = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.SERVICE_UNAVAILABLE})
DETAILS: Mapping[int, str] = {
    HTTPStatus.NOT_FOUND: "This address belongs to no page.",
    HTTPStatus.METHOD_NOT_ALLOWED: "This address only takes the forms of other pages. Nothing was changed.",
}


async def fault_page(console: Console, visit: Visit, error: Exception) -> Response:
    """Return the page of an error. The text of an unexpected error is not shown; its cause is logged."""
    is_stranger = isinstance(error, AccessDenied) and error.status_code == HTTPStatus.UNAUTHORIZED
    if visit.user is None and not is_stranger:
        visit = await _with_user(console, visit)
    status, detail = describe(error, visit.user)
    is_form = visit.request.method not in SAFE_METHODS
    if status == HTTPStatus.UNAUTHORIZED and console.users is not None and not is_form:
        there = visit.here_with_query
        return console.redirect(visit, visit.to("sign-in", next=there if len(there) <= LONGEST_NEXT else None))
    again = status in TEMPORARY and is_form
    is_unread = is_form and (status == HTTPStatus.UNAUTHORIZED or isinstance(error, Busy))
    if is_unread:
        try:
            visit = replace(visit, fields=await read_form(visit.request, is_known=visit.user is not None))
        except (FormRejected, ClientDisconnect):
            again = False
    response = await run_in_threadpool(
        console.render,
        visit,
        "fault.html",
        code=status,
        title=TITLES.get(status, "Something is wrong here"),
        detail=_not_signed_in(console, visit) if status == HTTPStatus.UNAUTHORIZED else detail,
        faults=error.faults if isinstance(error, FormRejected) else (),
        may_read=Right.READ in visit.rights,
        message=_message(visit, error),
        can_sign_in=status == HTTPStatus.UNAUTHORIZED and console.users is not None,
        again=again,
        is_temporary=status == HTTPStatus.SERVICE_UNAVAILABLE and not is_unread,
    )
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        response.headers["Retry-After"] = problems.RETRY_AFTER_SECONDS
    if status == HTTPStatus.UNAUTHORIZED:
        response.headers.update(CHALLENGE)
    if isinstance(error, HTTPException):
        response.headers.update(error.headers or {})
    return response


def describe(error: Exception, user: User | None) -> tuple[HTTPStatus, str]:
    """Return the HTTP status of an error, and what a user is told about it in one line."""
    match error:
        case ClientDisconnect():
            return HTTPStatus.BAD_REQUEST, problems.GONE
        case HTTPException():
            status = HTTPStatus(error.status_code)
            return status, DETAILS.get(status, str(error.detail))
        case _:
            return problems.status_of(error)[0], problems.detail_of(error, user)


def _not_signed_in(console: Console, visit: Visit) -> str:
    """Return why nobody is signed in, and how to sign in."""
    if console.users is not None:
        return "You are not signed in, or your session has ended."
    header = console.settings.web.user_header
    if header is None or console.is_mounted:
        return "The application that contains these pages signs its users in. Sign in there, then open this page again."
    name = ", ".join(visit.request.headers.getlist(header))
    if not name:
        return f"The proxy in front of this server names no user in the header {header}. Sign in at the proxy."
    return (
        f"The proxy in front of this server names the user {name}, who has no token. "
        "The operator of the server creates it: `retrycli serve token add NAME --role operator`"
    )


def _message(visit: Visit, error: Exception) -> str | None:
    """Return the id of the message on which a form acts; None if its page can't be shown."""
    if Right.READ_TEXT not in visit.rights or isinstance(error, errors.NoSuchMessage):
        return None
    text = visit.request.path_params.get("message_id")
    return None if text is None or visit.here == visit.to("id", id_of(text)) else id_of(text)


async def _with_user(console: Console, visit: Visit) -> Visit:
    """Return the visit with its user, if one is signed in, so that the page of an error has the navigation."""
    try:
        user = await console.access.user(visit.request)
    except Exception:  # noqa: BLE001  the user of the request could not be found, which may be the error itself
        return visit
    return visit if user is None else console.visit_of(visit.request, user)


Handler = TypeVar("Handler", bound=Callable[..., Response])


class Anybody(Enum):
    """Instead of a right: the page needs no user."""

    ANYBODY = "anybody"


ANYBODY: Final = Anybody.ANYBODY


@dataclass(frozen=True, slots=True)
class DeclaredPage:
    """What `page` declares of a handler."""

    method: Method
    path: str
    right: Right | Anybody
    form: type[Form]


class NoFields(Form):
    """The form or the query of a page that takes no fields."""


def page(
    method: Method, path: str, right: Right | Anybody, form: type[Form] = NoFields
) -> Callable[[Handler], Handler]:
    """Declare a method of a class as the handler of a page (GET) or of a form (POST) below the console's root. It is
    called with the `Visit` and the checked fields of the query or of the form.
    """

    def declare(handler: Handler) -> Handler:
        handler.__dict__["page"] = DeclaredPage(method, path, right, form)
        return handler

    return declare


def routes_of(console: Console, *handlers: object) -> Iterator[PageRoute]:
    """Yield the routes of all declared pages of some objects, in the order of their declarations."""
    for each in handlers:
        for name, function in vars(type(each)).items():
            if isinstance(declared := getattr(function, "page", None), DeclaredPage):
                yield PageRoute(console, declared, getattr(each, name))


class PageRoute(EncodedRoute):
    """A page: its rights are checked, its form is read, and an error becomes a page in words."""

    def __init__(self, console: Console, declared: DeclaredPage, handler: Callable[[Visit, Any], Response]) -> None:
        self.right = declared.right
        self._console = console
        self._declared = declared
        self._handler = handler
        super().__init__(declared.path, self._respond, methods=[declared.method])

    async def _respond(self, request: Request) -> Response:
        visit = Visit(request)
        try:
            visit = await admit(self._console, request, self.right)
            is_form = request.method not in SAFE_METHODS
            is_known = visit.user is not None
            fields = await read_form(request, is_known=is_known) if is_form else read_query(request, is_known=is_known)
            visit = replace(visit, fields=fields if is_form else ())
            return await run_in_threadpool(lambda: self._handler(visit, checked(self._declared.form, fields)))
        except Exception as error:  # noqa: BLE001  every error becomes a page in words
            return await fault_page(self._console, visit, error)


async def admit(console: Console, request: Request, right: Right | Anybody) -> Visit:
    """Return the visit of a user who has a right.

    Raises:
        AccessDenied: the request is not allowed; see `retrycli.web.access.Access.check`.
    """
    if right is ANYBODY:
        console.access.check_anonymous(request)
        return Visit(request)
    user = await console.access.check(request, right)
    return console.visit_of(request, user)
