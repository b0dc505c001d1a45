"""The common parts of all gateways: progress of a delivery, time limits, immediate retries, and unexpected errors."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Thread
from traceback import walk_tb
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from tenacity import AsyncRetrying, retry_if_result, stop_after_attempt, stop_before_delay, wait_random

from retrycli.config.gateway import GatewaySettings
from retrycli.domain.errors import ConfigurationError
from retrycli.domain.message import Message, QueuedMessage
from retrycli.domain.outcome import ARRIVED, ERROR_LENGTH, UNVERIFIED, LookUp, Outcome, OutcomeKind, one_line
from retrycli.domain.sanitize import shortened
from retrycli.domain.transition import Overdue
from retrycli.gateway.redaction import redact_secrets, safe_line, without_quotations

logger = logging.getLogger("retrycli")

Given = ParamSpec("Given")
Result = TypeVar("Result")

WAIT_SECONDS = (0.1, 0.5)  # minimum and maximum wait before an immediate retry
LATE_SECONDS = 0.05  # if a timer fires later than this, the process was suspended or its event loop was blocked
TOO_LATE = "not sent: the time limit had passed before the message was to be sent"
OTHERS = "; earlier delivered to all other recipients"
GRACE_SECONDS = 0.5  # maximum extra time after such a delay, to read answers that arrived during the delay


class NotSent(Exception):
    """Exception that ends a delivery before its message is completely sent, with the attempt's `outcome`."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.error)
        self.outcome = outcome.unsent()


def invalid(error: str) -> NotSent:
    """Return the exception for a row that can't be turned into a request."""
    return NotSent(Outcome(OutcomeKind.INVALID, error=error))


@dataclass(slots=True)
class DeliveryProgress:
    """Progress of one delivery. After a timeout or an exception, the outcome depends on it."""

    in_flight: bool = False  # the message may be in transit or may have arrived
    answered: bool = False  # the request has an outcome other than `UNREACHABLE`
    landed: Outcome | None = None  # the outcome, once the message is known to be delivered
    is_late: Callable[[], bool] = bool  # returns whether the time limit has passed; without a limit, it never has

    def begin(self) -> None:
        """Record that the message is being sent.

        Raises:
            NotSent: the time limit has passed. The process may have been suspended for longer than its claim of the
                message lasts, so another process may have sent, edited or rejected the message.
        """
        if self.is_late():
            raise NotSent(Outcome(OutcomeKind.UNREACHABLE, error=TOO_LATE))
        self.in_flight = True


class BaseGateway(ABC):
    """The base class of all gateways. Use a gateway as an asynchronous context manager."""

    overdue: Sequence[Overdue] = ()
    _secrets: Sequence[str]
    _settings: GatewaySettings
    _now: Callable[[], datetime]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:  # noqa: B027  not every gateway has something to close
        """Close the gateway's connections. By default, do nothing."""

    async def deliver(self, queued: QueuedMessage) -> Outcome:
        """Send one message, and return the outcome. ``request_timeout_seconds`` limits all steps together."""
        progress = DeliveryProgress()
        outcome = await guard(self._outcome(queued, progress), queued.message_id, progress)
        try:
            return self._cleaned(outcome, queued)
        except Exception as error:  # noqa: BLE001  the outcome must not be lost with its text
            text = f"an internal error: {_locate(error)}"
            logger.error("The error of message %s caused %s", queued.message_id, text)  # noqa: TRY400  as in `guard`
            return outcome._replace(error=None if outcome.error is None else text, external_id=None)

    async def problem(self, queued: QueuedMessage) -> str | None:
        """Return why a message can't be sent; None if it can, or if this can't be checked at present. Send nothing."""
        try:
            await self._prepare(queued)
        except NotSent as error:
            # These kinds mean that an attachment can't be checked at present.
            is_lasting = error.outcome.kind not in {OutcomeKind.UNREACHABLE, OutcomeKind.TRANSIENT}
            return self._clean(str(error), queued.message) if is_lasting else None
        return None

    @abstractmethod
    async def _prepare(self, queued: QueuedMessage) -> object:
        """Prepare a message, to check that it can be sent. Send nothing.

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
        """Ask the destination whether a message has arrived. Do not send the message."""

    def redact_secrets(self, text: str) -> str:
        """Mask the gateway's credentials in a string."""
        return redact_secrets(text, self._secrets)

    async def _outcome(self, queued: QueuedMessage, progress: DeliveryProgress) -> Outcome:
        ends_at = self._now() + timedelta(seconds=self._settings.request_timeout_seconds)
        progress.is_late = lambda: self._now() > ends_at
        try:
            return await self._deliver(queued, progress)
        except NotSent as error:
            return progress.landed or error.outcome

    def _cleaned(self, outcome: Outcome, queued: QueuedMessage) -> Outcome:
        """Return an outcome that is safe to store: no secrets, and a one-line error that does not quote the message."""
        if outcome.external_id is not None and self.redact_secrets(outcome.external_id) != outcome.external_id:
            outcome = outcome._replace(external_id=None)
        if outcome.error is None:
            return outcome
        # A message may contain these words, too, but they are not a quotation of it.
        own = next((start for start in (ARRIVED, UNVERIFIED) if outcome.error.startswith(start)), "")
        error = self._clean(outcome.error.removeprefix(own), queued.message)
        others = OTHERS if queued.delivered_to and not outcome.delivered_to else ""
        return outcome._replace(error=one_line(shortened(own + error, ERROR_LENGTH - len(others)) + others))

    def _clean(self, error: str, message: Message) -> str:
        return one_line(without_quotations(safe_line(error, self._secrets), message, self._sent_texts(message)))

    def _sent_texts(self, message: Message) -> Iterable[str]:
        """Return the subject and the body in the form in which they are sent. By default, they are sent as they are."""
        del message
        return ()


