"""Types for the sections of the settings."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr


def _split_list(value: object) -> object:
    """Split a list at commas, as written in an environment variable. Brackets are optional."""
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.strip().strip("[]").split(",") if part.strip()]


def _reject_empty(value: object) -> object:
    """Reject an empty path: it would mean the folder of the settings, or the working directory."""
    if value == "":
        raise ValueError("it is empty; write a path, or remove the key")
    return value


def matching(pattern: str, error: str) -> AfterValidator:
    """Return a check that a whole string matches a pattern."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text, re.DOTALL):
            raise ValueError(error)
        return text

    return AfterValidator(check)


Named = Annotated[Path, BeforeValidator(_reject_empty)]
Minutes = Annotated[float, Field(gt=0, le=525_600, allow_inf_nan=False)]
Hours = Annotated[float, Field(gt=0, le=876_000, allow_inf_nan=False)]
Waits = Annotated[tuple[Minutes, ...], BeforeValidator(_split_list)]


class SettingsModel(BaseModel):
    """A section of the settings: frozen. Errors for unknown keys do not quote values."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        validate_default=False,
        defer_build=True,  # validators are built when they are needed
    )


def secret_text(value: object) -> str:
    """Return a value or a secret as a string; return an empty string for None."""
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value or "")


def absolute(url: str, example: str, schemes: Collection[str] = ("http", "https")) -> str:
    """Return a URL to which paths can be appended, without a slash at its end.

    Raises:
        ValueError: the URL is invalid, or has another scheme.
    """
    if not re.fullmatch(r"[!-~]*", url):
        raise ValueError("a URL can't contain spaces, line breaks or non-ASCII characters")
    try:
        parts = urlsplit(url)
        _ = parts.port  # parsed on access
    except ValueError:
        raise ValueError("invalid URL or port") from None
    if parts.scheme not in schemes or not parts.hostname:
        raise ValueError(f"the URL must have a scheme and a host, such as {example}")
    if "?" in url or "#" in url:
        raise ValueError("the URL must end with its path; remove ? or # and what follows")
    return (parts.scheme + url[len(parts.scheme) :]).rstrip("/")  # all other code expects a lower-case scheme
