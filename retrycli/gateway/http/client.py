"""The line to a ticketing system: requests go out with our credentials, and answers come back."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

import httpx

from retrycli.domain.errors import ConfigurationError
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.gateway.http.auth import Credentials
from retrycli.gateway.http.body import Content
from retrycli.gateway.http.response import ANSWER_LIMIT, Answer
from retrycli.gateway.http.transport import REFUSED_URL, TRANSPORT_ERRORS, in_words, kind_of_exception
from retrycli.gateway.progress import DeliveryProgress

PLAIN = re.compile(r"(?!.*/\.)(?:[\w~./?=&-]|%[0-9A-F]{2}){1,2000}", re.ASCII)
"""A path, with its query, that a URL's parser leaves as it is (RFC 3986, sections 2 and 5.2.4)."""


class _Below(httpx.URL):
    """The URL of a plain path below a base URL. To parse it takes longer than all else that is done about a request."""

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
    """Return the URL of a path below a base URL. It is asked for when a request is drawn up, and when it is sent.

    Raises:
        httpx.InvalidURL: it is none.
    """
    return _Below(_parsed(base), path) if PLAIN.fullmatch(path) else httpx.URL(base + path)


_parsed = lru_cache(maxsize=8)(httpx.URL)


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be sent, but for the host and the credentials."""

    method: str
    path: str
    headers: Mapping[str, str]
    """By names in small letters."""
    content: Content | None = None


@dataclass(frozen=True, slots=True)
class ApiReply:
    """What came of a request, and the answer where there was one."""

    outcome: Outcome
    answer: Answer | None = None


BuildRequest = Callable[[str | None], Request]
"""Draws up a request for a session that a log-in has brought; afresh each time it is sent."""
Judge = Callable[[Answer], Outcome]
Watch = Callable[[httpx.Request, Content | None, Answer], None]


class ApiClient:
    """Requests to one destination.

    Args:
        transport: what carries them.
        destination: the base URL.
        credentials: ours.
        connect_timeout_seconds: for a connection to be made.
        now: the clock.
        watch: is shown each request with its answer.
    """

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        destination: str,
        credentials: Credentials,
        *,
        connect_timeout_seconds: float,
        now: Callable[[], datetime],
        watch: Watch | None = None,
    ) -> None:
        self._transport = transport
        self._destination = destination
        self._credentials = credentials
        self._connect_timeout_seconds = connect_timeout_seconds
        self._now = now
        self._watch = watch

    async def send(
        self, build: BuildRequest, judge: Judge, *, limit: int = ANSWER_LIMIT, progress: DeliveryProgress | None = None
    ) -> ApiReply:
        """Send with credentials; after a 401, log in afresh once and send again: a 401 has done nothing.

        Args:
            build: draws the request up.
            judge: says what an answer means.
            limit: how much of an answer is read, in bytes.
            progress: is told while the request is under way.
        """
        credentials = self._credentials
        if credentials.missing and (problem := await self._log_in(None)):
            return ApiReply(problem)
        used = credentials.session
        reply = await self._send(build(used), judge, limit, progress)
        refused = reply.outcome.kind is OutcomeKind.UNAUTHORIZED and reply.answer is not None
        if not (refused and credentials.by_log_in):
            return reply
        if problem := await self._log_in(used):
            return ApiReply(problem)
        return await self._send(build(credentials.session), judge, limit, progress)

    async def _log_in(self, used: str | None) -> Outcome | None:
        return await self._credentials.log_in(used, self.exchange, self._now)

    async def _send(self, request: Request, judge: Judge, limit: int, progress: DeliveryProgress | None) -> ApiReply:
        sent = self._addressed(request)
        if progress is not None:
            progress.in_flight = True
        try:
            answer = await self.exchange(sent, limit)
            reply = ApiReply(judge(answer), answer)
        except TRANSPORT_ERRORS as error:
            reply = ApiReply(Outcome(kind_of_exception(error), error=in_words(error)))
        # Not in a `finally`: a deadline that ends the exchange leaves it so, for whoever set the deadline to see.
        if progress is not None:
            progress.in_flight = False
            progress.answered = reply.outcome.kind is not OutcomeKind.UNREACHABLE
        if self._watch is not None and reply.answer is not None:
            self._watch(sent, request.content, reply.answer)
        return reply

    def _addressed(self, request: Request) -> httpx.Request:
        url = url_below(self._destination, request.path)
        headers = {**request.headers, **self._credentials.headers()}
        if request.content is None:
            sent = httpx.Request(request.method, url, headers=headers)
        else:
            headers |= {"content-type": request.content.content_type, "content-length": str(len(request.content))}
            # As a stream: for bytes httpx works out headers that aiohttp works out again, and of many aiohttp warns.
            sent = httpx.Request(request.method, url, headers=headers, stream=request.content)
        sent.url = url  # httpx has made a copy without the path
        return sent

    async def exchange(self, request: httpx.Request, limit: int = ANSWER_LIMIT) -> Answer:
        """Send a request as it is.

        Raises:
            ConfigurationError: the transport refuses the URL. Nothing was sent.
            One of `TRANSPORT_ERRORS`.
        """
        request.extensions["timeout"] = {"connect": self._connect_timeout_seconds}
        try:
            return await Answer.read(await self._transport.handle_async_request(request), limit)
        except REFUSED_URL as error:
            where = self._destination
            raise ConfigurationError(f"gateway.base_url: invalid URL {where!r}: {error}. Correct it.") from None
