"""The SMTP gateway: one message, one mail, one session, one outcome."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import idna  # noqa: F401  addresses need it, and nothing may be imported during a delivery

from retrycli.config.gateway import GatewaySettings
from retrycli.config.types import secret_text
from retrycli.domain.email_address import Address
from retrycli.domain.errors import ConfigurationError, InvalidMessage
from retrycli.domain.message import OPTIONAL_COLUMNS, QueuedMessage
from retrycli.domain.outcome import LookUp, Outcome, OutcomeKind, Presence, one_line
from retrycli.gateway import attachments
from retrycli.gateway.immediate_retry import retry_unreachable
from retrycli.gateway.in_thread import in_thread
from retrycli.gateway.progress import DeliveryProgress, guard
from retrycli.gateway.redaction import redact_secrets, without_quotations
from retrycli.gateway.smtp.mime import Mail, columns_of, compose
from retrycli.gateway.smtp.session import Server, SmtpSession
from retrycli.gateway.time_limit import TimeLimit
from retrycli.gateway.tls import verifying
from retrycli.system import descriptors

if TYPE_CHECKING:
    from types import TracebackType

PORTS = {"smtp": 587, "smtps": 465}
CUT_SECONDS = 2.0
"""Wait for a session that was cut. One that reads a file on a dead network share may never end, but it can't send
anything more."""


class SmtpGateway:
    """Deliver through one mail server. Use it as an asynchronous context manager.

    Args:
        settings: the server and our credentials.
        columns: the columns of the application's table, to check the subject; None without a table.
        connections: the maximum number of concurrent sessions.
        now: the clock, for a mail's date.
        sleep: waits between immediate retries.

    Raises:
        ConfigurationError: the base URL or the CA file can't be used, or the subject names an unknown column.
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
        self._folder = attachments.Folder.of(settings.attachments_dir)
        self._mail_server = _MailServer(settings, connections)
        self._sender = Address.parse(settings.sender or "")
        self._fixed = None if settings.recipient is None else Address.parse(settings.recipient)
        self._now = now
        self._sleep = sleep

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, error, trace

    async def deliver(self, queued: QueuedMessage) -> Outcome:
        """Send one message, within ``request_timeout_seconds`` in total."""
        progress = DeliveryProgress()
        return await guard(self._deliver(queued, progress), queued.message_id, progress)

    async def problem(self, queued: QueuedMessage) -> str | None:
        """Return why no mail can be made of a message, or None. Send nothing."""
        try:
            await self._compose(queued)
        except InvalidMessage as error:
            return without_quotations(one_line(str(error)), queued.message)
        except OSError:
            return None  # an attachment can't be checked now
        return None

    async def look_up(self, queued: QueuedMessage) -> LookUp:
        """Return `UNKNOWN`: a mail server can't be asked about a mail."""
        del queued
        return LookUp(Presence.UNKNOWN, "a mail server can't be asked whether a mail has arrived")

    async def _deliver(self, queued: QueuedMessage, progress: DeliveryProgress) -> Outcome:
        limit = self._settings.request_timeout_seconds
        deadline = asyncio.get_running_loop().time() + limit
        try:
            async with asyncio.timeout_at(deadline):
                mail = await self._compose(queued)
        except TimeoutError:
            return Outcome(OutcomeKind.UNREACHABLE, error=f"attachments: not found within {limit:g} s")
        except InvalidMessage as error:
            return self._cleaned(Outcome(OutcomeKind.INVALID, error=str(error)), queued)
        except OSError as error:
            if problem := attachments.shortage(error):
                return Outcome(OutcomeKind.UNREACHABLE, error=f"attachments: {problem}")
            raise
        if not mail.envelope:
            # All recipients have it from earlier attempts.
            return Outcome(OutcomeKind.DELIVERED, found=True)
        return self._cleaned(await self._mail_server.deliver(mail, self._sleep, progress, deadline), queued)

    async def _compose(self, queued: QueuedMessage) -> Mail:
        settings = self._settings
        files = await attachments.find(queued.message, self._folder, settings.attachments_limit_bytes)
        return compose(queued, files, sender=self._sender, fixed=self._fixed, subject=settings.subject, now=self._now())

    def _cleaned(self, outcome: Outcome, queued: QueuedMessage) -> Outcome:
        """Return the outcome with an error that may be stored: one line, without the customer's words."""
        if outcome.error is None:
            return outcome
        return replace(outcome, error=without_quotations(one_line(outcome.error), queued.message))


async def ask(settings: GatewaySettings) -> Outcome:
    """Open a session up to the point where a mail could be sent. Send none.

    Raises:
        ConfigurationError: the base URL or the CA file can't be used.
    """
    deadline = asyncio.get_running_loop().time() + settings.request_timeout_seconds
    outcome = await _MailServer(settings, connections=1).deliver(None, asyncio.sleep, DeliveryProgress(), deadline)
    return outcome if outcome.error is None else replace(outcome, error=one_line(outcome.error))


