"""Probe a ticketing API: is it reachable, and does it accept our credentials? No message is sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from retrycli.config.gateway import GatewaySettings
from retrycli.domain.outcome import Outcome, OutcomeKind, one_line
from retrycli.gateway.delivery import TimeLimit
from retrycli.gateway.http.auth import Credentials
from retrycli.gateway.http.client import ApiClient
from retrycli.gateway.http.response import Answer, outcome_of_question
from retrycli.gateway.http.transport import (
    HEADERS,
    TRANSPORT_ERRORS,
    describe_error,
    kind_without_message,
    open_transport,
)
from retrycli.gateway.http.url_check import check_urls
from retrycli.gateway.presets.loader import load_preset
from retrycli.gateway.presets.model import Get
from retrycli.gateway.presets.template import fill_path


@dataclass(frozen=True, slots=True)
class Probe:
    """The result of a probe."""

    outcome: Outcome
    """`DELIVERED` if a log-in returned a token or the preset's check succeeded; otherwise the outcome of a GET of the
    base URL."""
    proves_credentials: bool
    ahead_seconds: float | None
    """Seconds by which its clock is ahead of ours; None if it sent no date."""


async def probe(settings: GatewaySettings, *, now: Callable[[], datetime]) -> Probe:
    """Log in, if deliveries do, and make the preset's check, or a GET of the base URL.

    Raises:
        ConfigurationError: the base URL, token, preset or CA file can't be used.
    """
    await check_urls(settings)
    preset = load_preset(settings.preset)
    client = ApiClient(open_transport(settings, connections=1), settings, preset, now=now)
    credentials = client.credentials
    ahead: list[float | None] = []

    async def exchange(request: httpx.Request) -> Answer:
        answer = await client.exchange(request)
        ahead.append(_clock_offset(answer.headers.get("Date"), now()))
        return answer

    try:
        async with TimeLimit(settings.request_timeout_seconds):
            refusal = await credentials.log_in(None, exchange, now) if credentials.by_log_in else None
            if refusal is not None or (credentials.by_log_in and preset.check is None):
                outcome = refusal or Outcome(OutcomeKind.DELIVERED)
            else:
                answer = await exchange(_request(settings, credentials, preset.check))
                kind = outcome_of_question(answer, preset, now()).kind
                outcome = Outcome(kind, answer.status, f"HTTP {answer.status}")
    except TimeoutError:
        outcome = Outcome(OutcomeKind.UNREACHABLE, error=f"no answer within {settings.request_timeout_seconds:g} s")
    except TRANSPORT_ERRORS as error:
        outcome = Outcome(kind_without_message(error), error=describe_error(error))
    finally:
        await client.transport.aclose()
    if outcome.error is not None:
        outcome = replace(outcome, error=one_line(credentials.redact_secrets(outcome.error)))
    known = (seconds for seconds in ahead if seconds is not None)
    return Probe(outcome, credentials.by_log_in or preset.check is not None, next(known, None))


def _request(settings: GatewaySettings, credentials: Credentials, check: Get | None) -> httpx.Request:
    path = "" if check is None else fill_path(check.path, {"identity": credentials.identity}, check.query)
    return httpx.Request("GET", settings.destination + path, headers=HEADERS | credentials.headers())


def _clock_offset(date: str | None, now: datetime) -> float | None:
    """Return the seconds by which a Date header is ahead; None if it is missing or invalid."""
    try:
        server_time = parsedate_to_datetime(date or "")
        return ((server_time if server_time.tzinfo else server_time.replace(tzinfo=UTC)) - now).total_seconds()
    except (ValueError, OverflowError):
        return None
