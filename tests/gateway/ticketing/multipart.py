"""Parse a form with files, as a server does."""

from __future__ import annotations

from dataclasses import dataclass
from email.parser import BytesParser
from email.policy import HTTP

from tests.gateway.ticketing.fake import Asked


@dataclass(frozen=True)
class Part:
    """One field; a field with a file name is a file."""

    field: str
    content: bytes
    name: str | None = None
    kind: str = "text/plain"


def parts(asked: Asked) -> list[Part]:
    """Return the fields in the order of the form, or an empty list if the body is not a multipart form."""
    kind = asked.headers.get("content-type", "")
    if not kind.startswith("multipart/form-data"):
        return []
    message = BytesParser(policy=HTTP).parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + asked.body)
    found = []
    for part in message.iter_parts():
        content = part.get_payload(decode=True)
        named = part["Content-Disposition"].params
        if isinstance(content, bytes):
            found.append(Part(named.get("name", ""), content, named.get("filename"), part.get_content_type()))
    return found
