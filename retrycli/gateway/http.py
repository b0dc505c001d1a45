"""The HTTP gateway: one message, one request, one outcome."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Self

import httpx

from retrycli.errors import ConfigurationError, InvalidMessage
from retrycli.gateway.answer import Answer, outcome_of
from retrycli.gateway.credentials import Credentials
from retrycli.gateway.preset import load_preset, render
from retrycli.gateway.quotation import without_quotations
from retrycli.gateway.transport import TRANSPORT_ERRORS, in_words, kind_of_exception, open_transport
from retrycli.message import OPTIONAL_COLUMNS, QueuedMessage
from retrycli.outcome import Outcome, OutcomeKind, one_line
from retrycli.settings import Gateway as GatewaySettings

if TYPE_CHECKING:
    from types import TracebackType

IMMEDIATE_RETRY_SECONDS = (0.1, 0.5)
"""The shortest and the longest wait before what was certainly not sent is tried again at once."""

HEADERS = {
    "accept": "application/json",
    "accept-encoding": "identity",
    "content-type": "application/json",
    "user-agent": "retrycli",
}

TO_JSON = json.JSONEncoder(default=str, ensure_ascii=False, allow_nan=False)

IN_FLIGHT = "retrycli.in_flight"
"""Marks a request, in its ``extensions``, that may be on its way or may have arrived."""


class HttpGateway:
    """Delivers to one ticketing system. Use it as an asynchronous context manager.

    Args:
        settings: where it is and how to log in.
        columns: the columns of the application's table, for the templates to be checked against.
        connections: how many requests may be in flight.
        now: the clock, for a Retry-After that is a date.
        sleep: waits between immediate retries.

    Raises:
        ConfigurationError: no usable base URL or token, or a preset that is wrong.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        columns: Collection[str],
        connections: int,
        now: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        check_urls(settings)
        self._settings = settings
        self._preset = load_preset(settings.preset)
        self._preset.check_columns({*columns, *OPTIONAL_COLUMNS})
        self._credentials = Credentials(settings)
        self._transport = open_transport(settings, connections=connections)
        self._now = now
        self._sleep = sleep

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.aclose()

    async def deliver(self, queued: QueuedMessage) -> Outcome:
        """Send one message, within ``request_timeout_seconds`` for everything that takes.

        Only what was certainly not sent is tried again at once.
        """
        try:
            request = self._request(queued)
        except (InvalidMessage, httpx.InvalidURL, ValueError, RecursionError) as error:
            return self._cleaned(Outcome(OutcomeKind.PERMANENT, error=f"the request can't be built: {error}"), queued)
        limit = self._settings.request_timeout_seconds
        try:
            async with asyncio.timeout(limit):
                outcome = await self._send_authorized(request)
                if outcome.kind is OutcomeKind.UNREACHABLE and self._settings.immediate_retries:
                    outcome = await self._try_again(request, outcome)
        except TimeoutError:
            if request.extensions.get(IN_FLIGHT):
                return Outcome(OutcomeKind.UNKNOWN, error=f"no answer within {limit:g} s")
            return Outcome(OutcomeKind.UNREACHABLE, error=f"not sent within {limit:g} s")
        return self._cleaned(outcome, queued)

    def _request(self, queued: QueuedMessage) -> httpx.Request:
        message = queued.message
        rule = self._preset.messages.get(message.message_type)
        if rule is None:
            raise InvalidMessage(f"the preset {self._settings.preset} has no rule for {message.message_type} messages")
        parts = render(rule, message.fields)
        # In small letters, so that a preset's header takes the place of ours whatever its case (RFC 9110, section 5.1).
        own = {name.lower(): value for name, value in parts.headers.items()}
        headers = HEADERS | own | {self._preset.key_header.lower(): queued.delivery_key}
        content = TO_JSON.encode(parts.body).encode()
        headers["content-length"] = str(len(content))
        # As a stream: for bytes httpx works out headers that aiohttp works out again, and of many aiohttp warns.
        url, stream = self._settings.destination + parts.path, httpx.ByteStream(content)
        return httpx.Request(parts.method, url, headers=headers, stream=stream)

    async def _try_again(self, request: httpx.Request, first: Outcome) -> Outcome:
        from tenacity import AsyncRetrying, retry_if_result, stop_after_attempt, wait_random

        outcomes = [first]

        async def attempt() -> Outcome:
            return outcomes.pop() if outcomes else await self._send_authorized(request)

        retrying = AsyncRetrying(
            stop=stop_after_attempt(1 + self._settings.immediate_retries),
            wait=wait_random(*IMMEDIATE_RETRY_SECONDS),
            retry=retry_if_result(lambda outcome: outcome.kind is OutcomeKind.UNREACHABLE),
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else first,
            sleep=self._sleep,
        )
        last: Outcome = await retrying(attempt)
        return last

    async def _send_authorized(self, request: httpx.Request) -> Outcome:
        """Send with credentials; after a 401, log in afresh once and send again: a 401 has done nothing."""
        credentials = self._credentials
        if not credentials.by_log_in:
            return await self._send(request)
        if credentials.header is None and (problem := await credentials.log_in(None, self._exchange, self._now)):
            return problem
        used = credentials.header
        outcome = await self._send(request)
        if outcome.kind is not OutcomeKind.UNAUTHORIZED or outcome.status_code is None:
            return outcome
        return await credentials.log_in(used, self._exchange, self._now) or await self._send(request)

    async def _send(self, request: httpx.Request) -> Outcome:
        if self._credentials.header is not None:
            request.headers["Authorization"] = self._credentials.header
        request.extensions[IN_FLIGHT] = True
        try:
            outcome = outcome_of(await self._exchange(request), self._preset, self._now())
        except TRANSPORT_ERRORS as error:
            outcome = Outcome(kind_of_exception(error), error=in_words(error))
        # Not in a `finally`: a deadline that ends the exchange leaves the mark, for `deliver` to see.
        request.extensions[IN_FLIGHT] = False
        return outcome

    async def _exchange(self, request: httpx.Request) -> Answer:
        request.extensions["timeout"] = {"connect": self._settings.connect_timeout_seconds}
        return await Answer.read(await self._transport.handle_async_request(request))

    def _cleaned(self, outcome: Outcome, queued: QueuedMessage) -> Outcome:
        """The outcome with its error as it may be stored: one line, without our secrets and the customer's words."""
        if outcome.error is None:
            return outcome
        error = one_line(self._credentials.starred(outcome.error))
        return replace(outcome, error=without_quotations(error, queued.message))


def check_urls(settings: GatewaySettings) -> None:
    """Find out before the first message whether any request can go there: each would fail for it."""
    base = settings.destination
    for key, url in (("base_url", base), ("login_path", base + settings.login_path)):
        try:
            httpx.URL(url).host.encode("idna")
        except (httpx.InvalidURL, UnicodeError) as error:
            raise ConfigurationError(f"gateway.{key}: {url!r} can't be used: {error}") from None
