"""Credentials: how they are sent, obtained and renewed, and that no error contains them."""

from __future__ import annotations

import asyncio
import base64
import html
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote_plus

import httpx
import pytest

from retrycli.domain.errors import ConfigurationError
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.gateway.http.client import Credentials
from retrycli.gateway.http.response import Answer
from retrycli.gateway.presets.loader import Preset
from retrycli.gateway.presets.model import Auth, Session
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
from tests.gateway.hostile import SUCCEEDED, Behaviour, Connection, Hostile, Received, answer, close, http, raw, silence

LOG_IN = "/auth/login"
ACCOUNT = {"auth": "login", "username": "agent", "password": "geheim"}
SHORT = 0.3
"""A deadline in seconds, short because tests wait until it has passed."""


def token(text: str) -> Behaviour:
    """Return a login that succeeds with this token."""
    return answer(200, json.dumps({"access_token": text, "token_type": "bearer"}).encode())


def only_with(text: str) -> Behaviour:
    """Accept this token, and refuse any other."""

    def play(connection: Connection) -> None:
        asked = connection.asked
        good = asked is not None and asked.headers.get("authorization") == f"Bearer {text}"
        connection.send(http(200, SUCCEEDED) if good else http(401, b'{"error": "token expired"}'))

    return play


def messages_of(server: Hostile) -> list[Received]:
    return [request for request in server.requests if request.path == PATH]


def log_ins_of(server: Hostile) -> list[Received]:
    return [request for request in server.requests if request.path == LOG_IN]


def authorizations(server: Hostile) -> list[str | None]:
    return [request.headers.get("authorization") for request in messages_of(server)]


def test_bearer_authentication() -> None:
    with Hostile(answer(200, SUCCEEDED)) as server:
        assert deliver(gateway_settings(server.url, auth="bearer", token="abc.~/+==")).kind is OutcomeKind.DELIVERED
    assert authorizations(server) == ["Bearer abc.~/+=="]


@pytest.mark.parametrize(("username", "password"), [("agent", "geheim"), ("Jürgen", "pass: wört\n"), (" ", " ")])
def test_basic_authentication(username: str, password: str) -> None:
    with Hostile(answer(200, SUCCEEDED)) as server:
        settings = gateway_settings(server.url, auth="basic", username=username, password=password)
        assert deliver(settings).kind is OutcomeKind.DELIVERED
    (sent,) = authorizations(server)
    scheme, _, pair = (sent or "").partition(" ")
    assert (scheme, base64.b64decode(pair).decode()) == ("Basic", f"{username}:{password}")


@pytest.mark.parametrize(
    ("status", "credentials"),
    [(407, {"auth": "none"}), (401, {"auth": "basic", "username": "agent", "password": "geheim"})],
)
def test_refused_fixed_credentials_are_not_repeated(status: int, credentials: dict[str, object]) -> None:
    with Hostile(answer(status, b'{"error": "who are you?"}')) as server:
        outcome = deliver(gateway_settings(server.url, **credentials))
    assert outcome == Outcome(OutcomeKind.UNAUTHORIZED, status, f"HTTP {status}: who are you?")
    assert len(server.requests) == 1


@pytest.mark.parametrize("bad", ["two words", "line\nfeed", "tökén"])
def test_a_token_that_cannot_be_sent_is_an_invalid_setting(bad: str) -> None:
    with pytest.raises(ConfigurationError, match=r"gateway\.token") as raised:
        deliver(gateway_settings("http://127.0.0.1:1", auth="bearer", token=bad))
    assert bad not in str(raised.value)


def test_a_login_posts_user_and_password_below_the_base_url() -> None:
    password = 'ge"heim\\ü {x}\n'
    account = {**ACCOUNT, "password": password, "login_path": "/session"}
    with Hostile(only_with("t1"), at={"/api/session": [token("t1")]}) as server:
        assert deliver(gateway_settings(f"{server.url}/api/", **account)) == Outcome(OutcomeKind.DELIVERED, 200)
    assert server.paths == ["/api/session", "/api" + PATH]
    asked = server.requests[0]
    assert (asked.method, asked.headers["content-type"]) == ("POST", "application/json")
    assert json.loads(asked.body) == {"username": "agent", "password": password}
    assert not {"authorization", "idempotency-key"} & {*asked.headers}


