"""What an answer must not bring into an error: words of the message that it answers, and our secrets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from retrycli.domain.message import Message

QUOTED = 16
"""So many characters in a row that stand in a message as well are a quotation of it, and not the answer's own."""
LOOKED_AT = 16 * 1024
"""So much of a text is compared: an error is short, and quotes a beginning if it quotes a long text at all."""


def without_quotations(error: str, message: Message) -> str:
    """An error, on one line, with ``…`` where it quotes the message's subject or body."""
    words = "\0".join(_forms(message))
    kept, at = "", 0
    while at < len(error):
        end = _end_of_quotation(error, at, words)
        kept += error[at] if end is None else "…"
        at = at + 1 if end is None else end
    return kept


def _end_of_quotation(error: str, at: int, words: str) -> int | None:
    end = at + QUOTED
    if end > len(error) or error[at:end] not in words:
        return None
    while end < len(error) and error[at : end + 1] in words:
        end += 1
    return end


def _forms(message: Message) -> Iterator[str]:
    """Both texts as an answer may give them: on one line, or as they stand in the request's JSON."""
    for name in ("subject", "body"):
        text = str(message.fields[name] or "")[:LOOKED_AT]
        for form in (text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]):
            yield " ".join(form.replace("\0", " ").split())


def redact_secrets(text: str, secrets: Iterable[str]) -> str:
    """A text without secrets, should the other side have echoed them."""
    for secret in secrets:
        for spelling in _spellings(secret) if secret else ():
            text = text.replace(spelling, "***")
    return text


def _spellings(secret: str) -> list[str]:
    """A secret as it is, and as JSON and Python write it, also one within the other.

    An error text quotes an answer's JSON as JSON, and what is no HTTP as Python shows bytes.
    """
    found = {secret}
    for _ in range(2):
        found |= {written for text in found for written in _written(text)}
    return sorted(found, key=len, reverse=True)


def _written(text: str) -> tuple[str, ...]:
    as_bytes = repr(b'"' + text.encode())[3:-1]  # behind a quotation mark Python quotes with apostrophes
    as_json = (json.dumps(text, ensure_ascii=is_ascii)[1:-1] for is_ascii in (True, False))
    return as_bytes, as_bytes.replace(r"\'", "'"), *as_json