def check_subject(settings: GatewaySettings, columns: Collection[str]) -> None:
    """Check that every column in the subject's template exists.

    Raises:
        ConfigurationError: a column does not exist; the text names it.
    """
    for name in columns_of(settings.subject):
        if name not in {*columns, *OPTIONAL_COLUMNS}:
            raise ConfigurationError(f"gateway.subject refers to column {name}, which does not exist")


class _MailServer:
    """Connections to one mail server.

    Args:
        settings: the server and our credentials.
        connections: the maximum number of concurrent sessions. Every session has a thread of its own.
    """

    def __init__(self, settings: GatewaySettings, connections: int) -> None:
        parts = urlsplit(settings.destination)
        self._host, self._port = _checked_host(parts.hostname or ""), parts.port or PORTS[parts.scheme]
        self._settings = settings
        self._connections = connections
        username, password = settings.username or "", secret_text(settings.password)
        encrypted = parts.scheme == "smtps" or settings.starttls
        self._server = Server(
            host=self._host,
            context=verifying(settings.ca_file) if encrypted else None,
            from_the_start=parts.scheme == "smtps",
            username=username,
            password=password,
            # A fallback: the deadline comes first.
            timeout=2 * settings.request_timeout_seconds,
        )
        as_encoded = (f"\0{username}\0{password}", password)
        self._secrets = [password, *(base64.b64encode(secret.encode()).decode() for secret in as_encoded if password)]

    async def deliver(
        self, mail: Mail | None, sleep: Callable[[float], Awaitable[None]], progress: DeliveryProgress, deadline: float
    ) -> Outcome:
        """Send a mail, or none (see `SmtpSession.deliver`). Retry at once if no session was opened."""
        outcome = await retry_unreachable(
            lambda: self._attempt(mail, deadline, progress),
            retries=self._settings.immediate_retries,
            within=self._settings.request_timeout_seconds,
            sleep=sleep,
        )
        return (
            outcome if outcome.error is None else replace(outcome, error=redact_secrets(outcome.error, self._secrets))
        )

    async def _attempt(self, mail: Mail | None, deadline: float, progress: DeliveryProgress) -> Outcome:
        try:
            async with asyncio.timeout_at(deadline):
                connection = await self._connect()
            session = SmtpSession(self._server, connection)
        except OSError as error:
            said = descriptors.shortage(error) or str(error)
            return Outcome(OutcomeKind.UNREACHABLE, error=f"connecting: {type(error).__name__}: {said}".rstrip(": "))
        thread = asyncio.ensure_future(in_thread(session.deliver, mail))
        try:
            async with TimeLimit(deadline - asyncio.get_running_loop().time()):
                return await asyncio.shield(thread)
        except TimeoutError:
            session.cut()
            await asyncio.wait([thread], timeout=CUT_SECONDS)
            return self._outcome_of_cut(session, thread.result() if thread.done() else None)
        except asyncio.CancelledError:
            session.cut()
            await asyncio.wait([thread], timeout=CUT_SECONDS)
            raise
        finally:
            progress.in_flight = session.in_doubt

    def _outcome_of_cut(self, session: SmtpSession, outcome: Outcome | None) -> Outcome:
        """Return the outcome of a session that was cut. Its own outcome counts if the server had replied."""
        if outcome is not None and (outcome.status_code is not None or outcome.kind is OutcomeKind.DELIVERED):
            return outcome
        limit = f"{self._settings.request_timeout_seconds:g} s"
        if session.in_doubt:
            return Outcome(OutcomeKind.UNKNOWN, error=f"{session.step}: no answer within {limit}")
        return Outcome(OutcomeKind.TRANSIENT, error=f"not sent within {limit}: it came as far as {session.step}")

    async def _connect(self) -> socket.socket:
        """Connect to the first of the server's addresses that answers.

        smtplib would connect in a thread, which can't be interrupted while it waits for a connection or a name.
        """
        loop = asyncio.get_running_loop()
        problem = OSError("the name has no address")
        for family, kind, protocol, _, address in await loop.getaddrinfo(
            self._host, self._port, type=socket.SOCK_STREAM
        ):
            connection = socket.socket(family, kind, protocol)
            connection.setblocking(False)  # noqa: FBT003  its own name says it
            try:
                descriptors.require_low(connection.fileno(), requests=self._connections)
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


def _checked_host(host: str) -> str:
    """Check before the first message that a host's name can be looked up."""
    try:
        host.encode("idna")
    except UnicodeError as error:
        raise ConfigurationError(f"gateway.base_url: {host!r} can't be used: {error}") from None
    return host
