"""Remove secrets and quotations of a message from error texts."""

import html
import json
from collections.abc import Iterator, Sequence
from urllib.parse import quote, quote_plus

from retrycli.domain.message import Message

QUOTED = 16  # minimum number of consecutive characters shared with the message that count as a quotation
# Maximum number of characters of the subject or body to compare with an error. Errors are short, so an error that
# repeats the whole of a longer text is cut off before this limit.
LOOKED_AT = 16 * 1024


def without_quotations(error: str, message: Message) -> str:
    """Replace quotations of the message's subject or body in a one-line error with ``…``."""
    words = "\0".join(_written_forms(message))
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


def _written_forms(message: Message) -> Iterator[str]:
    """Yield the subject and body in the forms that an answer may quote: on one line, unescaped, or escaped for JSON,
    HTML or a URL.
    """
    for name in ("subject", "body"):
        text = str(message.fields[name] or "")[:LOOKED_AT]
        as_json = json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]
        as_html = html.escape(text, quote=False), html.escape(text), html.escape(text).replace("&#x27;", "&#039;")
        encoded = text.encode(errors="replace")
        for form in (text, *as_json, *as_html, quote(encoded), quote_plus(encoded)):
            yield " ".join(form.replace("\0", " ").split())


def redact_secrets(text: str, secrets: Sequence[str]) -> str:
    """Mask secrets in a string, because the destination may have echoed them."""
    for secret in secrets:
        for spelling in _spellings(secret) if secret else ():
            text = text.replace(spelling, "***")
    return text


def _spellings(secret: str) -> list[str]:
    """Return the forms of a secret, longest first: unchanged, escaped by JSON or by Python, and escaped twice.

    An error may quote JSON with its escapes, and invalid HTTP as a Python bytes literal.
    """
    found = {secret}
    for _ in range(2):
        found |= {written for text in found for written in _escaped(text)}
    return sorted(found, key=len, reverse=True)


def _escaped(text: str) -> tuple[str, ...]:
    as_bytes = repr(b'"' + text.encode())[3:-1]  # the leading quotation mark makes repr() delimit with apostrophes
    as_json = (json.dumps(text, ensure_ascii=is_ascii)[1:-1] for is_ascii in (True, False))
    return as_bytes, as_bytes.replace(r"\'", "'"), *as_json
