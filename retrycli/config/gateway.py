"""Settings of the common gateway, and of separate gateways for message types."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator

from retrycli.config import (
    INHERITED,
    SECRET,
    FunctionName,
    NamedPath,
    Only,
    SettingsModel,
    absolute,
    marked,
    matching,
    secret_text,
)
from retrycli.domain.errors import ConfigurationError
from retrycli.domain.message import MessageType
from retrycli.domain.transition import Route

HTTP, SMTP, SERVERS = Only(frozenset({"http"})), Only(frozenset({"smtp"})), Only(frozenset({"http", "smtp"}))
PYTHON = Only(frozenset({"python"}))


class GatewaySettings(SettingsModel):
    """Settings of one gateway: its destination, credentials, timeouts and attachments."""

    kind: Literal["http", "smtp", "python"] = Field(
        "http",
        description="how to deliver: http (to a ticketing API), smtp (by e-mail) or python (by your own function)",
    )
    call: Annotated[FunctionName | None, PYTHON] = Field(
        None, description="python: the function that sends a message, such as desk.messages:retry_failed_message"
    )
    preset: Annotated[str, HTTP] = Field(
        "generic", description="the ticketing system: a preset that `retrycli presets` lists, or a .toml file"
    )
    base_url: Annotated[str | None, SERVERS] = Field(  # max_length: the size of the column that stores a breaker's URL
        None, max_length=255, description="URL of the ticketing API, or smtp://HOST:587 or smtps://HOST:465"
    )
    auth: Annotated[Literal["none", "bearer", "basic", "login"] | None, HTTP] = Field(
        None, description="how to authenticate: none, bearer, basic or login; by default the preset decides"
    )
    username: Annotated[str | None, SERVERS, SECRET] = Field(
        None, description="the user name: for auth basic or login, for smtp, or for a preset that needs it"
    )
    username_file: NamedPath = Field(None, description="a file that contains the user name")
    password: Annotated[SecretStr | None, SERVERS, SECRET] = Field(
        None, description="the password: for auth basic or login, for smtp, or for a preset that needs it"
    )
    password_file: NamedPath = Field(None, description="a file that contains the password")
    token: Annotated[SecretStr | None, HTTP, SECRET] = Field(
        None, description="the API token: for auth bearer, or for a preset that needs it"
    )
    token_file: NamedPath = Field(None, description="a file that contains the token")
    login_path: Annotated[str, matching(r"/.*", "the path must start with a slash"), SERVERS] = Field(
        "/auth/login", description="login: the path to which the user name and password are posted"
    )
    connect_timeout_seconds: Annotated[float, INHERITED] = Field(
        5.0, gt=0, le=300, description="time limit for connecting"
    )
    request_timeout_seconds: Annotated[float, INHERITED] = Field(
        30.0, gt=0, le=3600, description="time limit for one delivery, including all requests and responses"
    )
    immediate_retries: Annotated[int, INHERITED] = Field(
        1, ge=0, le=5, description="maximum number of immediate retries if the server is unreachable"
    )
    unknown_limit: Annotated[int, INHERITED] = Field(
        2,
        ge=0,
        le=100,
        description="how many times to resend after an `unknown` outcome without a look-up; a 5xx uses up a retry",
    )
    ca_file: Annotated[NamedPath, INHERITED] = Field(
        None, description="a file of certificates to trust in addition to the system's"
    )
    verify: Annotated[bool, HTTP] = Field(
        default=False, description="whether to read back each delivered message, if the preset supports it"
    )
    sender: Annotated[str | None, SMTP] = Field(
        None, description="smtp: the sender's address, such as Support <support@example.com>"
    )
    subject: Annotated[str, SMTP] = Field(
        "{subject}", description="smtp: the subject, with column names in braces, such as [#{ticket_id}] {subject}"
    )
    recipient: Annotated[str | None, SMTP] = Field(
        None, description="smtp: the address for internal messages and for messages without a recipient_email"
    )
    starttls: Annotated[bool, SMTP] = Field(
        default=True, description="smtp: whether to require STARTTLS on smtp:// connections; smtps:// always uses TLS"
    )
    attachments_dir: Annotated[NamedPath, INHERITED] = Field(
        None, description="the folder that contains the attachments"
    )
    attachments_limit_mb: Annotated[float, INHERITED] = Field(
        25.0, gt=0, le=1000, description="maximum total size of a message's attachments, in millions of bytes"
    )
    modules_dir: Annotated[NamedPath, INHERITED] = Field(
        None,
        description="the folder with the Python modules of gateway.call and schedule.call; by default the folder of "
        "the settings file",
    )

    @property
    def destination_if_set(self) -> str | None:
        """Return where messages are sent: the base URL, or a name of the gateway; None if the base URL is not set."""
        if self.call is not None:
            return f"python:{self.call}"
        return self.base_url

    @property
    def destination(self) -> str:
        """Return where messages are sent. Breakers, holds and the history know the gateway by this text.

        Raises:
            ConfigurationError: the base URL is not set.
        """
        if (found := self.destination_if_set) is None:
            raise ConfigurationError(
                "a gateway has no base_url, the URL of the API or mail server; set gateway.base_url (or "
                "TICKETING_API_BASE_URL). A separate gateway, such as [gateway.supplier], needs its own base_url"
            )
        return found

    @property
    def preset_file(self) -> Path | None:
        """Return the preset's file; None if the preset is bundled."""
        return Path(self.preset) if self.preset.endswith(".toml") else None

    @property
    def attachments_limit_bytes(self) -> int:
        """Return the maximum total size of a message's attachments, in bytes."""
        return int(self.attachments_limit_mb * 1_000_000)

    @field_validator("base_url")
    @classmethod
    def _check_base_url(cls, url: str | None, info: ValidationInfo) -> str | None:
        if url is None:
            return None
        if info.data.get("kind") == "smtp":
            url = absolute(url, "smtp://mail.example.com:587 or smtps://mail.example.com", {"smtp", "smtps"})
        else:
            url = absolute(url, "https://tickets.example.com/api", {"http", "https"})
        parts = urlsplit(url)
        if parts.username or parts.password:
            raise ValueError("the URL must not contain credentials; use gateway.username and gateway.password_file")
        return url

    @field_validator("sender", "recipient")
    @classmethod
    def _check_address(cls, text: str | None) -> str | None:
        from retrycli.domain.email_address import Address  # imported here, because only e-mail gateways need it

        if text is not None and not Address.parse(text).local.isascii():
            raise ValueError("the part before the @ must be ASCII, because many servers refuse anything else")
        return text

    @field_validator("subject")
    @classmethod
    def _check_subject(cls, text: str) -> str:
        from retrycli.domain.email_address import CONTROL

        if re.search(r"[{}]", re.sub(r"\{\w+\}", "", text)) or CONTROL.search(text):
            raise ValueError("the subject must be one line, with { and } only around column names")
        return text

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        """Reject keys that have no effect with this kind of gateway, and check the keys that it needs."""
        for name, field in type(self).model_fields.items():
            for mark in field.metadata:
                if isinstance(mark, Only) and self.kind not in mark.kinds and getattr(self, name) != field.default:
                    raise ValueError(
                        f"gateway.{name} has no effect with gateway.kind = {self.kind!r}; remove gateway.{name}, or "
                        "change gateway.kind"
                    )
        if self.kind == "python" and self.call is None:
            raise ValueError("gateway.kind = 'python' needs gateway.call, such as desk.messages:retry_failed_message")
        if self.kind == "smtp":
            if self.sender is None:
                raise ValueError("gateway.kind = 'smtp' needs gateway.sender")
            if bool(self.username) != bool(secret_text(self.password)):
                raise ValueError(
                    "gateway.username and gateway.password (or their _file keys) go together; set both or neither"
                )
            if urlsplit(self.base_url or "").path:
                raise ValueError("with gateway.kind = 'smtp', gateway.base_url must not have a path")
        return self

    @model_validator(mode="after")
    def _check_credentials(self) -> Self:
        needed = {"bearer": ("token",), "basic": ("username", "password"), "login": ("username", "password")}.get(
            self.auth or "none", ()
        )
        for name in needed:
            if not secret_text(getattr(self, name)):
                raise ValueError(f"gateway.auth = {self.auth!r} needs gateway.{name} or gateway.{name}_file")
        return self