async def guard(delivery: Awaitable[Outcome], message_id: int, progress: DeliveryProgress) -> Outcome:
    """Return the outcome of a delivery. An unexpected exception becomes an outcome too, so that it ends one delivery
    and not the pass.

    Raises:
        ConfigurationError: the error affects every message, so it ends the pass.
    """
    try:
        return await delivery
    except ConfigurationError:
        raise
    except Exception as error:  # noqa: BLE001  other messages must still be sent
        text = f"an internal error: {_locate(error)}"
        logger.error("Message %s caused %s", message_id, text)  # noqa: TRY400  a traceback may quote the message
        if progress.landed is not None:
            return progress.landed._replace(error=f"delivered, but then {text}")
        unsure = progress.in_flight or progress.answered
        # Not `INVALID`, because a bug that affects all messages would then escalate them before anyone could fix it.
        return Outcome(OutcomeKind.UNKNOWN if unsure else OutcomeKind.TRANSIENT, error=text)


def _locate(error: Exception) -> str:
    """Describe an error by its type, module and line. Omit its text, because the text may quote a message."""
    lines = [(frame.f_globals.get("__name__", ""), number) for frame, number in walk_tb(error.__traceback__)]
    module, number = next(line for line in reversed(lines) if line[0].startswith("retrycli."))
    return f"{type(error).__name__} at {module}:{number}"


async def retry_unreachable(
    attempt: Callable[[], Awaitable[Outcome]], *, retries: int, within: float, sleep: Callable[[float], Awaitable[None]]
) -> Outcome:
    """Make an attempt. Repeat it while the outcome is `UNREACHABLE`, which proves that the message was not sent. The
    last retry begins at most ``within`` seconds from now. Return the outcome of the last attempt.
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

    `asyncio` runs due timers before the tasks that wait for received data. If a suspended virtual machine, a SIGSTOP or
    a slow fsync delayed the process, `asyncio.timeout` would discard an answer that arrived in time, and the message
    would be sent twice. So if the timer fires late, the block gets `GRACE_SECONDS` more, or the length of the delay if
    that is shorter. The block gets this time only once, so that a server that keeps the loop busy can't extend the
    limit indefinitely.

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
    """Call a blocking function in a new daemon thread. If the caller is cancelled, the thread's result is discarded.

    asyncio's thread pool is unsuitable: it is small, DNS look-ups share it, and the process waits for it at exit.
    With that pool, a file on a dead network share would block a pass beyond its deadline, even after SIGTERM.
    """
    done: Future[Result] = Future()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            done.set_result(work(*args, **options))
        except BaseException as error:  # noqa: BLE001  raised again in the waiting task
            done.set_exception(error)

    Thread(target=run, name=getattr(work, "__qualname__", "work"), daemon=True).start()
    return await asyncio.wrap_future(done)
