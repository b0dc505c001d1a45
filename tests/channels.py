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
    method: str
    path: str
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
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
        """Return ``host:port``, as in a URL."""
        return f"127.0.0.1:{self.server_address[1]}"

    @property
    def slack_shaped(self) -> str:
        """Return the apprise URL that posts messages in Slack's format to this webhook."""
        return f"mmost://{self.host}/{TOKEN}"

    @property
    def texts(self) -> list[str]:
        """Return the texts that arrived, oldest first."""
        return [request.json["text"] for request in self.requests if request.path == f"/hooks/{TOKEN}"]

    @property
    def paths(self) -> list[str]:
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

    do_GET = do_POST = _respond  # noqa: N815  http.server looks these names up

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  http.server's parameter name
        """Keep request lines out of the tests' output."""


@contextmanager
def webhook() -> Iterator[Webhook]:
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
    """A mail handler that stores every mail and always gives the same answer."""

    answer: str
    raw: list[bytes] = field(default_factory=list)

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802  aiosmtpd looks it up
        assert isinstance(envelope.content, bytes)
        self.raw.append(envelope.content)
        return self.answer

    @property
    def mails(self) -> list[EmailMessage]:
        return [message_from_bytes(mail, policy=default) for mail in self.raw]


class _MailServer(Controller):
    """A controller on any free port. It sets ``port`` before aiosmtpd connects to the server as a check."""

    def _trigger_server(self) -> None:
        assert isinstance(self.server, Server)
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()  # type: ignore[no-untyped-call]  # aiosmtpd is only partially typed


@contextmanager
def mail_server(answer: str = "250 kept") -> Iterator[tuple[Mailbox, str]]:
    """Provide a mailbox and the apprise URL that sends to it."""
    mailbox = Mailbox(answer)
    controller = _MailServer(mailbox, hostname="127.0.0.1", port=0)
    controller.start()
    try:
        yield mailbox, f"mailto://127.0.0.1:{controller.port}?from=retrycli@x.test&to=ops@x.test&mode=insecure"
    finally:
        controller.stop()
