"""Show settings as text: the commented file of ``init``, and the list of ``config show``."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping

from pydantic import BaseModel, SecretStr

from retrycli.config.loader import Loaded
from retrycli.config.settings import Settings
from retrycli.domain.message import MessageType
from retrycli.domain.sanitize import HIDDEN, masked_url

HEAD = """\
# retrycli's settings. Commented-out keys show their defaults; to change one, uncomment and edit its line.
# Environment variables override this file: RETRYCLI_GATEWAY__BASE_URL sets gateway.base_url.
# Keep secrets in separate files, and set keys such as gateway.token_file to the paths of these files.
"""


EXAMPLES = {
    "database": """
# Example: a table with other columns and status values; see `retrycli manual your-own-table`.
#   [database.columns]
#   body = "message"
#   message_type = { value = "customer" }
#   [database.status]
#   failed = 3
#   sent = 2
""",
    "schedule": """
# Example: different rules for one message type.
# [schedule.types.supplier]
# max_retries = 5
# windows = ["Mon-Fri 08:00-18:00", "Sat 09:00-12:00"]
""",
    "gateway": """
# Example: a separate gateway for one message type. From [gateway] it inherits only timeouts, retry limits,
# ca_file, modules_dir and attachment keys.
# [gateway.supplier]
# kind = "smtp"
# base_url = "smtp://mail.example.com:587"
# sender = "Support <support@example.com>"
""",
}


def template(values: Mapping[str, object]) -> str:
    """Return a configuration file that describes each key. Set the given values; comment out the other keys."""
    lines = [HEAD]
    for section, model in Settings():
        lines.append(f"[{section}]")
        for name, info in type(model).model_fields.items():
            if name in {"types", "columns", "status", *MessageType}:
                continue
            lines.append(f"# {info.description}")
            if (value := values.get(f"{section}.{name}")) is not None:
                lines.append(f"{name} = {toml_value(value)}")
            else:
                default = getattr(model, name)
                lines.append(f"# {name} =" + ("" if default is None else f" {toml_value(default)}"))
        lines.append(EXAMPLES.get(section, ""))
    return "\n".join(lines).rstrip() + "\n"


def with_value(text: str, section: str, name: str, value: object) -> str | None:
    """Return the text of a configuration file with one value set, and nothing else changed. The section may be missing,
    and the key may be commented out. Return None if adding or uncommenting a line can't set the value.
    """
    line = f"{name} = {toml_value(value)}\n"
    head, header, rest = _split(text, rf"^\[{section}\][ \t]*(?:#.*)?\n")
    if not header:
        new = text + ("\n" if text and not text.endswith("\n") else "") + f"\n[{section}]\n{line}"
    else:
        body, following, others = _split(rest, r"^\[.*\n?")
        before, _, after = _split(body, rf"^# {name} =.*\n?")
        new = head + header + (before + line + after if before != body else line + body) + following + others
    try:
        wanted, made = tomllib.loads(text), tomllib.loads(new)
    except tomllib.TOMLDecodeError:
        return None
    wanted.setdefault(section, {})[name] = value
    return new if made == wanted else None


def _split(text: str, pattern: str) -> tuple[str, str, str]:
    """Return the text before the first match, the match, and the rest. Without a match, the last two are empty."""
    found = re.search(pattern, text, re.MULTILINE)
    return (text, "", "") if found is None else (text[: found.start()], found[0], text[found.end() :])


def shown(loaded: Loaded) -> list[tuple[str, str | None, str]]:
    """Return the key, value and source of every setting, with secrets masked."""
    return [
        (key, value, loaded.sources.get(key, "default"))
        for section, model in loaded.settings
        for key, value in _values(section, model)
    ]


def _values(section: str, model: BaseModel) -> Iterator[tuple[str, str | None]]:
    for name, value in model:
        if isinstance(value, BaseModel):
            yield from _values(f"{section}.{name}", value)
        elif isinstance(value, dict):
            for key, inner in value.items():
                if not isinstance(inner, BaseModel):
                    yield f"{section}.{name}.{key}", toml_value(inner)
                    continue
                given = inner.model_dump(exclude_none=True)
                yield from ((f"{section}.{name}.{key}.{each}", _mask(item) or "[]") for each, item in given.items())
        else:
            yield f"{section}.{name}", _mask(value)


def _mask(value: object) -> str | None:
    match value:
        case None:
            return None
        case SecretStr():
            return HIDDEN
        case str():
            return masked_url(value)
        case tuple():
            return ", ".join(HIDDEN if isinstance(item, SecretStr) else _item(item) for item in value) or None
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case _:
            return str(value)


def _item(item: object) -> str:
    return f"{item:g}" if isinstance(item, float) else str(item)


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)


def toml_value(value: object) -> str:
    """Format the value of a setting as TOML."""
    match value:
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case tuple():
            return "[" + ", ".join(toml_value(item) for item in value) + "]"
        case dict():
            return "{ " + ", ".join(f"{_toml_key(key)} = {toml_value(item)}" for key, item in value.items()) + " }"
        case int():
            return str(value)
        case _:
            return json.dumps(str(value), ensure_ascii=False)
