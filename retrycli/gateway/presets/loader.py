"""Presets: TOML files that describe a ticketing system to the HTTP gateway."""

import hashlib
import re
import tomllib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Self, get_args

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from retrycli.config.gateway import GatewaySettings
from retrycli.domain.errors import ConfigurationError, InvalidMessage
from retrycli.domain.message import Message, MessageType
from retrycli.gateway.presets.model import (
    CREDENTIALS,
    KEY,
    OF_ATTACHMENTS,
    OURS,
    AnswerRule,
    Auth,
    Condition,
    Get,
    HeaderName,
    LookupRule,
    MessageRule,
    Preflight,
    Question,
    Reclassification,
    SuccessRule,
    Table,
    Upload,
)
from retrycli.gateway.presets.template import EACH, check_subject, fill_path, places
from retrycli.system.trust import require_trust

BUNDLED = resources.files("retrycli.gateway") / "presets"


def known_presets() -> list[str]:
    """Return the names of the bundled presets, in alphabetical order."""
    return sorted(file.name.removesuffix(".toml") for file in BUNDLED.iterdir() if file.name.endswith(".toml"))


def preset_text(name: str) -> str:
    """Return the TOML of a preset: a preset by its name, or a file by a path that ends in ``.toml``.

    Raises:
        ConfigurationError: there is no such preset, or its file can't be read.
    """
    if name.endswith(".toml"):
        return _text_of(Path(name))
    if "/" not in name and (file := BUNDLED / f"{name}.toml").is_file():
        return file.read_text(encoding="utf-8")
    known = ", ".join(known_presets())
    raise ConfigurationError(f"gateway.preset: no preset {name!r}; give a .toml file, or one of {known}")


def _text_of(file: Path) -> str:
    try:
        if not file.is_file():
            raise ConfigurationError(f"gateway.preset: {file} does not exist, or is not a file")
        require_trust(file, "gateway.preset")
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the file is not valid UTF-8; save it as UTF-8"
        raise ConfigurationError(f"gateway.preset: can't read {file}: {reason}") from error


Names = frozenset[str]
NONE: Names = frozenset()
SESSION: Names = frozenset({"session"})
OF_A_FILE: Names = frozenset(f"{EACH}.{part}" for part in OF_ATTACHMENTS - {"token"})
# Errors for names whose value comes from another part of the preset, if that part is missing.
REMEDIES = {
    "session": "comes from [auth.session], which is missing",
    "identity": "comes from identity in [auth], which is missing",
    f"{EACH}.token": "comes from [upload], which is missing",
}

HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$")
KEY_LINE = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a preset that has templates."""

    where: str
    names: Names
    known: Names  # the names, other than columns, that have a value in this part
    has_row: bool = True  # the message's columns also have values in this part

    @property
    def columns(self) -> Names:
        own = {*OURS, EACH}
        return frozenset([name for name in self.names - self.known if name.partition(".")[0] not in own])


class About(Table):
    """Description of a preset, for operators."""

    title: str
    checked: str  # the system or documentation that the preset was checked against


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, dict) else value


class Preset(Table):
    """A parsed preset: the requests to one ticketing system, and the rules that interpret its answers."""

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

    @model_validator(mode="before")
    @classmethod
    def _expand_like(cls, values: object) -> object:
        """Expand ``like``, which copies the keys of another message type."""
        messages = values.get("messages") if isinstance(values, dict) else None
        if not isinstance(values, dict) or not isinstance(messages, dict):
            return values
        return values | {"messages": {name: _merge_like(name, messages) for name in messages}}

    @model_validator(mode="after")
    def _check_references(self) -> Self:
        for message_type, rule in self.messages.items():
            if rule.preflight is not None and rule.preflight not in self.preflight:
                raise ValueError(f"messages.{message_type}.preflight: the preset has no preflight {rule.preflight!r}")
            if rule.marker is not None and rule.marker.unless not in {None, *self.preflight}:
                unless = rule.marker.unless
                raise ValueError(f"messages.{message_type}.marker.unless: the preset has no preflight {unless!r}")
        return self

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        """Check that every name in a template has a value. Without a value, an empty string would be sent, and a
        condition with an empty string would match any answer.
        """
        has_session = self.auth is not None and self.auth.session is not None
        problems = []
        for part in self._parts:
            known = ", ".join([*(f"{{{name}}}" for name in sorted(part.known)), *(["columns"] if part.has_row else [])])
            usual = f"is not available here (available: {known or 'none'})"
            for name in sorted(part.names - part.known - (part.columns if part.has_row else NONE)):
                said = usual if name == "session" and has_session else REMEDIES.get(name, usual)
                problems.append(f"{part.where}: {{{name}}} {said}")
        if problems:
            raise ValueError("; ".join(dict.fromkeys(problems)))
        return self

    @cached_property
    def _parts(self) -> tuple[_Part, ...]:
        return tuple(_parts_of(self))

    @property
    def has_success_rule(self) -> bool:
        """Return whether [success] says which 2xx answers mean delivered; else only an empty answer and JSON do."""
        return self.success != SuccessRule()

    @property
    def columns(self) -> set[str]:
        """Return the columns to which the preset's templates refer."""
        return {name for part in self._parts for name in part.columns if part.has_row}

    def check_columns(self, columns: Collection[str]) -> None:
        """Check that every column in a template exists.

        Raises:
            ConfigurationError: a column does not exist; the error names it.
        """
        for part in self._parts:
            if part.has_row and (missing := sorted(part.columns.difference(columns))):
                raise ConfigurationError(
                    f"the preset's {part.where} refers to column {missing[0]}, which does not exist"
                )