def test_a_presets_login_header_replaces_ours_whatever_its_case() -> None:
    session = Session(path="/login", token="access_token", headers={"Accept": "text/plain", "user-agent": "a friend"})
    credentials = Credentials(gateway_settings("http://127.0.0.1:1"), Preset(messages={}, auth=Auth(session=session)))
    asked: list[httpx.Request] = []

    async def exchange(request: httpx.Request) -> Answer:
        asked.append(request)
        return Answer(200, None, '{"access_token": "t1"}', whole=True)

    assert asyncio.run(credentials.log_in(None, exchange, lambda: NOON)) is None
    (request,) = asked
    assert request.headers.get_list("accept") == ["text/plain"]
    assert request.headers.get_list("user-agent") == ["a friend"]


@pytest.mark.parametrize("deliver_all", [deliver_in_turn, deliver_together])
def test_one_login_serves_all_messages(deliver_all: Callable[..., list[Outcome]]) -> None:
    with Hostile(only_with("t1"), at={LOG_IN: [token("t1"), token("t2")]}) as server:
        outcomes = deliver_all(gateway_settings(server.url, **ACCOUNT), *[queued()] * 12)
    assert {outcome.kind for outcome in outcomes} == {OutcomeKind.DELIVERED}
    assert server.paths == [LOG_IN, *[PATH] * 12]


@pytest.mark.parametrize(("said", "kept"), [("geheim-1", None), ("Bearer geheim-1", None), ("4711", "4711")])
def test_a_secret_returned_as_an_id_is_not_stored(said: str, kept: str | None, tmp_path: Path) -> None:
    preset = preset_file(tmp_path, PUT_PRESET + '[answer]\nid = "id"\n')
    with Hostile(answer(200, json.dumps({"id": said}).encode())) as server:
        settings = gateway_settings(server.url, preset=preset, auth="bearer", token="geheim-1")
        outcome = deliver(settings)
    assert (outcome.kind, outcome.external_id) == (OutcomeKind.DELIVERED, kept)


def test_an_expired_token_is_renewed_once() -> None:
    with Hostile(only_with("t2"), at={LOG_IN: [token("t1"), token("t2")]}) as server:
        outcome = deliver(gateway_settings(server.url, **ACCOUNT))
    assert outcome == Outcome(OutcomeKind.DELIVERED, 200)
    assert server.paths == [LOG_IN, PATH, LOG_IN, PATH]
    assert authorizations(server) == ["Bearer t1", "Bearer t2"]
    assert "authorization" not in log_ins_of(server)[1].headers
    first, second = messages_of(server)
    assert (first.body, first.headers["idempotency-key"]) == (second.body, second.headers["idempotency-key"])


def test_an_expired_token_is_renewed_once_for_all_messages() -> None:
    with Hostile(only_with("t2"), at={LOG_IN: [token("t1"), token("t2"), token("t3")]}) as server:
        outcomes = deliver_together(gateway_settings(server.url, **ACCOUNT), *[queued()] * 8)
    assert {outcome.kind for outcome in outcomes} == {OutcomeKind.DELIVERED}
    assert len(log_ins_of(server)) == 2
    assert authorizations(server).count("Bearer t2") == 8
    assert authorizations(server).count("Bearer t1") <= 8


def test_a_fresh_token_that_is_refused_is_unauthorized() -> None:
    with Hostile(answer(401), at={LOG_IN: [token("t1"), token("t2"), token("t3")]}) as server:
        outcome = deliver(gateway_settings(server.url, **ACCOUNT))
    assert outcome == Outcome(OutcomeKind.UNAUTHORIZED, 401, "HTTP 401")
    assert server.paths == [LOG_IN, PATH, LOG_IN, PATH]


@pytest.mark.parametrize("status", [400, 403, 500, 503])
def test_only_a_401_asks_for_a_new_token(status: int) -> None:
    with Hostile(answer(status), at={LOG_IN: [token("t1")]}) as server:
        outcome = deliver(gateway_settings(server.url, **ACCOUNT))
    assert outcome.status_code == status
    assert server.paths == [LOG_IN, PATH]


def test_a_failure_after_the_renewal_is_not_sent_a_third_time() -> None:
    with Hostile(answer(401), close, at={LOG_IN: [token("t1"), token("t2")]}) as server:
        outcome = deliver(gateway_settings(server.url, immediate_retries=5, **ACCOUNT))
    assert outcome.kind is OutcomeKind.UNKNOWN
    assert server.paths == [LOG_IN, PATH, LOG_IN, PATH]


def test_an_invalid_login_path_is_an_invalid_setting() -> None:
    with pytest.raises(ConfigurationError, match=r"gateway\.login_path"):
        deliver(gateway_settings("http://127.0.0.1:1", **ACCOUNT | {"login_path": "/log\nin"}))


