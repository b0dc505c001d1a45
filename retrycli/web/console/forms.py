"""Read the fields of a request's query or form, and check them against a declared model, such as the filter of a list.

Only URL-encoded forms are read, with the standard library. Unknown fields, repeated fields and text that is not valid
UTF-8 are errors.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, ClassVar, Self, TypeVar, get_origin
from urllib.parse import parse_qsl

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request

from retrycli.domain.cursor import Sort
from retrycli.domain.duration import duration, in_zone, time_near, utc_text
from retrycli.domain.listing import FILTER_FIELDS, LONGEST_VALUE, TIMES, Filter
from retrycli.operations.wiring import utc_now
from retrycli.web.inputs import Line
from retrycli.web.problems import MOST_FAULTS

LARGEST_FORM = 4 << 20  # bytes; a text of 1 MiB fits, even if most of its characters are percent-encoded
LARGEST_OF_STRANGERS = 4 << 10  # bytes
MOST_FIELDS = 10_000
URL_ENCODED = "application/x-www-form-urlencoded"

Fields = Sequence[tuple[str, str]]


class Form(BaseModel):
    """The fields of a form or a query.

    An optional field without text counts as missing, because browsers send all fields of a form. ``blank`` names the
    optional fields for which that does not hold.
    """

    blank: ClassVar[frozenset[str]] = frozenset()
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


FormType = TypeVar("FormType", bound=Form)


class FormRejected(HTTPException):
    """A form or a query that can't be used. Nothing was changed. A fault of the whole form names no field."""

    def __init__(self, status: HTTPStatus, faults: Sequence[tuple[str, str]]) -> None:
        super().__init__(status, "; ".join(": ".join(filter(None, fault)) for fault in faults))
        self.faults = faults


async def read_form(request: Request, *, is_known: bool) -> Fields:
    """Return the fields of a request's body, in their order. Only a user who is signed in may send a large form.

    Raises:
        FormRejected: the body is too large (413), has another type (415), or is not a valid form (422).
    """
    largest = LARGEST_FORM if is_known else LARGEST_OF_STRANGERS
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > largest:
            too_large = f"the form has more than {largest:,} bytes" + ("" if is_known else "; sign in first")
            raise FormRejected(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, [("", too_large)])
    kind = request.headers.get("content-type", URL_ENCODED if not body else "").partition(";")[0].strip().lower()
    if kind != URL_ENCODED:
        raise FormRejected(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, [("", f"the Content-Type must be {URL_ENCODED}")])
    return await run_in_threadpool(_parsed, bytes(body))  # a large form takes more than a second


def read_query(request: Request, *, is_known: bool) -> Fields:
    """Return the fields of a request's query, in their order. Only a user who is signed in may send a long query.

    Raises:
        FormRejected: the query is too long (414), or not valid (422).
    """
    query: bytes = request.scope["query_string"]
    if not is_known and len(query) > LARGEST_OF_STRANGERS:
        too_long = f"the query has more than {LARGEST_OF_STRANGERS:,} bytes; sign in first"
        raise FormRejected(HTTPStatus.REQUEST_URI_TOO_LONG, [("", too_long)])
    return _parsed(query)


def _parsed(data: bytes) -> Fields:
    try:
        return parse_qsl(
            data.decode(),
            keep_blank_values=True,
            strict_parsing=bool(data),
            errors="strict",
            max_num_fields=MOST_FIELDS,
        )
    except UnicodeDecodeError:
        raise _invalid("", "the text is not valid UTF-8") from None
    except ValueError:
        raise _invalid("", f"not a valid form of at most {MOST_FIELDS:,} fields") from None


