"""The HTTP gateway: one message, one request, one outcome."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Awaitable, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Self

import httpx

from retrycli.config import Gateway as GatewaySettings
from retrycli.errors import ConfigurationError, InvalidMessage
from retrycli.gateway.preset import load_preset, render
from retrycli.gateway.transport import TRANSPORT_ERRORS, in_words, kind_of_exception, open_transport
from retrycli.message import OPTIONAL_COLUMNS, QueuedMessage
from retrycli.outcome import Outcome, OutcomeKind, kind_of_status, one_line, parse_retry_after

if TYPE_CHECKING:
    from types import TracebackType

ANSWER_LIMIT = 64 * 1024
"""How many bytes of an answer are read, and no more."""

IMMEDIATE_RETRY_SECONDS = (0.1, 0.5)
"""The shortest and the longest wait before what was certainly not sent is tried again at once."""

VISIBLE = re.compile(r"[!-~]+")
"""What a token may be of."""

IN_FLIGHT = "retrycli.in_flight"
"""Marks a request, in its ``extensions``, that may be on its way or may have arrived."""


@dataclass(frozen=True, slots=True)
class Answer:
    """As much of an HTTP answer as is looked at."""

    status: int
    retry_after: str | None
    text: str
    whole: bool

    @property
    def json(self) -> object:
        """Its parsed content; None where there is none.

        Raises:
            ValueError: it is no JSON, or was cut off.
        """
        if not self.text.strip():
            return None
        if not self.whole:
            raise ValueError("the answer is too long")
        try:
            return json.loads(self.text)
        except RecursionError as error:
            raise ValueError("the answer is nested too deeply") from error


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
        self._settings = settings
        self._base_url = base_url(settings)
        self._preset = load_preset(settings.preset)
        self._preset.check_columns({*columns, *OPTIONAL_COLUMNS})
        self._transport = open_transport(settings, connections=connections)
        self._now = now
        self._sleep = sleep
        self._authorization = _fixed_authorization(settings)
        self._log_in_lock = asyncio.Lock()

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
            return Outcome(OutcomeKind.PERMANENT, error=self._clean(f"the request can't be built: {error}"))
        limit = self._settings.request_timeout_seconds
        try:
            async with asyncio.timeout(limit):
                outcome = await self._authorized(request)
                if outcome.kind is OutcomeKind.UNREACHABLE and self._settings.immediate_retries:
                    outcome = await self._try_again(request)
                return outcome
        except TimeoutError:
            if request.extensions.get(IN_FLIGHT):
                return Outcome(OutcomeKind.UNKNOWN, error=f"no answer within {limit:g} s")
            return Outcome(OutcomeKind.UNREACHABLE, error=f"not sent within {limit:g} s")

    def _request(self, queued: QueuedMessage) -> httpx.Request:
        message = queued.message
        rule = self._preset.messages.get(message.message_type)
        if rule is None:
            raise InvalidMessage(f"the preset {self._settings.preset} has no rule for {message.message_type} messages")
        parts = render(rule, message.fields)
        headers = httpx.Headers(
            {
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "Content-Type": "application/json",
                "User-Agent": "retrycli",
            }
        )
        # Not by ** in the literal: the names may differ from ours in nothing but their case.
        headers.update(parts.headers)
        headers[self._preset.key_header] = queued.delivery_key
        return httpx.Request(
            parts.method,
            self._base_url + parts.path,
            headers=headers,
            content=json.dumps(parts.body, default=str, ensure_ascii=False, allow_nan=False).encode(),
        )

    async def _try_again(self, request: httpx.Request) -> Outcome:
        from tenacity import AsyncRetrying, retry_if_result, stop_after_attempt, wait_random

        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._settings.immediate_retries),
            wait=wait_random(*IMMEDIATE_RETRY_SECONDS),
            retry=retry_if_result(lambda outcome: outcome.kind is OutcomeKind.UNREACHABLE),
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
            sleep=self._sleep,
        )
        await self._sleep(IMMEDIATE_RETRY_SECONDS[0])
        outcome: Outcome = await retrying(self._authorized, request)
        return outcome

    # -- credentials ------------------------------------------------------------------------------------------

    async def _authorized(self, request: httpx.Request) -> Outcome:
        """Send with credentials; after a 401, log in afresh once and send again: a 401 has done nothing."""
        if self._settings.auth != "login":
            return await self._send(request, self._authorization)
        if self._authorization is None and (problem := await self._log_in(None)):
            return problem
        used = self._authorization
        outcome = await self._send(request, used)
        if outcome.kind is not OutcomeKind.UNAUTHORIZED or outcome.status_code is None:
            return outcome
        return await self._log_in(used) or await self._send(request, self._authorization)

    async def _log_in(self, used: str | None) -> Outcome | None:
        """Get a token, unless another request has got a fresh one meanwhile; None when there is one.

        Whatever goes wrong here, the message itself was not sent.
        """
        async with self._log_in_lock:
            if self._authorization != used:
                return None
            request = httpx.Request(
                "POST",
                self._base_url + self._settings.login_path,
                headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "retrycli"},
                json={"username": self._settings.username, "password": _secret(self._settings.password)},
            )
            try:
                answer = await self._exchange(request)
            except TRANSPORT_ERRORS as error:
                kind = kind_of_exception(error)
                unsent = OutcomeKind.UNAUTHORIZED if kind is OutcomeKind.UNAUTHORIZED else OutcomeKind.UNREACHABLE
                return Outcome(unsent, error=self._clean(f"log-in: {in_words(error)}"))
            token = _access_token(answer)
            if token is None:
                kind = kind_of_status(answer.status)
                refused = kind not in {OutcomeKind.TRANSIENT, OutcomeKind.THROTTLED}
                retry_after = parse_retry_after(answer.retry_after, self._now())
                return Outcome(
                    OutcomeKind.UNAUTHORIZED if refused else kind,
                    answer.status,
                    f"log-in: HTTP {answer.status}, and no access_token",
                    retry_after,
                )
            self._authorization = f"Bearer {token}"
            return None

    # -- one request ------------------------------------------------------------------------------------------

    async def _send(self, request: httpx.Request, authorization: str | None) -> Outcome:
        if authorization is not None:
            request.headers["Authorization"] = authorization
        request.extensions[IN_FLIGHT] = True
        try:
            outcome = self._outcome(await self._exchange(request))
        except TRANSPORT_ERRORS as error:
            outcome = Outcome(kind_of_exception(error), error=self._clean(in_words(error)))
        # Not in a `finally`: a deadline that ends the exchange leaves the mark, for `deliver` to see.
        request.extensions[IN_FLIGHT] = False
        return outcome

    async def _exchange(self, request: httpx.Request) -> Answer:
        request.extensions["timeout"] = {"connect": self._settings.connect_timeout_seconds}
        response = await self._transport.handle_async_request(request)
        content = bytearray()
        async with aclosing(response):
            assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101  told to the type checker
            async for chunk in response.stream:
                content += chunk
                if len(content) > ANSWER_LIMIT:
                    break
        return Answer(
            status=response.status_code,
            retry_after=response.headers.get("Retry-After"),
            text=content[:ANSWER_LIMIT].decode("utf-8", "replace"),
            whole=len(content) <= ANSWER_LIMIT,
        )

    def _outcome(self, answer: Answer) -> Outcome:
        retry_after = parse_retry_after(answer.retry_after, self._now())
        for rule in self._preset.classify:
            if rule.applies(answer.status, answer.text):
                kind = rule.outcome
                break
        else:
            kind = kind_of_status(answer.status, retry_after=retry_after)
            if kind is OutcomeKind.DELIVERED:
                return self._judge(answer)
        if kind is OutcomeKind.DELIVERED:
            return Outcome(kind, answer.status)
        return Outcome(kind, answer.status, self._error(f"HTTP {answer.status}", answer), retry_after)

    def _judge(self, answer: Answer) -> Outcome:
        """Apply the success rule to a 2xx answer."""
        rule = self._preset.success
        if rule.field is None:
            return Outcome(OutcomeKind.DELIVERED, answer.status)
        try:
            content = answer.json
        except ValueError:
            error = f"HTTP {answer.status}, but the answer is no JSON to be judged by"
            return Outcome(OutcomeKind.UNKNOWN, answer.status, error)
        present = isinstance(content, dict) and rule.field in content
        if isinstance(content, dict) and present and content[rule.field] == rule.equals:
            return Outcome(OutcomeKind.DELIVERED, answer.status)
        if not present and not rule.required:
            return Outcome(OutcomeKind.DELIVERED, answer.status)
        return Outcome(OutcomeKind.REFUSED, answer.status, self._error("refused", answer))

    def _error(self, start: str, answer: Answer) -> str:
        words = _words(answer, self._preset.answer.errors)
        return self._clean(f"{start}: {words}" if words else start)

    def _clean(self, text: str) -> str:
        """An error text as it may be stored: one line, and without our own secrets if the other side echoes them."""
        _, _, credentials = (self._authorization or "").partition(" ")
        for secret in (_secret(self._settings.token), _secret(self._settings.password), credentials):
            text = text.replace(secret, "***") if secret else text
        return one_line(text)


def base_url(settings: GatewaySettings) -> str:
    """Where messages go.

    Raises:
        ConfigurationError: it is not set, or no request can go there or to the log-in: every message would fail for it.
    """
    if settings.base_url is None:
        raise ConfigurationError(
            "gateway.base_url is not set: where is the ticketing API? Set it in retrycli.toml or TICKETING_API_BASE_URL"
        )
    for key, url in (("base_url", settings.base_url), ("login_path", settings.base_url + settings.login_path)):
        try:
            httpx.URL(url).host.encode("idna")
        except (httpx.InvalidURL, UnicodeError) as error:
            raise ConfigurationError(f"gateway.{key}: {url!r} can't be used: {error}") from None
    return settings.base_url


def _fixed_authorization(settings: GatewaySettings) -> str | None:
    match settings.auth:
        case "bearer":
            token = _secret(settings.token) or ""
            if not VISIBLE.fullmatch(token):
                raise ConfigurationError("gateway.token: a token is of visible ASCII characters, without a space")
            return f"Bearer {token}"
        case "basic":
            pair = f"{settings.username}:{_secret(settings.password)}"
            return "Basic " + base64.b64encode(pair.encode()).decode()
        case _:
            return None


def _secret(value: object) -> str | None:
    reveal = getattr(value, "get_secret_value", None)
    return None if reveal is None else str(reveal())


def _access_token(answer: Answer) -> str | None:
    try:
        content = answer.json
    except ValueError:
        return None
    token = content.get("access_token") if isinstance(content, dict) else None
    return token if answer.status < 300 and isinstance(token, str) and VISIBLE.fullmatch(token) else None  # noqa: PLR2004


def _words(answer: Answer, fields: Collection[str]) -> str | None:
    """What an answer's JSON says is wrong."""
    try:
        content = answer.json
    except ValueError:
        return None
    if not isinstance(content, dict):
        return None
    found = next((content[name] for name in fields if content.get(name)), None)
    parts = found if isinstance(found, list) else [found]
    return "; ".join(part if isinstance(part, str) else json.dumps(part) for part in parts if part) or None
