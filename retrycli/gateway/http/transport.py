"""The HTTP transport, and what its exceptions prove about whether a request was sent.

httpx's own pool needs quadratic time in the number of concurrent requests, so httpx's API runs on aiohttp's
connections. The adapter between them, httpx-aiohttp, misnames some errors: if a server closes the connection after it
has read the request, the adapter raises ``ConnectTimeout``. So the outcome is derived from the cause of the
exception, which aiohttp raised. The outcome is unknown unless this cause proves that nothing was sent.
"""

from __future__ import annotations

import inspect
import select
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, Self
from weakref import WeakKeyDictionary

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver, ResolveResult
from httpx_aiohttp import AiohttpTransport

from retrycli.config.gateway import GatewaySettings
from retrycli.domain.errors import ConfigurationError
from retrycli.domain.outcome import OutcomeKind
from retrycli.gateway.attachments import FileChanged
from retrycli.gateway.http.fallback import FallbackTransport, NotConnected
from retrycli.gateway.tls import verifying
from retrycli.system import process

if TYPE_CHECKING:  # a version of aiohttp that was not tried may not have them
    from aiohappyeyeballs import AddrInfoType
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.client_reqrep import ConnectionKey
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

# Maximum idle time of a connection that is reused. If the server closes the connection just as the next request is
# written, nothing shows whether the server read the request.
# By default servers close after 1 s (Starman), 2 s (gunicorn), 5 s (Apache, Node.js, uvicorn) or 75 s (nginx). A server
# sees a connection idle for one round trip longer than the client does. So the limit is half of the shortest default,
# which leaves the other half for the round trip.
IDLE_SECONDS = 0.5

# Maximum bytes of each header of an answer, and maximum number of headers. If the answer to a delivery exceeds them,
# the outcome is unknown. Headers from proxies and content security policies can exceed aiohttp's defaults of 8 KiB and
# 128.
HEADER_LIMIT, HEADERS_LIMIT = 64 * 1024, 256

# Default headers of a request, by name in lower case, so that a preset's header replaces a default one regardless of
# case (RFC 9110, section 5.1).
HEADERS = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "retrycli"}

# Exceptions for a connection that was never opened, and for a certificate that is invalid.
NOT_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, NotConnected)
UNTRUSTED = (aiohttp.ClientConnectorCertificateError, ssl.SSLCertVerificationError)

# Exceptions for a URL that the transport rejects. A message's values are percent-encoded in a URL, so the settings are
# wrong, and every message is affected.
REFUSED_URL = (httpx.UnsupportedProtocol, httpx.InvalidURL, aiohttp.InvalidURL)

# Receive buffer of a connection, in bytes. Without this limit, a server that keeps sending "100 Continue" would block
# the event loop, and so all other requests, for five times as long.
READ_AHEAD = 65_536

# Every exception that a request can raise for a network error or an error at the destination. `OSError` includes
# `TimeoutError`, and `ValueError` includes errors of encoding and decoding.
TRANSPORT_ERRORS = (httpx.HTTPError, httpx.InvalidURL, aiohttp.ClientError, OSError, ValueError)


class _Response(aiohttp.ClientResponse):
    """A response that aborts its connection if it was not read completely.

    A normal close of a TLS connection waits until the server closes it too, and the event loop may end before that.
    """

    async def start(self, connection: Connection) -> Self:
        try:
            await super().start(connection)
        except BaseException:
            _abort(connection)
            raise
        self.reason = None  # not used, and httpx-aiohttp raises if it is not valid UTF-8
        return self

    def release(self) -> None:
        if not self.content.is_eof():
            _abort(self.connection)
        super().release()


