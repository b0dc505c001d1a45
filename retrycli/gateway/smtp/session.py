"""One session with a mail server (RFC 5321), run by smtplib in a separate thread, and the outcomes of its replies.

The final dot of a mail is decisive. Before the dot is sent, no server may deliver anything (RFC 5321, section
4.1.1.4), so an earlier error proves that nothing was delivered. After the dot, only a reply shows the outcome.
"""

import base64
import re
import smtplib
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from retrycli.config import secret_text
from retrycli.config.gateway import GatewaySettings
from retrycli.domain.email_address import Address
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.gateway.attachments import FileChanged
from retrycli.gateway.delivery import TOO_LATE, NotSent
from retrycli.gateway.smtp.mime import Mail

# Maximum octets of a line, and maximum lines of a reply. The standard allows 512 octets (RFC 5321, section 4.5.3.1.5).
LONGEST_LINE, MOST_LINES = 2048, 100
REPLY_LINE = re.compile(rb"([2-5]\d\d)(?:([ -])(.*))?\r?\n", re.DOTALL)
GO_AHEAD, SHUTTING_DOWN = 354, 421
# Log-in required, stronger log-in mechanism required, log-in refused (RFC 4954, section 6).
ASKS_FOR_LOG_IN = frozenset({530, 534, 535})
BAD_CREDENTIALS = "5.7.8"  # log-in refused; some servers send it with a basic code of 550 (RFC 4954, section 6)
ENHANCED = re.compile(r"([245])\.\d{1,3}\.\d{1,3}(?=\s|$)")  # enhanced status code (RFC 3463, section 2)
# The queue id in the replies of Postfix, Exim and Exchange.
QUEUED_AS = re.compile(r"(?:queued as |id=)([\w.+-]{1,100})", re.IGNORECASE)
END = "the end of the mail"
LONGEST_REPLY = 2_000  # characters to keep; a server may refuse many recipients with long replies
# If refusals differ in kind, the first kind here decides: the mail is retried if any recipient may still be accepted.
WORST_FIRST = (OutcomeKind.UNAUTHORIZED, OutcomeKind.TRANSIENT, OutcomeKind.PERMANENT)
QUIT_SECONDS = 2.0  # short, because the outcome is known before QUIT is sent
# Exceptions for network, server and file errors. `ValueError` covers invalid replies, and text that can't be encoded.
SESSION_ERRORS = (smtplib.SMTPException, OSError, ValueError)


@dataclass(frozen=True, slots=True)
class SmtpReply:
    """A reply, with its lines joined by spaces."""

    code: int
    text: str

    @classmethod
    def of(cls, code: int, text: bytes | str) -> "SmtpReply":
        """Create a reply from smtplib's code and text."""
        text = text[:LONGEST_REPLY]
        return cls(code, " ".join((text if isinstance(text, str) else text.decode("utf-8", "replace")).split()))

    @property
    def good(self) -> bool:
        """Return whether the reply is positive: class 2yz (RFC 5321, section 4.2.1)."""
        return self.code // 100 == 2  # noqa: PLR2004  the class of positive replies

    @property
    def kind(self) -> OutcomeKind:
        """Return the outcome of a reply that is not positive.

        An enhanced code decides, because servers may send a wrong basic code. Only 421, 530, 534 and 535 precede it.
        """
        enhanced = ENHANCED.match(self.text)
        if self.code in ASKS_FOR_LOG_IN or (enhanced and enhanced[0] == BAD_CREDENTIALS):
            return OutcomeKind.UNAUTHORIZED
        lasting = enhanced[1] if enhanced and enhanced[1] != "2" else str(self.code)[0]
        if self.code == SHUTTING_DOWN or lasting != "5":
            return OutcomeKind.TRANSIENT
        return OutcomeKind.PERMANENT

    @property
    def queued_as(self) -> str | None:
        """Return the server's queue id of an accepted mail, if the reply has one in a common form."""
        found = QUEUED_AS.search(self.text)
        return found[1] if found else None

    def __str__(self) -> str:
        return f"SMTP {self.code} {self.text}".rstrip()


