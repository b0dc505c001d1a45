"""Presets: TOML files that describe a ticketing system to the HTTP gateway."""

import re
import tomllib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Self, get_args

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from retrycli.domain.errors import ConfigurationError
from retrycli.domain.message import MessageType
from retrycli.gateway.presets.model import (
    AnswerRule,
    Auth,
    Get,
    HeaderName,
    LookupRule,
    MessageRule,
    Preflight,
    Reclassification,
    SuccessRule,
    Table,
    Upload,
)
from retrycli.gateway.presets.names import Part, check_names, parts_of

HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$")
KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
BUNDLED = resources.files("retrycli.gateway") / "presets"


class About(Table):
    """Description of a preset, for operators."""

    title: str
    checked: str
    """The system or documentation that the preset was checked against."""


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, dict) else value


class Preset(Table):
    """The rules of one ticketing system."""

    about: About | None = None
    auth: Auth | None = None
    check: Get | None = None
    messages: dict[MessageType, MessageRule]
    success: SuccessRule = SuccessRule()
    answer: AnswerRule = AnswerRule()
    classify: tuple[Reclassification, ...] = ()
    key_header: HeaderName = "Idempotency-Key"
    look_up: Annotated[tuple[LookupRule, ...], BeforeValidator(_one_or_many)] = ()
    preflight: dict[str, Preflight] = Field({})
    upload: Upload | None = None

    @property
    def settle_seconds(self) -> float:
        """Return the number of seconds after an attempt in which its message may still appear."""
        return max((rule.settle_seconds for rule in self.look_up), default=0.0)

    @model_validator(mode="before")
    @classmethod
    def _expand_like(cls, values: object) -> object:
        """Expand ``like``: copy the keys of another message type."""
        messages = values.get("messages") if isinstance(values, dict) else None
        if not isinstance(values, dict) or not isinstance(messages, dict):
            return values
        return values | {"messages": {name: _merge_like(name, messages) for name in messages}}

    @model_validator(mode="after")
    def _check_references(self) -> Self:
        for message_type, rule in self.messages.items():
            if rule.preflight is not None and rule.preflight not in self.preflight:
                raise ValueError(f"messages.{message_type}.preflight: no such preflight: preflight.{rule.preflight}")
            if rule.marker is not None and rule.marker.unless not in {None, *self.preflight}:
                unless = rule.marker.unless
                raise ValueError(f"messages.{message_type}.marker.unless: no such preflight: preflight.{unless}")
        check_names(self, self._parts)
        return self

    @cached_property
    def _parts(self) -> tuple[Part, ...]:
        return tuple(parts_of(self))

    @property
    def columns(self) -> set[str]:
        """Return the columns in the preset's templates."""
        return {name for part in self._parts for name in part.columns if part.has_row}

    def check_columns(self, columns: Collection[str]) -> None:
        """Check that every column in a template exists.

        Raises:
            ConfigurationError: a column does not exist; the error names it.
        """
        for part in self._parts:
            if part.has_row and (missing := sorted(part.columns.difference(columns))):
                where = part.where
                raise ConfigurationError(f"the preset's {where} refers to column {missing[0]}, which does not exist")


def _merge_like(name: str, messages: Mapping[str, object]) -> object:
    rule = messages[name]
    if not isinstance(rule, dict) or "like" not in rule:
        return rule
    model = messages.get(rule["like"]) if isinstance(rule["like"], str) else None
    if not isinstance(model, dict) or "like" in model:
        raise ValueError(f"messages.{name}.like: {rule['like']!r} must be another message type that is written out")
    return model | {key: value for key, value in rule.items() if key != "like"}


def known_presets() -> list[str]:
    """Return the names of the bundled presets."""
    return sorted(file.name.removesuffix(".toml") for file in BUNDLED.iterdir() if file.name.endswith(".toml"))


