"""Types of the values that requests contain. Invalid values are errors that name the field and the rule."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from retrycli.domain.duration import duration
from retrycli.domain.sanitize import encodable

LONGEST_REASON = 2000  # characters of a reason or a note


def _storable(text: str) -> str:
    """Reject text that a database can't store."""
    if "\0" in text or not encodable(text):
        raise ValueError("must not contain NUL or invalid Unicode")
    return text


def _one_line(text: str) -> str:
    if text.splitlines() not in ([], [text]):
        raise ValueError("must be one line")
    return text


def _length(value: object) -> timedelta:
    if not isinstance(value, str):
        raise ValueError("must be a text such as 30m, 2h or 1d")  # noqa: TRY004  pydantic reports only a ValueError
    if not (length := duration(value)):
        raise ValueError("must be longer than 0")
    return length


Text = Annotated[str, AfterValidator(_storable)]
Line = Annotated[Text, AfterValidator(_one_line)]
Reason = Annotated[Line, Field(min_length=1, max_length=LONGEST_REASON)]
Duration = Annotated[
    timedelta,
    BeforeValidator(_length),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(ms|[smhd])$", "examples": ["30m", "2h", "1d"]}),
]


class Body(BaseModel):
    """The body of a request. Unknown fields are errors, and no value is converted to another type."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)
