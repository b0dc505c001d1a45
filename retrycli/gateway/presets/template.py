"""Templates: strings with placeholders for a row's columns, and filters for their values.

A placeholder is ``{column}`` or ``{column|filter|filter:argument}``; ``{{`` and ``}}`` are literal
braces. Values are inserted into parsed structures, never into text that is parsed afterwards. So a quote or a brace in
a body arrives unchanged.
"""

import re
from base64 import b64encode
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from html import escape
from html.parser import HTMLParser
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import AfterValidator

from retrycli.config.gateway import GatewaySettings
from retrycli.domain.errors import ConfigurationError, InvalidMessage
from retrycli.domain.message import OPTIONAL_COLUMNS

CONTROL = re.compile(r"[\x00-\x1f\x7f]")
PLACE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
SEPARATOR = re.compile(r"[/\\;]")
STEPS = frozenset({".", ".."})  # segments that lead to another path
NAME = re.compile(r"\w+(\.\w+)?")
FOR_EACH, GIVE, OPTIONAL, EACH = "for_each", "give", "optional", "each"

# Elements that start a new line.
BLOCKS = frozenset(
    {"br", "div", "h1", "h2", "h3", "h4", "h5", "h6", "li", "p", "table", "tr", "ul", "ol", "blockquote"}
)
# Elements whose content is not shown.
HIDDEN = frozenset({"head", "script", "style", "title"})
# Start of a character reference that is so long that Python may refuse to parse its number.
HUGE_NUMBER = re.compile("&(?=#[0-9]{100})")


class Left(Enum):
    """``OUT`` marks a value to leave out, together with its key or list entry."""

    OUT = "out"


Fields = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class _Placeholder:
    name: str
    filters: tuple[tuple[str, str], ...] = ()  # names and arguments

    def value(self, fields: Fields) -> object:
        value = fields.get(self.name)
        for name, argument in self.filters:
            value = FILTERS[name](value, argument)
        return value


def check_template(template: str) -> str:
    """Check that a template's placeholders are names with known filters.

    Raises:
        ValueError: a placeholder is invalid, or a brace is unmatched; the error names it.
    """
    _parse(template)
    return template


def _check_templates(tree: Any) -> Any:  # noqa: ANN401  any value in TOML
    places(tree)  # raises if a template is invalid
    _check_lists(tree)
    return tree


Template = Annotated[str, AfterValidator(check_template)]
Tree = Annotated[dict[str, Any], AfterValidator(_check_templates)]


def _templates(tree: object) -> list[str]:
    texts: list[str] = []
    branches = [tree]
    while branches:
        match branches.pop():
            case str() as text:
                texts.append(text)
            case dict() as table if FOR_EACH in table:
                texts.append(f"{{{table[FOR_EACH]}}}")
                branches.append(table.get(GIVE))
            case dict() as table:
                branches += reversed(table.values())
            case list() | tuple() as entries:
                branches += reversed(entries)
            case _:
                pass
    return texts


def places(tree: object) -> list[_Placeholder]:
    """Return all placeholders in a string, or in the strings of a nested structure."""
    return [part for text in _templates(tree) for part in _parse(text) if isinstance(part, _Placeholder)]


def fill(tree: object, fields: Fields) -> object:
    """Fill a body with values. A string that consists of one placeholder keeps the value's type."""
    match tree:
        case str():
            return fill_text(tree, fields)
        case dict() if FOR_EACH in tree:
            values = fields.get(tree[FOR_EACH])
            if not values and tree.get(OPTIONAL):
                return Left.OUT
            return (
                [fill(tree[GIVE], _entry_fields(fields, value)) for value in values] if isinstance(values, list) else []
            )
        case dict():
            return {key: value for key, branch in tree.items() if (value := fill(branch, fields)) is not Left.OUT}
        case list():
            return [value for branch in tree if (value := fill(branch, fields)) is not Left.OUT]
        case _:
            return tree


def fill_text(template: str, fields: Fields) -> object:
    """Fill a string with values. A string that consists of one placeholder becomes the value itself."""
    parts = _parse(template)
    if len(parts) == 1 and isinstance(parts[0], _Placeholder):
        return parts[0].value(fields)
    return "".join(part if isinstance(part, str) else plain(part.value(fields)) for part in parts)


