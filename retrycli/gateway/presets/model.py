"""The tables of a preset, such as requests and conditions. They are validated when the preset is read."""

import re
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from retrycli.domain.identity import TEXT_COLUMNS
from retrycli.domain.message import LIST_COLUMNS
from retrycli.domain.outcome import OutcomeKind
from retrycli.gateway.presets.json_path import JsonPath
from retrycli.gateway.presets.template import Template, Tree, places

# Names that retrycli defines in templates. They take precedence over columns with the same names.
OURS = frozenset({"delivery_key", "marker", "session", "external_id", "page", "identity"})
CREDENTIALS = frozenset({"token", "username", "password", "session"})  # names for the templates of [auth]
KEY = "delivery_key"
ATTACHMENTS = "attachments"
OF_ATTACHMENTS = frozenset({"name", "type", "size", "content", "token"})  # the parts of an attachment in {each.…}
OF_ANSWERS = frozenset({"page", "external_id"})  # names without a value when a message is sent
TEXTS = frozenset({"subject", "body"})  # columns that may contain line breaks


def _stays_below(path: str) -> str:
    """Check that a path stays below the base URL (RFC 3986, section 5.2.4)."""
    if not path.startswith("/"):
        raise ValueError("the path must start with a slash")
    steps = re.split(r"[/?]", re.sub("%2e", ".", path, flags=re.IGNORECASE))
    if path.startswith("//") or ".." in steps or "." in steps or re.search(r"[\x00-\x20\x7f\\#]", path):
        raise ValueError("the path leads outside the base URL or contains invalid characters")
    return path


def _fits_a_header(template: str) -> str:
    if not re.fullmatch(r"[ -~]*", template):
        raise ValueError("a header must consist of printable ASCII characters")
    for place in places(template):
        if place.name in TEXTS and "base64" not in {name for name, _ in place.filters}:
            raise ValueError(
                f"{place.name} may contain line breaks, but a header must not: write {{{place.name}|base64}}"
            )
    return template


def _credentials_only(tree: Any) -> Any:  # noqa: ANN401  a template, or a body with templates
    for place in places(tree):
        if place.name not in CREDENTIALS:
            raise ValueError(f"{{{place.name}}} must be one of {', '.join(sorted(CREDENTIALS))}")
    return tree


UrlPath = Annotated[Template, AfterValidator(_stays_below)]
HeaderName = Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")]
Headers = dict[HeaderName, Annotated[Template, AfterValidator(_fits_a_header)]]
Query = dict[str, Template]
Secret = Annotated[Template, AfterValidator(_credentials_only)]
SecretHeader = Annotated[Secret, AfterValidator(_fits_a_header)]
SecretTree = Annotated[Tree, AfterValidator(_credentials_only)]


class Table(BaseModel):
    """A table of a preset. Unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Condition(Table):
    """A condition on an answer. By default, it holds if any value at the path is not null, empty, zero or false."""

    path: JsonPath | None = None
    equals: Any = None
    contains: Template | None = None
    text: Template | None = None  # instead of a path: a string to find anywhere in the answer

    @model_validator(mode="after")
    def _has_one_test(self) -> Self:
        if (self.path is None) is (self.text is None):
            raise ValueError("set either path or text, not both")
        if len([test for test in (self.equals, self.contains, self.text) if test is not None]) > 1:
            raise ValueError("set at most one of equals, contains and text")
        if isinstance(self.equals, str) and "{" in self.equals:
            raise ValueError(
                "equals accepts no placeholders: use contains, or put them into the path, such as [key={delivery_key}]"
            )
        return self

    @property
    def templates(self) -> tuple[str, ...]:
        """Return the condition's strings that may contain placeholders."""
        return tuple(template for template in (self.path, self.contains, self.text) if template is not None)


class Get(Table):
    """A request that changes nothing."""

    path: UrlPath
    query: Query = {}


class Question(Get):
    """A GET with a condition on its answer."""

    holds: Condition
    more: Condition | None = None  # while it holds, request the next page: {page} is 2, 3 and so on


