"""Settings from a TOML file and the environment.

This module has the base class of all sections, and the types and checks that sections share.
"""

import re
from collections.abc import Collection
from datetime import tzinfo
from pathlib import Path
from typing import Annotated, NamedTuple, get_args
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr


def split_list(value: object) -> object:
    """Split a string at commas, because an environment variable can't hold a list. Brackets are optional."""
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.strip().strip("[]").split(",") if part.strip()]


def _reject_empty(value: object) -> object:
    """Reject an empty path, because it would mean the working directory."""
    if value == "":
        raise ValueError("the path is empty; write a path, or remove the key")
    return value


def _check_windows(texts: tuple[str, ...]) -> tuple[str, ...]:
    if texts:
        from retrycli.domain.delivery_window import DeliveryWindows  # not needed if deliveries have no windows

        DeliveryWindows.parse(texts)
    return texts


def zone_of(name: str) -> tzinfo:
    """Return a time zone by its name.

    Raises:
        ValueError: this machine has no zone with this name.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # an unknown name, the name of a folder, or an invalid path
        raise ValueError(
            f"{name!r} is not a time zone of this machine; write a name such as Europe/Berlin, or install tzdata"
        ) from None


def matching(pattern: str, error: str) -> AfterValidator:
    """Return a validator that requires a whole string to match a pattern."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text, re.DOTALL):
            raise ValueError(error)
        return text

    return AfterValidator(check)


class Mark(NamedTuple):
    """What is special about a setting. It stands in the annotation of its field; see `marked`."""

    meaning: str


class Only(NamedTuple):
    """The kinds of gateway that use a setting, if others do not."""

    kinds: frozenset[str]


# systemd can pass it as a credential of the same name (systemd.exec(5), LoadCredential=). If a setting also exists with
# the suffix _file, that setting names a file to read the value from.
SECRET = Mark("secret")
PATH = Mark("path")  # a relative path is relative to the folder of the settings file
INHERITED = Mark("inherited")  # the gateway of a message type inherits it from the common gateway
NamedPath = Annotated[Path | None, BeforeValidator(_reject_empty), PATH]
# A function that can be imported: MODULE:FUNCTION. The length leaves room for a prefix in the column of a destination.
FunctionName = Annotated[
    str,
    Field(max_length=240),
    matching(
        r"(?!\d)\w+(\.(?!\d)\w+)*:(?!\d)\w+(\.(?!\d)\w+)*",
        "write MODULE:FUNCTION, such as desk.messages:retry_failed_message",
    ),
]
Minutes = Annotated[float, Field(gt=0, le=525_600, allow_inf_nan=False)]
Hours = Annotated[float, Field(gt=0, le=876_000, allow_inf_nan=False)]
Waits = Annotated[tuple[Minutes, ...], BeforeValidator(split_list)]
Windows = Annotated[tuple[str, ...], BeforeValidator(split_list), AfterValidator(_check_windows)]


class SettingsModel(BaseModel):
    """A frozen section of the settings. Unknown keys are errors. Errors do not quote values, which may be secrets."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        validate_default=False,
        defer_build=True,  # build validators on first use, so that imports are fast
    )


def marked(model: type[BaseModel], mark: Mark, prefix: str = "") -> list[str]:
    """Return the keys of the settings with a mark: those of a section, and of the sections in it."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        if mark in field.metadata:
            keys.append(prefix + name)
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, SettingsModel):
                keys += marked(part, mark, f"{prefix}{name}.")
    return keys


def secret_text(value: object) -> str:
    """Return a value as a string, a secret in plain text, and None as an empty string."""
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value or "")


def absolute(url: str, example: str, schemes: Collection[str] = ("http", "https")) -> str:
    """Check a URL to which a path may be appended. Return the URL with a lower-case scheme and without a final slash.

    Raises:
        ValueError: the URL is invalid, or its scheme is not one of ``schemes``.
    """
    if not re.fullmatch(r"[!-~]*", url):
        raise ValueError(
            "the URL must not contain spaces, line breaks or non-ASCII characters; remove or percent-encode them"
        )
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises if the port is invalid
    except ValueError:
        raise ValueError("invalid URL or port") from None
    if parts.scheme not in schemes or not parts.hostname:
        raise ValueError(f"the URL must have a supported scheme and a host, such as {example}")
    if "?" in url or "#" in url:
        raise ValueError("the URL must not have a query or a fragment; remove ? or # and what follows")
    return (parts.scheme + url[len(parts.scheme) :]).rstrip("/")  # other code expects a lower-case scheme
