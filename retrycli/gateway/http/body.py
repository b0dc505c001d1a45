"""Request bodies as JSON or multipart, streamed, so that an attachment is never in memory as a whole."""

from __future__ import annotations

import json
import re
import uuid
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from retrycli.domain.errors import InvalidMessage
from retrycli.gateway.attachments import Attachment, FileChanged, reopen
from retrycli.gateway.delivery import in_thread
from retrycli.gateway.presets.template import plain

TO_JSON = json.JSONEncoder(default=str, ensure_ascii=False, allow_nan=False)
CHUNK = 48 * 1024
"""Bytes of a file read at once: whole groups of three, for base64."""


@dataclass(frozen=True, slots=True)
class FilePart:
    """A file within a request body."""

    path: Path
    size: int
    """In bytes, when the request was built. The length is announced, so exactly this much is sent."""
    as_base64: bool = False
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Stands for the file in a text until the text is sent. It is random, so no message can contain it."""

    def __str__(self) -> str:
        return self.mark

    def __len__(self) -> int:
        return -(-self.size // 3) * 4 if self.as_base64 else self.size

    def chunks(self) -> Iterator[bytes]:
        """Read the content in pieces. A file that grew is refused before its last piece, so that no request completes.

        Raises:
            OSError: the file can't be read.
            FileChanged: its size changed, or it is not a regular file any more.
        """
        left = self.size
        with reopen(self.path) as file:
            while True:
                chunk = file.read(min(CHUNK, left))
                left -= len(chunk)
                if left and not chunk:
                    raise FileChanged("an attachment has become shorter while it was sent")
                if not left and file.read(1):
                    raise FileChanged("an attachment has become longer while it was sent")
                if chunk:
                    yield b64encode(chunk) if self.as_base64 else chunk
                if not left:
                    return


@dataclass(frozen=True, slots=True)
class Content(httpx.AsyncByteStream):
    """A request body with its media type."""

    content_type: str
    parts: Sequence[bytes | FilePart] = field(default=())

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            if isinstance(part, bytes):
                yield part
            else:
                chunks = part.chunks()
                while (chunk := await in_thread(next, chunks, None)) is not None:
                    yield chunk

    def shown(self) -> str:
        """Return the body as text, with attachments as their sizes."""
        return "".join(
            part.decode("utf-8", "replace") if isinstance(part, bytes) else f"<{part.size} bytes>"
            for part in self.parts
        )


def json_content(tree: object, files: Sequence[FilePart] = ()) -> Content:
    """Return a body as JSON.

    Args:
        tree: the values.
        files: the files that may be among them.

    Raises:
        ValueError: JSON can't represent a value.
    """
    text = TO_JSON.encode(tree)
    if not files:
        return Content("application/json", (text.encode(),))
    by_mark = {file.mark: file for file in files}
    # The pattern has one group, so texts and marks alternate.
    pieces = re.split(f"({'|'.join(by_mark)})", text)
    return Content(
        "application/json",
        tuple(by_mark[piece] if number % 2 else piece.encode() for number, piece in enumerate(pieces)),
    )


def multipart_content(fields: Mapping[str, object], name: str | None, attachments: Sequence[Attachment]) -> Content:
    """Return a form with files (RFC 7578).

    Args:
        fields: texts, and lists of texts as repeated fields.
        name: the field of the files, if any.
        attachments: the files.
    """
    boundary = uuid.uuid4().hex
    parts: list[bytes | FilePart] = [
        _part_start(boundary, f'form-data; name="{_quoted(key)}"') + plain(text).encode() + b"\r\n"
        for key, value in fields.items()
        for text in (value if isinstance(value, list) else [value])
    ]
    for attachment in attachments:
        disposition = f'form-data; name="{_quoted(name or "")}"; filename="{_quoted(attachment.name)}"'
        parts += [
            _part_start(boundary, disposition, attachment.content_type),
            FilePart(attachment.path, attachment.size),
            b"\r\n",
        ]
    return Content(f"multipart/form-data; boundary={boundary}", (*parts, f"--{boundary}--\r\n".encode()))


def file_content(attachment: Attachment, content_type: str | None) -> Content:
    """Return a body that is one file."""
    return Content(content_type or attachment.content_type, (FilePart(attachment.path, attachment.size),))


def _part_start(boundary: str, disposition: str, content_type: str | None = None) -> bytes:
    kind = f"Content-Type: {content_type}\r\n" if content_type else ""
    return f"--{boundary}\r\nContent-Disposition: {disposition}\r\n{kind}\r\n".encode()


def _quoted(name: str) -> str:
    """Escape a quoted name (RFC 7578, section 4.2, in the form of the HTML standard)."""
    if "\0" in name:
        raise InvalidMessage(f"{name!r} can't be the name of a field or file")
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
