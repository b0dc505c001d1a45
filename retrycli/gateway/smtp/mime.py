"""Compose a mail: recipients, headers and parts. Files are streamed from disk.

`email.message.EmailMessage` is not used for the headers, because it decodes encoded words in its input. A customer's
subject, such as ``=?utf-8?q?=0D=0ABcc:_…?=``, could then add a header.
"""

import base64
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.header import Header
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from urllib.parse import quote

from retrycli.domain.email_address import CONTROL, Address, mailbox_key
from retrycli.domain.errors import InvalidMessage
from retrycli.domain.message import Message, MessageType, QueuedMessage
from retrycli.gateway.attachments import ANY_TYPE, Attachment, read_again
from retrycli.gateway.presets.template import fill_text, plain

TO_ASCII = SMTP.clone(cte_type="7bit")  # encodes bodies as ASCII, so 8BITMIME (RFC 6152) is not needed
LINE = 76  # maximum length of a line, in base64 and in headers with encoded words
LONGEST_SUBJECT = 900  # in characters
# An approximation of RFC 5322, section 3.6.4: visible ASCII with an @, in angle brackets.
MESSAGE_ID = re.compile(r"<[!-;=?A-~]{1,250}@[!-;=?A-~]{1,250}>")
UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
LARGE = 256 * 1024  # characters of a body from which on `EmailMessage`, which makes objects for each line, is not used
BLOCK = 57 * 1024  # bytes of a file to read in one step; a multiple of 57, because 57 bytes fill a line of base64


