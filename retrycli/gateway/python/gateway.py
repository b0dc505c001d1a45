"""The gateway that delivers by calling a function of the application, the sender. Each call has a thread of its own, so
that a function that never returns holds up no pass.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from datetime import datetime
from threading import Lock, Thread

from retrycli.config.gateway import GatewaySettings
from retrycli.domain.errors import InvalidMessage
from retrycli.domain.message import QueuedMessage
from retrycli.domain.outcome import LookUp, Outcome, OutcomeKind, Presence, one_line
from retrycli.domain.sender import OutgoingMessage, SendingFailed
from retrycli.domain.transition import Overdue
from retrycli.gateway.delivery import BaseGateway, DeliveryProgress, NotSent, TimeLimit, invalid
from retrycli.system import python_call

REMEMBERED = 1000  # maximum number of calls to remember whose time limit has passed
PICK_UP_SECONDS = 1.0  # an event loop that begins nothing within this time is blocked

Sender = Callable[[OutgoingMessage], object]


class SenderCall:
    """One call of a sender, in a daemon thread, for which the process does not wait at its end.

    A thread can't be stopped. So a call counts as running until it returns, also after its time limit.

    Attributes:
        key: the message's delivery key.
        done: gets the outcome.
        is_overdue: the time limit has passed.
    """

    def __init__(self, name: str, sender: Sender, message: OutgoingMessage) -> None:
        self.key = message.delivery_key
        self.done: Future[Outcome] = Future()
        self.done.set_running_or_notify_cancel()
        self.is_overdue = False
        self._name = name
        self._sender = sender
        self._message = message
        self._task: _LoopTask | None = None

    def give_up(self) -> None:
        """Mark the call as overdue, and cancel it if it is a coroutine."""
        self.is_overdue = True
        if self._task is not None:
            self._task.cancel()

    def run(self) -> None:
        """Call the sender, and set the outcome. Never raise."""
        try:
            try:
                outcome = self._outcome()
            except SendingFailed as failed:
                outcome = failed.outcome  # a class of the application may have defined it
        except BaseException as error:  # noqa: BLE001  whatever the application raises ends one attempt, not the pass
            # Omit the exception's text, because it may quote the message.
            outcome = Outcome(OutcomeKind.UNKNOWN, error=f"{self._name} raised {type(error).__name__}")
        self.done.set_result(outcome)

    def _outcome(self) -> Outcome:
        returned = self._sender(self._message)
        if inspect.isawaitable(returned):
            self._task = _LoopTask(returned)
            returned = self._task.result()
        if returned is None or returned is True:
            return Outcome(OutcomeKind.DELIVERED)
        if isinstance(returned, str):
            return Outcome(OutcomeKind.DELIVERED, external_id=one_line(returned) or None)
        what = "False" if returned is False else f"a value of type {type(returned).__name__}"
        return Outcome(
            OutcomeKind.UNKNOWN, error=f"{self._name} returned {what}; it must return None, or the message's id as text"
        )


class SenderThreads:
    """The running calls of this process. There is one instance, because a thread may outlive its pass.

    Attributes:
        has_given_up: the time limit of a call has passed.
    """

    def __init__(self) -> None:
        self.has_given_up = False
        self._lock = Lock()
        self._running: set[SenderCall] = set()
        self._given_up: dict[str, SenderCall] = {}  # by delivery key, oldest first

    @property
    def count(self) -> int:
        """Return the number of running calls."""
        return len(self._running)

    def start(self, call: SenderCall, limit: int) -> bool:
        """Start a call unless `limit` calls are running. Return whether it was started."""
        with self._lock:
            if len(self._running) >= limit:
                return False
            self._running.add(call)
        Thread(target=self._run, args=(call,), name="retrycli sender", daemon=True).start()
        return True

    def give_up(self, call: SenderCall) -> None:
        """Wait no longer for a call, because its time limit has passed. Cancel it if it is a coroutine."""
        self.has_given_up = True
        call.give_up()
        with self._lock:
            self._given_up[call.key] = call
            if len(self._given_up) > REMEMBERED:
                del self._given_up[next(iter(self._given_up))]

    def given_up(self, key: str) -> SenderCall | None:
        """Return the call with a delivery key whose time limit has passed, if there was one in this process."""
        return self._given_up.get(key)

    def are_stuck(self) -> bool:
        """Return whether all running calls are past their time limit."""
        with self._lock:
            return all(call.is_overdue for call in self._running)

    def _run(self, call: SenderCall) -> None:
        try:
            call.run()
        finally:
            with self._lock:
                self._running.discard(call)


THREADS = SenderThreads()


# -- coroutines ------------------------------------------------------------------------------------------------


class _LoopTask:
    """An awaitable that runs in an event loop of `_Loops`. `result` waits for it in the caller's thread."""

    def __init__(self, awaitable: Awaitable[object]) -> None:
        self._awaitable = awaitable
        self._done: Future[object] = Future()
        self._running: tuple[asyncio.AbstractEventLoop, asyncio.Task[object]] | None = None

    def result(self) -> object:
        """Run the awaitable, and return its result or raise its exception."""
        while not LOOPS.begin(self._run):
            pass
        return self._done.result()

    def cancel(self) -> None:
        """Cancel the awaitable, if it is running."""
        if self._running is not None:
            loop, task = self._running
            loop.call_soon_threadsafe(task.cancel)

    async def _run(self, begun: Future[None]) -> None:
        if not begun.set_running_or_notify_cancel():
            return  # it runs in another loop
        begun.set_result(None)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  for the type checker
        self._running = asyncio.get_running_loop(), task
        try:
            self._done.set_result(await self._awaitable)
        except BaseException as error:  # noqa: BLE001  raised again in the call's thread
            self._done.set_exception(error)


