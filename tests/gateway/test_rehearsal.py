"""URLs that the transport refuses are found before a message is sent, and never count against a message."""

from __future__ import annotations

import asyncio

import aiohttp
import httpx
import pytest

from retrycli.domain.errors import ConfigurationError
from retrycli.domain.outcome import Outcome
from retrycli.gateway.delivery import DeliveryProgress, guard
from retrycli.gateway.http.client import ApiClient
from retrycli.gateway.http.request import Request
from retrycli.gateway.http.transport import check_urls
from retrycli.gateway.presets.loader import load_preset
from tests.gateway.deliveries import NOON, gateway_settings
from tests.gateway.hostile import Hostile, answer

NOWHERE = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    "url",
    [
        NOWHERE,
        "http://[::1]:8080",
        "http://tickets.example.com.",
        "http://xn--bcher-kva.example",
        "http://under_score.example:8080/a%20b/c",
        "http://10.example",
    ],
)
def test_usable_urls_are_accepted_without_a_network(url: str) -> None:
    asyncio.run(check_urls(gateway_settings(url)))


@pytest.mark.parametrize(
    "url",
    [
        "http://127.1:8080",
        "http://127.0.0.1.:80",
        "http://1.2.3.4.5",
        "http://x..y",
        f"http://{'a' * 64}.example",
        "http://[v1.a]",
    ],
)
def test_refused_urls_are_named_with_their_settings(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^gateway\.internal\.base_url: invalid URL '") as raised:
        asyncio.run(check_urls(gateway_settings(url), "gateway.internal"))
    assert url in str(raised.value)


def test_checks_the_login_path_too_and_sends_nothing() -> None:
    with Hostile(answer(200)) as server:
        asyncio.run(check_urls(gateway_settings(server.url)))
        assert server.connections == []
    settings = gateway_settings(NOWHERE, login_path=f"/{'a' * 70_000}")
    with pytest.raises(ConfigurationError, match=r"^gateway\.login_path: "):
        asyncio.run(check_urls(settings))


class Refusing(httpx.AsyncBaseTransport):
    """A transport that refuses every URL with an error of aiohttp or httpx."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise self._error


@pytest.mark.parametrize(
    "error",
    [
        aiohttp.InvalidURL(NOWHERE),
        aiohttp.InvalidUrlClientError(NOWHERE),
        httpx.InvalidURL("no"),
        httpx.UnsupportedProtocol("no"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_url_that_is_refused_only_when_sending_is_an_invalid_setting(error: Exception) -> None:
    """During sending, the transport may refuse a URL that the check accepted."""
    client = ApiClient(Refusing(error), gateway_settings(NOWHERE), load_preset("generic"), now=lambda: NOON)

    async def deliver() -> Outcome:
        reply = await client.send(lambda _: Request("POST", "/", {}))
        return reply.outcome

    async def one() -> Outcome:
        return await guard(deliver(), 7, DeliveryProgress())

    with pytest.raises(ConfigurationError, match=r"^gateway\.base_url: invalid URL "):
        asyncio.run(one())
