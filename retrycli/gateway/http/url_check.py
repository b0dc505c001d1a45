"""Check URLs with the transport itself, up to the connection: only the transport knows what it accepts."""

from __future__ import annotations

import socket
import ssl
from typing import NoReturn

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver, ResolveResult
from httpx_aiohttp import AiohttpTransport

from retrycli.config.gateway import GatewaySettings
from retrycli.domain.errors import ConfigurationError
from retrycli.gateway.http.transport import TRANSPORT_ERRORS

LOOPBACK = "127.0.0.1"
REMEDIES = {
    "base_url": "Write the host as a name or a complete IP address.",
    "login_path": "Write a valid path.",
}


class _Accepted(Exception):
    """Signals that the transport accepted the URL and started to connect."""


class _NoNetwork(AbstractResolver):
    """Resolves every name to loopback, after the checks that the system's resolver would make."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        host.encode("idna")
        return [ResolveResult(hostname=host, host=LOOPBACK, port=port, family=family, proto=0, flags=0)]

    async def close(self) -> None:
        """Do nothing."""


async def check_urls(settings: GatewaySettings, section: str = "gateway") -> None:
    """Check the URLs of the settings. Send nothing, and look up no name.

    Args:
        settings: with the base URL and the path of the log-in.
        section: the name of these settings, for the error.

    Raises:
        ConfigurationError: the transport rejects a URL, and would reject it for every message.
    """
    base = settings.destination
    transport = _without_network()
    try:
        for key, url in (("base_url", base), ("login_path", base + settings.login_path)):
            try:
                await transport.handle_async_request(httpx.Request("GET", url))
            except _Accepted:
                continue
            except TRANSPORT_ERRORS as error:
                raise ConfigurationError(f"{section}.{key}: invalid URL {url!r}: {error}. {REMEDIES[key]}") from None
    finally:
        await transport.aclose()


def _without_network() -> httpx.AsyncBaseTransport:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    def session() -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(resolver=_NoNetwork(), socket_factory=_accept, ssl=context)
        return aiohttp.ClientSession(connector=connector)

    return AiohttpTransport(client=session, verify=context)


def _accept(_address: object) -> NoReturn:
    raise _Accepted
