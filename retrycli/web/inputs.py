"""Types of the values that requests contain. Invalid values are errors that name the field and the rule."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    create_model,
    model_validator,
)

from retrycli.domain.cursor import Sort
from retrycli.domain.duration import duration
from retrycli.domain.listing import FILTER_FIELDS, Filter
from retrycli.domain.sanitize import encodable
from retrycli.operations.bulk import LONGEST_REASON, BulkAction, BulkRequest, Canary
from retrycli.operations.listing import MAX_PAGE

# The characters that `str.splitlines` does not split at, as a pattern for the OpenAPI document.
ONE_LINE = r"^[^\x00\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]*$"
MOST_IDS = 10_000
MOST_FIELDS = 100


def _storable(text: str) -> str:
    if "\0" in text or not encodable(text):
        raise ValueError("must not contain NUL or invalid Unicode")
    return text


def _one_line(text: str) -> str:
    if text.splitlines() not in ([], [text]):
        raise ValueError("must be one line")
    return text


def _one_tag(text: str) -> str:
    if not re.fullmatch(r'\*|"[!#-~]*"', text):  # RFC 9110, section 8.8.3; a weak tag never matches
        raise ValueError("must be the ETag of the message, with its quotes, or *")
    return text


def _not_empty(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


def _length(value: object) -> timedelta:
    if not isinstance(value, str):
        raise ValueError("must be a text such as 30m, 2h or 1d")  # noqa: TRY004  pydantic reports only a ValueError
    if not (length := duration(value)):
        raise ValueError("must be longer than 0")
    return length


def _in_utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be a time from year 1 to 9999 in UTC") from None


def _key(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("must be an id, as a text or a number")  # noqa: TRY004  pydantic reports only a ValueError
    return str(value)


# The id of a message. Ids are opaque text; a number is accepted, because the responses have numbers.
MessageKey = Annotated[str, BeforeValidator(_key), WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer"}]})]
Text = Annotated[str, AfterValidator(_storable)]
Line = Annotated[Text, AfterValidator(_one_line), Field(json_schema_extra={"pattern": ONE_LINE})]
Reason = Annotated[
    Line, AfterValidator(_not_empty), Field(max_length=LONGEST_REASON, json_schema_extra={"minLength": 1})
]
# A ticket's id. A number is accepted, because the responses have numbers.
Ticket = Annotated[Line, BeforeValidator(_key), WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer"}]})]
Time = Annotated[AwareDatetime, AfterValidator(_in_utc)]
ETag = Annotated[str, AfterValidator(_one_tag), Field(max_length=200)]
Duration = Annotated[
    timedelta,
    BeforeValidator(_length),
    WithJsonSchema(
        {"type": "string", "pattern": r"^(?=.*[1-9])[0-9]+(\.[0-9]+)?(ms|[smhd])$", "examples": ["30m", "2h", "1d"]}
    ),
]


class Input(BaseModel):
    """A set of fields. Unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _check_number(cls, fields: object) -> object:
        # Otherwise an error would be made for each of a million unknown fields.
        if isinstance(fields, dict) and len(fields) > MOST_FIELDS:
            raise ValueError(f"must have at most {MOST_FIELDS} fields")
        return fields


class Body(Input):
    """The body of a request. No value is converted to another type."""

    model_config = ConfigDict(strict=True, frozen=True)


class PageQuery(Input):
    """The query of a list."""

    after: Line | None = Field(None, description="`next` of the previous page")
    limit: int = Field(50, ge=1, le=MAX_PAGE)


def _conditions() -> Any:  # noqa: ANN401  a model whose fields are those of `FILTER_FIELDS`
    fields: dict[str, Any] = {}
    for name, each in FILTER_FIELDS.items():
        if each.is_time:
            fields[name] = Time | None, Field(None, description=each.about)
        else:
            kind: Any = Ticket if name == "ticket" else Line if each.kind is str else each.kind
            alias = None if each.name == name else each.name
            fields[name] = list[kind], Field([], max_length=each.most, alias=alias, description=each.about)
    return create_model("Conditions", __base__=Input, **fields)


class Selection(_conditions()):  # type: ignore[misc]  # a base that is made at run time
    """A filter of messages. A field with several values matches any of them."""

    @property
    def filter(self) -> Filter:
        """Return the filter that the fields describe."""
        values: Any = {name: getattr(self, name) or None for name in Selection.model_fields}
        return Filter(**values)


class MessageQuery(PageQuery, Selection):
    """The query of a list of messages."""

    sort: Sort = Field("next", description="by next attempt, id, number of retries or age")


class BulkBody(Body):
    """An action on many messages. Several calls may be needed: see `after`."""

    action: Annotated[BulkAction, Field(strict=False)]
    ids: list[MessageKey] = Field([], max_length=MOST_IDS, description="the messages; or")
    selection: Selection | None = Field(None, alias="filter", description="all messages that a filter matches")
    expected: int | None = Field(
        None, ge=0, description="with a filter: the number of messages that were confirmed; required"
    )
    reason: Reason | None = Field(None, description="for reject (required) and mark_sent")
    canary: int | None = Field(None, ge=1, description="for requeue: attempt this many messages first")
    spread: Duration | None = Field(None, description="for requeue: the period over which messages become due")
    send_again: bool = Field(default=False, description="for retry: send also messages that may have arrived")
    as_of: Annotated[Time, Field(strict=False)] | None = Field(
        None, description="when you read the messages; those attempted, changed or failed anew since are left unchanged"
    )
    after: Line | None = Field(None, description="`next` of the previous call, to go on with the same body")

    @model_validator(mode="after")
    def _check_messages(self) -> Self:
        if bool(self.ids) == (self.selection is not None):
            raise ValueError("give either ids or a filter")
        if self.selection is not None and self.expected is None:
            raise ValueError("expected is missing; with a filter, give the number of messages that were confirmed")
        return self

    @property
    def request(self) -> BulkRequest:
        """Return the request that the fields describe."""
        return BulkRequest(
            action=self.action,
            ids=self.ids,
            wanted=None if self.selection is None else self.selection.filter,
            expected=self.expected,
            reason=self.reason,
            spread=self.spread or timedelta(0),
            canary=None if self.canary is None else Canary(self.canary),
            send_again=self.send_again,
            as_of=self.as_of,
        )