class RoutedGatewaySettings(GatewaySettings):
    """The common gateway, and separate gateways for message types."""

    customer: GatewaySettings | None = Field(None, description="a separate gateway for messages to customers")
    supplier: GatewaySettings | None = Field(None, description="a separate gateway for messages to suppliers")
    internal: GatewaySettings | None = Field(None, description="a separate gateway for internal messages")

    @model_validator(mode="before")
    @classmethod
    def _share_common_keys(cls, values: object) -> object:
        """Copy the inherited values to the separate gateways, whose own values take precedence."""
        if not isinstance(values, dict):
            return values
        common = {name: values[name] for name in marked(GatewaySettings, INHERITED) if name in values}
        return values | {name: common | values[name] for name in MessageType if isinstance(values.get(name), dict)}

    def of(self, message_type: MessageType) -> GatewaySettings:
        """Return the gateway that delivers a message type."""
        own: GatewaySettings | None = getattr(self, message_type)
        return own or self

    @property
    def all(self) -> dict[str, GatewaySettings]:
        """Return every gateway that delivers messages, by the name of its section."""
        own: dict[str, GatewaySettings] = {
            f"gateway.{message_type}": gateway
            for message_type in MessageType
            if (gateway := getattr(self, message_type)) is not None
        }
        return own if len(own) == len(MessageType) else {"gateway": self, **own}

    @property
    def destinations(self) -> set[str]:
        """Return where messages are sent; see `GatewaySettings.destination`. Leave out base URLs that are not set."""
        return {name for gateway in self.all.values() if (name := gateway.destination_if_set)}

    @property
    def longest(self) -> timedelta:
        """Return the longest request timeout of all gateways."""
        return timedelta(seconds=max(gateway.request_timeout_seconds for gateway in self.all.values()))

    @property
    def routes(self) -> tuple[Route, ...]:
        """Return one route for each destination, with the message types that go there.

        Raises:
            ConfigurationError: a gateway has no base URL.
        """
        types: dict[str, set[MessageType]] = {}
        for message_type in MessageType:
            types.setdefault(self.of(message_type).destination, set()).add(message_type)
        *others, (rest, rest_types) = sorted(types.items(), key=lambda item: len(item[1]))
        return (
            *(Route(where, only=frozenset(only)) for where, only in others),
            Route(rest, but=frozenset(MessageType) - rest_types),
        )
