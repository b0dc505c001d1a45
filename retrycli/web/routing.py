"""Match routes against the path as the client sent it, so that an id may contain an encoded slash. Let the requests of
a user take turns, so that they can't occupy all threads, or fill the memory with answers that nobody reads.
"""

from asyncio import Semaphore, timeout
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from enum import IntEnum
from http import HTTPStatus
from urllib.parse import quote, unquote

from starlette.exceptions import HTTPException
from starlette.routing import Match, Route
from starlette.types import Message, Receive, Scope, Send

from retrycli.domain.user import User
from retrycli.web import problems

AT_ONCE = 4  # requests of one user and one pool whose answers are prepared or read
MOST = 100  # requests of one user and one pool, with those that wait
PATIENCE_SECONDS = 5.0  # of a request for a change; its body, which is read later, must arrive in time
TURN = "retrycli.turn"


class Pool(IntEnum):
    """The requests that wait for each other. The values are the numbers of requests of all users whose answers are
    prepared. A server has 40 threads, and needs some for users who are not signed in.
    """

    READ = 20
    CHANGE = 10  # each may wait for the ticketing system
    PAUSE = 4  # never waits for it, so that deliveries can be paused while attempts hang


class Busy(HTTPException):
    """A request that did not get its turn. Nothing was done, and a form was not read."""

    def __init__(self) -> None:
        why = "too many of your requests are waiting, so nothing was done; try again in a few seconds"
        super().__init__(HTTPStatus.SERVICE_UNAVAILABLE, why, {"Retry-After": problems.RETRY_AFTER_SECONDS})


class Turns:
    """The turns of all users. A request that waits needs no thread."""

    def __init__(self) -> None:
        self._asked: Counter[tuple[str, Pool]] = Counter()
        self._places: dict[tuple[str, Pool], Semaphore] = {}
        self._pools = {pool: Semaphore(pool) for pool in Pool}

    async def enter(self, scope: Scope, user: User, pool: Pool) -> None:
        """Wait for the turn of a request to a `RouteInTurn`.

        Raises:
            Busy: too many requests of the user wait already, or a change has waited for `PATIENCE_SECONDS`.
        """
        if TURN in scope:
            answered, prepared = scope[TURN]
            try:
                async with timeout(None if pool is Pool.READ else PATIENCE_SECONDS):
                    await answered.enter_async_context(self._turn((user.name, pool)))
                    await prepared.enter_async_context(self._pools[pool])
            except TimeoutError:
                raise Busy from None

    @asynccontextmanager
    async def _turn(self, key: tuple[str, Pool]) -> AsyncIterator[None]:
        if self._asked[key] >= MOST:
            raise Busy
        self._asked[key] += 1
        try:
            async with self._places.setdefault(key, Semaphore(AT_ONCE)):
                yield
        finally:
            self._asked[key] -= 1
            if not self._asked[key]:
                del self._asked[key], self._places[key]


class RouteInTurn(Route):
    """A route whose requests may `Turns.enter`. The turn ends when the client has read the answer."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        async with AsyncExitStack() as answered, AsyncExitStack() as prepared:

            async def send_and_wait(message: Message) -> None:
                if message["type"] == "http.response.start":
                    await prepared.aclose()
                elif message["type"] == "http.response.body" and not message.get("more_body"):
                    await send({**message, "more_body": True})
                    message = {"type": "http.response.body"}  # a server sends it when the client has read the rest
                await send(message)

            await super().handle({**scope, TURN: (answered, prepared)}, receive, send_and_wait)


class EncodedRoute(RouteInTurn):
    """A route whose parameters are decoded after the path was split at its slashes."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match the encoded path, then decode the parameters."""
        return with_decoded(*super().matches({**scope, "path": encoded_route_path(scope), "root_path": ""}))


def encoded_path(scope: Scope) -> str:
    """Return a request's path, percent-encoded."""
    raw: bytes | None = scope.get("raw_path")
    return quote(scope["path"]) if raw is None else raw.partition(b"?")[0].decode("latin-1")


def encoded_route_path(scope: Scope) -> str:
    """Return the part of a request's path below the application's root, percent-encoded; empty if there is none.

    A client may encode the root in several ways, so its segments are compared one by one. An encoded slash in the root
    is refused, because a proxy with rules for paths sees another path then.
    """
    path, root = encoded_path(scope), str(scope.get("root_path", ""))
    if not root or not str(scope["path"]).startswith(root):
        return path
    segments, own = path.split("/"), root.split("/")
    is_below = [unquote(segment) for segment in segments[: len(own)]] == own
    return "/" + "/".join(segments[len(own) :]) if is_below else ""


def with_decoded(match: Match, found: Scope) -> tuple[Match, Scope]:
    """Decode the parameters of a match. Text that is not valid UTF-8 matches nothing."""
    try:
        decoded = {name: _decode(value) for name, value in found.get("path_params", {}).items()}
    except UnicodeDecodeError:
        return Match.NONE, {}
    return match, {**found, "path_params": decoded} if found else found


def _decode(value: object) -> object:
    return unquote(value, errors="strict") if isinstance(value, str) else value  # a mount may have other types
