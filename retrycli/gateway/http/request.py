"""Build the request of a message, by the rules of a preset. Bodies are streamed, so attachments are never loaded into
memory completely.
"""

import json
import re
import uuid
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePath
from typing import NamedTuple

import httpx

from retrycli.config.gateway import GatewaySettings
from retrycli.domain.errors import InvalidMessage
from retrycli.domain.message import LIST_COLUMNS, Message, QueuedMessage
from retrycli.gateway.attachments import Attachment, Folder, find, read_again
from retrycli.gateway.delivery import in_thread, invalid
from retrycli.gateway.http.transport import HEADERS
from retrycli.gateway.presets.loader import Preset
from retrycli.gateway.presets.model import ATTACHMENTS, MessageRule
from retrycli.gateway.presets.template import fill, fill_header, fill_path, plain

TO_JSON = json.JSONEncoder(default=str, ensure_ascii=False, allow_nan=False)
CHUNK = (
    48 * 1024
)  # bytes of a file to read in one step; a multiple of 3, so that only the last chunk's base64 may have padding
# A path, with its query, that a URL parser leaves unchanged (RFC 3986, sections 2 and 5.2.4).
PLAIN = re.compile(r"(?!.*/\.)(?:[\w~./?=&-]|%[0-9A-F]{2}){1,2000}", re.ASCII)


