"""Declare the HTTP API's endpoints: each names its method, its path and the right that it needs."""

from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Generic, TypeVar, get_args, get_type_hints

from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import Message, Scope

from retrycli.domain.user import Right, User
from retrycli.views.formatting import as_json
from retrycli.web import problems
from retrycli.web.access import SAFE_METHODS, Access, AccessDenied, Method
from retrycli.web.routing import RouteInTurn, encoded_path, with_decoded

Handler = TypeVar("Handler", bound=Callable[..., Response])
Content = TypeVar("Content", bound=Mapping[str, object])
Respond = Callable[[Request], Coroutine[Any, Any, Response]]

LARGEST_BODY = 4 << 20  # bytes; a message of 1 MiB fits
JSON = "application/json"
EVERYWHERE = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.MISDIRECTED_REQUEST,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
OF_BODIES = (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNSUPPORTED_MEDIA_TYPE)


class Problem(BaseModel):
    """A problem document (RFC 9457)."""

    type: str = Field(description="`urn:retrycli:problem:NAME`, or `about:blank`")
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] | None = Field(None, description="for invalid-input: the invalid fields")
    count: int | None = Field(None, description="for count-changed: the number of messages that match now")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What `endpoint` declares of a handler."""

    method: Method
    path: str
    right: Right
    errors: tuple[HTTPStatus, ...]


def endpoint(method: Method, path: str, right: Right, *errors: HTTPStatus) -> Callable[[Handler], Handler]:
    """Declare a method of a class as the handler of an endpoint below the API's prefix. It returns a `JsonAnswer` of
    one type. ``errors`` are the statuses of its problems, except for those that every endpoint has.
    """

    def declare(handler: Handler) -> Handler:
        handler.__dict__["declaration"] = Endpoint(method, path, right, errors)
        return handler

    return declare


def declaration_of(handler: Callable[..., Any]) -> Endpoint:
    """Return what `endpoint` declared of a handler.

    Raises:
        TypeError: nothing was declared, so nobody decided which right the handler needs.
    """
    found = getattr(handler, "declaration", None)
    if not isinstance(found, Endpoint):
        raise TypeError(f"{handler} has no declaration; add @endpoint, which names the right that it needs")
    return found


def add_endpoints(router: APIRouter, handlers: object) -> None:
    """Add all declared endpoints of an object to a router, in the order of their declarations."""
    for name, function in vars(type(handlers)).items():
        if hasattr(function, "declaration"):
            declared = declaration_of(function)
            [model] = get_args(get_type_hints(function)["return"])
            router.add_api_route(
                declared.path,
                getattr(handlers, name),
                methods=[declared.method],
                response_model=None,
                responses={200: {"model": model}, **_problems_of(declared)},
                operation_id=name,
            )


def _problems_of(declared: Endpoint) -> dict[int | str, dict[str, Any]]:
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status: {"description": status.phrase, "content": {problems.MEDIA_TYPE: schema}}
        for status in (*EVERYWHERE, *(() if declared.method in SAFE_METHODS else OF_BODIES), *declared.errors)
    }


def route_class(access: Access) -> type[APIRoute]:
    """Return the class of the API's routes, which check the rights and turn errors into problem documents."""

    class ApiRoute(RouteInTurn, APIRoute):
        def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:  # noqa: ANN401  FastAPI's
            self.right = declaration_of(endpoint).right
            super().__init__(path, endpoint, **options)

        def matches(self, scope: Scope) -> tuple[Match, Scope]:
            """Match the encoded path, as `retrycli.web.routing.EncodedRoute` does."""
            return with_decoded(*super().matches({**scope, "path": encoded_path(scope)}))

        def get_route_handler(self) -> Respond:
            respond = super().get_route_handler()

            async def checked(request: Request) -> Response:
                user: User | None = None
                try:
                    request.state.user = user = await access.check(request, self.right)
                    check_query(request, takes_query=bool(self.dependant.query_params))
                    response = await respond(await with_body(request, takes_fields=self.body_field is not None))
                except Exception as error:  # noqa: BLE001  every error becomes a problem document
                    response = problem_of(error, user)
                response.headers.update({"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})
                return response

            return checked

    return ApiRoute


def check_query(request: Request, *, takes_query: bool) -> None:
    """Refuse a query that nobody would read.

    Raises:
        HTTPException: the address has a query, but the endpoint takes none.
    """
    if request.query_params and not takes_query:
        raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, "this address takes no query; omit everything after ?")


async def with_body(request: Request, *, takes_fields: bool) -> Request:
    """Read the body of a request, at most `LARGEST_BODY`, and return a request that has it. If the endpoint takes no
    fields, the body must be empty, or an object without fields.

    Raises:
        HTTPException: the body is too large, is not JSON, or has fields that nobody would read.
    """
    if request.method in SAFE_METHODS:
        return request
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > LARGEST_BODY:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has more than {LARGEST_BODY:,} bytes")
    kind = request.headers.get("content-type", JSON if not body else "").partition(";")[0].strip().lower()
    if kind != JSON:
        raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the Content-Type must be {JSON}")
    if not takes_fields and bytes(body).translate(None, b" \t\r\n") not in {b"", b"{}"}:
        raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, "this address takes no fields; omit the body")

    async def receive() -> Message:
        return {"type": "http.request", "body": bytes(body), "more_body": False}

    return Request(request.scope, receive)


def problem_of(error: Exception, user: User | None = None) -> Response:
    """Return the problem document of an error for a user, without any part of the request that caused it."""
    match error:
        case RequestValidationError():
            return _invalid_input(error)
        case ClientDisconnect():
            return problems.problem(HTTPStatus.BAD_REQUEST, problems.GONE)
        case HTTPException():
            name = "access-denied" if isinstance(error, AccessDenied) else ""
            return problems.problem(HTTPStatus(error.status_code), str(error.detail), name, headers=error.headers)
        case _:
            return problems.of_error(error, user)


def _invalid_input(error: RequestValidationError) -> Response:
    faults = [
        _fault(fault["type"], fault["loc"][1:], str(fault["msg"])) for fault in error.errors()[: problems.MOST_FAULTS]
    ]
    detail = "; ".join(": ".join(filter(None, fault.values())) for fault in faults)
    return problems.problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, "invalid-input", errors=faults)


def _fault(kind: str, where: Sequence[str | int], message: str) -> dict[str, str]:
    field = ".".join(map(str, where))
    match kind:
        case "json_invalid":
            return {"field": "", "message": f"the body is not valid JSON (character {field})"}
        case "missing" if not where:
            return {"field": "", "message": "the body is missing; send a JSON object"}
        case "missing":
            return {"field": field, "message": "is missing"}
        case _:
            return {"field": field, "message": message.removeprefix("Value error, ")}


def current_user(request: Request) -> User:
    """Return the user of a request whose rights were checked."""
    user: User = request.state.user
    return user


CurrentUser = Annotated[User, Depends(current_user)]


class JsonAnswer(Response, Generic[Content]):
    """A response with one type of JSON body, which the OpenAPI document describes."""


def answer(body: Content, *, has_version: bool = True, **headers: str) -> JsonAnswer[Content]:
    """Return a response with a JSON body, formatted as the commands format it."""
    values = {name: [*value] if isinstance(value, Iterator) else value for name, value in body.items()}
    version = {"schema_version": 1} if has_version else {}
    return JsonAnswer(as_json(version | values), media_type=JSON, headers=headers)
