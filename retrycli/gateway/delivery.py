"""The common parts of all gateways: progress of a delivery, time limits, immediate retries, and unexpected errors."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from threading import Thread
from traceback import walk_tb
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from tenacity import AsyncRetrying, retry_if_result, stop_after_attempt, stop_before_delay, wait_random

from retrycli.domain.errors import ConfigurationError
from retrycli.domain.message import Message, QueuedMessage
from retrycli.domain.outcome import LookUp, Outcome, OutcomeKind, one_line
from retrycli.gateway.redaction import redact_secrets, without_quotations

logger = logging.getLogger("retrycli")

Given = ParamSpec("Given")
Result = TypeVar("Result")

WAIT_SECONDS = (0.1, 0.5)  # minimum and maximum wait before an immediate retry
LATE_SECONDS = 0.05  # a timer later than this shows that the process was suspended or its event loop blocked
GRACE_SECONDS = 0.5  # extra time for such a process to read answers that have arrived meanwhile


class NotSent(Exception):
    """Ends a delivery before its message is sent. `outcome` is the outcome of the attempt."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.error)
        self.outcome = outcome


def invalid(error: str) -> NotSent:
    """Return the exception for a row that can't be turned into a request."""
    return NotSent(Outcome(OutcomeKind.INVALID, error=error))


@dataclass(slots=True)
class DeliveryProgress:
    """Progress of one delivery, for the code that handles its timeout or failure."""

    in_flight: bool = False  # the request may be on its way or may have arrived
    answered: bool = False  # the request has an outcome other than `UNREACHABLE`
    landed: Outcome | None = None  # the outcome, once the message is known to be delivered


class BaseGateway(ABC):
    """The common parts of the gateways. Use a gateway as an asynchronous context manager."""

    _secrets: Sequence[str]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:  # noqa: B027  not every gateway has something to close
        """Close what the gateway has opened; by default do nothing."""

    async def deliver(self, queued: QueuedMessage) -> Outcome:
        """Send one message, within ``request_timeout_seconds`` in total."""
        progress = DeliveryProgress()
        return await guard(self._deliver_cleaned(queued, progress), queued.message_id, progress)

    async def problem(self, queued: QueuedMessage) -> str | None:
        """Return why a message can't be sent; None if it can. Send nothing."""
        try:
            await self._prepare(queued)
        except NotSent as error:
            # These kinds mean that an attachment can't be checked at present.
            is_lasting = error.outcome.kind not in {OutcomeKind.UNREACHABLE, OutcomeKind.TRANSIENT}
            return self._clean(str(error), queued.message) if is_lasting else None
        return None

    @abstractmethod
    async def _prepare(self, queued: QueuedMessage) -> object:
        """Check that a message can be sent. Send nothing.

        Raises:
            NotSent: the message can't be sent.
        """

    @abstractmethod
    async def _deliver(self, queued: QueuedMessage, progress: DeliveryProgress) -> Outcome:
        """Send one message.

        Raises:
            NotSent: the message can't be sent.
        """

    @abstractmethod
    async def look_up(self, queued: QueuedMessage) -> LookUp:
        """Ask whether a message has arrived. Send nothing."""

    def redact_secrets(self, text: str) -> str:
        """Mask retrycli's secrets in a string."""
        return redact_secrets(text, self._secrets)

    async def _deliver_cleaned(self, queued: QueuedMessage, progress: DeliveryProgress) -> Outcome:
        try:
            outcome = await self._deliver(queued, progress)
        except NotSent as error:
            outcome = progress.landed or error.outcome
        return self._cleaned(outcome, queued.message)

    def _cleaned(self, outcome: Outcome, message: Message) -> Outcome:
        """Return the outcome as it may be stored: the error on one line, without secrets or customers' words."""
        if outcome.external_id is not None and self.redact_secrets(outcome.external_id) != outcome.external_id:
            outcome = replace(outcome, external_id=None)
        return outcome if outcome.error is None else replace(outcome, error=self._clean(outcome.error, message))

    def _clean(self, error: str, message: Message) -> str:
        return without_quotations(one_line(self.redact_secrets(error)), message)