def _merge_like(name: str, messages: Mapping[str, object]) -> object:
    rule = messages[name]
    if not isinstance(rule, dict) or "like" not in rule:
        return rule
    model = messages.get(rule["like"]) if isinstance(rule["like"], str) else None
    if not isinstance(model, dict) or "like" in model:
        raise ValueError(
            f"messages.{name}.like: {rule['like']!r} must be another message type in the preset, and that type must "
            "not use like"
        )
    return model | {key: value for key, value in rule.items() if key != "like"}


def _parts_of(preset: Preset) -> Iterator[_Part]:
    auth = preset.auth or Auth()
    identity = NONE if auth.identity is None else frozenset({"identity"})
    session = NONE if auth.session is None else SESSION
    token = NONE if preset.upload is None else frozenset({f"{EACH}.token"})
    always = frozenset({KEY}) | identity
    yield from _of_auth(auth)
    if preset.check is not None:
        yield _Part("check", _names_in(preset.check.path, preset.check.query), identity, has_row=False)
    for message_type, rule in preset.messages.items():
        yield from _of_message(f"messages.{message_type}", rule, always, session, OF_A_FILE | token | {EACH})
    for question in preset.look_up:
        yield from _of_question("look_up", question, always | {"page"}, session)
    for name, preflight in preset.preflight.items():
        yield from _of_preflight(f"preflight.{name}", preflight, always, session)
    if preset.upload is not None:
        ahead = preset.upload
        yield _Part("upload", _names_in(ahead.path, ahead.query, ahead.headers), always | OF_A_FILE)


def _of_auth(auth: Auth) -> Iterator[_Part]:
    """Yield the parts of ``[auth]``. The session has a value only after a log-in."""
    before = CREDENTIALS - SESSION
    after = before if auth.session is None else CREDENTIALS
    yield _Part("auth", _names_in(auth.headers, auth.basic or ()), after, has_row=False)
    yield _Part("auth.identity", _names_in(auth.identity or ""), before, has_row=False)
    if auth.session is not None:
        yield _Part("auth.session", _names_in(auth.session.path), NONE, has_row=False)
        yield _Part("auth.session", _names_in(auth.session.headers, auth.session.body), before, has_row=False)


def _of_message(where: str, rule: MessageRule, always: Names, session: Names, entry: Names) -> Iterator[_Part]:
    """Yield the parts of a message rule. No condition may use the marker, because a message may be sent without it."""
    sent = always if rule.marker is None else always | {"marker"}
    yield _Part(where, _names_in(rule.path, rule.query, rule.headers) | {*rule.required}, sent | session)
    yield _Part(where, _names_in(rule.body), sent | session | entry)
    if rule.marker is not None:
        yield _Part(f"{where}.marker", _names_in(rule.marker.text), always)
    if rule.confirmed is not None:
        yield _Part(f"{where}.confirmed", _names_in(rule.confirmed), always)
    if rule.verify is not None:
        yield from _of_question(f"{where}.verify", rule.verify, always | {"external_id", "page"}, session)


def _of_question(where: str, question: Question, known: Names, session: Names) -> Iterator[_Part]:
    yield _Part(where, _names_in(question.path, question.query), known | session)
    yield _Part(where, _names_in(question.holds, question.more), known)


