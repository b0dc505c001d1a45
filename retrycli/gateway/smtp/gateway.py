"""The SMTP gateway, which sends each message as one mail."""

import asyncio
import base64
import socket
from collections.abc import Awaitable, Callable, Collection, Iterable
from datetime import datetime
from urllib.parse import urlsplit

import idna  # noqa: F401  needed to parse addresses; an import during a delivery may find no free file descriptor

from retrycli.config import secret_text
from retrycli.config.gateway import GatewaySettings
from retrycli.domain.email_address import Address
from retrycli.domain.errors import ConfigurationError, InvalidMessage
from retrycli.domain.message import Message, QueuedMessage
from retrycli.domain.outcome import LookUp, Outcome, OutcomeKind, Presence, one_line
from retrycli.gateway import attachments
from retrycli.gateway.delivery import BaseGateway, DeliveryProgress, TimeLimit, in_thread, invalid, retry_unreachable
from retrycli.gateway.presets.template import check_subject
from retrycli.gateway.smtp.mime import Mail, compose, encoded_texts
from retrycli.gateway.smtp.session import SmtpSession
from retrycli.gateway.tls import verifying
from retrycli.system import process

PORTS = {"smtp": 587, "smtps": 465}
# Maximum seconds to wait for a session to end after its connection was cut. A session that reads a file on a dead
# network share may never end, but it can't send anything more.
CUT_SECONDS = 2.0


class SmtpGateway(BaseGateway):
    """Deliver through one mail server. Use it as an asynchronous context manager. Every session has its own thread. The
    columns of the application's table, if there is one, check the subject's template.

    Raises:
        ConfigurationError: the base URL or the CA file can't be used, or the subject refers to an unknown column.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        columns: Collection[str] | None,
        connections: int,
        now: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if columns is not None:
            check_subject(settings, columns)
        self._settings = settings
        self._connections = connections
        self._folder = attachments.Folder.of(settings.attachments_dir)
        self._sender = Address.parse(settings.sender or "")
        self._fixed = None if settings.recipient is None else Address.parse(settings.recipient)
        self._now = now
        self._sleep = sleep
        parts = urlsplit(settings.destination)
        self._host, self._port = parts.hostname or "", parts.port or PORTS[parts.scheme]
        try:
            self._host.encode("idna")
        except UnicodeError as error:
            raise ConfigurationError(f"gateway.base_url: {self._host!r} can't be used: {error}") from None
        self._context = verifying(settings.ca_file) if parts.scheme == "smtps" or settings.starttls else None
        password = secret_text(settings.password)
        as_encoded = (f"\0{settings.username or ''}\0{password}", password)
        self._secrets = [password, *(base64.b64encode(secret.encode()).decode() for secret in as_encoded if password)]

    async def look_up(self, queued: QueuedMessage) -> LookUp:
        """Return `UNKNOWN`, because SMTP has no command that shows whether a mail has arrived."""
        del queued
        return LookUp(Presence.UNKNOWN, "a mail server can't show whether a mail has arrived")

    async def probe(self) -> Outcome:
        """Test the connection, TLS and the log-in, without sending a mail."""
        deadline = asyncio.get_running_loop().time() + self._settings.request_timeout_seconds
        outcome = await self._send(None, DeliveryProgress(), deadline)
        if outcome.error is None:
            return outcome
        return outcome._replace(error=one_line(self.redact_secrets(outcome.error)))

    def _sent_texts(self, message: Message) -> Iterable[str]:
        return encoded_texts(message, self._settings.subject)

    async def _deliver(self, queued: QueuedMessage, progress: DeliveryProgress) -> Outcome:
        limit = self._settings.request_timeout_seconds
        deadline = asyncio.get_running_loop().time() + limit
        try:
            async with asyncio.timeout_at(deadline):
                mail = await self._prepare(queued)
        except TimeoutError:
            return Outcome(OutcomeKind.UNREACHABLE, error=f"attachments: not checked within {limit:g} s")
        if not mail.envelope:
            # Earlier attempts have delivered the mail to every recipient.
            return Outcome(OutcomeKind.DELIVERED, found=True)
        return await self._send(mail, progress, deadline)

    async def _prepare(self, queued: QueuedMessage) -> Mail:
        files = await attachments.find(queued.message, self._folder, self._settings.attachments_limit_bytes)
        try:
            return compose(
                queued, files, sender=self._sender, fixed=self._fixed, subject=self._settings.subject, now=self._now()
            )
        except InvalidMessage as error:
            raise invalid(str(error)) from error

    async def _send(self, mail: Mail | None, progress: DeliveryProgress, deadline: float) -> Outcome:
        return await retry_unreachable(
            lambda: self._attempt(mail, deadline, progress),
            retries=self._settings.immediate_retries,
            within=self._settings.request_timeout_seconds,
            sleep=self._sleep,
        )

    async def _attempt(self, mail: Mail | None, deadline: float, progress: DeliveryProgress) -> Outcome:
        try:
            async with asyncio.timeout_at(deadline):
                connection = await self._connect()
            session = SmtpSession(self._settings, self._context, connection)
        except OSError as error:
            said = process.shortage(error) or str(error)
            return Outcome(OutcomeKind.UNREACHABLE, error=f"connecting: {type(error).__name__}: {said}".rstrip(": "))
        thread = asyncio.ensure_future(in_thread(session.deliver, mail, progress.is_late))
        try:
            async with TimeLimit(deadline - asyncio.get_running_loop().time()):
                return await asyncio.shield(thread)
        except (TimeoutError, asyncio.CancelledError) as error:
            session.cut()
            await asyncio.wait([thread], timeout=CUT_SECONDS)
            if isinstance(error, asyncio.CancelledError):
                raise
            return self._outcome_of_cut(session, thread.result() if thread.done() else None)
        finally:
            progress.in_flight = session.in_doubt

    def _outcome_of_cut(self, session: SmtpSession, outcome: Outcome | None) -> Outcome:
        # A reply that the server sent before the connection was cut decides the outcome.
        if outcome is not None and (outcome.status_code is not None or outcome.kind is OutcomeKind.DELIVERED):
            return outcome
        limit = f"{self._settings.request_timeout_seconds:g} s"
        if session.in_doubt:
            return Outcome(OutcomeKind.UNKNOWN, error=f"{session.step}: no response within {limit}{session.refusals}")
        return Outcome(OutcomeKind.TRANSIENT, error=f"not sent within {limit}; the last step was {session.step}")

    async def _connect(self) -> socket.socket:
        """Try the server's addresses in order, and return the first connection.

        smtplib would connect in the session's thread, which can't be interrupted while it resolves a name or connects.
        """
        loop = asyncio.get_running_loop()
        problem = OSError("the host name has no address")
        for family, kind, protocol, _, address in await loop.getaddrinfo(
            self._host, self._port, type=socket.SOCK_STREAM
        ):
            connection = socket.socket(family, kind, protocol)
            connection.setblocking(False)  # noqa: FBT003  the method's name explains the argument
            try:
                process.require_low(connection.fileno(), requests=self._connections)
                async with asyncio.timeout(self._settings.connect_timeout_seconds):
                    await loop.sock_connect(connection, address)
            except OSError as error:
                connection.close()
                problem = error
            except BaseException:
                connection.close()
                raise
            else:
                return connection
        raise problem
