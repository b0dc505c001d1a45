"""The client of a ticketing system: it sends requests with our credentials and reads answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

import httpx

from retrycli.config.gateway import GatewaySettings
from retrycli.domain.errors import ConfigurationError
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.gateway.delivery import DeliveryProgress
from retrycli.gateway.http.auth import Credentials
from retrycli.gateway.http.body import Content
from retrycli.gateway.http.response import ANSWER_LIMIT, Answer, outcome_of_question
from retrycli.gateway.http.transport import REFUSED_URL, TRANSPORT_ERRORS, describe_error, kind_of_exception
from retrycli.gateway.presets.loader import Preset

PLAIN = re.compile(r"(?!.*/\.)(?:[\w~./?=&-]|%[0-9A-F]{2}){1,2000}", re.ASCII)
"""A path with its query that a URL parser leaves unchanged (RFC 3986, sections 2 and 5.2.4)."""


class _UrlBelow(httpx.URL):
    """The URL of a plain path below a base URL. Parsing it would take longer than all other work on a request."""

    def __init__(self, base: httpx.URL, path: str) -> None:
        super().__init__(base)
        self._whole = str(base) + path
        self._raw_path = base.raw_path.rstrip(b"/") + path.encode()

    def __str__(self) -> str:
        return self._whole

    @property
    def raw_path(self) -> bytes:
        return self._raw_path


@lru_cache(maxsize=64)
def url_below(base: str, path: str) -> httpx.URL:
    """Return the URL of a path below a base URL. Cached, because it is needed to build a request and to send it.

    Raises:
        httpx.InvalidURL: the URL is invalid.
    """
    return _UrlBelow(_parse_url(base), path) if PLAIN.fullmatch(path) else httpx.URL(base + path)


_parse_url = lru_cache(maxsize=8)(httpx.URL)


@dataclass(frozen=True, slots=True)
class Request:
    """A request without the host and the credentials."""

    method: str
    path: str
    headers: Mapping[str, str]
    """By lower-case names."""
    content: Content | None = None


@dataclass(frozen=True, slots=True)
class ApiReply:
    """The outcome of a request, and its answer, if any."""

    outcome: Outcome
    answer: Answer | None = None


BuildRequest = Callable[[str | None], Request]
"""Builds a request for the session of a log-in. Called every time the request is sent."""
Watch = Callable[[httpx.Request, Content | None, Answer], None]


class ApiClient:
    """Send requests to one ticketing system.

    Args:
        transport: the transport.
        settings: the system and our credentials.
        preset: the rules for log-ins and answers.
        now: the clock.
        watch: called with every request and its answer.

    Raises:
        ConfigurationError: the base URL or a credential is missing, or a credential can't be used.
    """

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        settings: GatewaySettings,
        preset: Preset,
        *,
        now: Callable[[], datetime],
        watch: Watch | None = None,
    ) -> None:
        self.transport = transport
        self.preset = preset
        self.credentials = Credentials(settings, preset)
        self._destination = settings.destination
        self._connect_timeout_seconds = settings.connect_timeout_seconds
        self._now = now
        self._watch = watch

    async def send(
        self, build: BuildRequest, *, limit: int = ANSWER_LIMIT, progress: DeliveryProgress | None = None
    ) -> ApiReply:
        """Send a request with credentials. After a 401, log in once and send again: a 401 has no effect.

        Args:
            build: builds the request.
            limit: the maximum bytes read of an answer.
            progress: updated while the request is in flight.

        Returns:
            The answer, and the outcome of the request as a question (`outcome_of_question`).
        """
        credentials = self.credentials
        needs_log_in = credentials.by_log_in and credentials.session is None
        if needs_log_in and (problem := await self._log_in(None)):
            return ApiReply(problem)
        used = credentials.session
        reply = await self._send(build(used), limit, progress)
        refused = reply.outcome.kind is OutcomeKind.UNAUTHORIZED and reply.answer is not None
        if not (refused and credentials.by_log_in):
            return reply
        if problem := await self._log_in(used):
            return ApiReply(problem)
        return await self._send(build(credentials.session), limit, progress)

    async def _log_in(self, used: str | None) -> Outcome | None:
        return await self.credentials.log_in(used, self.exchange, self._now)

    async def _send(self, request: Request, limit: int, progress: DeliveryProgress | None) -> ApiReply:
        sent = self._prepare(request)
        if progress is not None:
            progress.in_flight = True
        try:
            answer = await self.exchange(sent, limit)
            reply = ApiReply(outcome_of_question(answer, self.preset, self._now()), answer)
        except TRANSPORT_ERRORS as error:
            reply = ApiReply(Outcome(kind_of_exception(error), error=describe_error(error)))
        # Not in a `finally`: after a deadline it must still say in flight, for the code that set the deadline.
        if progress is not None:
            progress.in_flight = False
            progress.answered = reply.outcome.kind is not OutcomeKind.UNREACHABLE
        if self._watch is not None and reply.answer is not None:
            self._watch(sent, request.content, reply.answer)
        return reply

    def _prepare(self, request: Request) -> httpx.Request:
        url = url_below(self._destination, request.path)
        headers = {**request.headers, **self.credentials.headers()}
        if request.content is not None:
            headers |= {"content-type": request.content.content_type, "content-length": str(len(request.content))}
        # A stream: for bytes httpx and aiohttp both compute headers, and aiohttp warns about long bytes.
        sent = httpx.Request(request.method, url, headers=headers, stream=request.content)
        sent.url = url  # httpx copied it without the path
        return sent

    async def exchange(self, request: httpx.Request, limit: int = ANSWER_LIMIT) -> Answer:
        """Send a request unchanged.

        Raises:
            ConfigurationError: the transport rejects the URL. Nothing was sent.
            One of `TRANSPORT_ERRORS`.
        """
        request.extensions["timeout"] = {"connect": self._connect_timeout_seconds}
        try:
            return await Answer.read(await self.transport.handle_async_request(request), limit)
        except REFUSED_URL as error:
            where = self._destination
            raise ConfigurationError(f"gateway.base_url: invalid URL {where!r}: {error}. Correct it.") from None