# Log-ins that fail: the message was not sent, and its outcome says so.


@pytest.mark.parametrize(
    ("behaviour", "kind", "status", "wait"),
    [
        (answer(401), OutcomeKind.UNAUTHORIZED, 401, None),
        (answer(404), OutcomeKind.UNAUTHORIZED, 404, None),
        (answer(429, headers={"Retry-After": "120"}), OutcomeKind.THROTTLED, 429, timedelta(minutes=2)),
        (answer(429), OutcomeKind.THROTTLED, 429, None),
        (answer(500), OutcomeKind.TRANSIENT, 500, None),
        (answer(502, b"<html>"), OutcomeKind.TRANSIENT, 502, None),
        (answer(503, headers={"Retry-After": "120"}), OutcomeKind.TRANSIENT, 503, timedelta(minutes=2)),
        (answer(500, b'{"access_token": "t1"}'), OutcomeKind.TRANSIENT, 500, None),
        (answer(204), OutcomeKind.UNAUTHORIZED, 204, None),
        (answer(200, b'["t1"]'), OutcomeKind.UNAUTHORIZED, 200, None),
        (answer(200, b'{"access_token": 5}'), OutcomeKind.UNAUTHORIZED, 200, None),
        (answer(200, b'{"access_token": null}'), OutcomeKind.UNAUTHORIZED, 200, None),
        (answer(200, b'{"access_token": ""}'), OutcomeKind.UNAUTHORIZED, 200, None),
        (answer(200, b"<html>Please log in</html>"), OutcomeKind.UNAUTHORIZED, 200, None),
    ],
)
def test_an_answer_without_a_token_is_reported(
    behaviour: Behaviour, kind: OutcomeKind, status: int, wait: timedelta | None
) -> None:
    with Hostile(answer(200, SUCCEEDED), at={LOG_IN: [behaviour]}) as server:
        outcome = deliver(gateway_settings(server.url, **ACCOUNT))
    recorded = None if status in {500, 502} else status  # after these, a message that was sent may have arrived
    assert outcome == Outcome(kind, recorded, f"log-in: HTTP {status}, no valid access_token", wait)
    assert server.paths == [LOG_IN]


def test_a_login_that_fails_once_is_repeated_at_once() -> None:
    with Hostile(only_with("t1"), at={LOG_IN: [close, token("t1")]}) as server:
        outcome = deliver(gateway_settings(server.url, **ACCOUNT))
    assert outcome.kind is OutcomeKind.DELIVERED
    assert server.paths == [LOG_IN, LOG_IN, PATH]


def test_a_login_without_an_answer_leaves_the_message_unsent() -> None:
    """All messages that waited for the token are unsent, not only the one that logged in."""
    with Hostile(answer(200, SUCCEEDED), at={LOG_IN: [silence]}) as server:
        settings = gateway_settings(server.url, request_timeout_seconds=SHORT, **ACCOUNT)
        outcomes = deliver_together(settings, *[queued()] * 3)
    assert outcomes == [Outcome(OutcomeKind.UNREACHABLE, None, f"not sent within {SHORT} s")] * 3
    assert not messages_of(server)


def test_a_renewal_without_an_answer_leaves_the_message_unsent() -> None:
    """The message was sent once, but had no effect because the server answered 401."""
    with Hostile(answer(401), at={LOG_IN: [token("t1"), silence]}) as server:
        outcome = deliver(gateway_settings(server.url, request_timeout_seconds=SHORT, **ACCOUNT))
    assert outcome == Outcome(OutcomeKind.UNREACHABLE, None, f"not sent within {SHORT} s")
    assert server.paths == [LOG_IN, PATH, LOG_IN]


def test_a_renewal_that_fails_leaves_the_message_unsent() -> None:
    with Hostile(answer(401), at={LOG_IN: [token("t1"), answer(500)]}) as server:
        outcome = deliver(gateway_settings(server.url, **ACCOUNT))
    assert outcome == Outcome(OutcomeKind.TRANSIENT, None, "log-in: HTTP 500, no valid access_token")
    assert server.paths == [LOG_IN, PATH, LOG_IN]


def test_a_message_without_an_answer_is_unknown_also_after_a_login() -> None:
    with Hostile(silence, at={LOG_IN: [token("t1")]}) as server:
        outcome = deliver(gateway_settings(server.url, request_timeout_seconds=SHORT, **ACCOUNT))
    assert outcome == Outcome(OutcomeKind.UNKNOWN, None, f"no response within {SHORT} s")
    assert server.paths == [LOG_IN, PATH]


