"""The SMTP layer below the session: smtplib's client over an open connection, and the meaning of replies."""

import re
import smtplib
import socket
import ssl
from dataclasses import dataclass

from retrycli.domain.outcome import OutcomeKind

LONGEST_LINE, MOST_LINES = 2048, 100
"""Limits of a reply. The standard allows 512 octets per line (RFC 5321, section 4.5.3.1.5)."""
REPLY_LINE = re.compile(rb"([2-5]\d\d)(?:([ -])(.*))?\r?\n", re.DOTALL)
SHUTTING_DOWN = 421
ASKS_FOR_LOG_IN = frozenset({530, 534, 535})
"""Codes for: log-in required, stronger log-in required, log-in refused (RFC 4954, section 6)."""
BAD_CREDENTIALS = "5.7.8"
"""Log-in refused, as an enhanced code, for servers whose basic code is only 550 (RFC 4954, section 6)."""
ENHANCED = re.compile(r"([245])\.\d{1,3}\.\d{1,3}(?=\s|$)")
QUEUED_AS = re.compile(r"(?:queued as |id=)([\w.+-]{1,100})", re.IGNORECASE)
"""The queue id in the forms that Postfix, Exim and Exchange use."""


class Garbled(Exception):
    """Signals an invalid or endless reply."""


@dataclass(frozen=True, slots=True)
class SmtpReply:
    """A reply, with its lines joined by spaces."""

    code: int
    text: str

    @classmethod
    def of(cls, answer: tuple[int, bytes | str]) -> "SmtpReply":
        """Create a reply from smtplib's code and text."""
        code, text = answer
        return cls(code, " ".join((text if isinstance(text, str) else text.decode("utf-8", "replace")).split()))

    @property
    def good(self) -> bool:
        """Return whether the reply is positive: class 2yz (RFC 5321, section 4.2.1)."""
        return self.code // 100 == 2  # noqa: PLR2004  that class

    @property
    def kind(self) -> OutcomeKind:
        """Return the outcome of a negative or invalid reply.

        The enhanced code decides if there is one, because some servers give a basic code of the wrong class. By RFC
        3463, section 2, the class says whether another attempt makes sense.
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


class Client(smtplib.SMTP):
    """smtplib's client over an open, unused connection."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(local_hostname=own_name(connection))
        self.sock = connection
        self.command_encoding = "utf-8"  # as smtplib itself does for SMTPUTF8

    def encrypt(self, context: ssl.SSLContext, host: str) -> None:
        """Start TLS. Discard what the server sent before, read or not (RFC 3207, section 4.2)."""
        assert self.sock is not None  # noqa: S101  for the type checker
        self.file = None
        self.sock = context.wrap_socket(self.sock, server_hostname=host)

    def getreply(self) -> tuple[int, bytes]:
        """Read a reply. smtplib's own method reads endless lines, and reports an invalid reply as a 500."""
        assert self.sock is not None  # noqa: S101
        if self.file is None:
            self.file = self.sock.makefile("rb")
        texts = []
        for _ in range(MOST_LINES):
            line = self.file.readline(LONGEST_LINE + 1)
            if not line:
                raise smtplib.SMTPServerDisconnected("the server closed the connection")
            found = REPLY_LINE.fullmatch(line)
            if found is None:
                raise Garbled("the server's reply is not valid SMTP")
            texts.append((found[3] or b"").strip())
            if found[2] != b"-":
                return int(found[1]), b"\n".join(texts)
        raise Garbled(f"the server's reply has more than {MOST_LINES} lines")


def own_name(connection: socket.socket) -> str:
    """Return this machine's name for EHLO: the host name if it is fully qualified, otherwise the address (RFC 5321,
    section 4.1.4).
    """
    name = socket.gethostname()
    if re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", name):
        return name
    own = str(connection.getsockname()[0]).partition("%")[0]
    return f"[IPv6:{own}]" if ":" in own else f"[{own}]"