def preset_text(name: str) -> str:
    """Return the TOML of a preset: a bundled preset by its name, or a file by a path that ends in ``.toml``.

    Raises:
        ConfigurationError: there is no such preset, or its file can't be read.
    """
    if name.endswith(".toml"):
        file = Path(name)
        try:
            if not file.is_file():
                raise ConfigurationError(f"gateway.preset: no file {file}")
            return file.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "the file is not valid UTF-8; save it as UTF-8"
            raise ConfigurationError(f"gateway.preset: can't read {file}: {reason}") from error
    if name not in (known := known_presets()):
        raise ConfigurationError(f"gateway.preset: no preset {name!r}; write a .toml file or {', '.join(known)}")
    return (BUNDLED / f"{name}.toml").read_text(encoding="utf-8")


def load_preset(name: str) -> Preset:
    """Read a preset: a bundled preset by its name, or a file by a path that ends in ``.toml``.

    Raises:
        ConfigurationError: there is no such preset, or it is invalid; the error names all invalid keys with their
            lines.
    """
    return _parse(name, preset_text(name)) if name.endswith(".toml") else _load_bundled(name)


@cache
def _load_bundled(name: str) -> Preset:
    """Read a bundled preset only once in a process: parsing takes about 20 ms, and a pass needs the preset twice."""
    return _parse(name, preset_text(name))


def _parse(name: str, text: str) -> Preset:
    try:
        return Preset.model_validate(tomllib.loads(text))
    except ValidationError as error:
        mistakes = "; ".join(_describe(mistake, text) for mistake in _relevant_errors(error))
        raise ConfigurationError(f"preset {name}: {mistakes}") from None
    except ValueError as error:
        raise ConfigurationError(f"preset {name} is not valid TOML: {error}") from None
    except RecursionError:
        raise ConfigurationError(f"preset {name} is nested too deeply") from None


def _relevant_errors(error: ValidationError) -> list[ErrorDetails]:
    """Return the errors of a preset. Leave out missing keys beside a misspelt one, which explains them."""
    found = error.errors(include_url=False)
    misspelt = {mistake["loc"][:-1] for mistake in found if mistake["type"] == "extra_forbidden"}
    return [mistake for mistake in found if mistake["type"] != "missing" or mistake["loc"][:-1] not in misspelt]


def _describe(error: ErrorDetails, text: str) -> str:
    at = error["loc"]
    if at[:2] == ("look_up", 0) and "[[look_up]]" not in text:  # a single [look_up] has no number
        at = (at[0], *at[2:])
    where = ".".join(str(part) for part in at if part != "[key]")
    line = line_of(text, at)
    match error["type"]:
        case "extra_forbidden":
            said = f"no such key (valid keys: {', '.join(_known_keys(at))})"
        case "missing":
            said = "the key is missing"
        case "tuple_type":
            said = "must be a list, in brackets"
        case _:
            said = error["msg"].removeprefix("Value error, ")
    return f"{where}{f' (line {line})' if line else ''}: {said}" if where else said


def _known_keys(where: Sequence[str | int]) -> list[str]:
    table: type[Table] = Preset
    for part in where[:-1]:
        if isinstance(part, str) and part in table.model_fields:
            table = next(_tables_in(table.model_fields[part].annotation), table)
    return [*table.model_fields, *(["like"] if table is MessageRule else [])]


def _tables_in(annotation: object) -> Iterator[type[Table]]:
    if isinstance(annotation, type) and issubclass(annotation, Table):
        yield annotation
    for part in get_args(annotation):
        yield from _tables_in(part)


def line_of(text: str, key: Sequence[str | int]) -> int | None:
    """Return the line of a key or, if it is missing, of the innermost table around it; None if there is neither.

    Args:
        text: valid TOML.
        key: the names, and the positions in arrays, that lead to the key.
    """
    best, line = 0, None
    table: list[str | int] = []
    arrays: Counter[str] = Counter()
    for number, text_line in enumerate(text.splitlines(), 1):
        written = table
        if header := HEADER.match(text_line):
            table = [*_split_key(header[2])]
            if header[1] == "[[":
                table.append(arrays[header[2]])
                arrays[header[2]] += 1
            written = table
        elif found := KEY.match(text_line):
            written = [*table, *_split_key(found[1])]
        shared = _common_length(written, key)
        if shared > best and shared == len(written):
            best, line = shared, number
    return line


def _split_key(dotted: str) -> list[str]:
    return [part.strip().strip("\"'") for part in dotted.split(".")]


def _common_length(one: Sequence[str | int], other: Sequence[str | int]) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