@dataclass(frozen=True, slots=True)
class FilePart:
    """A file within a request body."""

    path: Path
    size: int  # in bytes, when the file was checked; sending fails if it changes, because Content-Length includes it
    as_base64: bool = False
    # A placeholder for the file's contents in the encoded JSON. It is random, so that no message contains it.
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __str__(self) -> str:
        return self.mark

    def __len__(self) -> int:
        return -(-self.size // 3) * 4 if self.as_base64 else self.size


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
                chunks = read_again(part.path, part.size, CHUNK)
                while (chunk := await in_thread(next, chunks, None)) is not None:
                    yield b64encode(chunk) if part.as_base64 else chunk

    def shown(self) -> str:
        """Return the body as text, with the sizes of attachments in place of their contents."""
        return "".join(
            part.decode("utf-8", "replace") if isinstance(part, bytes) else f"<{part.size} bytes>"
            for part in self.parts
        )


class _UrlBelow(httpx.URL):
    """The URL of a plain path below a base URL. Parsing the path would take longer than all other work on a request."""

    def __init__(self, base: httpx.URL, path: str) -> None:
        super().__init__(base)
        self._whole = str(base) + path
        self._raw_path = base.raw_path.rstrip(b"/") + path.encode()

    def __str__(self) -> str:
        return self._whole

    @property
    def raw_path(self) -> bytes:
        return self._raw_path


@lru_cache(maxsize=64)
def url_below(base: str, path: str) -> httpx.URL:
    """Return the URL of a path below a base URL. The result is cached, because it is needed both to build a request and
    to send it.

    Raises:
        httpx.InvalidURL: the URL is invalid.
    """
    return _UrlBelow(_parse_url(base), path) if PLAIN.fullmatch(path) else httpx.URL(base + path)


_parse_url = lru_cache(maxsize=8)(httpx.URL)


class Request(NamedTuple):
    """A request without its host and credentials."""

    method: str
    path: str
    headers: Mapping[str, str]  # by name in lower case
    content: Content | None = None


@dataclass(slots=True)
class PreparedRequest:
    """A message that can be sent, with all data for its request."""

    rule: MessageRule
    fields: dict[str, object]  # the row's columns, and the other values for templates
    files: list[Attachment]
    parts: list[FilePart]  # the same files, as parts of a JSON body
    request: Request | None = None  # the request as first built, without a session


class RequestBuilder:
    """Build the requests of messages. ``identity`` is the value of ``{identity}`` in templates."""

    def __init__(self, settings: GatewaySettings, preset: Preset, identity: object) -> None:
        self._settings = settings
        self._preset = preset
        self._identity = identity
        self._folder = Folder.of(settings.attachments_dir)

    async def prepare(self, queued: QueuedMessage) -> PreparedRequest:
        """Check that the preset supports the message, and collect the data for its request.

        Raises:
            NotSent: the preset does not support the message, the row lacks a value, or an attachment can't be sent.
        """
        rule, preset = self._rule(queued.message), self._settings.preset
        fields = self.fields(queued)
        limit = self._settings.attachments_limit_bytes
        files = await find(queued.message, self._folder, limit) if ATTACHMENTS in rule.capabilities else []
        parts = [FilePart(file.path, file.size, as_base64=True) for file in files]
        for number, file in enumerate(files, 1):
            if rule.endings and PurePath(file.name).suffix.lower().removeprefix(".") not in rule.endings:
                raise invalid(
                    f"attachment {number}: preset {preset} does not accept this file type; send a link instead"
                )
        fields[ATTACHMENTS] = [
            {"name": file.name, "type": file.content_type, "size": file.size, "content": part}
            for file, part in zip(files, parts, strict=True)
        ]
        return PreparedRequest(rule, fields, files, parts)

    def fields(self, queued: QueuedMessage) -> dict[str, object]:
        """Return a message's values for templates: its columns, its delivery key, and ``{identity}``."""
        return {**queued.message.fields, "delivery_key": queued.delivery_key, "identity": self._identity}

    def _rule(self, message: Message) -> MessageRule:
        """Return the rule for a message. Check that the rule supports the message."""
        rule = self._preset.messages.get(message.message_type)
        preset = self._settings.preset
        if rule is None:
            raise invalid(
                f"the preset {preset} can't send {message.message_type} messages; "
                f"configure another gateway for them in [gateway.{message.message_type}]"
            )
        for column in LIST_COLUMNS:
            if message.fields[column] and column not in {*rule.capabilities, *rule.ignores}:
                raise invalid(
                    f"the preset {preset} can't send {column} in {message.message_type} messages; "
                    "empty the column, or configure another preset or gateway"
                )
        for column in rule.required:
            if not plain(message.fields.get(column)).strip():
                raise invalid(f"{column} is empty, but the preset {preset} needs it")
        return rule

    def build(self, prepared: PreparedRequest, session: str | None) -> Request:
        """Build the request of a message.

        Raises:
            InvalidMessage, ValueError, httpx.InvalidURL: a value can't be used in the path, a header or the body.
        """
        rule, fields = prepared.rule, {**prepared.fields, "session": session}
        own = {name.lower(): fill_header(name, text, fields) for name, text in rule.headers.items()}
        headers = HEADERS | own | {self._preset.key_header.lower(): str(fields["delivery_key"])}
        path = fill_path(rule.path, fields, rule.query)
        url_below(self._settings.destination, path)  # raises if the URL is invalid
        body = fill(rule.body, fields)
        if rule.encoding == "multipart":
            assert isinstance(body, dict)  # noqa: S101  for the type checker
            return Request(rule.method, path, headers, multipart_content(body, rule.files, prepared.files))
        return Request(rule.method, path, headers, json_content(body, prepared.parts))

    def request(self, prepared: PreparedRequest, session: str | None) -> Request:
        """Return the request as first built if neither a session nor an upload changes it. Otherwise build it again."""
        if prepared.request is not None and session is None and self._preset.upload is None:
            return prepared.request
        return self.build(prepared, session)


def json_content(tree: object, files: Sequence[FilePart] = ()) -> Content:
    """Return a body as JSON. Its values may contain the files.

    Raises:
        ValueError: JSON can't represent a value.
    """
    text = TO_JSON.encode(tree)
    if not files:
        return Content("application/json", (text.encode(),))
    by_mark = {file.mark: file for file in files}
    # The pattern has one group, so `re.split` returns texts and marks alternately.
    pieces = re.split(f"({'|'.join(by_mark)})", text)
    return Content(
        "application/json",
        tuple(by_mark[piece] if number % 2 else piece.encode() for number, piece in enumerate(pieces)),
    )


def multipart_content(fields: Mapping[str, object], name: str | None, attachments: Sequence[Attachment]) -> Content:
    """Return a form with files (RFC 7578). A list of strings becomes repeated fields. ``name`` is the field of the
    files, if any.
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
    """Return a body that consists of one file."""
    return Content(content_type or attachment.content_type, (FilePart(attachment.path, attachment.size),))


def _part_start(boundary: str, disposition: str, content_type: str | None = None) -> bytes:
    kind = f"Content-Type: {content_type}\r\n" if content_type else ""
    return f"--{boundary}\r\nContent-Disposition: {disposition}\r\n{kind}\r\n".encode()


def _quoted(name: str) -> str:
    """Escape a name for use in quotation marks, as the HTML standard does (see RFC 7578, section 4.2)."""
    if "\0" in name:
        raise InvalidMessage(f"the name of a form field or file contains a NUL character: {name!r}")
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