class _Connector(aiohttp.TCPConnector):
    """Reuse a connection only if its idle time was short, and the server has sent nothing since its last answer.

    aiohttp would use such data as the answer to the next request, although the data does not answer any request (RFC
    9112, section 9.2). The answer to one message could mark another message as delivered.

    Args:
        elapsed: a monotonic clock, in seconds.
        options: options of aiohttp's connector.
    """

    def __init__(self, *, elapsed: Callable[[], float], **options: Any) -> None:  # noqa: ANN401  aiohttp's options
        super().__init__(keepalive_timeout=IDLE_SECONDS, **options)
        self._elapsed = elapsed
        self._idle_since: WeakKeyDictionary[ResponseHandler, float] = WeakKeyDictionary()

    async def _get(self, key: ConnectionKey, traces: list[Trace]) -> Connection | None:
        while (kept := await super()._get(key, traces)) is not None and not self._is_usable(kept):
            _abort(kept)
            kept.close()
        return kept

    def _is_usable(self, kept: Connection) -> bool:
        assert kept.protocol is not None  # noqa: S101  for the type checker
        assert kept.transport is not None  # noqa: S101
        received = select.poll()
        received.register(kept.transport.get_extra_info("socket"), select.POLLIN)
        # True if the server has neither sent data nor closed the connection.
        is_silent = not kept.protocol.should_close and not received.poll(0)
        return is_silent and self._elapsed() - self._idle_since[kept.protocol] <= IDLE_SECONDS

    def _release(self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        """Return a connection to the pool. Abort it if it will not be reused, as in `_Response`. Also abort it if the
        answer came before the request was completely written, so that nothing more is sent.
        """
        transport = protocol.transport
        if transport is not None and (should_close or protocol.should_close or transport.get_write_buffer_size()):
            transport.abort()
        self._idle_since[protocol] = self._elapsed()
        super()._release(key, protocol, should_close=should_close)


def _abort(connection: Connection | None) -> None:
    if connection is not None and connection.transport is not None:
        connection.transport.abort()


# Methods of aiohttp that are overridden above, with their parameters. The first two methods are private.
REQUIRED_METHODS: tuple[tuple[type, str, tuple[str, ...]], ...] = (
    (aiohttp.TCPConnector, "_get", ("self", "key", "traces")),
    (aiohttp.TCPConnector, "_release", ("self", "key", "protocol", "should_close")),
    (aiohttp.ClientResponse, "start", ("self", "connection")),
    (aiohttp.ClientResponse, "release", ("self",)),
)
RETRY_SWITCH = "_retry_connection"  # attribute of aiohttp's session that is switched off below
TRIED = ("3.14",)  # versions of aiohttp with which all tests of the gateway pass


def is_tried(
    version: str = aiohttp.__version__,
    methods: Sequence[tuple[type, str, tuple[str, ...]]] = REQUIRED_METHODS,
    session: type = aiohttp.ClientSession,
) -> bool:
    """Return whether the installed aiohttp is one that retrycli was tried with, and has the internals it relies on.

    A version with other names would silently ignore retrycli's overrides. Then the answer to one message could mark
    another as delivered, or a message could be sent twice.
    """
    for of, name, parameters in methods:
        if tuple(inspect.signature(getattr(of, name, lambda: None)).parameters) != parameters:
            return False
    return version.rpartition(".")[0] in TRIED and RETRY_SWITCH in getattr(session, "ATTRS", ())


def open_transport(
    settings: GatewaySettings, *, connections: int, elapsed: Callable[[], float] = time.monotonic
) -> httpx.AsyncBaseTransport:
    """Open a transport: on aiohttp's connections, or on httpx's own if this version of aiohttp was not tried.

    Use it without httpx's client. No delivery needs redirects, cookies or hooks, and the client would double the time
    of a request.

    Raises:
        ConfigurationError: the CA file can't be used.
    """
    if not is_tried():
        return open_fallback(settings, connections=connections)
    context = _context(settings)

    def session() -> aiohttp.ClientSession:
        connector = _Connector(
            limit=connections, ssl=context, elapsed=elapsed, socket_factory=partial(_open_socket, requests=connections)
        )
        made = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            response_class=_Response,
            max_line_size=HEADER_LIMIT,
            max_field_size=HEADER_LIMIT,
            max_headers=HEADERS_LIMIT,
        )
        # aiohttp repeats a PUT by itself if a reused connection breaks, as RFC 9110 allows. A ticketing system that
        # accepts replies by PUT would get the reply twice. aiohttp has no public option to prevent that.
        made._retry_connection = False  # noqa: SLF001
        return made

    return AiohttpTransport(client=session, verify=context)


