"""Let the requests of a user take turns, so that they can't occupy all threads, or fill the memory with answers that
nobody reads.
"""

from asyncio import Semaphore, timeout
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from enum import IntEnum
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.routing import Route
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
