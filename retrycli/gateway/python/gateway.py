"""The gateway that delivers by calling a function of the application, the sender."""

import asyncio
from collections.abc import Awaitable, Callable

from retrycli.config.gateway import GatewaySettings
from retrycli.domain.errors import InvalidMessage
from retrycli.domain.message import QueuedMessage
from retrycli.domain.outcome import LookUp, Outcome, OutcomeKind, Presence
from retrycli.domain.sender import OutgoingMessage
from retrycli.domain.transition import Overdue
from retrycli.gateway.delivery import BaseGateway, DeliveryProgress, NotSent, TimeLimit, invalid
from retrycli.gateway.python.calls import THREADS, SenderCall
from retrycli.system import python_call

WAIT_SECONDS = 0.05  # seconds between looks for a call that has ended


class PythonGateway(BaseGateway):
    """Deliver by calling a sender. Use the gateway as an asynchronous context manager. At most ``connections`` calls
    run, including those that never return.

    Raises:
        ConfigurationError: the sender can't be imported or called.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        connections: int,
        section: str = "gateway",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._name = settings.call or ""
        self._sender = python_call.load(self._name, f"{section}.call", settings.modules_dir, ("message",))
        self._seconds = settings.request_timeout_seconds
        self._connections = connections
        self._sleep = sleep
        self._secrets = ()
        self.overdue: list[Overdue] = []

    async def look_up(self, queued: QueuedMessage) -> LookUp:
        """Return `UNKNOWN`, because a sender only sends."""
        del queued
        return LookUp(Presence.UNKNOWN, "a Python sender can't show whether a message has arrived")

    async def _prepare(self, queued: QueuedMessage) -> OutgoingMessage:
        try:
            return OutgoingMessage.of(queued)
        except InvalidMessage as error:
            raise invalid(str(error)) from error

    async def _deliver(self, queued: QueuedMessage, progress: DeliveryProgress) -> Outcome:
        call = SenderCall(self._name, self._sender, await self._prepare(queued))
        if (earlier := THREADS.given_up(call.key)) is not None:
            if not earlier.done.done():
                error = "not sent: an earlier call for this message has not returned"
                raise NotSent(Outcome(OutcomeKind.UNREACHABLE, error=error))
            if earlier.done.result().kind is OutcomeKind.DELIVERED:
                return earlier.done.result()._replace(found=True)
        try:
            async with TimeLimit(self._seconds):
                await self._start(call)
                progress.in_flight = True
                return await asyncio.wrap_future(call.done)
        except TimeoutError:
            if not progress.in_flight:
                raise self._not_called() from None
            THREADS.give_up(call)
            self.overdue.append(Overdue(queued.message_id, call.key, call.done))
            return Outcome(OutcomeKind.UNKNOWN, error=f"{self._name} did not return within {self._seconds:g} s")

    async def _start(self, call: SenderCall) -> None:
        while not THREADS.start(call, self._connections):
            if THREADS.are_stuck():
                raise self._not_called()
            await self._sleep(WAIT_SECONDS)

    def _not_called(self) -> NotSent:
        error = f"not sent: earlier calls of {self._name} have not returned ({self._connections})"
        return NotSent(Outcome(OutcomeKind.UNREACHABLE, error=error))
