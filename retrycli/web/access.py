"""Decide whether a request may do what it asks for: its host, its user, the user's rights, and its origin.

Each route of the API and each page names the right that it needs. `Access.check` is the only place that decides.
"""

import inspect
import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Literal, Self, TypeAlias

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request

from retrycli.config.settings import Settings
from retrycli.domain.user import Right, Role, User
from retrycli.web.routing import Pool, Turns

Method: TypeAlias = Literal["GET", "PATCH", "POST"]
# Returns the user of a request; None if the request has no valid credentials.
Who: TypeAlias = Callable[[HTTPConnection], User | Awaitable[User | None] | None]
HOST = re.compile(r"([\w.-]+|\[[0-9a-f:.]+\])(?::\d*)?", re.ASCII)  # RFC 3986, section 3.2.2, without escapes
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})  # RFC 9110, section 9.2.1
OWN_SITES = frozenset({"same-origin", "none"})  # Fetch Metadata: our own page, or the user typed the address


CHALLENGE = {"WWW-Authenticate": "Bearer"}


class AccessDenied(HTTPException):
    """A request that was refused before any operation was called."""


@dataclass(frozen=True, slots=True)
class Access:
    """The rules for one application."""

    who: Who
    allowed_hosts: frozenset[str]  # accepted values of the header Host, without ports
    read_only: bool = False  # nobody may change anything
    turns: Turns = field(default_factory=Turns)  # of the users' requests

    @classmethod
    def of(cls, settings: Settings, who: Who) -> Self:
        """Return the rules of the settings. Another site may let an unlisted host name point here (DNS rebinding)."""
        own = {settings.web.host_in_url, socket.gethostname().lower(), socket.getfqdn().lower()}
        hosts = LOOPBACK | own | frozenset(settings.web.allowed_hosts)
        return cls(who, hosts, read_only=settings.web.read_only)

    async def user(self, request: Request) -> User | None:
        """Return the user of a request; None if it has no valid credentials.

        Raises:
            AccessDenied: the host is unknown.
        """
        self._check_host(request)
        found = self.who(request)
        return await found if inspect.isawaitable(found) else found

    async def check(self, request: Request, right: Right) -> User:
        """Return the user of a request that is allowed, when it is its turn.

        Raises:
            AccessDenied: the host is unknown (421), another site may have sent the request (403), no user is signed in
                (401), or the user lacks the right (403). Another site is refused before the user is looked up, so that
                its form can't become one that the user sends again.
            Busy: the request did not get its turn (503).
        """
        self.check_anonymous(request)
        user = await self.user(request)
        if user is None:
            why = "sign in, or send a valid token: `Authorization: Bearer TOKEN`"
            raise AccessDenied(HTTPStatus.UNAUTHORIZED, why, CHALLENGE)
        if not user.may(right, read_only=self.read_only):
            why = f"your role, {user.role}, may not do this; ask somebody with the role {Role.OPERATOR}"
            everybody = "this server is read-only: nothing can be changed here (web.read_only)"
            raise AccessDenied(HTTPStatus.FORBIDDEN, everybody if user.may(right) else why)
        pool = Pool.PAUSE if right is Right.PAUSE else Pool.CHANGE
        await self.turns.enter(request.scope, user, Pool.READ if request.method in SAFE_METHODS else pool)
        return user

    def check_anonymous(self, request: Request) -> None:
        """Check a request that needs no user, such as the form for signing in.

        Raises:
            AccessDenied: the host is unknown (421), or another site may have sent the request (403).
        """
        self._check_host(request)
        check_origin(request)

    def _check_host(self, request: Request) -> None:
        host = host_name(request.headers.get("host", ""))
        if host not in self.allowed_hosts:
            raise AccessDenied(
                HTTPStatus.MISDIRECTED_REQUEST,
                "the host name in the address is not allowed; add it to web.allowed_hosts",
            )


def host_name(host: str) -> str:
    """Return the name in a Host header, in lower case and without its port; empty if the header is not valid."""
    found = HOST.fullmatch(host.lower())
    return found[1] if found else ""


def check_origin(request: Request) -> None:
    """Refuse a request for a change that another site's page may have sent in the user's browser (CSRF).

    A page of another site can't set the header Authorization. Browsers send Sec-Fetch-Site with each request; old
    browsers send Origin (OWASP's CSRF prevention: Fetch Metadata with a fallback).

    Raises:
        AccessDenied: the request would change something, and may come from another site.
    """
    if request.method in SAFE_METHODS or (bearer_token(request) and "cookie" not in request.headers):
        return
    sites = request.headers.getlist("sec-fetch-site")
    if sites:
        is_own = OWN_SITES.issuperset(sites)
    else:
        # The scheme may be unknown behind a proxy, but a page over plain HTTP is never an encrypted console's own.
        own = {f"{scheme}://{request.headers.get('host', '')}" for scheme in (request.url.scheme, "https")}
        origins = {origin.lower() for origin in request.headers.getlist("origin")}
        is_own = bool(origins) and origins <= {each.lower() for each in own}
    if not is_own:
        raise AccessDenied(
            HTTPStatus.FORBIDDEN,
            "the request may come from another site, so nothing was changed; use the console, or send a token in the "
            "header Authorization, without a cookie",
        )


def bearer_token(request: HTTPConnection) -> str:
    """Return the bearer token of a request (RFC 6750, section 2.1); an empty string without one."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
