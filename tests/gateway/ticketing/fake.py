"""The base of all fake ticketing systems: a real HTTP server on loopback that records its requests."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.gateway.ticketing.arrived import Arrived


def compact(value: object) -> bytes:
    """Format JSON without spaces, as all systems do: a preset's rule may contain ``"key":"value"`` as text."""
    return json.dumps(value, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Asked:
    """A request that the fake received."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """The headers, by name in lower case."""
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401  any JSON value
        return json.loads(self.body)


@dataclass(frozen=True)
class Answered:
    """One answer; a body that is not bytes is sent as JSON."""

    status: int
    body: object = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class Fake:
    """A fake system. A subclass defines its answers, and stores the messages. Use it as a context manager."""

    arrived: list[Arrived]
    """The messages that the system has accepted, in order of arrival."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.failing: frozenset[str] = frozenset()
        """HTTP methods that the system answers with 500."""
        self._lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                url = urlsplit(self.path)
                headers = {name.lower(): value for name, value in self.headers.items()}
                body = self.rfile.read(length)
                if len(body) < length:  # an incomplete request (RFC 9112, section 8)
                    self.close_connection = True
                    return
                asked = Asked(self.command, unquote(url.path), dict(parse_qsl(url.query)), headers, body)
                with fake._lock:
                    fake.asked.append(asked)
                    answered = Answered(500) if asked.method in fake.failing else fake.answer(asked)
                plain = isinstance(answered.body, bytes)
                content = answered.body if isinstance(answered.body, bytes) else compact(answered.body)
                self.send_response(answered.status)
                kind = {} if plain else {"Content-Type": "application/json"}
                for name, value in {**kind, **answered.headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Keep request lines out of the tests' output."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        """Return the ``gateway.base_url`` for this system."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, asked: Asked) -> Answered:
        """Return the answer; called by one thread at a time."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Refusing(Fake):
    """A fake system that gives every request the same answer.

    Args:
        status, body, headers: the answer.
    """

    def __init__(self, status: int, body: object, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        super().__init__()
        self._answered = Answered(status, body, headers)
        self.arrived = []

    def answer(self, asked: Asked) -> Answered:
        return self._answered
