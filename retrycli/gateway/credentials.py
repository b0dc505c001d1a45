"""Our credentials: how a request bears them, and how a token is got by logging in."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Awaitable, Callable
from datetime import datetime

import httpx
from pydantic import SecretStr

from retrycli.errors import ConfigurationError
from retrycli.gateway.answer import Answer, access_token
from retrycli.gateway.quotation import starred
from retrycli.gateway.transport import TRANSPORT_ERRORS, in_words, kind_of_exception
from retrycli.outcome import Outcome, OutcomeKind, kind_of_status, parse_retry_after
from retrycli.settings import Gateway as GatewaySettings

VISIBLE = re.compile(r"[!-~]+")
"""What a token may be of."""


class Credentials:
    """What the ``Authorization`` header says.

    Args:
        settings: how to log in, and with what.

    Raises:
        ConfigurationError: a token that can't stand in a header.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self.header: str | None = None
        """None where none is needed, or none has been got yet."""
        self._log_in_lock = asyncio.Lock()
        self._secrets = [_revealed(settings.token), _revealed(settings.password)]
        self._use(_fixed_header(settings))

    @property
    def by_log_in(self) -> bool:
        """Whether the header is got by logging in, and can be got afresh."""
        return self._settings.auth == "login"

    def starred(self, text: str) -> str:
        """A text without our secrets, should the other side have echoed them; a token that was renewed is still one."""
        return starred(text, self._secrets)

    def _use(self, header: str | None) -> None:
        self.header = header
        self._secrets.append((header or "").partition(" ")[2])

    async def log_in(
        self,
        used: str | None,
        exchange: Callable[[httpx.Request], Awaitable[Answer]],
        now: Callable[[], datetime],
    ) -> Outcome | None:
        """Get a token, unless another request has got a fresh one meanwhile.

        Args:
            used: the header that was refused; None for the first log-in.
            exchange: sends a request and reads its answer.
            now: the clock, for a Retry-After that is a date.

        Returns:
            None when there is a token. Otherwise what the message comes to for want of one: whatever went wrong,
            it was not sent.
        """
        async with self._log_in_lock:
            if self.header != used:
                return None
            try:
                answer = await exchange(self._log_in_request())
            except TRANSPORT_ERRORS as error:
                refused = kind_of_exception(error) is OutcomeKind.UNAUTHORIZED
                kind = OutcomeKind.UNAUTHORIZED if refused else OutcomeKind.UNREACHABLE
                return Outcome(kind, error=f"log-in: {in_words(error)}")
            token = access_token(answer)
            if token is None or not VISIBLE.fullmatch(token):
                return _no_token(answer, now())
            self._use(f"Bearer {token}")
            return None

    def _log_in_request(self) -> httpx.Request:
        return httpx.Request(
            "POST",
            self._settings.destination + self._settings.login_path,
            headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "retrycli"},
            json={"username": self._settings.username, "password": _revealed(self._settings.password)},
        )


def _no_token(answer: Answer, now: datetime) -> Outcome:
    kind = kind_of_status(answer.status)
    for_now = kind in {OutcomeKind.TRANSIENT, OutcomeKind.THROTTLED}
    return Outcome(
        kind if for_now else OutcomeKind.UNAUTHORIZED,
        answer.status,
        f"log-in: HTTP {answer.status}, and no access_token",
        parse_retry_after(answer.retry_after, now),
    )


def _fixed_header(settings: GatewaySettings) -> str | None:
    match settings.auth:
        case "bearer":
            token = _revealed(settings.token)
            if not VISIBLE.fullmatch(token):
                raise ConfigurationError("gateway.token: a token is of visible ASCII characters, without a space")
            return f"Bearer {token}"
        case "basic":
            pair = f"{settings.username}:{_revealed(settings.password)}"
            return "Basic " + base64.b64encode(pair.encode()).decode()
        case _:
            return None


def _revealed(secret: SecretStr | None) -> str:
    return "" if secret is None else secret.get_secret_value()
