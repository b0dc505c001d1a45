"""smtplib's client over a connection that somebody else has made, which reads replies as far as they may go."""

from __future__ import annotations

import re
import smtplib
import socket
import ssl

LONGEST_LINE, MOST_LINES = 2048, 100
"""Of a reply; 512 octets a line are allowed (RFC 5321, section 4.5.3.1.5)."""
REPLY_LINE = re.compile(rb"([2-5]\d\d)(?:([ -])(.*))?\r?\n", re.DOTALL)


class Garbled(Exception):
    """What is no reply, or has no end."""


class Client(smtplib.SMTP):
    """smtplib's client over a connection that is made and not used yet."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(local_hostname=own_name(connection))
        self.sock = connection
        self.command_encoding = "utf-8"  # what smtplib itself sets where it sends a mail with SMTPUTF8

    def encrypt(self, context: ssl.SSLContext, host: str) -> None:
        """Begin TLS. What was said before it is forgotten, read or not (RFC 3207, section 4.2)."""
        assert self.sock is not None  # noqa: S101  told to the type checker
        self.file = None
        self.sock = context.wrap_socket(self.sock, server_hostname=host)

    def getreply(self) -> tuple[int, bytes]:
        """Read a reply. smtplib's own reads lines without end, and takes for a 500 what the server never said."""
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
                raise Garbled("the server gave an answer that is none")
            texts.append((found[3] or b"").strip())
            if found[2] != b"-":
                return int(found[1]), b"\n".join(texts)
        raise Garbled(f"the server gave an answer of more than {MOST_LINES} lines")


def own_name(connection: socket.socket) -> str:
    """What to call ourselves: the machine's name where it is a full one, else its address (RFC 5321, 4.1.4)."""
    name = socket.gethostname()
    if re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", name):
        return name
    own = str(connection.getsockname()[0]).partition("%")[0]
    return f"[IPv6:{own}]" if ":" in own else f"[{own}]"