def open_fallback(
    settings: GatewaySettings, *, connections: int, elapsed: Callable[[], float] = time.monotonic
) -> httpx.AsyncBaseTransport:
    """Open a transport on httpx's own connections. The arguments and errors are those of `open_transport`."""
    del elapsed  # no connection is reused
    return FallbackTransport(_context(settings), connections=connections)


def _context(settings: GatewaySettings) -> ssl.SSLContext:
    # Reading the system's certificates takes longer than a short pass, and an http:// URL needs none.
    is_plain = not (settings.base_url or "").startswith("https:")
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if is_plain else verifying(settings.ca_file)


def _open_socket(address: AddrInfoType, *, requests: int) -> socket.socket:
    """Open a socket for a connection. Check its file descriptor here, because aiohttp may open several sockets for a
    request at the same time.

    Raises:
        OSError: the socket can't be opened, or its descriptor is reserved (`process.require_low`).
    """
    family, kind, protocol, *_ = address
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READ_AHEAD)
        process.require_low(opened.fileno(), requests=requests)
    except OSError:
        opened.close()
        raise
    return opened


def kind_of_exception(error: BaseException) -> OutcomeKind:
    """Return the outcome that follows from an exception of `TRANSPORT_ERRORS`."""
    cause = error.__cause__ or error
    if isinstance(cause, UNTRUSTED):
        return OutcomeKind.UNAUTHORIZED
    return OutcomeKind.UNREACHABLE if isinstance(cause, NOT_SENT) else OutcomeKind.UNKNOWN


def kind_without_message(error: BaseException) -> OutcomeKind:
    """Return the outcome if a request that sends no message, such as a log-in, raised an exception."""
    kind = kind_of_exception(error)
    return kind if kind is OutcomeKind.UNAUTHORIZED else OutcomeKind.UNREACHABLE


def describe_error(error: BaseException) -> str:
    """Describe the cause of an exception for ``last_error``, usually by its name and its text."""
    cause = error.__cause__ or error
    if isinstance(cause.__cause__, FileChanged):  # aiohttp reports only that the body could not be written
        return str(cause.__cause__)
    text = process.shortage(cause) or str(cause)
    return f"{type(cause).__name__}: {text}" if text else type(cause).__name__


LOOPBACK = "127.0.0.1"
REMEDIES = {"base_url": "Write the host as a name or a complete IP address.", "login_path": "Write a valid path."}


class _Accepted(Exception):
    """The transport has accepted the URL and begins to connect."""


class _NoNetwork(AbstractResolver):
    """A resolver that returns loopback for every name, after the same checks as the system's resolver."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        host.encode("idna")
        return [ResolveResult(hostname=host, host=LOOPBACK, port=port, family=family, proto=0, flags=0)]

    async def close(self) -> None:
        """Do nothing, because the resolver holds no resources."""


async def check_urls(settings: GatewaySettings, section: str = "gateway") -> None:
    """Check the URLs of the settings. Send nothing, and resolve no name.

    Raises:
        ConfigurationError: the transport rejects a URL, as it would for every message.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=_NoNetwork(), socket_factory=_accept, ssl=context)
        )

    transport = AiohttpTransport(client=session, verify=context)
    try:
        for key, path in (("base_url", ""), ("login_path", settings.login_path)):
            url = settings.destination + path
            try:
                await transport.handle_async_request(httpx.Request("GET", url))
            except _Accepted:
                continue
            except TRANSPORT_ERRORS as error:
                raise ConfigurationError(f"{section}.{key}: invalid URL {url!r}: {error}. {REMEDIES[key]}") from None
    finally:
        await transport.aclose()


def _accept(_address: object) -> NoReturn:
    raise _Accepted
