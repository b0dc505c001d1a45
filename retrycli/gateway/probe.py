"""Asking a ticketing API for nothing: whether it is there, and whether it takes our credentials. No message is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from retrycli.gateway.answer import Answer
from retrycli.gateway.credentials import Credentials
from retrycli.gateway.http import HEADERS, check_urls
from retrycli.gateway.transport import TRANSPORT_ERRORS, in_words, kind_of_exception, open_transport
from retrycli.outcome import Outcome, OutcomeKind, kind_of_status, one_line
from retrycli.settings import Gateway as GatewaySettings


@dataclass(frozen=True, slots=True)
class Probe:
    """What came of it."""

    outcome: Outcome
    """`DELIVERED` where a log-in brought a token; for the other ways what the answer to a GET of the base URL would
    come to."""
    ahead_seconds: float | None
    """By how much its clock is ahead of ours; None where it did not say."""


async def probe(settings: GatewaySettings, *, now: Callable[[], datetime]) -> Probe:
    """Log in, where messages are sent after a log-in; else ask for the base URL, with our credentials.

    Raises:
        ConfigurationError: no usable base URL, token or CA file.
    """
    check_urls(settings)
    credentials = Credentials(settings)
    transport = open_transport(settings, connections=1)
    ahead: list[float] = []

    async def exchange(request: httpx.Request) -> Answer:
        request.extensions["timeout"] = {"connect": settings.connect_timeout_seconds}
        response = await transport.handle_async_request(request)
        ahead.extend(_ahead(response.headers.get("Date"), now()))
        return await Answer.read(response)

    try:
        async with asyncio.timeout(settings.request_timeout_seconds):
            if credentials.by_log_in:
                outcome = await credentials.log_in(None, exchange, now) or Outcome(OutcomeKind.DELIVERED)
            else:
                answer = await exchange(_question(settings, credentials))
                outcome = Outcome(kind_of_status(answer.status), answer.status, f"HTTP {answer.status}")
    except TimeoutError:
        outcome = Outcome(OutcomeKind.UNREACHABLE, error=f"no answer within {settings.request_timeout_seconds:g} s")
    except TRANSPORT_ERRORS as error:
        refused = kind_of_exception(error) is OutcomeKind.UNAUTHORIZED
        kind = OutcomeKind.UNAUTHORIZED if refused else OutcomeKind.UNREACHABLE
        outcome = Outcome(kind, error=in_words(error))
    finally:
        await transport.aclose()
    if outcome.error is not None:
        outcome = replace(outcome, error=one_line(credentials.starred(outcome.error)))
    return Probe(outcome, next(iter(ahead), None))


def _question(settings: GatewaySettings, credentials: Credentials) -> httpx.Request:
    ours = {} if credentials.header is None else {"Authorization": credentials.header}
    wanted = {name: HEADERS[name] for name in ("accept", "accept-encoding", "user-agent")}
    return httpx.Request("GET", settings.destination, headers=wanted | ours)


def _ahead(date: str | None, now: datetime) -> list[float]:
    """By how much a Date header is ahead; nothing where there is none, or it is none."""
    try:
        theirs = parsedate_to_datetime(date or "")
        return [((theirs if theirs.tzinfo else theirs.replace(tzinfo=UTC)) - now).total_seconds()]
    except (ValueError, OverflowError):
        return []
