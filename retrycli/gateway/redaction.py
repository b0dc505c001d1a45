"""Remove secrets and quotations of a message from error texts."""

import html
import json
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import quote, quote_plus

from retrycli.domain.message import Message

QUOTED = 16  # minimum number of consecutive characters shared with the message that count as a quotation
# Maximum number of characters of the subject or body to compare with an error. Errors are short, so an error that
# repeats the whole of a longer text is cut off before this limit.
LOOKED_AT = 16 * 1024


def without_quotations(error: str, message: Message) -> str:
    """Replace quotations of the message's subject or body in a one-line error with ``…``."""
    words = "\0".join(_written_forms(message, error))
    kept, at = "", 0
    while at < len(error):
        end = at + QUOTED
        if end > len(error) or error[at:end] not in words:
            kept += error[at]
            at += 1
        else:
            while end < len(error) and error[at : end + 1] in words:
                end += 1
            kept += "…"
            at = end
    return kept


def _written_forms(message: Message, error: str) -> Iterator[str]:
    """Yield the subject and body in the forms that an error may quote: on one line, unescaped, or escaped in a way of
    which the error has a character. To compare an error with all forms of a long body takes milliseconds.
    """
    ways = [way for marks, way in ESCAPES if any(mark in error for mark in marks)]
    for name in ("subject", "body"):
        text = str(message.fields[name] or "")[:LOOKED_AT]
        for form in (text, *(form for way in ways for form in way(text))):
            yield " ".join(form.replace("\0", " ").split())


def _as_json(text: str) -> tuple[str, ...]:
    return json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]


def _as_html(text: str) -> tuple[str, ...]:
    escaped = html.escape(text)
    return html.escape(text, quote=False), escaped, escaped.replace("&#x27;", "&#039;")


def _in_url(text: str) -> tuple[str, ...]:
    encoded = text.encode(errors="replace")
    return quote(encoded), quote(encoded, safe=""), quote_plus(encoded)


# Ways to escape a text, each with the characters of which an escaped text has at least one.
ESCAPES: Sequence[tuple[str, Callable[[str], tuple[str, ...]]]] = (("\\", _as_json), ("&", _as_html), ("%+", _in_url))


def redact_secrets(text: str, secrets: Sequence[str]) -> str:
    """Mask secrets in a string, because the destination may have echoed them."""
    for secret in secrets:
        for spelling in _spellings(secret) if secret else ():
            text = text.replace(spelling, "***")
    return text


def _spellings(secret: str) -> list[str]:
    """Return the forms of a secret, longest first: unchanged, on one line, as in HTML and in a URL, and each of them
    escaped by JSON or by Python, once or twice.

    An error may quote JSON with its escapes, and invalid HTTP as a Python bytes literal.
    """
    found = {secret, " ".join(secret.split()) or secret, *_as_html(secret), *_in_url(secret)}
    for _ in range(2):
        found |= {written for text in found for written in _escaped(text)}
    return sorted(found, key=len, reverse=True)


def _escaped(text: str) -> tuple[str, ...]:
    as_bytes = repr(b'"' + text.encode())[3:-1]  # the leading quotation mark makes repr() delimit with apostrophes
    return as_bytes, as_bytes.replace(r"\'", "'"), *_as_json(text)
