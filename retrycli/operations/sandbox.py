"""Simulate a ticketing API on loopback. It accepts the requests of the generic preset."""

import json
import re
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from itertools import count, cycle
from random import Random
from socketserver import ThreadingTCPServer
from threading import Lock, Thread
from typing import Self
from urllib.parse import unquote

KEPT = 10_000  # maximum number of stored messages; the oldest is dropped first
LARGEST_BODY = 1024 * 1024
SIGNALS_SEEN_EVERY = 0.2  # seconds
# A throttling sandbox accepts 10 deliveries per window, and answers further deliveries with 429.
BURST, BURST_WINDOW = 10, timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """The faults. ``fail`` (a share, 0 to 1) and ``throttle`` affect deliveries, the others every request."""

    fail: float = 0.0
    latency: timedelta = timedelta(0)
    down: bool = False
    throttle: bool = False


@dataclass(frozen=True, slots=True)
class Received:
    """An accepted message. ``kind`` is message or note; ``times`` counts deliveries with its key."""

    id: int
    key: str | None
    ticket_id: str
    kind: str
    content: dict[str, object]
    received_at: datetime
    times: int = 1


Answer = tuple[int, dict[str, object]]  # HTTP status and JSON body


def _failure(status: int, text: str) -> Answer:
    return status, {"succeeded": False, "messages": [text]}


_PASSING = (
    _failure(503, "The sandbox simulates an overload"),
    _failure(200, "The sandbox simulates a temporarily locked ticket"),
    _failure(500, "The sandbox simulates a crash"),
)
# The failures in order, repeated forever. One in ten is permanent, so that most messages are retried and a few are
# escalated. It is the seventh, so that a short demo reaches it.
FAILURES = (*_PASSING, *_PASSING, _failure(422, "The sandbox simulates a recipient that does not exist"), *_PASSING)