def _of_preflight(where: str, preflight: Preflight, always: Names, session: Names) -> Iterator[_Part]:
    known = always
    for step in preflight.steps:
        entry = NONE if step.each is None else frozenset({step.each})
        yield _Part(where, entry, known)
        yield _Part(where, _names_in(step.path, step.query), known | entry | session)
        yield _Part(where, _names_in(step.enough, step.holds, list(step.take.values())), known | entry)
        known |= step.take.keys()


def _names_in(*trees: object) -> Names:
    texts = (tree.templates if isinstance(tree, Condition) else tree for tree in trees)
    return frozenset([place.name for text in texts for place in places(text)])


def load_preset(name: str) -> Preset:
    """Read a preset: a preset by its name, or a file by a path that ends in ``.toml``.

    Raises:
        ConfigurationError: there is no such preset, its file can't be read, or the preset is invalid; the error names
            the invalid keys with their lines.
    """
    return _parse(name, preset_text(name))


@lru_cache(maxsize=32)  # parsing takes about 20 ms, and a pass loads the preset several times
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
    """Return the errors of a preset. Omit missing keys in a table with an unknown key, which is probably misspelt."""
    found = error.errors(include_url=False)
    misspelt = {mistake["loc"][:-1] for mistake in found if mistake["type"] == "extra_forbidden"}
    return [mistake for mistake in found if mistake["type"] != "missing" or mistake["loc"][:-1] not in misspelt]


def _describe(error: ErrorDetails, text: str) -> str:
    at = error["loc"]
    if at[:2] == ("look_up", 0) and "[[look_up]]" not in text:  # a single [look_up] table has no index in the file
        at = (at[0], *at[2:])
    where = ".".join(str(part) for part in at if part != "[key]")
    line = line_of(text, at)
    match error["type"]:
        case "extra_forbidden":
            said = f"no such key (valid keys: {', '.join(_known_keys(at))})"
        case "missing":
            said = "the key is missing"
        case "tuple_type":
            said = "must be a list: values in brackets, or tables with a header in double brackets"
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
    """Return the line of a key or, if the key is missing, of its innermost existing table; None if there is neither.

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
        elif found := KEY_LINE.match(text_line):
            written = [*table, *_split_key(found[1])]
        if len(written) > best and written == [*key[: len(written)]]:
            best, line = len(written), number
    return line


def _split_key(dotted: str) -> list[str]:
    return [part.strip().strip("\"'") for part in dotted.split(".")]


def findable_requests(settings: GatewaySettings, message_type: MessageType) -> str | None:
    """Return a hash of the requests that a look-up finds; None if a message that may have arrived is not looked up.

    Raises:
        ConfigurationError: the preset is invalid.
    """
    if settings.kind != "http":
        return None
    preset = load_preset(settings.preset)
    if (rule := preset.messages.get(message_type)) is None or not preset.look_up:
        return None
    request = rule.model_dump_json(include={"method", "path", "query", "headers", "body", "marker"})
    return hashlib.sha256(request.encode()).hexdigest()[:16]


def example_url(settings: GatewaySettings, message: Message) -> str | None:
    """Return the URL to which a message would be sent, without the query; None for a mail, or if it can't be known.

    Raises:
        ConfigurationError: the preset is invalid.
    """
    if settings.kind != "http" or settings.base_url is None:
        return None
    rule = load_preset(settings.preset).messages.get(message.message_type)
    try:
        return None if rule is None else settings.base_url + fill_path(rule.path, message.fields)
    except (InvalidMessage, KeyError):  # the path needs a value that only a delivery has
        return None


def preset_columns(settings: GatewaySettings) -> set[str]:
    """Return the columns to which the preset or the subject's template refers.

    Raises:
        ConfigurationError: the preset is invalid.
    """
    match settings.kind:
        case "http":
            return load_preset(settings.preset).columns
        case "smtp":
            return {place.name for place in places(settings.subject)}
        case "python":  # a function gets the whole message
            return set()


def check_columns(settings: GatewaySettings, columns: Collection[str]) -> None:
    """Check that the table has every column to which the preset or the subject's template refers.

    Raises:
        ConfigurationError: a column is missing, or the preset is invalid.
    """
    match settings.kind:
        case "http":
            load_preset(settings.preset).check_columns(columns)
        case "smtp":
            check_subject(settings, columns)
        case "python":  # a function gets every column, and says nothing about those that it needs
            pass
