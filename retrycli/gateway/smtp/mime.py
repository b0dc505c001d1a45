"""A message as a mail: its recipients, its headers, and its parts one after the other, files straight from the disk.

The headers are written here and not by `email.message.EmailMessage`, which reads what it is given: a subject of
``=?utf-8?q?=0D=0ABcc:_…?=`` would become a line end and a header of the customer's own.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.header import Header
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from urllib.parse import quote

from retrycli.domain.email_address import CONTROL, Address
from retrycli.domain.errors import InvalidMessage
from retrycli.domain.message import QueuedMessage
from retrycli.gateway.attachments import ANY_TYPE, Attachment, FileChanged, reopen
from retrycli.gateway.smtp.recipients import recipients

TO_ASCII = SMTP.clone(cte_type="7bit")
"""Every server takes what is encoded in ASCII lines; so no extension is needed for a body (RFC 6152)."""
LINE = 76
LONGEST_SUBJECT = 900
"""More would be a body."""
MESSAGE_ID = re.compile(r"<[!-;=?A-~]{1,250}@[!-;=?A-~]{1,250}>")
"""As good as RFC 5322, section 3.6.4, has it: visible ASCII, an @ within, no angle bracket."""
PLACE = re.compile(r"\{(\w+)\}")
UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
BLOCK = 57 * 1024
"""So much of a file is read at once: whole lines of base64."""


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail that can be sent again and again, and is the same each time."""

    sender: Address
    to: tuple[Address, ...]
    cc: tuple[Address, ...]
    envelope: tuple[Address, ...]
    """To whom it goes: all recipients but those that have it, each once."""
    headers: bytes
    """Those that name no recipient."""
    body: bytes
    """A whole MIME part."""
    attachments: tuple[Attachment, ...]
    boundary: str

    def size(self, *, utf8: bool) -> int:
        """How many bytes it is."""
        return sum(len(part) if isinstance(part, bytes) else _encoded(part.size) for part in self._parts(utf8=utf8))

    def chunks(self, *, utf8: bool) -> Iterator[bytes]:
        """The mail as it goes over the line, up to the dot that ends it (RFC 5321, section 4.5.2).

        Raises:
            FileChanged, OSError: an attachment is not there any more as it was.
        """
        for part in self._parts(utf8=utf8):
            if isinstance(part, bytes):
                yield re.sub(rb"(?m)^\.", b"..", part)
            else:
                yield from _base64(part)

    def _parts(self, *, utf8: bool) -> Iterator[bytes | Attachment]:
        """The mail in pieces, each of which begins a line.

        Args:
            utf8: whether the server takes addresses beyond ASCII. Where it does not, they can't stand in a header.
        """
        lists = (("To", self.to), ("Cc", self.cc))
        shown = ((name, [address for address in them if utf8 or address.local.isascii()]) for name, them in lists)
        named = "".join(f"{name}: {_addresses(them)}\r\n" for name, them in shown if them).encode()
        head = named + self.headers + b"MIME-Version: 1.0\r\n"
        if not self.attachments:
            yield head + self.body
            return
        separator = f"--{self.boundary}".encode()
        mixed = f'Content-Type: multipart/mixed; boundary="{self.boundary}"\r\n\r\n'.encode()
        yield head + mixed + separator + b"\r\n" + self.body
        for attachment in self.attachments:
            yield b"\r\n" + separator + b"\r\n" + _head_of(attachment)
            yield attachment
        yield separator + b"--\r\n"


def compose(
    queued: QueuedMessage,
    attachments: Sequence[Attachment],
    *,
    sender: Address,
    fixed: Address | None,
    subject: str,
    now: datetime,
) -> Mail:
    """Make a mail of a message.

    Args:
        queued: its row; also ``in_reply_to`` and ``references``, where the table has these columns.
        attachments: what was found of its files.
        sender: whom it is from.
        fixed: ``gateway.recipient``.
        subject: the template.
        now: a mail is not from a later time than this.

    Raises:
        InvalidMessage: a column that can't stand in a mail, by name.
    """
    message = queued.message
    to, cc, bcc = recipients(message, fixed)
    # The time at which it was finished, and not that of its transport (RFC 5322, section 3.6.1): so the same mail
    # is the same each time.
    made_at = min(message.created_at or queued.first_failed_at, now).astimezone(UTC)
    body = _body(str(message.fields["body"]))
    headers = {
        "From": _addresses([sender]),
        "Date": format_datetime(made_at),
        # The same each time, so that whoever has got it twice can tell (RFC 5322, section 3.6.4).
        "Message-ID": f"<{queued.delivery_key}@{sender.domain}>",
        "Subject": _subject(subject, message.fields),
        **_thread(message.fields),
    }
    return Mail(
        sender=sender,
        to=to,
        cc=cc,
        envelope=_envelope((*to, *cc, *bcc), queued.delivered_to),
        headers="".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode(),
        body=body,
        attachments=tuple(attachments),
        boundary=_boundary(queued.delivery_key, body),
    )


