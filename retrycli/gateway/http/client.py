"""The client of a ticketing system's API: credentials, log-ins, requests and their answers."""

import asyncio
import re
from base64 import b64encode
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import NamedTuple

import httpx
from pydantic import SecretStr

from retrycli.config import SECRET, marked, secret_text
from retrycli.config.gateway import GatewaySettings
from retrycli.domain.errors import ConfigurationError, InvalidMessage
from retrycli.domain.outcome import Outcome, OutcomeKind, kind_of_status, parse_retry_after
from retrycli.gateway.delivery import DeliveryProgress
from retrycli.gateway.http.request import Content, Request, url_below
from retrycli.gateway.http.response import ANSWER_LIMIT, Answer, outcome_of_question, value_at, with_error_text
from retrycli.gateway.http.transport import (
    HEADERS,
    REFUSED_URL,
    TRANSPORT_ERRORS,
    describe_error,
    kind_of_exception,
    kind_without_message,
)
from retrycli.gateway.presets.loader import Preset
from retrycli.gateway.presets.model import Auth, Session
from retrycli.gateway.presets.template import fill, fill_header, fill_path, fill_text, plain

TOKEN = re.compile(r"[!-~]{1,8192}")
KEPT_SESSIONS = 8  # number of the newest session tokens to mask; answers to older ones have arrived


class ApiReply(NamedTuple):
    """The outcome of a request, and its answer, if any."""

    outcome: Outcome
    answer: Answer | None = None


# Builds a request. The argument is the token of the log-in; None without a log-in. Called before each transmission.
BuildRequest = Callable[[str | None], Request]
# Called by `ApiClient.send` with each answered request, its content and its answer. Log-ins are not included.
Watch = Callable[[httpx.Request, Content | None, Answer], None]


