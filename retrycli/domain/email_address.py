"""E-mail addresses: an addr-spec with an optional display name, without comments or groups."""

import re
import string
from email.utils import formataddr, getaddresses
from typing import NamedTuple

from retrycli.domain.errors import InvalidMessage

# Control characters and line separators, which a header must not contain.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# An atom of RFC 5322, section 3.2.3, with the non-ASCII characters of RFC 6531, section 3.3.
ATOM = r"""[^\s"(),.:;<>@\[\\\]]+"""
FORM = re.compile(
    rf"""(?:(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<name>[^"<>@,;:\\]*))\ *<)?
    (?P<local>{ATOM}(?:\.{ATOM})*)@(?P<domain>[^\s"(),:;<>@\[\\\]]+)
    (?P<end>>?)""",
    re.VERBOSE,
)
ASCII_LOWER = {ord(letter): letter.lower() for letter in string.ascii_uppercase}
LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
DOMAIN = re.compile(rf"{LABEL}(?:\.{LABEL})*")
# The maximum lengths of an address and of its local part, in octets (RFC 5321, sections 4.5.3.1.1 and 4.5.3.1.3).
LONGEST, LONGEST_LOCAL = 254, 64
LONGEST_LIST = 32_000  # maximum length of a list of addresses in characters; to split it takes quadratic time
LONGEST_TEXT = 1000  # maximum length of an address with its display name, in characters


class Address(NamedTuple):
    """The address of one mailbox, with an optional display name."""

    local: str
    domain: str  # in ASCII and lower case
    name: str = ""  # display name

    @property
    def addr_spec(self) -> str:
        """Return the address without its display name."""
        return f"{self.local}@{self.domain}"

    @property
    def key(self) -> str:
        """Return the key of the mailbox; see `mailbox_key`."""
        return mailbox_key(self.addr_spec)

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Parse ``ana@example.com``, ``Ana <ana@example.com>`` or ``"Ana, Sales" <ana@example.com>``.

        Raises:
            ValueError: the text is not a valid address. The error says what is wrong.
        """
        if len(text) > LONGEST_TEXT:
            raise ValueError("the address is too long")
        if CONTROL.search(text):
            raise ValueError("the address must not contain line breaks or control characters")
        found = FORM.fullmatch(text.strip())
        named = found is not None and (found["quoted"] is not None or found["name"] is not None)
        if found is None or named != bool(found["end"]):
            raise ValueError("write an address such as ana@example.com or Ana <ana@example.com>")
        name = re.sub(r"\\(.)", r"\1", found["quoted"] or found["name"] or "").strip()
        domain = _ascii_domain(found["domain"])
        if len(found["local"].encode()) > LONGEST_LOCAL or len(found["local"].encode()) + len(domain) >= LONGEST:
            raise ValueError("the address is too long")
        return cls(found["local"], domain, name)


def mailbox_key(addr_spec: str) -> str:
    """Return an address in lower case, because hardly any server distinguishes the case of a local part. Letters other
    than those of ASCII stay as they are, because a rule for their case may make two mailboxes the same (ß and ss).
    """
    return addr_spec.translate(ASCII_LOWER)


def _ascii_domain(domain: str) -> str:
    """Return a domain in the form used by DNS (RFC 5891)."""
    try:
        if not domain.isascii():
            import idna

            domain = idna.encode(domain, uts46=True).decode()
    except UnicodeError:
        domain = ""
    if not DOMAIN.fullmatch(domain.lower()):
        raise ValueError("the domain is invalid")
    return domain.lower()


def split_addresses(value: object, separator: str) -> list[str]:
    """Return the addresses of a list, such as ``Max <max@example.org>, info@example.com``, each once. An empty list
    has none.

    A separator within quotes or a comment does not separate (RFC 5322, section 3.4).

    Raises:
        InvalidMessage: the value is not text, is too long, or has text but no address.
    """
    if not isinstance(value, str):
        raise InvalidMessage("recipient_email must be text")
    if len(value) > LONGEST_LIST:
        raise InvalidMessage(f"recipient_email has more than {LONGEST_LIST:,} characters")
    listed = value if separator == "," else value.replace(separator, ",")
    try:
        found = [formataddr(pair, "utf-8") if pair[0] else pair[1] for pair in getaddresses([listed]) if any(pair)]
    except (UnicodeError, RecursionError):  # a name with an address that is not ASCII; hundreds of comments
        raise InvalidMessage("recipient_email has an address that can't be read") from None
    if not found and listed.replace(",", "").strip():
        raise InvalidMessage("recipient_email has no address")
    return [*dict.fromkeys(found)]