class LookupRule(Question):
    """A GET whose condition holds if a message has arrived."""

    # Time after an attempt during which its message may still appear. A message that is not found after that counts as
    # absent.
    settle_seconds: float = Field(120.0, ge=0, le=86_400)

    @model_validator(mode="after")
    def _proves_absence(self) -> Self:
        if any(condition is not None and condition.text is not None for condition in (self.holds, self.more)):
            raise ValueError(
                "a look-up needs a path: a page without a text may be any page, so it does not prove that the message "
                "is absent"
            )
        return self

    @model_validator(mode="after")
    def _asks_for_one_message(self) -> Self:
        names = {place.name for place in places([self.path, self.query, *self.holds.templates])}
        if KEY not in names:
            raise ValueError("the path, query or condition must contain {delivery_key}, or it would match any message")
        for name in names.intersection(TEXT_COLUMNS):
            raise ValueError(f"{{{name}}} is part of the text, but a look-up must find earlier versions of it as well")
        return self


class Step(Get):
    """One GET of a preflight."""

    # Values from the answer for the templates of later steps. If a value is missing, the preflight is not proven.
    take: dict[Annotated[str, Field(pattern=r"^\w+$")], JsonPath] = {}
    each: str | None = None  # a list from an earlier `take`, or a column: send the GET once per value
    enough: Condition | None = None  # if it holds, the preflight is proven without further steps
    holds: Condition | None = None  # must hold for at least one answer to this step


class Preflight(Table):
    """A check that must succeed before a message is sent, or before its marker may be omitted. Its steps only read."""

    remedy: str  # the operator's next step if the preflight is not proven
    steps: tuple[Step, ...] = Field(min_length=1)


class Marker(Table):
    """A string that is added to a message, so that a look-up can find the message."""

    text: Template
    unless: str | None = None  # a preflight; if it is proven, the marker is empty


class MessageRule(Table):
    """The request for one message type."""

    method: Literal["POST", "PUT", "PATCH"] = "POST"
    path: UrlPath
    query: Query = {}
    headers: Headers = {}
    encoding: Literal["json", "multipart"] = "json"
    format: Literal["text", "html"] = "text"
    body: Tree = {}
    files: str | None = None  # the form field for the attachments in a multipart request
    # Accepted extensions of attachments, in lower case, if the system mishandles other files; "" means no extension. By
    # default, all extensions are accepted.
    endings: tuple[Annotated[str, Field(pattern=r"^[^.A-Z]*$")], ...] = ()
    # Columns that must not be empty. For example, some systems report success for an empty body, but store nothing.
    required: tuple[str, ...] = ()
    # Unsupported columns whose values may be dropped. A message with a value in another unsupported list column is not
    # sent.
    ignores: tuple[Literal["cc_emails", "bcc_emails", "attachments"], ...] = ()
    marker: Marker | None = None
    preflight: str | None = None
    confirmed: Condition | None = None  # if it does not hold, the message has arrived, but not as intended
    verify: Question | None = None  # reads a delivered message back, if gateway.verify is set

    @cached_property
    def capabilities(self) -> tuple[str, ...]:
        """Return the list columns that the rule supports."""
        return tuple(
            column for column in LIST_COLUMNS if column in self._names or (column == ATTACHMENTS and self.files)
        )

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(place.name for place in places([self.path, self.query, self.headers, self.body]))

    @model_validator(mode="after")
    def _has_a_value_for_names(self) -> Self:
        if self.marker is None and "marker" in self._names:
            raise ValueError('{marker} is used but not defined: write marker = { text = "Ref. {delivery_key}" }')
        if self.marker is not None and "marker" not in self._names:
            raise ValueError("the marker is not used: write {marker} into the body")
        for name in sorted(self._names):
            _, _, part = name.partition(".")
            if name in OF_ANSWERS or (part and part not in OF_ATTACHMENTS):
                raise ValueError(f"{{{name}}} can't be used in a message; remove it")
        return self

    @model_validator(mode="after")
    def _fits_its_format(self) -> Self:
        for place in places(self.body):
            done = {name for name, _ in place.filters}
            if place.name == "body" and self.format == "html" and not done & {"html", "raw"}:
                raise ValueError("the format is html: write {body|html}, or {body|raw} if the column contains HTML")
            if self.format == "text" and "html" in done:
                raise ValueError(f"the format is text: write {{{place.name}}} without |html, or set format = 'html'")
        return self

    @model_validator(mode="after")
    def _fits_its_encoding(self) -> Self:
        if self.files is not None and self.encoding != "multipart":
            raise ValueError("files needs encoding = 'multipart'")
        if self.encoding == "multipart" and any(isinstance(value, dict) for value in self.body.values()):
            raise ValueError("the values in a multipart body must be strings or lists of strings, not tables")
        return self