class _Client(smtplib.SMTP):
    def __init__(self, connection: socket.socket) -> None:
        name = socket.gethostname()
        # Without a fully qualified name, EHLO sends the client's address (RFC 5321, section 4.1.4).
        if not re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", name):
            address = str(connection.getsockname()[0]).partition("%")[0]
            name = f"[IPv6:{address}]" if ":" in address else f"[{address}]"
        super().__init__(local_hostname=name)
        self.sock = connection
        self.command_encoding = "utf-8"  # so that commands may contain non-ASCII addresses

    def getreply(self) -> tuple[int, bytes]:
        """Read a reply. smtplib's own method reads any number of lines, and returns code -1 for an invalid reply."""
        assert self.sock is not None  # noqa: S101  for the type checker
        if self.file is None:
            self.file = self.sock.makefile("rb")
        texts = []
        for _ in range(MOST_LINES):
            line = self.file.readline(LONGEST_LINE + 1)
            if not line:
                raise smtplib.SMTPServerDisconnected("the server closed the connection")
            found = REPLY_LINE.fullmatch(line)
            if found is None:
                raise ValueError("the server's reply is not valid SMTP")
            texts.append((found[3] or b"").strip())
            if found[2] != b"-":
                return int(found[1]), b"\n".join(texts)
        raise ValueError(f"the server's reply has more than {MOST_LINES} lines")


