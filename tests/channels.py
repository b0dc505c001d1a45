"""The targets of notifications in tests: a webhook and a mail server on loopback."""

from __future__ import annotations

import json
from asyncio.base_events import Server
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

from aiosmtpd.controller import Controller

if TYPE_CHECKING:
    from email.message import EmailMessage

    from aiosmtpd.smtp import SMTP, Envelope, Session

TOKEN = "k5hTokenThatNobodyMaySee"


@dataclass(frozen=True)
class Request:
    """A request that a webhook received."""

    method: str
    path: str
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """Return the body as an object."""
        values: dict[str, Any] = json.loads(self.body)
        return values


class Webhook(ThreadingHTTPServer):
    """A webhook that records its requests, and answers as configured."""

    daemon_threads = True

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.status = 200
        self.text = b"ok"
        self.headers: dict[str, str] = {}
        self.hold: Callable[[], object] = lambda: None
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def host(self) -> str:
        """Return host and port."""
        return f"127.0.0.1:{self.server_address[1]}"

    @property
    def slack_shaped(self) -> str:
        """Return apprise's URL for a webhook that accepts Slack's messages, at a host of one's own."""
        return f"mmost://{self.host}/{TOKEN}"

    @property
    def texts(self) -> list[str]:
        """Return the texts that arrived, oldest first."""
        return [request.json["text"] for request in self.requests if request.path == f"/hooks/{TOKEN}"]

    @property
    def paths(self) -> list[str]:
        """Return the paths of the requests."""
        return [request.path for request in self.requests]


class _Handler(BaseHTTPRequestHandler):
    server: Webhook

    def _respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append(Request(self.command, self.path, body))
        self.server.hold()
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(self.server.text)))
        self.end_headers()
        self.wfile.write(self.server.text)

    do_GET = do_POST = _respond  # noqa: N815  the library's own names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the library's own name
        """Log nothing."""


@contextmanager
def webhook() -> Iterator[Webhook]:
    """Provide a listening webhook."""
    with Webhook() as server:
        thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@dataclass
class Mailbox:
    """Stores every mail, and gives one answer to all."""

    answer: str
    raw: list[bytes] = field(default_factory=list)

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802  aiosmtpd's
        assert isinstance(envelope.content, bytes)
        self.raw.append(envelope.content)
        return self.answer

    @property
    def mails(self) -> list[EmailMessage]:
        """Return the mails that have arrived."""
        return [message_from_bytes(mail, policy=default) for mail in self.raw]


class _MailServer(Controller):
    """Uses any free port, and sets it before it checks whether it answers there."""

    def _trigger_server(self) -> None:
        assert isinstance(self.server, Server)
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()  # type: ignore[no-untyped-call]  # aiosmtpd is half typed


@contextmanager
def mail_server(answer: str = "250 kept") -> Iterator[tuple[Mailbox, str]]:
    """Provide a mailbox, and apprise's URL for it."""
    mailbox = Mailbox(answer)
    controller = _MailServer(mailbox, hostname="127.0.0.1", port=0)
    controller.start()
    try:
        yield mailbox, f"mailto://127.0.0.1:{controller.port}?from=retrycli@x.test&to=ops@x.test&mode=insecure"
    finally:
        controller.stop()
