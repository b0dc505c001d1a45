"""The HTTP transport, and what its exceptions prove about a request.

httpx's own pool slows down with the square of the concurrency, so aiohttp's connections stand beneath httpx's API.
That transport names some errors wrongly: a server that closes after it has read the request shows as
``ConnectTimeout``. So the exception's cause, aiohttp's own, decides, and what is not proven unsent is unknown.
"""

from __future__ import annotations

import inspect
import select
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakKeyDictionary

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from retrycli.config.gateway import GatewaySettings
from retrycli.domain.errors import ConfigurationError
from retrycli.domain.outcome import OutcomeKind
from retrycli.gateway.attachments import FileChanged
from retrycli.gateway.tls import verifying
from retrycli.system import descriptors

if TYPE_CHECKING:
    from aiohappyeyeballs import AddrInfoType
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.client_reqrep import ConnectionKey
    from aiohttp.tracing import Trace

IDLE_SECONDS = 0.5
"""How long a connection may be idle and still be used. If the server closes it just as the next request is written,
nobody knows whether that was read.

By default servers close after 1 s (Starman), 2 s (gunicorn), 5 s (Apache, Node.js, uvicorn) or 75 s (nginx). By their
clocks a connection has been idle for one round trip longer than by ours. So the limit is half of the shortest default:
the other half is left for the round trip. A message that comes later pays for a new connection, which takes a fraction
of the time that went by."""

HEADER_LIMIT, HEADERS_LIMIT = 64 * 1024, 256
"""How long a header of an answer may be, and how many may come: with more, nobody knows what was answered. By default
that begins where proxies and policies of content get to, with 8 KiB and 128."""

HEADERS = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "retrycli"}
"""What each request bears, by names in small letters: so a preset's header takes the place of ours whatever its case
(RFC 9110, section 5.1)."""

NOT_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
"""aiohttp's exceptions for a connection that was never made."""

REFUSED_URL = (httpx.UnsupportedProtocol, httpx.InvalidURL, aiohttp.InvalidURL)
"""Exceptions for a URL that the transport does not accept. A message's values are escaped within it, so the settings
are wrong, and every message would meet the same."""

READ_AHEAD = 65_536
"""How many bytes of answers a connection may have waiting to be parsed. A server that says ``100`` for ever would else
hold up the event loop five times as long at a time, and with it all other requests."""

TRANSPORT_ERRORS = (httpx.HTTPError, httpx.InvalidURL, aiohttp.ClientError, OSError, ValueError)
"""All that a request may raise for what the network or the other side did. `TimeoutError` is an `OSError`, and text
that can't be encoded or decoded is a `ValueError`."""


class _Response(aiohttp.ClientResponse):
    """An answer that leaves nothing behind.

    A TLS connection that is closed waits for the other side to close it too, longer than the event loop lasts, so
    one that has not given its whole answer is aborted.
    """

    async def start(self, connection: aiohttp.connector.Connection) -> Self:
        try:
            await super().start(connection)
        except BaseException:
            _abort(connection)
            raise
        self.reason = None  # httpx-aiohttp raises for one that is no UTF-8, and nobody reads it
        return self

    def release(self) -> None:
        if not self.content.is_eof():
            _abort(self.connection)
        super().release()