def _envelope(named: Sequence[Address], delivered_to: Collection[str]) -> tuple[Address, ...]:
    """Return the recipients that do not have the mail yet, each address once."""
    had = {address.casefold() for address in delivered_to}
    envelope: dict[str, Address] = {}
    for address in named:
        if address.key not in had:
            envelope.setdefault(address.key, address)
    return tuple(envelope.values())


def _boundary(delivery_key: str, body: bytes) -> str:
    boundary = f"=_{delivery_key}"
    while boundary.encode() in body:
        boundary += "_"
    return boundary


def columns_of(template: str) -> list[str]:
    """The columns that a subject's template names."""
    return PLACE.findall(template)


# -- headers -----------------------------------------------------------------------------------------------------------


def _addresses(them: Sequence[Address]) -> str:
    """A list of mailboxes, one a line (RFC 5322, section 3.4)."""
    return ",\r\n ".join(
        address.spec if not address.name else f"{_phrase(address.name)} <{address.spec}>" for address in them
    )


def _phrase(name: str) -> str:
    """A name as a quoted string, or as encoded words where it has to be these (RFC 2047, section 5).

    A long one has to, for these go on in the next line: none may have more than 998 octets (RFC 5322, section 2.1.1).
    """
    if name.isascii() and "=?" not in name and len(name) <= LINE:
        return '"' + re.sub(r'(["\\])', r"\\\1", name) + '"'
    return _encoded_words(name, "From")


def _encoded_words(text: str, header: str) -> str:
    return Header(text, "utf-8", header_name=header, maxlinelen=LINE).encode(linesep="\r\n")


def _subject(template: str, fields: Mapping[str, object]) -> str:
    """The subject on one line; what could be taken for more than its words is encoded."""
    filled = PLACE.sub(lambda place: _plain(fields.get(place[1])), template)
    text = re.sub(f"(?:{CONTROL.pattern})+", " ", filled).strip()
    if len(text) > LONGEST_SUBJECT:
        raise InvalidMessage(f"subject has {len(text)} characters, more than {LONGEST_SUBJECT}; shorten it")
    return text if text.isascii() and "=?" not in text and len(text) <= LINE else _encoded_words(text, "Subject")


def _plain(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return "" if value is None else str(value)


def _thread(fields: Mapping[str, object]) -> dict[str, str]:
    """What the mail answers (RFC 5322, section 3.6.4); without references it refers to what it replies to."""
    reply_to, references = _ids("in_reply_to", fields), _ids("references", fields)
    headers = {"In-Reply-To": reply_to, "References": references or reply_to}
    return {name: "\r\n ".join(ids) for name, ids in headers.items() if ids}


def _ids(column: str, fields: Mapping[str, object]) -> list[str]:
    value = fields.get(column)
    words = value.split() if isinstance(value, str) else value
    if words is None:
        return []
    if not isinstance(words, list) or not all(isinstance(word, str) and MESSAGE_ID.fullmatch(word) for word in words):
        raise InvalidMessage(f"{column} has no message ids, as in <a1@example.com>: {value!r:.80}")
    return words


# -- parts -------------------------------------------------------------------------------------------------------------


def _body(text: str) -> bytes:
    part = EmailMessage(policy=TO_ASCII)
    part.set_content(text, cte="quoted-printable" if UNPRINTABLE.search(text) else None)
    del part["MIME-Version"]
    return part.as_bytes()


def _head_of(attachment: Attachment) -> bytes:
    whole = attachment.content_type
    # These must not be encoded (RFC 2046, section 5.2.1), and whoever opens one is to get the file.
    content_type = ANY_TYPE if whole.startswith(("message/", "multipart/")) else whole
    return (
        f"Content-Type: {content_type}\r\n"
        f"Content-Transfer-Encoding: base64\r\n"
        f"Content-Disposition: attachment;\r\n{_filename(attachment.name)}\r\n\r\n"
    ).encode()


def _filename(name: str) -> str:
    """The parameter, in as many pieces as it takes (RFC 2231, sections 3 and 4)."""
    if re.fullmatch(r"[\w .,()+-]{1,60}", name, re.ASCII):
        return f' filename="{name}"'
    pieces, quoted = [""], [quote(character, safe="") for character in name]
    for character in quoted:
        if len(pieces[-1]) + len(character) > LINE - 30:
            pieces.append("")
        pieces[-1] += character
    if len(pieces) == 1:
        return f" filename*=utf-8''{pieces[0]}"
    start = "utf-8''"
    return ";\r\n".join(
        f" filename*{number}*={start if number == 0 else ''}{piece}" for number, piece in enumerate(pieces)
    )


def _base64(attachment: Attachment) -> Iterator[bytes]:
    """A file as lines of base64, none of which begins with a dot; exactly as much as was announced."""
    left = attachment.size
    with reopen(attachment.path) as file:
        while left:
            block = file.read(min(BLOCK, left))
            if not block:
                break
            left -= len(block)
            yield base64.encodebytes(block).replace(b"\n", b"\r\n")
        if left or file.read(1):
            raise FileChanged("an attachment changed while it was sent")


def _encoded(size: int) -> int:
    """How many bytes a file of that size is as lines of base64."""
    characters = 4 * -(-size // 3)
    return characters + 2 * -(-characters // LINE)
