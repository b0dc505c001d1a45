"""Probing a ticketing API: a probe never sends a message, and raises an error only for invalid settings."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from email.utils import format_datetime

import pytest

from retrycli.domain.errors import ConfigurationError
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.gateway.http.lookup import Probe, probe
from tests.gateway.deliveries import NOON, gateway_settings
from tests.gateway.hostile import Hostile, answer, close, closed_port, raw, silence

ACCOUNT = {"auth": "login", "username": "agent", "password": "geheim"}
TOKEN = b'{"access_token": "t1"}'
HOUR = timedelta(hours=1)


def probed(url: str, **changes: object) -> Probe:
    """Return the result of a probe, with the clock fixed at noon."""
    return asyncio.run(probe(gateway_settings(url, **changes), now=lambda: NOON))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, OutcomeKind.DELIVERED),
        (302, OutcomeKind.PERMANENT),
        (404, OutcomeKind.PERMANENT),
        (401, OutcomeKind.UNAUTHORIZED),
        (503, OutcomeKind.TRANSIENT),
        (429, OutcomeKind.THROTTLED),
    ],
)
def test_is_one_get_of_the_base_url_with_our_credentials(status: int, kind: OutcomeKind) -> None:
    with Hostile(answer(status, b"{}", {"Location": "/elsewhere"})) as server:
        found = probed(f"{server.url}/api", auth="bearer", token="abc")
    assert found.outcome == Outcome(kind, status, f"HTTP {status}")
    [asked] = server.requests
    assert (asked.method, asked.path, asked.body) == ("GET", "/api", b"")
    assert asked.headers["authorization"] == "Bearer abc"
    assert "idempotency-key" not in asked.headers
    with Hostile(answer(status)) as server:
        probed(server.url)
    assert "authorization" not in server.requests[0].headers


def test_a_login_is_sufficient_and_nothing_more_is_requested() -> None:
    with Hostile(answer(500), at={"/auth/login": [answer(200, TOKEN)]}) as server:
        found = probed(server.url, **ACCOUNT)
    assert found.outcome.kind is OutcomeKind.DELIVERED
    assert server.paths == ["/auth/login"]


def test_a_refused_login_is_reported_without_the_password() -> None:
    with Hostile(answer(401, b'{"error": "geheim is wrong"}')) as server:
        found = probed(server.url, **ACCOUNT)
    error = "log-in: HTTP 401, no valid access_token: *** is wrong"
    assert found.outcome == Outcome(OutcomeKind.UNAUTHORIZED, 401, error)


def test_credentials_echoed_outside_http_are_masked() -> None:
    with Hostile(raw(b"Bearer abc.def is not known here\r\n\r\n")) as server:
        found = probed(server.url, auth="bearer", token="abc.def")
    assert found.outcome.error is not None
    assert "Bearer *** is not known" in found.outcome.error
    assert "abc.def" not in found.outcome.error


def test_a_missing_silent_or_non_http_server_is_unreachable() -> None:
    with closed_port() as port:
        assert probed(f"http://127.0.0.1:{port}").outcome.kind is OutcomeKind.UNREACHABLE
    for behaviour in (silence, close, raw(b"SSH-2.0-OpenSSH\r\n")):
        with Hostile(behaviour) as server:
            found = probed(server.url, request_timeout_seconds=0.3)
        assert (found.outcome.kind, found.ahead_seconds) == (OutcomeKind.UNREACHABLE, None)


@pytest.mark.parametrize(
    ("date", "ahead"),
    [
        (format_datetime(NOON + HOUR, usegmt=True), 3600),
        (format_datetime(NOON - HOUR, usegmt=True), -3600),
        ("Mon, 03 Mar 2025 14:00:00 +0200", 0),
        ("Mon, 03 Mar 2025 12:00:00 -0000", 0),
        ("noon", None),
        ("", None),
        ("Mon, 99 Mar 2025 12:00:00 GMT", None),
    ],
)
def test_the_servers_clock_comes_from_the_date_header(date: str, ahead: float | None) -> None:
    with Hostile(answer(404, b"", {"Date": date})) as server:
        assert probed(server.url).ahead_seconds == ahead


def test_settings_that_allow_no_probe_are_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"gateway\.token"):
        probed("http://127.0.0.1:9", auth="bearer", token="two words")
    with pytest.raises(ConfigurationError, match=r"gateway\.base_url"):
        asyncio.run(
            probe(gateway_settings("http://127.0.0.1:9").model_copy(update={"base_url": None}), now=lambda: NOON)
        )