class _Loops:
    """The event loops that run coroutines, each in a daemon thread.

    All coroutines run in the same loop, so that connections and other objects that belong to a loop can be kept from
    one call to the next. If a coroutine blocks its loop, the next ones run in another loop.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._ready: list[asyncio.AbstractEventLoop] = []

    def begin(self, run: Callable[[Future[None]], Coroutine[object, object, None]]) -> bool:
        """Run a coroutine in a loop.

        Args:
            run: returns the coroutine. It must begin only if it can set its argument to running.

        Returns:
            False if the coroutine has not begun and never will, because the loop is blocked.
        """
        begun: Future[None] = Future()
        loop = self._first()
        asyncio.run_coroutine_threadsafe(run(begun), loop)
        try:
            begun.result(PICK_UP_SECONDS)
        except TimeoutError:
            self._leave_out(loop)
            return not begun.cancel()
        return True

    def _first(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if not self._ready:
                loop = asyncio.new_event_loop()
                Thread(target=loop.run_forever, name="retrycli coroutines", daemon=True).start()
                self._ready.append(loop)
            return self._ready[0]

    def _leave_out(self, loop: asyncio.AbstractEventLoop) -> None:
        """Use other loops until this one is free again."""
        with self._lock:
            if loop in self._ready:
                self._ready.remove(loop)
                loop.call_soon_threadsafe(self._take_back, loop)

    def _take_back(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            self._ready.append(loop)


LOOPS = _Loops()


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
        now: Callable[[], datetime],
        section: str = "gateway",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._name = settings.call or ""
        self._sender = python_call.load(self._name, f"{section}.call", settings.modules_dir, ("message",))
        self._settings = settings
        self._now = now
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
                await self._start(call, progress)
                return await asyncio.wrap_future(call.done)
        except TimeoutError:
            if not progress.in_flight:
                raise self._not_called() from None
            THREADS.give_up(call)
            self.overdue.append(Overdue(queued.message_id, call.key, call.done))
            return Outcome(OutcomeKind.UNKNOWN, error=f"{self._name} did not return within {self._seconds:g} s")

    async def _start(self, call: SenderCall, progress: DeliveryProgress) -> None:
        progress.begin()
        while not THREADS.start(call, self._connections):
            progress.in_flight = False
            if THREADS.are_stuck():
                raise self._not_called()
            await self._sleep(WAIT_SECONDS)
            progress.begin()

    def _not_called(self) -> NotSent:
        error = f"not sent: earlier calls of {self._name} have not returned ({self._connections})"
        return NotSent(Outcome(OutcomeKind.UNREACHABLE, error=error))
