"""Let the requests of a user that only read take turns, so that they can't occupy all threads, or fill the memory with
answers that nobody reads.
"""

from asyncio import Semaphore
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from retrycli.domain.user import User
from retrycli.web import problems

AT_ONCE = 4  # requests of one user whose answers are prepared or read
MOST = 100  # requests of one user, with those that wait
MOST_READERS = 20  # requests of all users whose answers are prepared; half of the threads that a server has
TURN = "retrycli.turn"


class Turns:
    """The turns of all users. A request that waits needs no thread."""

    def __init__(self) -> None:
        self._asked: Counter[str] = Counter()
        self._places: dict[str, Semaphore] = {}
        self._readers = Semaphore(MOST_READERS)

    async def enter(self, scope: Scope, user: User) -> None:
        """Wait for the turn of a request to a `RouteInTurn`.

        Raises:
            HTTPException: too many requests of the user wait already (503).
        """
        if TURN in scope:
            answered, prepared = scope[TURN]
            await answered.enter_async_context(self._turn(user.name))
            await prepared.enter_async_context(self._readers)

    @asynccontextmanager
    async def _turn(self, name: str) -> AsyncIterator[None]:
        if self._asked[name] >= MOST:
            raise HTTPException(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "too many of your requests are waiting; try again in a few seconds",
                {"Retry-After": problems.RETRY_AFTER_SECONDS},
            )
        self._asked[name] += 1
        try:
            async with self._places.setdefault(name, Semaphore(AT_ONCE)):
                yield
        finally:
            self._asked[name] -= 1
            if not self._asked[name]:
                del self._asked[name], self._places[name]


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