class Session(Table):
    """The log-in request."""

    method: Literal["GET", "POST"] = "POST"
    path: UrlPath
    headers: dict[HeaderName, SecretHeader] = {}
    body: SecretTree = {}
    encoding: Literal["json", "form"] = "json"  # encoding of the body; OAuth (RFC 6749) requires a form
    token: JsonPath  # path of the token in the answer; the token becomes {session}


class Auth(Table):
    """The method and the credentials that authenticate requests."""

    headers: dict[HeaderName, SecretHeader] = {}
    basic: tuple[Secret, Secret] | None = None  # user and password (RFC 7617)
    session: Session | None = None
    identity: Secret | None = None  # the value of {identity} in templates outside [auth]

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the credentials that the templates require. Exclude those with ``|optional`` or ``|default``."""
        session = () if self.session is None else (self.session.headers, self.session.body)
        found = places([self.headers, self.basic or (), self.identity, *session])
        named = {place.name for place in found if not {name for name, _ in place.filters} & {"default", "optional"}}
        return tuple(sorted(named - {"session"}))


class Upload(Table):
    """The upload of an attachment before its message is sent. The answer's token becomes ``{each.token}``."""

    path: UrlPath
    query: Query = {}
    headers: Headers = {}
    files: str | None = None  # the form field for the attachment; by default the attachment is the whole body
    content_type: str | None = None  # content type of a body without `files`; by default the attachment's
    token: JsonPath

    @model_validator(mode="after")
    def _goes_one_way(self) -> Self:
        if self.files is not None and self.content_type is not None:
            raise ValueError(
                "set at most one of content_type (the attachment is the whole body) and files (it is a form field)"
            )
        return self


class SuccessRule(Table):
    """The condition under which a 2xx answer means delivered."""

    status: tuple[int, ...] = ()  # accepted statuses; by default 200 to 299
    content_type: str | None = None  # accepted media type, such as text/html
    text: str | None = None  # a string that the answer must contain
    field: JsonPath | None = None
    equals: Any = True
    required: bool = False  # an answer without the field counts as refused
    present: JsonPath | None = None
    not_empty: JsonPath | None = None
    absent: JsonPath | None = None


class AnswerRule(Table):
    """Where an answer contains its errors and the id of the created object."""

    errors: tuple[JsonPath, ...] = ("messages", "errors", "message", "error", "detail")
    id: JsonPath | None = None
    id_header: HeaderName | None = None  # such as Location; the header's value ends with the id


class Reclassification(Table):
    """An exception to the usual outcome, by status, and by a part of the answer's text or of its Location header."""

    status: tuple[int, ...] = ()
    text: str | None = None
    location: str | None = None
    outcome: OutcomeKind
    remedy: str | None = None  # appended to the error, for the operator

    @model_validator(mode="after")
    def _has_a_condition(self) -> Self:
        if not (self.status or self.text or self.location):
            raise ValueError("set status, text or location; without any, the rule would apply to every response")
        return self

    def applies(self, status: int, text: str, location: str) -> bool:
        """Return whether an answer matches the exception."""
        return (
            (not self.status or status in self.status)
            and (self.text or "").lower() in text.lower()
            and (self.location or "") in location
        )
