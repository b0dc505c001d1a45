"""Deliver messages to servers that answer in many ways, or not at all; check the outcomes.

Real servers count the requests: a request that may have been sent is never repeated.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest

from retrycli.domain.errors import ConfigurationError
from retrycli.domain.outcome import ERROR_LENGTH, RETRY_AFTER_CAP, Outcome, OutcomeKind
from retrycli.gateway.delivery import WAIT_SECONDS
from retrycli.gateway.http.response import ANSWER_LIMIT
from retrycli.gateway.http.transport import TRANSPORT_ERRORS, kind_of_exception
from tests.gateway.deliveries import (
    NOON,
    PATH,
    PUT_PRESET,
    deliver,
    deliver_in_turn,
    deliver_together,
    gateway_settings,
    preset_file,
    queued,
)
from tests.gateway.hostile import (
    LOOPBACK,
    SUCCEEDED,
    Behaviour,
    Hostile,
    answer,
    close,
    closed_port,
    full_port,
    http,
    in_pieces,
    raw,
    reset,
    then_close,
)

pytestmark = pytest.mark.usefixtures("nothing_is_left_open")

TEN_MB = 10_000_000

DELIVERED = OutcomeKind.DELIVERED
REFUSED = OutcomeKind.REFUSED
UNKNOWN = OutcomeKind.UNKNOWN
TRANSIENT = OutcomeKind.TRANSIENT
UNREACHABLE = OutcomeKind.UNREACHABLE
THROTTLED = OutcomeKind.THROTTLED
UNAUTHORIZED = OutcomeKind.UNAUTHORIZED
PERMANENT = OutcomeKind.PERMANENT

IN_TWO_MINUTES = format_datetime(NOON + timedelta(minutes=2), usegmt=True)
IN_A_YEAR = format_datetime(NOON + timedelta(days=365), usegmt=True)


def nested(depth: int) -> list[object]:
    tree: list[object] = []
    for _ in range(depth):
        tree = [tree]
    return tree


def outcome_of(behaviour: Behaviour, **settings: object) -> Outcome:
    """Deliver to a server with this behaviour; it must receive the message exactly once."""
    with Hostile(behaviour) as server:
        outcome = deliver(gateway_settings(server.url, immediate_retries=5, **settings))
    assert server.paths == [PATH]
    return outcome


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, DELIVERED),
        (204, DELIVERED),
        (300, PERMANENT),
        (401, UNAUTHORIZED),
        (403, PERMANENT),
        (404, PERMANENT),
        (405, PERMANENT),
        (408, TRANSIENT),
        (429, THROTTLED),
        (500, TRANSIENT),
        (501, PERMANENT),
        (599, TRANSIENT),
        (999, TRANSIENT),
    ],
)
def test_a_status_without_a_body(status: int, kind: OutcomeKind) -> None:
    outcome = outcome_of(answer(status))
    in_doubt = status in {300, 403, 404, 405, 501}
    assert outcome == Outcome(kind, status, None if kind is DELIVERED else f"HTTP {status}", in_doubt=in_doubt)


@pytest.mark.parametrize("body", [SUCCEEDED, b"{}", b" \r\n", b"[]", b"null", b'"queued"', b'{"id": 31}'])
def test_a_success_without_a_contradiction(body: bytes) -> None:
    assert outcome_of(answer(202, body)) == Outcome(DELIVERED, 202)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (
            {"succeeded": False, "messages": ["No such recipient", "Ticket is locked"]},
            "refused: No such recipient; Ticket is locked",
        ),
        ({"succeeded": False, "messages": "No such recipient"}, "refused: No such recipient"),
        ({"succeeded": False, "messages": [], "error": "Ticket is locked"}, "refused: Ticket is locked"),
        ({"succeeded": False, "errors": {"to": ["is empty"]}}, 'refused: {"to": ["is empty"]}'),
        ({"succeeded": None, "detail": ["a\r\nb", 7]}, "refused: a b; 7"),
        ({"succeeded": False}, "refused"),
    ],
)
def test_a_success_that_reports_a_failure(body: object, error: str) -> None:
    assert outcome_of(answer(200, json.dumps(body).encode())) == Outcome(REFUSED, 200, error, in_doubt=True)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>Welcome to our new hotel network</html>",
        b'{"succeeded": tr',
        b"\xff\xfe\x00",
        b"[" * 60_000,
        b"9" * 60_000,
    ],
    ids=["html", "cut JSON", "no UTF-8", "deeply nested", "an endless number"],
)
def test_a_success_that_cannot_be_interpreted(body: bytes) -> None:
    outcome = outcome_of(answer(200, body))
    assert outcome == Outcome(UNKNOWN, 200, "HTTP 200, but the response can't be read as JSON")


@pytest.mark.parametrize("body", [b'"' + b"a" * ANSWER_LIMIT, SUCCEEDED + b" " * ANSWER_LIMIT])
def test_a_success_that_is_too_long(body: bytes) -> None:
    outcome = outcome_of(answer(200, body))
    assert outcome == Outcome(UNKNOWN, 200, "HTTP 200, but the response is too long to be read")


@pytest.mark.parametrize("name", ["messages", "errors", "message", "error", "detail"])
def test_an_error_contains_the_servers_message(name: str) -> None:
    outcome = outcome_of(answer(422, json.dumps({name: "to is empty"}).encode()))
    assert outcome == Outcome(PERMANENT, 422, "HTTP 422: to is empty")


@pytest.mark.parametrize("body", [b"", b"<html>Bad gateway</html>", b'["a"]', b'{"error": null}', b"\xff", b"[" * 9000])
def test_an_error_page_is_handled(body: bytes) -> None:
    assert outcome_of(answer(502, body)) == Outcome(TRANSIENT, 502, "HTTP 502")


def test_an_error_nested_too_deeply_has_no_text(tmp_path: Path) -> None:
    preset = preset_file(tmp_path, PUT_PRESET + '[answer]\nerrors = ["errors.[kind=fatal].text"]\n')
    deep = "[" * 600 + "]" * 600
    for kind, error in (('"fatal"', "HTTP 422: no"), (deep, "HTTP 422")):
        body = f'{{"errors": [{{"kind": {kind}, "text": "no"}}]}}'
        assert outcome_of(answer(422, body.encode()), preset=preset) == Outcome(PERMANENT, 422, error)


def test_an_error_text_is_truncated() -> None:
    error = outcome_of(answer(400, json.dumps({"error": "long " * 5000}).encode())).error
    assert error is not None
    assert len(error) == ERROR_LENGTH


def test_an_error_text_can_be_stored_in_every_database() -> None:
    """JSON can contain a NUL or a lone surrogate. PostgreSQL can store neither, and SQLite no lone surrogate."""
    outcome = outcome_of(answer(400, rb'{"error": "a\u0000b\ud800c"}'))
    assert outcome.error == "HTTP 400: a b?c"


def test_json_may_begin_with_a_byte_order_mark() -> None:
    assert outcome_of(answer(200, b"\xef\xbb\xbf" + SUCCEEDED)) == Outcome(DELIVERED, 200)


def test_a_reason_phrase_and_a_header_may_be_in_any_charset() -> None:
    head = "HTTP/1.1 503 momentanément coupé\r\nRetry-After: später\r\nContent-Length: 0\r\n\r\n"
    assert outcome_of(raw(head.encode("latin-1"))) == Outcome(TRANSIENT, 503, "HTTP 503")


@pytest.mark.parametrize("cookie", ["session=1; Path=/", "=;\x01@=,; Expires=never"])
def test_cookies_are_ignored(cookie: str) -> None:
    with Hostile(answer(200, SUCCEEDED, {"Set-Cookie": cookie})) as server:
        outcomes = deliver_in_turn(gateway_settings(server.url), queued(), queued())
    assert [outcome.kind for outcome in outcomes] == [DELIVERED, DELIVERED]
    assert all("cookie" not in request.headers for request in server.requests)


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        (None, None),
        ("120", timedelta(minutes=2)),
        (IN_TWO_MINUTES, timedelta(minutes=2)),
        (IN_A_YEAR, RETRY_AFTER_CAP),
        ("soon", None),
        ("120\r\nRetry-After: 240", None),
        ("120\r\nRetry-After: 120", None),
    ],
)
@pytest.mark.parametrize(("status", "kind"), [(425, TRANSIENT), (429, THROTTLED), (503, TRANSIENT)])
def test_retry_after(status: int, kind: OutcomeKind, header: str | None, wait: timedelta | None) -> None:
    outcome = outcome_of(answer(status, headers={} if header is None else {"Retry-After": header}))
    assert outcome == Outcome(kind, status, f"HTTP {status}", wait)


@pytest.mark.parametrize(
    ("header", "kind", "wait"),
    [
        ("120", TRANSIENT, timedelta(minutes=2)),
        (IN_TWO_MINUTES, TRANSIENT, timedelta(minutes=2)),
        ("soon", PERMANENT, None),
    ],
)
def test_a_413_is_temporary_only_with_retry_after(header: str, kind: OutcomeKind, wait: timedelta | None) -> None:
    assert outcome_of(answer(413, headers={"Retry-After": header})) == Outcome(kind, 413, "HTTP 413", wait)


@pytest.mark.parametrize("status", [302, 308])
def test_a_redirect_is_not_followed_to_another_server(status: int) -> None:
    with Hostile(answer(200, SUCCEEDED)) as elsewhere:
        outcome = outcome_of(answer(status, headers={"Location": elsewhere.url + PATH}))
    assert outcome == Outcome(PERMANENT, status, f"HTTP {status}", in_doubt=True)
    assert not elsewhere.connections


def test_an_answer_of_exactly_the_limit_is_read() -> None:
    body = SUCCEEDED + b" " * (ANSWER_LIMIT - len(SUCCEEDED))
    assert outcome_of(answer(200, body)) == Outcome(DELIVERED, 200)


def test_a_connection_that_was_not_fully_read_is_not_reused() -> None:
    with Hostile(answer(500, b"a" * TEN_MB), answer(200, SUCCEEDED)) as server:
        outcomes = deliver_in_turn(gateway_settings(server.url), queued(), queued())
    assert [outcome.kind for outcome in outcomes] == [TRANSIENT, DELIVERED]
    assert [request.connection for request in server.requests] == [1, 2]


@pytest.mark.parametrize("behaviour", [close, reset])
def test_a_put_is_not_repeated_over_a_kept_connection(tmp_path: Path, behaviour: Behaviour) -> None:
    """By default, aiohttp repeats a PUT when a kept connection breaks, and the customer would get two copies."""
    preset = preset_file(tmp_path, PUT_PRESET)
    with Hostile(answer(200, SUCCEEDED), behaviour, answer(200, SUCCEEDED)) as server:
        outcomes = deliver_in_turn(
            gateway_settings(server.url, preset=preset), queued(body="first"), queued(body="second")
        )
    assert [outcome.kind for outcome in outcomes] == [DELIVERED, UNKNOWN]
    assert [(request.method, json.loads(request.body), request.connection) for request in server.requests] == [
        ("PUT", {"body": "first"}, 1),
        ("PUT", {"body": "second"}, 1),
    ]


def test_each_of_many_concurrent_messages_has_its_own_outcome() -> None:
    """Answers must not be mixed up between connections."""
    paths = {f"/tickets/{status}/messages": [answer(status)] for status in (200, 404, 429, 500)}
    messages = [queued(ticket_id=status) for status in (200, 404, 429, 500)] * 4
    with Hostile(at=paths) as server:
        outcomes = deliver_together(gateway_settings(server.url), *messages)
    assert [outcome.status_code for outcome in outcomes] == [200, 404, 429, 500] * 4
    assert len(server.requests) == 16


def test_a_server_without_a_connection_is_unreachable() -> None:
    def error(url: str, **changes: object) -> str:
        outcome = deliver(gateway_settings(url, **changes))
        assert (outcome.kind, outcome.status_code) == (UNREACHABLE, None)
        return outcome.error or ""

    with closed_port() as port:
        for scheme in ("http", "https"):
            refused = error(f"{scheme}://{LOOPBACK}:{port}")
            assert refused.startswith("ClientConnectorError: Cannot connect to host 127.0.0.1")
    assert "name.invalid" in error("http://name.invalid")
    with full_port() as port:
        late = error(f"http://{LOOPBACK}:{port}", connect_timeout_seconds=0.1)
    assert late.startswith("ConnectionTimeoutError")


@pytest.mark.parametrize("retries", [0, 2])
def test_only_unsent_messages_are_repeated_at_once(retries: int) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    with closed_port() as port:
        outcome = deliver(gateway_settings(f"http://{LOOPBACK}:{port}", immediate_retries=retries), sleep=sleep)
    assert outcome.kind is UNREACHABLE
    shortest, longest = WAIT_SECONDS
    assert len(waits) == retries
    assert all(shortest <= wait <= longest for wait in waits)


@pytest.mark.parametrize(("behaviour", "kind"), [(answer(200, SUCCEEDED), DELIVERED), (close, UNKNOWN)])
def test_an_immediate_retry_that_was_sent_is_not_repeated(behaviour: Behaviour, kind: OutcomeKind) -> None:
    """The server starts between two attempts. The second one may have arrived, although five retries are allowed."""
    server = Hostile(behaviour)
    with ExitStack() as stack:

        async def start_the_server(_seconds: float) -> None:
            stack.enter_context(server)

        outcome = deliver(gateway_settings(server.url, immediate_retries=5), sleep=start_the_server)
    assert outcome.kind is kind
    assert server.paths == [PATH]


def test_a_retry_beyond_the_deadline_is_not_awaited() -> None:
    async def sleep(_seconds: float) -> None:
        raise AssertionError("slept beyond the deadline")

    shortest, _ = WAIT_SECONDS
    with closed_port() as port:
        settings = gateway_settings(f"http://{LOOPBACK}:{port}", request_timeout_seconds=shortest)
        outcome = deliver(settings, sleep=sleep)
    assert (outcome.error or "").startswith("ClientConnectorError"), "what was wrong, and not that time was short"


def test_a_deadline_between_two_attempts_leaves_the_message_unsent() -> None:
    async def sleep(_seconds: float) -> None:
        raise TimeoutError

    with closed_port() as port:
        outcome = deliver(gateway_settings(f"http://{LOOPBACK}:{port}", request_timeout_seconds=7), sleep=sleep)
    assert outcome == Outcome(UNREACHABLE, None, "not sent within 7 s")


@pytest.mark.parametrize("error", [OSError(5, "?"), TimeoutError(), UnicodeError("?"), httpx.ReadError("?")])
def test_a_request_not_proven_unsent_is_unknown(error: Exception) -> None:
    assert isinstance(error, TRANSPORT_ERRORS)
    assert kind_of_exception(error) is UNKNOWN


@pytest.mark.parametrize(
    "changes",
    [
        {"ticket_id": "9" * 70_000},
        {"ticket_id": ".."},
        {"subject": "\ud800"},
        {"cc_emails": nested(200_000)},
        {"cc_emails": [float("nan")]},
    ],
    ids=["long URL", "step up", "surrogate", "nesting", "NaN"],
)
def test_a_message_that_cannot_be_made_into_a_request(changes: dict[str, object]) -> None:
    """Some of these values are already refused when a row is read, but the gateway does not rely on that."""
    message = queued()
    message = message._replace(message=message.message._replace(fields={**message.message.fields, **changes}))
    with Hostile(answer(200, SUCCEEDED)) as server:
        outcome = deliver(gateway_settings(server.url), message)
    assert (outcome.kind, outcome.status_code) == (PERMANENT, None)
    assert (outcome.error or "").startswith("the request can't be built: ")
    assert not server.connections


def test_a_type_missing_from_the_preset(tmp_path: Path) -> None:
    with Hostile(answer(200, SUCCEEDED)) as server:
        settings = gateway_settings(server.url, preset=preset_file(tmp_path, PUT_PRESET))
        outcome = deliver(settings, queued(message_type="internal"))
    assert outcome.kind is OutcomeKind.INVALID
    assert "can't send internal messages" in (outcome.error or "")
    assert not server.connections


@pytest.mark.parametrize(
    ("url", "said"), [("http://127.0.0.1:65536", r"gateway\.base_url"), (None, "TICKETING_API_BASE_URL")]
)
def test_no_message_is_sent_or_escalated_without_a_valid_base_url(url: str | None, said: str) -> None:
    settings = gateway_settings("http://127.0.0.1:1").model_copy(update={"base_url": url})
    with pytest.raises(ConfigurationError, match=said):
        deliver(settings)


LARGE = "ü" * 5_000_000
"""A text of 10 MB: aiohttp warns about a body of more than 1 MiB that it gets in one piece."""


def test_large_messages_arrive_complete() -> None:
    with Hostile(answer(200, SUCCEEDED)) as server:
        outcomes = deliver_in_turn(gateway_settings(server.url), *[queued(body=LARGE)] * 3)
    assert outcomes == [Outcome(DELIVERED, 200)] * 3
    assert [json.loads(request.body)["body"] == LARGE for request in server.requests] == [True] * 3


@pytest.mark.parametrize(
    "behaviour",
    [answer(413), then_close(http(413)), in_pieces(http(413), b"", seconds=60)],
    ids=["reads on", "leaves", "deaf"],
)
def test_an_answer_before_the_end_of_the_request_counts(behaviour: Behaviour) -> None:
    """A server with a size limit may answer before it has read the whole request."""
    with Hostile(behaviour, hasty=True) as server:
        outcome = deliver(gateway_settings(server.url), queued(body=LARGE))
    assert outcome == Outcome(PERMANENT, 413, "HTTP 413")
    assert len(server.connections) == 1