class _Connector(aiohttp.TCPConnector):
    """Connections. One is used again only soon, and only if the server has said nothing since its last answer.

    aiohttp takes whatever it has said for the answer to the next request, and so one message for delivered on the
    word for another (RFC 9112, section 9.2: that is no valid response).

    Args:
        elapsed: seconds, from whenever, that nobody sets.
        options: those of aiohttp.
    """

    def __init__(self, *, elapsed: Callable[[], float], **options: Any) -> None:  # noqa: ANN401  aiohttp's own
        super().__init__(keepalive_timeout=IDLE_SECONDS, **options)
        self._elapsed = elapsed
        self._idle_since: WeakKeyDictionary[ResponseHandler, float] = WeakKeyDictionary()

    async def _get(self, key: ConnectionKey, traces: list[Trace]) -> aiohttp.connector.Connection | None:
        while (kept := await super()._get(key, traces)) is not None and not self._is_usable(kept):
            _abort(kept)
            kept.close()
        return kept

    def _is_usable(self, kept: aiohttp.connector.Connection) -> bool:
        assert kept.protocol is not None  # noqa: S101  told to the type checker
        idle = self._elapsed() - self._idle_since[kept.protocol]
        return idle <= IDLE_SECONDS and not _has_spoken(kept)

    def _release(self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        """Take a connection back. One that is not used again is dropped at once, as in `_Response`, and of a request
        that was answered before it was through, nothing more is written.
        """
        transport = protocol.transport
        if transport is not None and (should_close or protocol.should_close or transport.get_write_buffer_size()):
            transport.abort()
        self._idle_since[protocol] = self._elapsed()
        super()._release(key, protocol, should_close=should_close)


def _has_spoken(kept: aiohttp.connector.Connection) -> bool:
    """Whether anything has come over a connection that was idle, be it read by now or not."""
    assert kept.protocol is not None  # noqa: S101  told to the type checker
    assert kept.transport is not None  # noqa: S101
    unread = select.poll()
    unread.register(kept.transport.get_extra_info("socket"), select.POLLIN)
    return kept.protocol.should_close or bool(unread.poll(0))


def _abort(connection: aiohttp.connector.Connection | None) -> None:
    if connection is not None and connection.transport is not None:
        connection.transport.abort()


RELIED_ON: tuple[tuple[type, str, tuple[str, ...]], ...] = (
    (aiohttp.TCPConnector, "_get", ("self", "key", "traces")),
    (aiohttp.TCPConnector, "_release", ("self", "key", "protocol", "should_close")),
    (aiohttp.ClientResponse, "start", ("self", "connection")),
    (aiohttp.ClientResponse, "release", ("self",)),
)
"""aiohttp's methods that are overridden above, with their parameters. It promises none of the first two to anybody."""
SWITCH = "_retry_connection"
"""aiohttp's attribute of a session that is turned off below."""


def check_aiohttp(
    methods: Sequence[tuple[type, str, tuple[str, ...]]] = RELIED_ON, session: type = aiohttp.ClientSession
) -> None:
    """Check that this aiohttp has inside what we rely on.

    One that calls its methods or its switch otherwise would ignore ours without a word: a message would be taken for
    delivered on the answer to another, or be sent twice.

    Raises:
        ConfigurationError: it has not; the text names what is missing, and the remedy.
    """
    missing = [
        f"{of.__name__}.{name}({', '.join(parameters[1:])})"
        for of, name, parameters in methods
        if tuple(inspect.signature(getattr(of, name, lambda: None)).parameters) != parameters
    ]
    if SWITCH not in getattr(session, "ATTRS", ()):
        missing.append(f"{session.__name__}.{SWITCH}")
    if missing:
        version = aiohttp.__version__
        raise ConfigurationError(
            f"aiohttp {version} has no {' and no '.join(missing)}, on which safe delivery relies; "
            f"install an older one: pip install 'aiohttp>=3.13.4,<{version}'"
        )


def open_transport(
    settings: GatewaySettings, *, connections: int, elapsed: Callable[[], float] = time.monotonic
) -> httpx.AsyncBaseTransport:
    """Open a transport.

    It is used without httpx's client, whose redirects, cookies and hooks no delivery wants, and which would cost a
    message as much time again as its request.

    Args:
        settings: whether it is encrypted, and which certificates to trust.
        connections: how many there may be.
        elapsed: seconds, from whenever, that nobody sets: for how long a connection was idle.

    Raises:
        ConfigurationError: the CA file can't be used, or this aiohttp is not one that we know.
    """
    check_aiohttp()
    context = _tls(settings)

    def session() -> aiohttp.ClientSession:
        connector = _Connector(
            limit=connections,
            ssl=context,
            elapsed=elapsed,
            socket_factory=partial(_open_socket, requests=connections),
        )
        made = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            response_class=_Response,
            max_line_size=HEADER_LIMIT,
            max_field_size=HEADER_LIMIT,
            max_headers=HEADERS_LIMIT,
        )
        # aiohttp sends a PUT again by itself when a kept connection breaks, as RFC 9110 allows; a ticketing system
        # that takes a reply by PUT would then have it twice. There is no public switch.
        made._retry_connection = False  # noqa: SLF001
        return made

    return AiohttpTransport(client=session, verify=context)


def _open_socket(address: AddrInfoType, *, requests: int) -> socket.socket:
    """Open a socket for a connection. aiohttp may try several addresses at once, so this is the place to stop it.

    Raises:
        OSError: it can't be opened, or it would take a descriptor that is needed to record outcomes.
    """
    family, kind, protocol, *_ = address
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READ_AHEAD)
        descriptors.require_low(opened.fileno(), requests=requests)
    except OSError:
        opened.close()
        raise
    return opened


def kind_of_exception(error: BaseException) -> OutcomeKind:
    """What an exception of `TRANSPORT_ERRORS` proves about the request."""
    cause = error.__cause__ or error
    if isinstance(cause, aiohttp.ClientConnectorCertificateError):
        return OutcomeKind.UNAUTHORIZED
    if isinstance(cause, NOT_SENT):
        return OutcomeKind.UNREACHABLE
    return OutcomeKind.UNKNOWN


def in_words(error: BaseException) -> str:
    """Describe an exception for ``last_error``: its name and its text, if it has one."""
    cause = error.__cause__ or error
    if isinstance(cause.__cause__, FileChanged):  # aiohttp says only that the body could not be written
        return str(cause.__cause__)
    if lack := descriptors.shortage(cause):
        return f"{type(cause).__name__}: {lack}"
    text = str(cause)
    return f"{type(cause).__name__}: {text}" if text else type(cause).__name__


def _tls(settings: GatewaySettings) -> ssl.SSLContext:
    if not (settings.base_url or "").startswith("https:"):
        # Reading the system's certificates takes longer than a short pass, and a plain URL needs none.
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return verifying(settings.ca_file)