def test_a_failed_login_is_repeated_for_the_next_message() -> None:
    with Hostile(only_with("t1"), at={LOG_IN: [answer(500), token("t1")]}) as server:
        outcomes = deliver_in_turn(gateway_settings(server.url, **ACCOUNT), queued(), queued())
    assert [outcome.kind for outcome in outcomes] == [OutcomeKind.TRANSIENT, OutcomeKind.DELIVERED]
    assert server.paths == [LOG_IN, LOG_IN, PATH]


@pytest.mark.parametrize(
    ("settings", "secrets"),
    [
        ({"auth": "bearer", "token": "abc.def"}, ["abc.def"]),
        (
            {"auth": "basic", "username": "agent", "password": "geheim"},
            ["geheim", base64.b64encode(b"agent:geheim").decode()],
        ),
        ({"auth": "basic", "username": "agent", "password": "correct horse battery"}, ["correct horse battery"]),
        (ACCOUNT, ["geheim", "t1.very.secret"]),
    ],
    ids=["bearer", "basic", "password of words", "login"],
)
@pytest.mark.parametrize("status", [200, 401])
def test_echoed_secrets_are_masked(settings: dict[str, object], secrets: list[str], status: int) -> None:
    echo = json.dumps({"succeeded": False, "error": f"no good: {', '.join(secrets)}!"}).encode()
    with Hostile(answer(status, echo), at={LOG_IN: [token("t1.very.secret")]}) as server:
        outcome = deliver(gateway_settings(server.url, **settings))
    assert (outcome.error or "").endswith(f": no good: {', '.join('***' for _ in secrets)}!")


ODD = "ge\"he\\im'ü\t"
"""A password that JSON and Python have to escape."""


def in_json(content: object) -> bytes:
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (answer(422, in_json({"error": {"password": ODD}})), 'HTTP 422: {"password": "***"}'),
        (answer(422, in_json({"error": f"no {ODD}"})), "HTTP 422: no ***"),
        (answer(422, in_json({"error": in_json({"password": ODD}).decode()})), 'HTTP 422: {"password": "***"}'),
        (answer(422, in_json({"error": [in_json([ODD]).decode(), 1]})), 'HTTP 422: ["***"]; 1'),
        (answer(422, in_json({"error": {"sent": in_json([ODD]).decode()}})), 'HTTP 422: {"sent": "["***"]"}'),
        (answer(422, in_json({"error": f"no {html.escape(ODD)}"})), "HTTP 422: no ***"),
        (answer(422, in_json({"error": f"no ?password={quote_plus(ODD)}"})), "HTTP 422: no ?password=***"),
        (raw(ODD.encode() + b"\r\n\r\n"), "b'***'"),
        (raw(in_json([ODD]) + b"\r\n\r\n"), "b'[\"***\"]'"),
    ],
    ids=["JSON", "text", "JSON in text", "in a list", "JSON in JSON", "HTML", "URL", "bytes", "JSON in bytes"],
)
def test_a_secret_is_masked_in_every_encoding(behaviour: Behaviour, error: str) -> None:
    with Hostile(behaviour) as server:
        outcome = deliver(gateway_settings(server.url, auth="basic", username="agent", password=ODD))
    assert error in (outcome.error or "")


def test_a_secret_is_masked_in_bytes_between_quotation_marks() -> None:
    """``repr`` puts bytes with an apostrophe between double quotes, and does not escape the apostrophe."""
    with Hostile(raw("It'sü wrong\r\n\r\n".encode())) as server:
        outcome = deliver(gateway_settings(server.url, auth="basic", username="agent", password="It'sü"))
    assert 'b"*** wrong"' in (outcome.error or "")


def test_a_secret_is_masked_in_an_echoed_login() -> None:
    def echo(connection: Connection) -> None:
        assert connection.asked is not None
        connection.send(connection.asked.body + b"\r\n\r\n")

    with Hostile(at={LOG_IN: [echo]}) as server:
        outcome = deliver(gateway_settings(server.url, **ACCOUNT | {"password": ODD}))
    assert '"password":"***"' in (outcome.error or "")


def test_a_renewed_token_is_masked_too() -> None:
    """The answer to a concurrent message may still contain the old token."""
    echo = json.dumps({"error": "t1.very.secret has run out, t2.very.secret is new"}).encode()
    with Hostile(
        answer(401), answer(503, echo), at={LOG_IN: [token("t1.very.secret"), token("t2.very.secret")]}
    ) as server:
        outcome = deliver(gateway_settings(server.url, **ACCOUNT))
    assert outcome.error == "HTTP 503: *** has run out, *** is new"