def checked(model: type[FormType], fields: Fields) -> FormType:
    """Return fields as a declared form.

    Raises:
        FormRejected: a field is unknown, repeated, missing or invalid (422).
    """
    fields_of = {field.alias or name: field for name, field in model.model_fields.items()}
    lists = {name for name, field in fields_of.items() if get_origin(field.annotation) is list}
    optional = {name for name, field in fields_of.items() if not field.is_required()} - model.blank
    values: dict[str, Any] = {}
    unknown = 0
    for name, value in fields:
        if name not in fields_of and (unknown := unknown + 1) > MOST_FAULTS:
            # A report of ten thousand unknown fields would cost the server more than the client.
            raise _invalid("", f"more than {MOST_FAULTS} fields are unknown")
        if name in lists:
            values.setdefault(name, []).append(value)
        elif name in values:
            raise _invalid(_shown(name), "the field is given twice")
        else:
            values[name] = value
    try:
        return model.model_validate({name: value for name, value in values.items() if value or name not in optional})
    except ValidationError as error:
        faults = [(_shown(str(fault["loc"][0])), _words(fault)) for fault in error.errors()]
        raise FormRejected(HTTPStatus.UNPROCESSABLE_ENTITY, faults) from None


def _shown(name: str) -> str:
    """Return a field's name for an error, shortened if the client has made it up."""
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"


LONGEST_NAME = 40  # characters of an unknown field's name in an error


def _words(fault: Any) -> str:  # noqa: ANN401  pydantic's description of an error
    match fault["type"]:
        case "extra_forbidden":
            return "the field is unknown"
        case "missing" | "string_too_short" | "too_short":
            return "a value is required"
        case "string_too_long" | "too_long":
            return f"must have at most {fault['ctx']['max_length']:,} characters"
        case _:
            return str(fault["msg"]).removeprefix("Value error, ")


def _invalid(name: str, why: str) -> FormRejected:
    return FormRejected(HTTPStatus.UNPROCESSABLE_ENTITY, [(name, why)])


def _period(text: str) -> str:
    duration(text)
    return text


def _past(text: str, now: datetime) -> datetime:
    """Return a time that is usually past. Without an offset it is in UTC, as in a page whose script does not run."""
    return time_near(text, now, partial(in_zone, zone=UTC), past=True)


def _time(text: str) -> str:
    _past(text, utc_now())
    return text


Words = Annotated[Line, Field(max_length=LONGEST_VALUE)]
Period = Annotated[Line, AfterValidator(_period)]
Past = Annotated[Line, AfterValidator(_time)]


def _conditions() -> Any:  # noqa: ANN401  a model whose fields are those of `FILTER_FIELDS`
    kinds: Mapping[type, Any] = {str: Words, datetime: Past}
    fields: Any = {
        name: (kinds.get(each.kind, each.kind) | None, Field(None, alias=None if each.name == name else each.name))
        for name, each in FILTER_FIELDS.items()
    }
    return create_model("Conditions", __base__=Form, **fields)


class MessageFilter(_conditions()):  # type: ignore[misc]  # a base that is made at run time
    """Conditions, all of which a message must meet. The names are those of the HTTP API."""

    def wanted(self, now: datetime) -> Filter:
        """Return the filter for the operations."""
        values = {name: getattr(self, name) for name in FILTER_FIELDS}
        return Filter(**values | {name: _past(text, now) for name in TIMES if (text := values[name]) is not None})

    def fixed(self, now: datetime) -> Self:
        """Return a copy with times for durations and times of day, so that later requests select the same messages."""
        given = {name: text for name in TIMES if (text := getattr(self, name)) is not None}
        fixed: Self = self.model_copy(update={name: utc_text(_past(text, now)) for name, text in given.items()})
        return fixed

    def given(self) -> dict[str, str]:
        """Return the fields that are given, for the address of a page and for hidden fields of a form."""
        names = {field.alias or name: getattr(self, name) for name, field in MessageFilter.model_fields.items()}
        return {name: str(value) for name, value in names.items() if value is not None}


class ListQuery(MessageFilter):
    """A filter, the order of the list, and the place at which its page begins."""

    sort: Sort = "next"
    after: Line | None = None