def share(text: str) -> float:
    """Parse a share such as ``30%`` or ``0.3``. If it is invalid, raise a ValueError that says how to write one."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*(%?)", text.strip())
    value = float(found[1]) / (100 if found[2] else 1) if found else None
    if value is None or value > 1:
        raise ValueError(f"{text!r} is not a valid share; write 0% to 100%, or a number from 0 to 1")
    return value


class Sandbox(ThreadingTCPServer):
    """A server that simulates a ticketing API. The constructor binds the port (0 chooses any free one), and raises
    OSError if it can't. The server responds inside its ``with`` block. ``sandbox.behaviour`` may be changed while it
    runs.

    The listener is called with each request's method, path, delivery key and response status, one at a time, before the
    request is answered, in the server's threads.
    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 512  # as many connections as a pass may have open

    def __init__(
        self,
        behaviour: Behaviour,
        *,
        rng: Random,
        port: int = 0,
        listener: Callable[[str, str, str | None, int], None] = lambda *_: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.behaviour = behaviour
        self.retry_after = {int(HTTPStatus.TOO_MANY_REQUESTS): "60"}  # Retry-After header, by response status
        self._rng, self._listener, self._clock, self._sleep = rng, listener, clock, sleep
        self._failures = cycle(FAILURES)
        self._burst = deque[datetime](maxlen=BURST)
        self._kept = OrderedDict[str | int, Received]()  # messages by key, or by id if they have no key
        self._ids = count(1)
        self._lock = Lock()
        self._listening = Lock()  # a separate lock, so that a listener may read `received`
        self._thread = Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        super().__init__(("127.0.0.1", port), _Handler)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def wait(self) -> None:
        """Wait until the server ends, or until a signal handler raises an exception (as Ctrl-C does)."""
        # Python runs signal handlers in the main thread. A signal just before a wait does not end the wait.
        while self._thread.is_alive():
            self._thread.join(SIGNALS_SEEN_EVERY)

    @property
    def url(self) -> str:
        """Return the server's URL, for ``gateway.base_url``."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def received(self) -> tuple[Received, ...]:
        """Return the stored messages, oldest first."""
        with self._lock:
            return tuple(self._kept.values())

    def answer(self, method: str, path: str, key: str | None, body: bytes) -> Answer:
        """Return the answer to a request, after the latency. Store a successful delivery."""
        if not self._thread.is_alive():
            raise ConnectionAbortedError  # a connection may outlive the server
        if self.behaviour.latency:
            self._sleep(self.behaviour.latency.total_seconds())
        if self.behaviour.down:
            return _failure(503, "The sandbox simulates an outage")
        match method, path.partition("?")[0].split("/"):
            case "GET", ["", ""]:
                return 200, {
                    "about": "retrycli's sandbox, a simulated ticketing API; it delivers no messages",
                    "requests": [
                        "POST /tickets/ID/messages",
                        "POST /tickets/ID/notes",
                        "POST /auth/login",
                        "GET /received",
                    ],
                }
            case "GET", ["", "received"]:
                return 200, {"received": [asdict(message) for message in self.received]}
            case "POST", ["", "auth", "login"]:
                if {"username", "password"} <= (_json_object(body) or {}).keys():
                    return 200, {"access_token": "sandbox-token"}
                return _failure(400, "Send a JSON object with username and password; any values are accepted")
            case "POST", ["", "tickets", ticket, "messages" | "notes" as part] if ticket:
                return self._fault() or self._accept(key, unquote(ticket), part.removesuffix("s"), body)
            case _:
                return _failure(404, f"No such endpoint: {method} {path}; GET / lists the endpoints")

    def tell(self, method: str, path: str, key: str | None, status: int) -> None:
        """Report a request to the listener, one request at a time."""
        with self._listening:
            self._listener(method, path, key, status)

    def _fault(self) -> Answer | None:
        with self._lock:
            if self.behaviour.throttle:
                now = self._clock()
                if len(self._burst) == BURST and now - self._burst[0] < BURST_WINDOW:
                    return _failure(429, "The sandbox simulates a rate limit")
                self._burst.append(now)
            return next(self._failures) if self._rng.random() < self.behaviour.fail else None

    def _accept(self, key: str | None, ticket_id: str, kind: str, body: bytes) -> Answer:
        if (content := _json_object(body)) is None:
            return _failure(400, "The body must be a JSON object")
        with self._lock:
            if key is not None and key in self._kept:
                kept = replace(self._kept[key], times=self._kept[key].times + 1)
            else:
                kept = Received(next(self._ids), key, ticket_id, kind, content, self._clock())
            self._kept[kept.id if key is None else key] = kept
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return 200, {"succeeded": True, "id": kept.id}


def _json_object(body: bytes) -> dict[str, object] | None:
    with suppress(ValueError, RecursionError):
        if isinstance(content := json.loads(body), dict):
            return content
    return None


class _Handler(BaseHTTPRequestHandler):
    server: Sandbox
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.1"  # otherwise an unreadable request is answered without headers
    disable_nagle_algorithm = True  # otherwise the second of two small writes waits for the client's ACK
    error_content_type = "application/json"
    error_message_format = '{"succeeded": false, "messages": ["%(explain)s"]}'

    def handle(self) -> None:
        with suppress(ConnectionError):  # the client may disconnect
            super().handle()

    def _respond(self) -> None:
        refusal, key = self._refusal(), self.headers.get("Idempotency-Key")
        body = b"" if refusal else self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, content = refusal or self.server.answer(self.command, self.path, key, body)
        self.server.tell(self.command, self.path, key, status)
        text = json.dumps(content, default=datetime.isoformat).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        if retry_after := self.server.retry_after.get(status):
            self.send_header("Retry-After", retry_after)
        if refusal:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(text)
        if refusal:  # closing a socket with unread bytes resets the connection, and the client may miss the answer
            self.connection.settimeout(2)
            while self.rfile.read(LARGEST_BODY):
                pass

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _respond  # noqa: N815  http.server looks up these names

    def _refusal(self) -> Answer | None:
        """Return an error for an invalid host, or for a body of invalid length. In both cases, do not read the body."""
        # A web page could send requests to the sandbox if the page's host name resolved to loopback (DNS rebinding).
        if not re.fullmatch(r"(127\.0\.0\.1|localhost)(:[0-9]+)?", self.headers.get("Host", "localhost")):
            return _failure(421, "Address the sandbox as 127.0.0.1 or localhost")
        length = self.headers.get("Content-Length", "0" if self.command == "GET" else "")
        if "Transfer-Encoding" in self.headers or not re.fullmatch(r"[0-9]{1,19}", length):
            return _failure(411, "Send a Content-Length")
        return _failure(413, "The body is larger than 1 MiB") if int(length) > LARGEST_BODY else None

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the parameter's name in http.server
        """Log nothing, because the listener receives each request."""