async def guard(delivery: Awaitable[Outcome], message_id: int, progress: DeliveryProgress) -> Outcome:
    """Return the outcome of a delivery, even if the delivery raises an unexpected error: such an error ends one
    delivery, not the pass.

    Args:
        delivery: the delivery of one message.
        message_id: the message's id, for the log.
        progress: the progress, which the delivery updates.

    Raises:
        ConfigurationError: the error affects every message, so it ends the pass.
    """
    try:
        return await delivery
    except ConfigurationError:
        raise
    except Exception as error:  # noqa: BLE001  the guard: other messages must still go out
        text = f"an internal error: {_locate(error)}"
        logger.error("Message %s caused %s", message_id, text)  # noqa: TRY400  a traceback may quote the message
        if progress.landed is not None:
            return replace(progress.landed, error=f"delivered, but then {text}")
        unsure = progress.in_flight or progress.answered
        # Not `INVALID`: a bug that affects all messages would escalate every message before anyone could fix it.
        return Outcome(OutcomeKind.UNKNOWN if unsure else OutcomeKind.TRANSIENT, error=text)


def _locate(error: Exception) -> str:
    """Describe an error by its type and place, without its text, which may quote a message."""
    lines = [(frame.f_globals.get("__name__", ""), number) for frame, number in walk_tb(error.__traceback__)]
    module, number = next(line for line in reversed(lines) if line[0].startswith("retrycli."))
    return f"{type(error).__name__} at {module}:{number}"


async def retry_unreachable(
    attempt: Callable[[], Awaitable[Outcome]],
    *,
    retries: int,
    within: float,
    sleep: Callable[[float], Awaitable[None]],
) -> Outcome:
    """Make an attempt, and repeat it while its outcome is `UNREACHABLE`: the message was certainly not sent.

    Args:
        attempt: makes one attempt.
        retries: the maximum number of retries.
        within: the number of seconds from now in which the last retry must start.
        sleep: waits between retries.

    Returns:
        The outcome of the last attempt.
    """
    clock = asyncio.get_running_loop().time
    ends_at = clock() + within
    first = await attempt()
    if first.kind is not OutcomeKind.UNREACHABLE or not retries:
        return first

    made = [first]

    async def made_or_next() -> Outcome:
        return made.pop() if made else await attempt()

    retrying = AsyncRetrying(
        stop=stop_after_attempt(1 + retries) | stop_before_delay(ends_at - clock()),
        wait=wait_random(*WAIT_SECONDS),
        retry=retry_if_result(lambda outcome: outcome.kind is OutcomeKind.UNREACHABLE),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else first,
        sleep=sleep,
    )
    return await retrying(made_or_next)


class TimeLimit:
    """Cancel a block after a time limit, like `asyncio.timeout`.

    `asyncio` runs due timers before it delivers received data. After a suspended virtual machine, a SIGSTOP or a slow
    fsync, `asyncio.timeout` would discard an answer that arrived in time, and the message would be sent twice. If the
    timer fires late, the block gets `GRACE_SECONDS` more, or the length of the delay if that is shorter. The block gets
    this time only once, so that a server that keeps the loop busy can't extend the limit indefinitely.

    Args:
        seconds: the time limit.

    Raises:
        TimeoutError: the time limit has passed.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._due = self._loop.time() + self._seconds
        self._timer = self._loop.call_at(self._due, self._on_timer)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        await self._timeout.__aexit__(kind, error, trace)

    def _on_timer(self) -> None:
        late = self._loop.time() - self._due
        if late > LATE_SECONDS:
            self._timer = self._loop.call_later(min(late, GRACE_SECONDS), self._expire)
        else:
            self._expire()

    def _expire(self) -> None:
        self._timeout.reschedule(self._loop.time())


async def in_thread(work: Callable[Given, Result], *args: Given.args, **options: Given.kwargs) -> Result:
    """Call a blocking function in its own thread. If the wait is cancelled, discard the result.

    asyncio's thread pool is unsuitable: it is small, DNS look-ups share it, and the process waits for it at exit. A
    file on a dead network share would block a pass beyond its deadline, even after SIGTERM.
    """
    done: Future[Result] = Future()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            done.set_result(work(*args, **options))
        except BaseException as error:  # noqa: BLE001  raised in the waiting task
            done.set_exception(error)

    Thread(target=run, name=getattr(work, "__qualname__", "work"), daemon=True).start()
    return await asyncio.wrap_future(done)
