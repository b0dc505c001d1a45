"""The Starlette application of the console: its routes, its errors, and the headers of every response."""

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retrycli.config.settings import Settings
from retrycli.domain.user import Right
from retrycli.operations.message_actions import SLICE_SECONDS
from retrycli.web.access import Access
from retrycli.web.console.bulk_pages import BulkPages
from retrycli.web.console.context import Console, Pages, Visit
from retrycli.web.console.edit_page import EditPages
from retrycli.web.console.message_page import MessagePages
from retrycli.web.console.overview import OverviewPages
from retrycli.web.console.passes import PassPages, StatisticsPages
from retrycli.web.console.routes import admit, fault_page, routes_of
from retrycli.web.console.signing_in import AssetPages, SignInPages
from retrycli.web.sign_in import TokenUsers
from retrycli.web.status import RecentStatus

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer, browsers send `Origin: null` with forms
}


ENCRYPTED = {"Cross-Origin-Opener-Policy": "same-origin"}  # browsers ignore it over plain HTTP, and log an error


class SecureHeaders:
    """Add `HEADERS` to every response, and `ENCRYPTED` over HTTPS."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""

        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS | (ENCRYPTED if scope["scheme"] == "https" else {}))
            await send(message)

        await self._app(scope, receive, send_secured)


def make_pages(
    settings: Settings,
    access: Access,
    status: RecentStatus,
    users: TokenUsers | None = None,
    *,
    key: bytes | None = None,
    slice_seconds: float = SLICE_SECONDS,
) -> Starlette:
    """Return the application with all pages. Without ``users``, the application that mounts the pages signs its users
    in, and may give the key that signs what the pages keep in cookies and links.
    """
    console = Console(settings, access, status, users, key=key)
    kinds = (AssetPages, OverviewPages, MessagePages, EditPages, PassPages, StatisticsPages)
    pages: list[Pages] = [*(kind(console) for kind in kinds), BulkPages(console, slice_seconds)]
    if console.users is not None:
        pages.append(SignInPages(console, console.users))

    async def unrouted(request: Request, error: Exception) -> Response:
        """Return the page of an address that belongs to no page, or that does not take the request's method."""
        try:
            visit = await admit(console, request, Right.READ)
        except Exception as denied:  # noqa: BLE001  every error becomes a page in words
            return await fault_page(console, Visit(request), denied)
        return await fault_page(console, visit, error)

    app = Starlette(
        routes=[*routes_of(console, *pages)],
        middleware=[Middleware(SecureHeaders)],
        exception_handlers={HTTPException: unrouted},
    )
    app.router.redirect_slashes = False  # Starlette would redirect to an absolute address
    return app
