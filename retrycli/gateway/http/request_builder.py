"""Build the request of a message by the rules of a preset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from retrycli.config.gateway import GatewaySettings
from retrycli.domain.message import LIST_COLUMNS, Message, QueuedMessage
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.gateway import attachments
from retrycli.gateway.attachments import Folder
from retrycli.gateway.delivery import NotSent
from retrycli.gateway.http.body import FilePart, json_content, multipart_content
from retrycli.gateway.http.client import Request, url_below
from retrycli.gateway.http.transport import HEADERS
from retrycli.gateway.presets.loader import Preset
from retrycli.gateway.presets.model import ATTACHMENTS, MessageRule
from retrycli.gateway.presets.template import fill, fill_header, fill_path, plain


@dataclass(slots=True)
class PreparedRequest:
    """A message that can be sent, with everything its request is built from."""

    rule: MessageRule
    fields: dict[str, object]
    """The row's columns, and the other names of templates."""
    files: list[attachments.Attachment]
    parts: list[FilePart]
    """The same files, as they are in JSON."""
    request: Request | None = None
    """The request as first built, without a session."""


class RequestBuilder:
    """Build the requests of messages.

    Args:
        settings: with the preset's name, the base URL, and the folder of attachments.
        preset: the rules.
        identity: our identity, for messages that state it.
    """

    def __init__(self, settings: GatewaySettings, preset: Preset, identity: object) -> None:
        self._settings = settings
        self._preset = preset
        self._identity = identity
        self._folder = Folder.of(settings.attachments_dir)

    async def prepare(self, queued: QueuedMessage) -> PreparedRequest:
        """Check that the preset and the message fit, and collect what the request needs.

        Raises:
            NotSent: the preset has no place for the message, the row lacks something, or an attachment can't be sent.
        """
        rule, preset = self._rule(queued.message), self._settings.preset
        fields = self.fields(queued)
        limit = self._settings.attachments_limit_bytes
        has_place = ATTACHMENTS in rule.capabilities
        files = await attachments.find(queued.message, self._folder, limit) if has_place else []
        parts = [FilePart(file.path, file.size, as_base64=True) for file in files]
        for number, file in enumerate(files, 1):
            if rule.endings and PurePath(file.name).suffix.lower().removeprefix(".") not in rule.endings:
                raise _invalid(
                    f"attachment {number}: preset {preset} does not accept this file type; send a link instead"
                )
        fields[ATTACHMENTS] = [
            {"name": file.name, "type": file.content_type, "size": file.size, "content": part}
            for file, part in zip(files, parts, strict=True)
        ]
        return PreparedRequest(rule, fields, files, parts)

    def fields(self, queued: QueuedMessage) -> dict[str, object]:
        """Return the values for the templates of a question."""
        return {**queued.message.fields, "delivery_key": queued.delivery_key, "identity": self._identity}

    def _rule(self, message: Message) -> MessageRule:
        """Return the rule for a message that has all it requires, and nothing it has no place for."""
        rule = self._preset.messages.get(message.message_type)
        preset = self._settings.preset
        if rule is None:
            raise _invalid(
                f"the preset {preset} has no place for {message.message_type} messages; "
                f"have another gateway send them, as [gateway.{message.message_type}]"
            )
        for column in LIST_COLUMNS:
            if message.fields[column] and column not in {*rule.capabilities, *rule.ignores}:
                raise _invalid(
                    f"the preset {preset} has no place for {column} in {message.message_type} messages; "
                    "empty the column, or have another preset or gateway send them"
                )
        for column in rule.required:
            if not plain(message.fields.get(column)).strip():
                raise _invalid(f"{column} is empty, and the preset {preset} needs it")
        return rule

    def build(self, prepared: PreparedRequest, session: str | None) -> Request:
        """Build the request of a message.

        Raises:
            InvalidMessage, ValueError, httpx.InvalidURL: a value can't be where its template puts it.
        """
        rule, fields = prepared.rule, {**prepared.fields, "session": session}
        own = {name.lower(): fill_header(name, text, fields) for name, text in rule.headers.items()}
        headers = HEADERS | own | {self._preset.key_header.lower(): str(fields["delivery_key"])}
        path = fill_path(rule.path, fields, rule.query)
        url_below(self._settings.destination, path)  # raises if it is not a valid URL
        body = fill(rule.body, fields)
        if rule.encoding == "multipart":
            assert isinstance(body, dict)  # noqa: S101  told to the type checker
            return Request(rule.method, path, headers, multipart_content(body, rule.files, prepared.files))
        return Request(rule.method, path, headers, json_content(body, prepared.parts))

    def request(self, prepared: PreparedRequest, session: str | None) -> Request:
        """Return the request as first built, if neither a session nor an upload changes it; else build it."""
        if prepared.request is not None and session is None and self._preset.upload is None:
            return prepared.request
        return self.build(prepared, session)


def _invalid(error: str) -> NotSent:
    return NotSent(Outcome(OutcomeKind.INVALID, error=error))