def plain(value: object) -> str:
    """Return a value as a string.

    Raises:
        ValueError: the value is nested too deeply.
    """
    try:
        match value:
            case None | Left.OUT:
                return ""
            case list():
                return ", ".join(plain(entry) for entry in value)
            case _:
                return str(value)
    except RecursionError as error:
        raise ValueError("a list or object is nested too deeply") from error


def fill_path(template: str, fields: Fields, query: Mapping[str, str] = {}) -> str:
    """Fill a path and its query. Values are percent-encoded, so they can't add segments or parameters.

    Raises:
        InvalidMessage: a value for the path is empty, or has a segment ``.`` or ``..``.
    """
    parts = []
    for part in _parse(template):
        if isinstance(part, _Placeholder):
            text = plain(part.value(fields))
            step = quote(text, safe="")
            # Clients and servers interpret "." and "..", even if percent-encoded (RFC 3986, section 5.2.4). Some decode
            # "/" first, treat a backslash like it, or ignore what follows ";".
            if not step or not STEPS.isdisjoint(SEPARATOR.split(text)):
                raise InvalidMessage(f"{part.name} has an invalid value for the path {template}: {step!r}")
            parts.append(step)
        else:
            parts.append(part)
    filled = ((name, fill_text(text, fields)) for name, text in query.items())
    asked = "&".join(f"{quote(name, safe='')}={quote(plain(v), safe='')}" for name, v in filled if v is not Left.OUT)
    return "".join(parts) + (f"?{asked}" if asked else "")


def fill_header(name: str, template: str, fields: Fields) -> str:
    """Fill a header's value.

    Raises:
        InvalidMessage: the value has a control character, or is not ASCII.
    """
    value = plain(fill_text(template, fields))
    if CONTROL.search(value) or not value.isascii():
        raise InvalidMessage(f"invalid value for the header {name}: it must be printable ASCII")
    return value


@lru_cache(maxsize=1024)
def _parse(template: str) -> tuple[str | _Placeholder, ...]:
    parts: list[str | _Placeholder] = []
    literal, at = "", 0
    for found in PLACE.finditer(template):
        literal += template[at : found.start()]
        at = found.end()
        if found[0] in {"{{", "}}"}:
            literal += found[0][0]
        elif found[1] is None:
            raise ValueError(f"unmatched {found[0]} in {template!r}; write {found[0] * 2} for a literal {found[0]}")
        else:
            parts += [*([literal] if literal else []), _place(found[1])]
            literal = ""
    literal += template[at:]
    return (*parts, literal) if literal or not parts else tuple(parts)


def _place(text: str) -> _Placeholder:
    name, *calls = text.split("|")
    if not NAME.fullmatch(name) or ("." in name and not name.startswith(f"{EACH}.")):
        raise ValueError(f"{{{text}}} has an invalid column name")
    filters = []
    for call in calls:
        called, _, argument = call.partition(":")
        if called not in FILTERS:
            raise ValueError(f"{{{text}}} has an unknown filter {called!r}; valid filters: {', '.join(FILTERS)}")
        filters.append((called, argument))
    return _Placeholder(name, tuple(filters))


def _check_lists(tree: object) -> None:
    if isinstance(tree, dict) and FOR_EACH in tree:
        if tree.keys() - {OPTIONAL} != {FOR_EACH, GIVE} or not isinstance(tree[FOR_EACH], str):
            raise ValueError(f'write {{ {FOR_EACH} = "COLUMN", {GIVE} = … }}; the only other key allowed is {OPTIONAL}')
        if not isinstance(tree.get(OPTIONAL, False), bool):
            raise ValueError(f"in a {FOR_EACH} table, {OPTIONAL} must be true or false")
        return
    if isinstance(tree, str) and any(part.name.partition(".")[0] == EACH for part in places(tree)):
        raise ValueError(
            f"{tree!r} refers to a list element; in a body, {{{EACH}}} is allowed only in {GIVE} of a {FOR_EACH} table"
        )
    for branch in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        _check_lists(branch)


def _entry_fields(fields: Fields, value: object) -> Fields:
    parts = value if isinstance(value, Mapping) else {}
    return {**fields, EACH: value, **{f"{EACH}.{name}": part for name, part in parts.items()}}