class SmtpSession:
    """One session on an unused connection: a delivery, or a test that ends before a mail is sent. Without a TLS context
    it is not encrypted.

    Raises:
        OSError: no file descriptor is left. The connection has been closed.
    """

    def __init__(self, settings: GatewaySettings, context: ssl.SSLContext | None, connection: socket.socket) -> None:
        try:
            # TLS replaces the socket object. This duplicate can shut the connection down at any time.
            self._line = connection.dup()
        except OSError:
            connection.close()
            raise
        connection.settimeout(2 * settings.request_timeout_seconds)  # a fallback: `cut` normally comes first
        self._settings = settings
        self._context = context
        self._client = _Client(connection)
        self.step = "connecting"
        self._begun = False
        self.refusals = ""  # the server's refusals of single recipients, to follow an error about the others

    def cut(self) -> None:
        """End the session from another thread. Blocked calls of the session fail immediately."""
        with suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)

    def deliver(self, mail: Mail | None, is_late: Callable[[], bool]) -> Outcome:
        """Send a mail, and return the outcome. If the mail is None, end the session after the log-in. If ``is_late``
        returns true before the final dot, the mail is not delivered.
        """
        try:
            self._open()
            self._begun = True
            outcome = Outcome(OutcomeKind.DELIVERED) if mail is None else self._send(mail, is_late)
            self._quit()
        except NotSent as stop:
            outcome = stop.outcome
            self._quit()
        except SESSION_ERRORS as error:
            # Send no QUIT: in the middle of a mail, the server would read QUIT as part of the mail.
            outcome = self._outcome_of_error(error)
        finally:
            self._client.close()
            self._line.close()
        # It may concern all mails: a blocked client, a used-up quota, or a sender that the server does not accept.
        is_refusal = outcome.kind is OutcomeKind.PERMANENT and outcome.status_code is not None
        return outcome._replace(in_doubt=is_refusal and not outcome.delivered_to)

    @property
    def in_doubt(self) -> bool:
        """Return whether the final dot may have been sent. Without a reply to it, the mail may have arrived."""
        return self.step == END

    def _outcome_of_error(self, error: Exception) -> Outcome:
        text = f"{self.step}: {_describe(error)}"
        if self.in_doubt:
            return Outcome(OutcomeKind.UNKNOWN, error=text + self.refusals)
        if isinstance(error, ssl.SSLCertVerificationError):
            return Outcome(OutcomeKind.UNAUTHORIZED, error=text)
        return Outcome(OutcomeKind.TRANSIENT if self._begun else OutcomeKind.UNREACHABLE, error=text)

    def _open(self) -> None:
        is_implicit = self._settings.destination.startswith("smtps:")  # TLS from the start (RFC 8314, section 3)
        if self._context is not None and is_implicit:
            self._encrypt(self._context)
        self.step = "greeting"
        self._require_success(SmtpReply.of(*self._client.getreply()), if_permanent=OutcomeKind.TRANSIENT)
        self._say_hello()
        if self._context is not None and not is_implicit:
            self.step = "STARTTLS"
            if not self._client.has_extn("starttls"):
                raise self._unauthorized(
                    "the server does not offer STARTTLS, so the mail would be sent unencrypted; correct the gateway's "
                    "base_url (smtps:// uses TLS from the start) or, on a trusted network, set its starttls to false"
                )
            self._require_success(self._command("STARTTLS"), if_permanent=OutcomeKind.UNAUTHORIZED)
            self._encrypt(self._context)
            self._say_hello()
        if self._settings.username:
            self._log_in(self._settings.username, secret_text(self._settings.password))

    def _say_hello(self) -> None:
        self.step = "EHLO"
        code, text = self._client.ehlo()
        if code // 100 == 5:  # noqa: PLR2004  an older server without EHLO (RFC 5321, section 3.2)
            code, text = self._client.helo()
        self._require_success(SmtpReply.of(code, text), if_permanent=OutcomeKind.TRANSIENT)

    def _encrypt(self, context: ssl.SSLContext) -> None:
        """Start TLS. Discard unread plaintext, because an attacker may have injected it (RFC 3207, section 6)."""
        self.step = "TLS"
        client = self._client
        assert client.sock is not None  # noqa: S101  for the type checker
        client.file = None
        host = urlsplit(self._settings.destination).hostname or ""
        client.sock = context.wrap_socket(client.sock, server_hostname=host)

    def _log_in(self, username: str, password: str) -> None:
        self.step = "AUTH"
        mechanisms = self._client.esmtp_features.get("auth", "").upper().split()
        if not mechanisms:
            why = "the server does not offer authentication; check the gateway's base_url, or remove its credentials"
            raise self._unauthorized(why)
        if "PLAIN" in mechanisms:  # PLAIN uses UTF-8 (RFC 4616, section 2), but smtplib supports only ASCII
            secret = base64.b64encode(f"\0{username}\0{password}".encode()).decode()
            reply = self._command(f"AUTH PLAIN {secret}")
        else:
            try:
                reply = SmtpReply.of(*self._client.login(username, password))
            except smtplib.SMTPResponseException as error:
                reply = SmtpReply.of(error.smtp_code, error.smtp_error)
            except smtplib.SMTPServerDisconnected:
                raise
            except (smtplib.SMTPException, UnicodeError):
                ways = " ".join(mechanisms)[:80]
                raise self._unauthorized(f"can't log in with any mechanism that the server offers: {ways}") from None
        self._require_success(reply, if_permanent=OutcomeKind.UNAUTHORIZED)

    def _send(self, mail: Mail, is_late: Callable[[], bool]) -> Outcome:
        utf8 = self._client.has_extn("smtputf8") and any(not address.local.isascii() for address in mail.envelope)
        self._send_sender(mail.sender, mail.size(utf8=utf8), utf8=utf8)
        accepted, refused = self._send_recipients(mail.envelope, utf8=utf8)
        if not accepted:
            raise NotSent(_outcome_of_refusals(refused))
        self.refusals = f"; {_listed(refused)}, not accepted" if refused else ""
        self.step = "DATA"
        reply = self._command("DATA")
        if reply.code != GO_AHEAD:
            raise self._refusal(reply)
        self._send_content(mail, utf8=utf8)
        if is_late():
            raise ValueError(TOO_LATE)  # like another failed session: no QUIT in the middle of the mail
        self.step = END
        self._client.send(b".\r\n")
        reply = SmtpReply.of(*self._client.getreply())
        if reply.good and refused:
            return _outcome_of_refusals(refused, accepted, reply)
        if reply.good:
            delivered_to = tuple(address.addr_spec for address in accepted)
            return Outcome(OutcomeKind.DELIVERED, reply.code, delivered_to=delivered_to, external_id=reply.queued_as)
        if reply.code < 400:  # noqa: PLR2004  neither positive nor negative
            return Outcome(OutcomeKind.UNKNOWN, reply.code, f"{self.step}: {reply}{self.refusals}")
        return self._refusal(reply).outcome

    def _send_sender(self, sender: Address, size: int, *, utf8: bool) -> None:
        self.step = "MAIL"
        options = ["SMTPUTF8", "BODY=8BITMIME"] if utf8 else []
        if self._client.has_extn("size"):
            most = self._client.esmtp_features["size"].strip()
            if re.fullmatch(r"\d{1,18}", most) and 0 < int(most) < size:  # 0 means no limit (RFC 1870, section 4)
                error = f"the mail has {size} bytes, but the server accepts at most {int(most)}"
                raise NotSent(Outcome(OutcomeKind.PERMANENT, error=error))
            options.append(f"SIZE={size}")
        reply = self._command(" ".join([f"MAIL FROM:<{sender.addr_spec}>", *options]))
        # In reply to MAIL, an unspecified security error (RFC 3463, section 3.8) concerns the access, not the mail.
        if not reply.good and reply.text.startswith("5.7.0 "):
            raise self._unauthorized(str(reply), reply.code)
        if not reply.good:
            raise self._refusal(reply)

    def _send_recipients(
        self, recipients: tuple[Address, ...], *, utf8: bool
    ) -> tuple[list[Address], list[tuple[Address, SmtpReply]]]:
        """Send the recipients. Return the accepted ones, and the refused ones with their replies."""
        accepted: list[Address] = []
        refused: list[tuple[Address, SmtpReply]] = []
        for address in recipients:
            self.step = "RCPT"
            if not utf8 and not address.local.isascii():
                reply = SmtpReply(553, "5.6.7 the server does not accept non-ASCII addresses (SMTPUTF8)")
            else:
                reply = self._command(f"RCPT TO:<{address.addr_spec}>")
            if reply.code == SHUTTING_DOWN:
                raise self._refusal(reply)
            if reply.good:
                accepted.append(address)
            else:
                refused.append((address, reply))
        return accepted, refused

    def _send_content(self, mail: Mail, *, utf8: bool) -> None:
        """Send the content of the mail without the final dot."""
        self.step = "the mail"
        line = self._client.sock
        assert line is not None  # noqa: S101  for the type checker
        try:
            for chunk in mail.chunks(utf8=utf8):
                line.sendall(chunk)
        except ConnectionError:
            # A server that refuses a mail, for example because of its size, may reply before it closes the connection.
            with suppress(*SESSION_ERRORS):
                raise self._refusal(SmtpReply.of(*self._client.getreply())) from None
            raise

    def _command(self, command: str) -> SmtpReply:
        return SmtpReply.of(*self._client.docmd(command))

    def _require_success(self, reply: SmtpReply, *, if_permanent: OutcomeKind) -> None:
        if not reply.good:
            kind = reply.kind if reply.kind is not OutcomeKind.PERMANENT else if_permanent
            raise NotSent(Outcome(kind, reply.code, f"{self.step}: {reply}"))

    def _refusal(self, reply: SmtpReply) -> NotSent:
        return NotSent(Outcome(reply.kind, reply.code, f"{self.step}: {reply}"))

    def _unauthorized(self, why: str, code: int | None = None) -> NotSent:
        return NotSent(Outcome(OutcomeKind.UNAUTHORIZED, code, f"{self.step}: {why}"))

    def _quit(self) -> None:
        with suppress(*SESSION_ERRORS):
            if self._client.sock is not None:
                self._client.sock.settimeout(QUIT_SECONDS)
                self._client.docmd("QUIT")