@dataclass(frozen=True, slots=True)
class Mail:
    """A composed mail. All attempts to send the same text use the same Message-ID and date."""

    sender: Address
    to: tuple[Address, ...]
    cc: tuple[Address, ...]
    envelope: tuple[Address, ...]  # the recipients that don't have the mail yet, without duplicates
    headers: bytes  # all headers except To, Cc and the MIME headers
    body: bytes  # a complete MIME part, with its own headers
    attachments: tuple[Attachment, ...]
    boundary: str

    def size(self, *, utf8: bool) -> int:
        """Return the size of the mail in bytes, without doubled dots."""
        return sum(
            len(part) if isinstance(part, bytes) else _encoded_size(part.size) for part in self._parts(utf8=utf8)
        )

    def chunks(self, *, utf8: bool) -> Iterator[bytes]:
        """Yield the mail as it is transmitted, with leading dots doubled (RFC 5321, section 4.5.2). Omit the final dot.

        Raises:
            FileChanged, OSError: an attachment has changed or can't be read.
        """
        for part in self._parts(utf8=utf8):
            if isinstance(part, bytes):
                yield re.sub(rb"(?m)^\.", b"..", part)
            else:
                # Lines of base64 never start with a dot.
                for block in read_again(part.path, part.size, BLOCK):
                    yield base64.encodebytes(block).replace(b"\n", b"\r\n")

    def _parts(self, *, utf8: bool) -> Iterator[bytes | Attachment]:
        """Yield the mail in pieces. Each piece starts on a new line, so that leading dots can be doubled in each piece.
        Without ``utf8``, omit non-ASCII addresses from To and Cc, because the server does not accept them.
        """
        head = b""
        for name, addresses in (("To", self.to), ("Cc", self.cc)):
            if shown := [address for address in addresses if utf8 or address.local.isascii()]:
                head += f"{name}: {_addresses(shown)}\r\n".encode()
        head += self.headers + b"MIME-Version: 1.0\r\n"
        if not self.attachments:
            yield head + self.body
            return
        separator = f"--{self.boundary}".encode()
        mixed = f'Content-Type: multipart/mixed; boundary="{self.boundary}"\r\n\r\n'.encode()
        yield head + mixed + separator + b"\r\n" + self.body
        for attachment in self.attachments:
            yield b"\r\n" + separator + b"\r\n" + _part_header(attachment)
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
    """Compose a mail from a message, whose columns ``in_reply_to`` and ``references`` are used if the table has them.
    ``fixed`` is ``gateway.recipient``, ``subject`` a template. The mail's date is never later than now.

    Raises:
        InvalidMessage: the mail has no recipient, or a column's value can't be used; the error names the column.
    """
    message = queued.message
    to, cc, bcc = _recipients(message, fixed)
    # Use the time at which the message was written (RFC 5322, section 3.6.1), so that every attempt has the same date.
    made_at = min(message.created_at or queued.first_failed_at, now).astimezone(UTC)
    body = _body(str(message.fields["body"]))
    headers = {
        "From": _addresses([sender]),
        "Date": format_datetime(made_at),
        # All attempts to send the same text have the same id, so that duplicates can be detected (RFC 5322, section
        # 3.6.4).
        "Message-ID": f"<{queued.delivery_key}@{sender.domain}>",
        "Subject": _subject(subject, message.fields),
        **_thread_headers(message.fields),
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


def _recipients(
    message: Message, fixed: Address | None
) -> tuple[tuple[Address, ...], tuple[Address, ...], tuple[Address, ...]]:
    """Return To, Cc and Bcc. An internal note never goes to the addresses in its row, because they may belong to
    customers.
    """
    if message.message_type is MessageType.INTERNAL:
        if fixed is None:
            raise InvalidMessage(
                "an internal message goes only to gateway.recipient, which is not set; set it to the team's address"
            )
        return (fixed,), (), ()
    named = message.fields.get("recipient_email")
    if message.needs_recipient and named in (None, ""):
        raise InvalidMessage(
            "recipient_email is missing; with [database.columns], each message must have one, or the table must have "
            "none: recipient_email = { none = true }"
        )
    to = fixed if named is None or named == "" else _address("recipient_email", named)
    if to is None:
        raise InvalidMessage("recipient_email is missing, and gateway.recipient is not set; set one of them")
    return (to,), _addresses_in(message, "cc_emails"), _addresses_in(message, "bcc_emails")


def _addresses_in(message: Message, column: str) -> tuple[Address, ...]:
    values = message.fields[column]
    assert isinstance(values, list)  # noqa: S101  for the type checker
    return tuple(_address(f"{column} (address {number})", value) for number, value in enumerate(values, 1))


def _address(what: str, value: object) -> Address:
    """Return an address. The error does not quote it, because it reaches the log."""
    if not isinstance(value, str):
        raise InvalidMessage(f"{what} must be text")
    try:
        return Address.parse(value)
    except ValueError as error:
        raise InvalidMessage(f"{what} is not a valid e-mail address: {error}") from None


def _envelope(named: Sequence[Address], delivered_to: Collection[str]) -> tuple[Address, ...]:
    envelope: dict[str, Address] = {}
    for address in named:
        envelope.setdefault(address.key, address)
    delivered = {*map(mailbox_key, delivered_to)}
    return tuple(address for key, address in envelope.items() if key not in delivered)


def _boundary(delivery_key: str, body: bytes) -> str:
    boundary = f"=_{delivery_key}"
    while boundary.encode() in body:
        boundary += "_"
    return boundary


def _addresses(addresses: Sequence[Address]) -> str:
    return ",\r\n ".join(
        address.addr_spec if not address.name else f"{_phrase(address.name)} <{address.addr_spec}>"
        for address in addresses
    )


def _phrase(name: str) -> str:
    """Return a name as a quoted string, or as encoded words if necessary (RFC 2047, section 5).

    A long name becomes encoded words too, because they can be folded, and no line may have more than 998 octets (RFC
    5322, section 2.1.1).
    """
    if name.isascii() and "=?" not in name and len(name) <= LINE:
        return '"' + re.sub(r'(["\\])', r"\\\1", name) + '"'
    return _encoded_words(name, "From")


def _encoded_words(text: str, header: str) -> str:
    return Header(text, "utf-8", header_name=header, maxlinelen=LINE).encode(linesep="\r\n")


def _subject(template: str, fields: Mapping[str, object]) -> str:
    text = re.sub(f"(?:{CONTROL.pattern})+", " ", plain(fill_text(template, fields))).strip()
    if len(text) > LONGEST_SUBJECT:
        raise InvalidMessage(f"subject must have at most {LONGEST_SUBJECT} characters; it has {len(text)}")
    return text if text.isascii() and "=?" not in text and len(text) <= LINE else _encoded_words(text, "Subject")


def encoded_texts(message: Message, subject: str) -> Iterator[str]:
    """Yield the subject and the body of a message as its mail contains them. ``subject`` is the template."""
    with suppress(InvalidMessage):
        yield _subject(subject, message.fields)
    yield _body(str(message.fields["body"])).decode("ascii", "replace").partition("\r\n\r\n")[2]


def _thread_headers(fields: Mapping[str, object]) -> dict[str, str]:
    """Return In-Reply-To and References. By default, References repeats In-Reply-To (RFC 5322, section 3.6.4)."""
    reply_to, references = _message_ids("in_reply_to", fields), _message_ids("references", fields)
    headers = {"In-Reply-To": reply_to, "References": references or reply_to}
    return {name: "\r\n ".join(ids) for name, ids in headers.items() if ids}


def _message_ids(column: str, fields: Mapping[str, object]) -> list[str]:
    value = fields.get(column)
    words = value.split() if isinstance(value, str) else value
    if words is None:
        return []
    if not isinstance(words, list) or not all(isinstance(word, str) and MESSAGE_ID.fullmatch(word) for word in words):
        raise InvalidMessage(f"{column} must contain only message ids such as <a1@example.com>")
    return words


def _body(text: str) -> bytes:
    if len(text) > LARGE:
        lines = text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\r\n")
        encoded = base64.encodebytes(lines.encode(errors="replace")).replace(b"\n", b"\r\n")
        return b'Content-Type: text/plain; charset="utf-8"\r\nContent-Transfer-Encoding: base64\r\n\r\n' + encoded
    part = EmailMessage(policy=TO_ASCII)
    part.set_content(text, cte="quoted-printable" if UNPRINTABLE.search(text) else None)
    del part["MIME-Version"]
    return part.as_bytes()


def _part_header(attachment: Attachment) -> bytes:
    own_type = attachment.content_type
    # message/* and multipart/* must not be encoded in base64 (RFC 2045, section 6.4), so such a file gets ANY_TYPE.
    content_type = ANY_TYPE if own_type.startswith(("message/", "multipart/")) else own_type
    return (
        f"Content-Type: {content_type}\r\n"
        f"Content-Transfer-Encoding: base64\r\n"
        f"Content-Disposition: attachment;\r\n{_filename_parameter(attachment.name)}\r\n\r\n"
    ).encode()


def _filename_parameter(name: str) -> str:
    """Return the filename parameter, encoded and split into pieces if necessary (RFC 2231, sections 3 and 4)."""
    if re.fullmatch(r"[\w .,()+-]{1,60}", name, re.ASCII):
        return f' filename="{name}"'
    pieces = ["utf-8''"]
    for character in name:
        quoted = quote(character, safe="")
        if len(pieces[-1]) + len(quoted) > LINE - 30:
            pieces.append("")
        pieces[-1] += quoted
    if len(pieces) == 1:
        return f" filename*={pieces[0]}"
    return ";\r\n".join(f" filename*{number}*={piece}" for number, piece in enumerate(pieces))


def _encoded_size(size: int) -> int:
    characters = 4 * -(-size // 3)
    return characters + 2 * -(-characters // LINE)