# A comment, a script or style, or a tag, of which only the name is kept. The number of attributes is limited, so that
# no character is compared more often than that; a quotation mark counts only after an equals sign, as in browsers.
MARKUP = re.compile(
    r"""<!--.*?-->|<(script|style)\b.*?</\1\s*+>
    |<(/?[a-z][^\s/<>"'=]*+)(?:[^<>"'=]++|=\s*+(?:"[^"]*+"|'[^']*+')?+|["']){0,200}+>""",
    re.DOTALL | re.IGNORECASE | re.VERBOSE,
)
# A ``<`` that begins no such tag, and no declaration.
NO_TAG = re.compile(r"<(?!/?[a-z][^\s/<>\"'=]*+>|[!?])", re.IGNORECASE)


def plain_text(html: str) -> str:
    """Convert HTML to plain text, with a line for each block. No input causes an error or needs quadratic time, because
    the parser, which rescans the text for each quotation mark that is not closed, gets only tags without attributes.
    """
    html = HUGE_NUMBER.sub("&amp;", html)
    for start, end in (("<!--", "-->"), ("<script", r"</script\s*>"), ("<style", r"</style\s*>"), ("<", ">")):
        html = _escape_unended(html, start, end)
    reader = _Reader()
    reader.feed(NO_TAG.sub("&lt;", MARKUP.sub(lambda found: f"<{found[2]}>" if found[2] else "", html)))
    reader.close()
    lines = (" ".join(line.split()) for line in "".join(reader.parts).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _escape_unended(html: str, start: str, end: str) -> str:
    """Escape each ``start`` that no ``end`` (both are patterns) follows. Otherwise, the rest of the text would be
    searched for each one.
    """
    last = max((found.end() for found in re.finditer(end, html, re.IGNORECASE)), default=0)
    return html[:last] + re.sub(start, lambda found: "&lt;" + found[0][1:], html[last:], flags=re.IGNORECASE)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden = 0

    def parse_html_declaration(self, i: int) -> int:
        """Skip ``<![…>`` as browsers do. For some of these declarations, an assertion in Python 3.11 fails."""
        bogus = self.rawdata.startswith("<![", i)
        return self.parse_bogus_comment(i) if bogus else super().parse_html_declaration(i)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in HIDDEN
        if tag in BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in HIDDEN and self._hidden > 0
        if tag in BLOCKS and tag != "br":
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data.replace("\n", " "))


def _is_empty(value: object) -> bool:
    return value is None or value in ("", [])


def _join(value: object, argument: str) -> object:
    return argument.join(plain(entry) for entry in value) if isinstance(value, list) else plain(value)


def _html(value: object, _argument: str) -> object:
    return escape(plain(value), quote=False).replace("\r\n", "\n").replace("\n", "<br>\n")


def _base64(value: object) -> str:
    return b64encode(plain(value).encode()).decode()


def _int(value: object, _argument: str) -> object:
    """Convert to an integer, for systems whose ticket ids must be integers."""
    text = plain(value)
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise InvalidMessage(f"the preset requires an integer of at most 18 digits, not {text[:40]!r}")
    return int(text)


def _django(value: object, _argument: str) -> object:
    """Escape text so that Django's template language renders it unchanged.

    A variable tag with a string, such as ``{{'{'}}``, replaces each character that can open or close a tag. The result
    must not contain ``{%``, because django-helpdesk first encloses every ``{%`` in additional tags.
    """
    parts = (part.replace("%}", "{{'%'}}}") for part in plain(value).split("{"))
    return "{{'{'}}".join(parts)


FILTERS: dict[str, Callable[[object, str], object]] = {
    "default": lambda value, argument: argument if _is_empty(value) else value,
    "optional": lambda value, _: Left.OUT if _is_empty(value) else value,
    "join": _join,
    "html": _html,
    "text": lambda value, _: plain_text(plain(value)),
    "django": _django,
    "raw": lambda value, _: value,
    "base64": lambda value, _: _base64(value),
    # An encoded word of any length (RFC 2047), for systems that copy the value into a mail header unchanged.
    "mime": lambda value, _: f"=?utf-8?b?{_base64(value)}?=",
    "int": _int,
}


def check_subject(settings: GatewaySettings, columns: Collection[str]) -> None:
    """Check that every column in the subject's template exists.

    Raises:
        ConfigurationError: a column does not exist; the error names it.
    """
    for place in places(settings.subject):
        if place.name not in {*columns, *OPTIONAL_COLUMNS}:
            raise ConfigurationError(f"gateway.subject refers to column {place.name}, which does not exist")