class ApiClient:
    """Send requests to one ticketing system. Every answered request, except log-ins, is passed to ``watch``.

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
        self._settings = settings
        self._now = now
        self._watch = watch

    async def send(
        self, build: BuildRequest, *, limit: int = ANSWER_LIMIT, progress: DeliveryProgress | None = None
    ) -> ApiReply:
        """Send a request with credentials. If the system requires a log-in and refuses the token, log in again and
        repeat the request once. Repeating is safe, because an unauthorized request has no effect.

        Read at most ``limit`` bytes of an answer. Return the answer, if any, and the outcome before the preset's
        success rule is applied (`outcome_of_question`).
        """
        credentials = self.credentials
        if credentials.by_log_in and credentials.session is None and (problem := await self._log_in(None)):
            return ApiReply(problem)
        used = credentials.session
        reply = await self._send(build(used), limit, progress)
        if not credentials.by_log_in or reply.outcome.kind is not OutcomeKind.UNAUTHORIZED or reply.answer is None:
            return reply
        if problem := await self._log_in(used):
            return ApiReply(problem)
        return await self._send(build(credentials.session), limit, progress)

    async def _log_in(self, used: str | None) -> Outcome | None:
        problem = await self.credentials.log_in(used, self.exchange, self._now)
        return None if problem is None else problem.unsent()

    async def _send(self, request: Request, limit: int, progress: DeliveryProgress | None) -> ApiReply:
        sent = self._prepare(request)
        if progress is not None:
            progress.begin()
        try:
            answer = await self.exchange(sent, limit)
            reply = ApiReply(outcome_of_question(answer, self.preset, self._now()), answer)
        except TRANSPORT_ERRORS as error:
            reply = ApiReply(Outcome(kind_of_exception(error), error=describe_error(error)))
        # Not in a `finally`: after a timeout, `in_flight` must stay true for the code that handles the timeout.
        if progress is not None:
            progress.in_flight = False
            progress.answered = reply.outcome.kind is not OutcomeKind.UNREACHABLE
        if self._watch is not None and reply.answer is not None:
            self._watch(sent, request.content, reply.answer)
        return reply

    def _prepare(self, request: Request) -> httpx.Request:
        url = url_below(self._settings.destination, request.path)
        headers = {**request.headers, **self.credentials.headers()}
        if request.content is not None:
            headers |= {"content-type": request.content.content_type, "content-length": str(len(request.content))}
        # Pass a stream. For bytes, httpx and aiohttp would compute headers that are already set, and aiohttp would warn
        # about large bodies.
        sent = httpx.Request(request.method, url, headers=headers, stream=request.content)
        sent.url = url  # httpx.Request copies the URL without the path of `_UrlBelow`
        return sent

    async def exchange(self, request: httpx.Request, limit: int = ANSWER_LIMIT) -> Answer:
        """Send a request without adding credentials, and read its answer.

        Raises:
            ConfigurationError: the transport rejects the URL. Nothing was sent.
            One of `TRANSPORT_ERRORS`: the request failed.
        """
        request.extensions["timeout"] = {"connect": self._settings.connect_timeout_seconds}
        try:
            return await Answer.read(await self.transport.handle_async_request(request), limit)
        except REFUSED_URL as error:
            raise ConfigurationError(
                f"gateway.base_url: invalid URL {self._settings.destination!r}: {error}; write a URL such as "
                "https://tickets.example.com/api"
            ) from None


class Credentials:
    """Provide the credentials of requests, and log in if the system requires it. ``gateway.auth`` overrides the
    preset's method.

    Raises:
        ConfigurationError: a credential is missing, or can't be put into a header.
    """

    def __init__(self, settings: GatewaySettings, preset: Preset) -> None:
        self._auth = _auth_of_settings(settings, preset.auth) or preset.auth or Auth()
        self.by_log_in = self._auth.session is not None  # requests need the token of a log-in
        self.session: str | None = None  # the token of the last log-in; None before the first log-in
        self._values: dict[str, str] = {}
        self.secrets: list[str] = []  # `log_in` and `headers` add further secrets; a user name is none
        for name in marked(GatewaySettings, SECRET):
            self._values[name] = secret_text(value := getattr(settings, name))
            if isinstance(value, SecretStr):
                self.secrets.append(self._values[name])
        for name in self._auth.needs:
            if not self._values[name]:
                raise ConfigurationError(f"gateway.{name} is not set, but the preset {settings.preset} needs it")
        self._sessions: list[str] = []
        self._destination = settings.destination
        self._errors = preset.answer.errors
        self._log_in_lock = asyncio.Lock()
        if self._values["token"] and not TOKEN.fullmatch(self._values["token"]):
            raise ConfigurationError(
                "gateway.token: the token must consist of at most 8,192 visible ASCII characters, without spaces"
            )
        try:
            self.headers()
            # The value of {identity} in templates; None if the preset does not define an identity.
            self.identity = None if self._auth.identity is None else fill_text(self._auth.identity, self._values)
        except InvalidMessage as error:
            raise ConfigurationError(f"gateway.username or gateway.password: {error}") from None

    def headers(self) -> dict[str, str]:
        """Return the headers with the credentials, by name in lower case."""
        values = {**self._values, "session": self.session}
        headers = {name.lower(): fill_header(name, text, values) for name, text in self._auth.headers.items()}
        if self._auth.basic is not None:
            user, password = (plain(fill_text(template, values)) for template in self._auth.basic)
            encoded = b64encode(f"{user}:{password}".encode()).decode()
            headers["authorization"] = f"Basic {encoded}"
            if encoded not in self.secrets:
                self.secrets.append(encoded)
        return headers

    async def log_in(
        self, used: str | None, exchange: Callable[[httpx.Request], Awaitable[Answer]], now: Callable[[], datetime]
    ) -> Outcome | None:
        """Log in, and store the new token. Do nothing if another request has already replaced the refused token
        ``used``.

        Returns:
            None if there is a token. Otherwise the outcome for the message, which was certainly not sent.
        """
        rule = self._auth.session
        assert rule is not None  # noqa: S101  for the type checker
        async with self._log_in_lock:
            if self.session != used:
                return None
            try:
                answer = await exchange(self._log_in_request(rule))
            except TRANSPORT_ERRORS as error:
                return Outcome(kind_without_message(error), error=f"log-in: {describe_error(error)}")
            token = value_at(answer, rule.token)
            if not isinstance(token, str) or not TOKEN.fullmatch(token):
                return self._outcome_without_token(answer, rule.token, now())
            self.session = token
            self._sessions.append(token)
            self.secrets.append(token)
            for old in self._sessions[:-KEPT_SESSIONS]:
                self.secrets.remove(old)
            del self._sessions[:-KEPT_SESSIONS]
            return None

    def _outcome_without_token(self, answer: Answer, where: str, now: datetime) -> Outcome:
        kind = kind_of_status(answer.status)
        return Outcome(
            kind if kind in {OutcomeKind.TRANSIENT, OutcomeKind.THROTTLED} else OutcomeKind.UNAUTHORIZED,
            answer.status,
            with_error_text(f"log-in: HTTP {answer.status}, no valid {where}", answer, self._errors),
            parse_retry_after(answer.retry_after, now),
        )

    def _log_in_request(self, rule: Session) -> httpx.Request:
        own = {name.lower(): plain(fill_text(text, self._values)) for name, text in rule.headers.items()}
        body = fill(rule.body, self._values) if rule.method == "POST" else None
        form = body if rule.encoding == "form" and isinstance(body, dict) else None
        return httpx.Request(
            rule.method,
            self._destination + fill_path(rule.path, {}),
            headers=HEADERS | own,
            data=form,
            json=body if form is None else None,
        )


def _auth_of_settings(settings: GatewaySettings, preset_auth: Auth | None) -> Auth | None:
    identity = None if preset_auth is None else preset_auth.identity
    match settings.auth:
        case None:
            return None
        case "none":
            return Auth(identity=identity)
        case "bearer":
            return Auth(headers={"Authorization": "Bearer {token}"}, identity=identity)
        case "basic":
            return Auth(basic=("{username}", "{password}"), identity=identity)
        case "login":
            account = {"username": "{username}", "password": "{password}"}
            path = settings.login_path.replace("{", "{{").replace("}", "}}")
            try:
                log_in = Session(path=path, body=account, token="access_token")  # noqa: S106  a path, not a token
            except ValueError:
                raise ConfigurationError(
                    f"gateway.login_path: {path!r} leads outside the base URL or contains "
                    "invalid characters; write a path such as /auth/login"
                ) from None
            return Auth(headers={"Authorization": "Bearer {session}"}, session=log_in, identity=identity)
