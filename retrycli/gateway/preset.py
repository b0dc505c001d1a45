"""Presets: TOML files that teach the HTTP gateway one ticketing system."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from retrycli.errors import ConfigurationError, InvalidMessage
from retrycli.message import MessageType
from retrycli.outcome import OutcomeKind

CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def _known_fields(template: str) -> str:
    """Check that a template names plain columns only: no attributes, no indexes, no formats."""
    for _, name, spec, conversion in Formatter().parse(template):
        if name is not None and (not re.fullmatch(r"\w+", name) or spec or conversion):
            raise ValueError(f"{{{name}}} is no column's name")
    return template


def _known_fields_within(tree: dict[str, Any]) -> dict[str, Any]:
    """The same for each text in a body."""
    for template in _templates(tree):
        _known_fields(template)
    return tree


Template = Annotated[str, AfterValidator(_known_fields)]
HeaderName = Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MessageRule(_Table):
    """The request that one message type becomes."""

    method: Literal["POST", "PUT", "PATCH"] = "POST"
    path: Annotated[Template, Field(pattern="^/")]
    headers: dict[HeaderName, Template] = {}
    body: Annotated[dict[str, Any], AfterValidator(_known_fields_within)] = {}


class SuccessRule(_Table):
    """When a 2xx answer means delivered."""

    field: str | None = None
    equals: Any = True
    required: bool = False
    """Whether an answer without the field is a refusal."""


class AnswerRule(_Table):
    """Where an answer's JSON says what is wrong."""

    errors: tuple[str, ...] = ("messages", "errors", "message", "error", "detail")


class Reclassification(_Table):
    """One exception to the usual outcome: by status, by a piece of the answer's text, or by both."""

    status: tuple[int, ...] = ()
    text: str | None = None
    outcome: OutcomeKind

    @model_validator(mode="after")
    def _has_a_condition(self) -> Self:
        if not self.status and not self.text:
            raise ValueError("name a status or a text; without both it would apply to every answer")
        return self

    def applies(self, status: int, text: str) -> bool:
        """Whether an answer is the one meant."""
        return (not self.status or status in self.status) and (self.text or "").lower() in text.lower()


class Preset(_Table):
    """One ticketing system."""

    messages: dict[MessageType, MessageRule]
    success: SuccessRule = SuccessRule()
    answer: AnswerRule = AnswerRule()
    classify: tuple[Reclassification, ...] = ()
    key_header: HeaderName = "Idempotency-Key"

    def check_columns(self, columns: Collection[str]) -> None:
        """Check that every column a template names is there.

        Raises:
            ConfigurationError: one is not; the text names it.
        """
        for message_type, rule in self.messages.items():
            for template in _templates([rule.path, rule.headers, rule.body]):
                for _, name in _parsed(template):
                    if name is not None and name not in columns:
                        raise ConfigurationError(
                            f"the preset's messages.{message_type} names the column {name}, which the table has not"
                        )


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be sent, but for the host and the credentials."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: object


def load_preset(name: str) -> Preset:
    """Read a preset: one of retrycli's own by name, or a file by a path that ends in ``.toml``.

    Raises:
        ConfigurationError: there is none of that name, or it is wrong; the text names the key.
    """
    if name.endswith(".toml"):
        file = Path(name)
        try:
            text = file.read_text(encoding="utf-8") if file.is_file() else None
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
            raise ConfigurationError(f"gateway.preset: can't read {file}: {reason}") from error
        if text is None:
            raise ConfigurationError(f"gateway.preset: no file {file}")
    else:
        folder = resources.files("retrycli.gateway") / "presets"
        known = sorted(each.name.removesuffix(".toml") for each in folder.iterdir() if each.name.endswith(".toml"))
        if name not in known:
            raise ConfigurationError(f"gateway.preset: no preset {name!r}; write a .toml file or {', '.join(known)}")
        text = (folder / f"{name}.toml").read_text(encoding="utf-8")
    try:
        return Preset.model_validate(tomllib.loads(text))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"preset {name}: {where}: {first['msg'].removeprefix('Value error, ')}") from None
    except ValueError as error:
        raise ConfigurationError(f"preset {name} is no TOML: {error}") from None
    except RecursionError:
        raise ConfigurationError(f"preset {name} is nested too deeply") from None


def render(rule: MessageRule, fields: Mapping[str, object]) -> Request:
    """Fill a rule's templates from a row's columns; a column that the table has not is null.

    Values go into parsed structures and never into text that is parsed afterwards, so that a quote or a brace in a
    body arrives as it was.

    Raises:
        InvalidMessage: a value can't stand where the template puts it.
    """
    return Request(
        method=rule.method,
        path=_path(rule.path, fields),
        headers={name: _header(name, template, fields) for name, template in rule.headers.items()},
        body=_value(rule.body, fields),
    )


def _value(template: object, fields: Mapping[str, object]) -> object:
    match template:
        case str():
            return _text(template, fields)
        case dict():
            return {key: _value(each, fields) for key, each in template.items()}
        case list():
            return [_value(each, fields) for each in template]
        case _:
            return template


def _text(template: str, fields: Mapping[str, object]) -> object:
    """Fill a string; one that is nothing but a column keeps the column's type."""
    parts = _parsed(template)
    if len(parts) == 1 and parts[0][0] == "" and parts[0][1] is not None:
        return fields.get(parts[0][1])
    return "".join(literal + ("" if name is None else _plain(fields.get(name))) for literal, name in parts)


@lru_cache(maxsize=1024)
def _parsed(template: str) -> tuple[tuple[str, str | None], ...]:
    """A template as literal texts, each with the column that follows it, if any."""
    return tuple((literal, name) for literal, name, _, _ in Formatter().parse(template))


def _plain(value: object) -> str:
    """A value within a text."""
    match value:
        case None:
            return ""
        case list():
            return ", ".join(_plain(each) for each in value)
        case _:
            return str(value)


def _path(template: str, fields: Mapping[str, object]) -> str:
    names = {name for _, name in _parsed(template) if name is not None}
    quoted = {name: quote(_plain(fields.get(name)), safe="") for name in names}
    # "." and ".." are steps in the path to every client and server, quoted or not (RFC 3986, section 5.2.4).
    if bad := [name for name, value in quoted.items() if value in {"", ".", ".."}]:
        raise InvalidMessage(f"{bad[0]} can't stand in the path {template}: {quoted[bad[0]]!r}")
    return str(_text(template, quoted))


def _header(name: str, template: str, fields: Mapping[str, object]) -> str:
    value = _plain(_text(template, fields))
    if CONTROL.search(value) or not value.isascii():
        raise InvalidMessage(f"a value can't stand in the header {name}: only printable ASCII can")
    return value


def _templates(tree: object) -> list[str]:
    match tree:
        case str():
            return [tree]
        case dict():
            return [template for each in tree.values() for template in _templates(each)]
        case list():
            return [template for each in tree for template in _templates(each)]
        case _:
            return []