def _outcome_of_refusals(
    refused: Sequence[tuple[Address, SmtpReply]], accepted: Sequence[Address] = (), sent: SmtpReply | None = None
) -> Outcome:
    by_kind = {reply.kind: reply for _, reply in reversed(refused)}
    if sent is not None and (needs_log_in := by_kind.pop(OutcomeKind.UNAUTHORIZED, None)):
        # The server accepted some recipients, so a missing log-in is not the reason why it refused the others.
        by_kind.setdefault(OutcomeKind.PERMANENT, needs_log_in)
    kind = next(candidate for candidate in WORST_FIRST if candidate in by_kind)
    text = _listed(refused)
    if sent is None:
        return Outcome(kind, by_kind[kind].code, text)
    return Outcome(
        kind,
        by_kind[kind].code,
        f"{text}; delivered to all other recipients",
        delivered_to=tuple(address.addr_spec for address in accepted),
        external_id=sent.queued_as,
    ).unsent()  # to the others


def _listed(refused: Sequence[tuple[Address, SmtpReply]]) -> str:
    return "; ".join(f"RCPT {address.addr_spec}: {reply}" for address, reply in refused)


def _describe(error: Exception) -> str:
    text = str(error)
    is_named = isinstance(error, OSError) and not isinstance(error, FileChanged)
    return f"{type(error).__name__}: {text}" if text and is_named else text or type(error).__name__
