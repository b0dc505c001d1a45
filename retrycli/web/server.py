"""Serve the HTTP API and the console as a process of their own: `retrycli serve`."""

import asyncio
import logging
import os
import re
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.routing import Match, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from retrycli import operations
from retrycli.config.settings import Settings
from retrycli.domain.errors import ConfigurationError
from retrycli.domain.user import Right
from retrycli.system.trust import require_chosen_group, require_trust
from retrycli.views import prometheus
from retrycli.web.access import Access
from retrycli.web.console.application import make_pages
from retrycli.web.endpoints import endpoint, problem_of, route_class
from retrycli.web.http_api import make_api
from retrycli.web.sign_in import TokenUsers
from retrycli.web.status import Recent, RecentStatus

MAX_HEADERS = 64 * 1024  # bytes of the request line and the headers together
REQUEST_SECONDS = 10.0  # for the headers and the body of a request together; also without progress in reading


END_OF_HEADERS = re.compile(rb"\n\r?\n")
FOLDED = re.compile(rb"\n[ \t]")
MAX_LINES = 100  # browsers and proxies send some 30 headers
LONG_SPACE = b" " * 100


class StrictConnection(h11.Connection):
    """A parser that refuses what takes h11 a time that grows with the square of its length: a long row of spaces in a
    header, also from folded lines (RFC 9112, section 5.2), and a chunk with an extension. It refuses all chunks
    (section 7.1): browsers send none, and a proxy that buffers a request sends its length. It also refuses many lines,
    because h11 needs 30 times the size of short ones. It examines the headers once, when all have arrived.
    """

    _searched = 0  # bytes of the incomplete headers that hold no end

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Parse the next part of a request.

        Raises:
            RemoteProtocolError: the request is refused or malformed.
        """
        if self.their_state is h11.IDLE:
            received = self.trailing_data[0]
            end = END_OF_HEADERS.search(received, max(0, self._searched - 2))
            self._searched = 0 if end else len(received)
            if end:
                _check(received[: end.start()])
        event = super().next_event()
        if isinstance(event, h11.Request) and any(name == b"transfer-encoding" for name, _ in event.headers):
            raise h11.RemoteProtocolError("a body in chunks")
        return event


def _check(head: bytes) -> None:
    if FOLDED.search(head) or head.count(b"\n") >= MAX_LINES or LONG_SPACE in head.replace(b"\t", b" "):
        raise h11.RemoteProtocolError("folded lines, a long row of spaces, or too many headers")


SOCKET = "the socket"  # the name of a client without an address


class DeadlineProtocol(H11Protocol):
    """An HTTP connection that is closed if a request is not complete `REQUEST_SECONDS` after it began, or if the client
    reads nothing of an answer for that long.
    """

    _timer: asyncio.TimerHandle | None = None
    _reader: asyncio.TimerHandle | None = None

    def __init__(self, config: uvicorn.Config, *given: Any, **named: Any) -> None:  # noqa: ANN401  as uvicorn passes them
        super().__init__(config, *given, **named)
        self.conn = StrictConnection(h11.SERVER, MAX_HEADERS)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self.client = self.client or (SOCKET, 0)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Handle a part of a request."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Go on with the next request, a part of which may have arrived already."""
        super().on_response_complete()
        if self.transport.is_closing():  # the client must read the rest of the answer
            self._expect_less_than(self.transport.get_write_buffer_size())
        if self.conn.trailing_data[0] or self.conn.their_state is h11.SEND_BODY:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        self._stop()
        self._forget_reader()

    def pause_writing(self) -> None:
        """Stop answering until the client has read, and see to it that it reads."""
        super().pause_writing()
        self._expect_less_than(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Go on answering."""
        super().resume_writing()
        if not self.transport.is_closing():  # the rest of the last answer must be read, too
            self._forget_reader()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection as soon as the client has read the last answer."""
        super().timeout_keep_alive_handler()
        self._expect_less_than(self.transport.get_write_buffer_size())

    def _forget_reader(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None

    def _expect_less_than(self, size: int) -> None:
        self._forget_reader()

        def look() -> None:
            if (left := self.transport.get_write_buffer_size()) >= size:
                self.transport.abort()
            else:
                self._expect_less_than(left)

        self._reader = self.loop.call_later(REQUEST_SECONDS, look)

    def _watch(self) -> None:
        if self.conn.their_state not in {h11.IDLE, h11.SEND_BODY}:
            self._stop()
        elif self._timer is None:
            self._timer = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


API = "/api/messages"
PAGES = "/messages"
SOCKET_MODE = 0o660  # the proxy's group may connect
SHUTDOWN_GRACE_SECONDS = 5  # in addition to the longest request to the ticketing system


def application(settings: Settings) -> ASGIApp:
    """Return the application that `retrycli serve` runs.

    Raises:
        ConfigurationError: the tokens' file can't be used, or a setting is wrong.
    """
    if settings.web.user_header is not None and settings.web.uds is None:
        raise ConfigurationError(
            "web.user_header needs a Unix socket: anybody who reaches a TCP port could send this header. "
            "Set web.uds, or pass --uds"
        )
    users = TokenUsers(settings)
    access = Access.of(settings, users)
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    status = RecentStatus(settings)
    app.router.routes += make_api(
        settings, access, status, prefix=API
    ).routes  # `include_router` makes each route again
    app.router.routes.append(_Mount(PAGES, make_pages(settings, access, status, users)))
    app.add_exception_handler(HTTPException, _not_found)

    @app.get("/livez", include_in_schema=False)
    async def live() -> Response:
        return PlainTextResponse("ok\n")

    readiness, asking = Recent(partial(operations.status.is_ready, settings)), asyncio.Lock()

    @app.get("/readyz", include_in_schema=False)
    async def ready() -> Response:
        async with asking:  # those who wait need no thread
            is_ready = await run_in_threadpool(readiness.read)
        if is_ready:
            return PlainTextResponse("ok\n")
        return PlainTextResponse("the database can't be used\n", HTTPStatus.SERVICE_UNAVAILABLE)

    app.router.routes.append(_metrics(settings, access))

    @app.get(PAGES, include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def start(request: Request) -> Response:
        return RedirectResponse(f"{request.scope.get('root_path', '')}{PAGES}/", HTTPStatus.SEE_OTHER)

    return UnderRootPath(app, settings.web.root_path)


def _metrics(settings: Settings, access: Access) -> Route:
    measures = Recent(partial(operations.metrics.measure, settings))

    @endpoint("GET", "/metrics", Right.METRICS)
    def metrics() -> Response:
        return Response(prometheus.text(measures.read()), media_type=prometheus.MEDIA_TYPE)

    return route_class(access)("/metrics", metrics, response_model=None)


def _not_found(request: Request, error: Exception) -> Response:
    return problem_of(error)


class _Mount(Mount):
    """An application below a path. Starlette's own mount excludes line breaks, which an id may contain."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return super().matches({**scope, "path": str(scope["path"]).replace("\n", " ")})


class UnderRootPath:
    """Serve an application below a path such as ``/desk``, behind a proxy that strips the path or keeps it."""

    def __init__(self, app: ASGIApp, root: str) -> None:
        self._app = app
        self._root = root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, with the root path before its path."""
        if self._root and scope["type"] == "http":
            path: str = scope["path"]
            if path != self._root and not path.startswith(f"{self._root}/"):
                raw = scope.get("raw_path") or path.encode()
                scope = {**scope, "path": self._root + path, "raw_path": self._root.encode() + raw}
            scope = {**scope, "root_path": self._root}
        await self._app(scope, receive, send)


def serve(settings: Settings, started: Callable[[str], None]) -> int | None:
    """Serve until SIGTERM or SIGINT, then let requests in flight finish. Call ``started`` with the address as soon as
    the server listens. Return the signal that ended the server; None if it ended by itself.

    Raises:
        ConfigurationError: the address or the socket can't be used, or the tokens' file can't.
    """
    grace = settings.gateway.longest.total_seconds() + SHUTDOWN_GRACE_SECONDS
    config = uvicorn.Config(
        application(settings),
        http=DeadlineProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        log_level=logging.ERROR,  # its warnings are about what strangers send
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=round(grace),
        # Only a proxy can open the Unix socket. Over TCP, believe only a proxy on this machine. A proxy may append the
        # client's address to what the client sent, so the last address counts, and not the first, as with "*".
        forwarded_allow_ips=SOCKET if settings.web.uds else None,
    )
    # uvicorn stops in good order, and then raises the signal again for these handlers.
    received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: received.append(number))
    with closing(listen(settings)) as listening:
        _Server(config, received, partial(started, address(settings, listening))).run(sockets=[listening])
    if settings.web.uds is not None:
        settings.web.uds.unlink(missing_ok=True)
    return received[0] if received else None


class _Server(uvicorn.Server):
    """A server that tells when it listens, and that also heeds a signal that arrived before."""

    def __init__(self, config: uvicorn.Config, received: Sequence[int], started: Callable[[], None]) -> None:
        super().__init__(config)
        self._received = received
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen. From here on, uvicorn handles the signals."""
        await super().startup(sockets)
        self._started()
        self.should_exit = self.should_exit or bool(self._received)


def address(settings: Settings, listening: socket.socket) -> str:
    """Return the address of the console, for people."""
    web = settings.web
    if web.uds is not None:
        return f"unix:{web.uds}, path {web.root_path}{PAGES}/"
    return f"http://{web.host_in_url}:{listening.getsockname()[1]}{web.root_path}{PAGES}/"


def listen(settings: Settings) -> socket.socket:
    """Return a socket that listens where the settings say.

    Raises:
        ConfigurationError: the address or the path can't be used.
    """
    web = settings.web
    if web.uds is not None:
        return _listen_on_path(web.uds, names_users=web.user_header is not None)
    try:
        family, _, _, _, where = socket.getaddrinfo(web.host, web.port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(where[:2], family=family)
    except OSError as error:
        raise ConfigurationError(
            f"can't listen on {web.host}, port {web.port}: {error.strerror}. Set web.host and web.port, or pass --port"
        ) from error


def _listen_on_path(path: Path, *, names_users: bool) -> socket.socket:
    # Otherwise another user could put a socket of their own in its place.
    require_trust(path, "web.uds", may_be_missing=True)
    if names_users:
        with suppress(OSError):  # `bind` names the reason
            require_chosen_group(path, "web.user_header")
    found = socket.socket(socket.AF_UNIX)
    try:
        _remove_stale(path)
        mask = os.umask(0o777 & ~SOCKET_MODE)
        try:
            found.bind(str(path))
        finally:
            os.umask(mask)
        found.listen()
    except OSError as error:
        found.close()
        is_other = path.exists() and not path.is_socket()
        reason = "it is not a socket" if is_other else error.strerror or str(error)
        raise ConfigurationError(f"can't listen on {path}: {reason}. Set web.uds, or pass --uds") from error
    return found


def _remove_stale(path: Path) -> None:
    """Remove a socket on which no process listens. For any other file, `bind` names the reason.

    Raises:
        OSError: the path can't be examined, or the socket can't be removed.
    """
    try:
        if path.is_socket():
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(path))
    except ConnectionRefusedError:
        path.unlink()
