"""Declare the console's pages: each names its method, its path and the right that it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from retrycli.domain.user import Right
from retrycli.web.access import SAFE_METHODS, Method
from retrycli.web.console.context import Console
from retrycli.web.console.faults import fault_page
from retrycli.web.console.forms import Form, checked, read_form, read_query
from retrycli.web.console.visit import Visit
from retrycli.web.routing import EncodedRoute

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
    """A page: its rights are checked, its form is read, and an error becomes a page in words.

    Attributes:
        right: the right that the page needs, or `ANYBODY`.
    """

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
            fields = await read_form(request, is_known=visit.user is not None) if is_form else read_query(request)
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
