"""Whatever a server does, a message gets the documented outcome, in time, in little memory, and without leaks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from ssl import SSLContext
from threading import Event
from typing import Any, Literal

import pytest

from retrycli.domain.outcome import ERROR_LENGTH, Outcome, OutcomeKind
from retrycli.gateway.http.transport import open_fallback, open_transport
from tests.cli.command import LONGEST
from tests.gateway.cases import (
    CASES,
    DEADLINE,
    DELIVERED,
    LOG_INS,
    NOT_SENT,
    PATIENCE,
    READ_AT_MOST,
    TRANSIENT,
    UNAUTHORIZED,
    UNKNOWN,
    UNREACHABLE,
    Case,
)
from tests.gateway.conftest import speaking
from tests.gateway.deliveries import PATH, gateway_settings, open_gateway, queued
from tests.gateway.hostile import (
    SUCCEEDED,
    Behaviour,
    Connection,
    Hostile,
    answer,
    close,
    http,
    raw,
    reset,
    silence,
    then_close,
)
from tests.gateway.one_by_one import peaks

pytestmark = pytest.mark.usefixtures("nothing_is_left_open")

LOG_IN = "/auth/login"
MARK = "confidential"
"""A mark in every secret and every text of the message, which no log and no error may contain."""
TOKEN = {"auth": "bearer", "token": f"{MARK}-token"}
ACCOUNT = {"auth": "login", "username": "agent", "password": f'{MARK}-"password\\"'}
LARGE = MARK * 100_000
MOST_MIB = 50
"""The maximum memory, in MiB, that a process may need above an idle one, whatever it receives."""

Deliver = Callable[..., Outcome]


either_transport = pytest.mark.parametrize("deliver", [open_transport, open_fallback], indirect=True)
"""Run a test on aiohttp's connections, and on those of the fallback."""


@pytest.fixture
def deliver(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Deliver:
    """Provide a function that delivers a message, and checks that it ends and keeps its secrets.

    No log and no error may contain a secret or a word of the message. All loggers are at their most verbose level, and
    asyncio is in debug mode.
    """
    caplog.set_level(logging.DEBUG)

    async def one(server: Hostile, body: str, settings: dict[str, object]) -> Outcome:
        asyncio.get_running_loop().slow_callback_duration = 0
        given = gateway_settings(server.url, **{"immediate_retries": 5, **settings})
        async with open_gateway(given, connect=getattr(request, "param", open_transport)) as gateway:
            return await gateway.deliver(queued(subject=MARK, recipient_email=MARK, body=body))

    def run(server: Hostile, *, deadline: float = PATIENCE, body: str = MARK, **settings: object) -> Outcome:
        began = time.monotonic()
        outcome = asyncio.run(one(server, body, {"request_timeout_seconds": deadline, **settings}), debug=True)
        assert time.monotonic() - began < deadline + LONGEST / 2, "the deadline does not end the delivery"
        assert "took 0." in caplog.text
        assert MARK not in caplog.text
        assert MARK not in (outcome.error or "")
        assert len(outcome.error or "") <= ERROR_LENGTH
        return outcome

    return run


class Scheme:
    """A factory of servers that speak plain HTTP or HTTPS, with the settings that trust them."""

    def __init__(self, tls: SSLContext | None, ca_file: Path | None, until_the_end: ExitStack) -> None:
        self._tls = tls
        self._until_the_end = until_the_end
        self.trust: dict[str, object] = {} if ca_file is None else {"ca_file": str(ca_file)}

    def start(self, *behaviours: Behaviour, **how: Any) -> Hostile:  # noqa: ANN401  passed to Hostile
        return self._until_the_end.enter_context(Hostile(*behaviours, tls=self._tls, **how))


OVER_TLS = {
    "HTTP/1.0", "SMTP", "TLS", "a GiB", "a chunk too long", "a gzip bomb", "a length too small", "a redirect",
    "a redirect to itself", "a status of 0", "a success of a GiB", "an answer in chunks", "another protocol",
    "brotli", "chunks for ever", "closes", "closes after the request", "closes within its body", "does not read on",
    "drips its body", "has no end", "resets", "resets within the body", "resets within its body", "says nothing",
    "sends headers for ever", "the request itself", "two answers at once",
}  # fmt: skip
"""The cases that also run over TLS: each way to end or to stall, and some of each kind of answer. The code
that reads the decrypted answer is the same as for HTTP."""


def over_either(cases: Sequence[Case]) -> pytest.MarkDecorator:
    """Run cases over plain HTTP, and those in `OVER_TLS` over TLS, too."""
    either = [(scheme, each) for scheme in ("http", "https") for each in cases]
    ran = [(scheme, each) for scheme, each in either if scheme == "http" or each.name in OVER_TLS]
    ids = [f"{scheme}-{each.name}" for scheme, each in ran]
    return pytest.mark.parametrize(("scheme", "case"), ran, ids=ids, indirect=["scheme"])


@pytest.fixture(params=["http", "https"])
def scheme(request: pytest.FixtureRequest, certificate: Path, tls: SSLContext) -> Iterator[Scheme]:
    with ExitStack() as until_the_end:
        yield Scheme(tls, certificate, until_the_end) if request.param == "https" else Scheme(None, None, until_the_end)


@over_either(CASES)
def test_a_servers_behaviour_leads_to_its_outcome(case: Case, scheme: Scheme, deliver: Deliver) -> None:
    """A request that may have been sent is never repeated."""
    server = scheme.start(case.behaviour, hasty=case.hasty)
    body = LARGE if case.hasty else MARK
    outcome = deliver(server, deadline=case.deadline, body=body, **TOKEN, **scheme.trust)
    assert (outcome.kind, outcome.status_code) == (case.kind, case.status)
    assert (outcome.error or "").startswith(case.says)
    server.wait_until_asked()
    assert server.paths == [PATH]
    if outcome.status_code is not None:
        assert server.sent < READ_AT_MOST


@pytest.mark.parametrize("deliver", [open_fallback], indirect=True)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_fallback_judges_a_servers_behaviour_alike(case: Case, deliver: Deliver) -> None:
    """The text of an error, and the status of an answer that is no HTTP, may differ."""
    body = LARGE if case.hasty else MARK
    with Hostile(case.behaviour, hasty=case.hasty) as server:
        outcome = deliver(server, deadline=case.deadline, body=body, **TOKEN)
        server.wait_until_asked()
    has_ended = case.name == "a 204 with a body"  # what follows the 204 is lost with its connection
    assert outcome.kind == (DELIVERED if has_ended else case.kind)
    assert server.paths == [PATH]


@over_either(LOG_INS)
def test_a_servers_behaviour_at_login_leads_to_its_outcome(case: Case, scheme: Scheme, deliver: Deliver) -> None:
    """The message is not sent. The login is repeated only if the connection broke."""
    server = scheme.start(at={LOG_IN: [case.behaviour]})
    outcome = deliver(server, deadline=case.deadline, **ACCOUNT, **scheme.trust)
    assert (outcome.kind, outcome.status_code) == (case.kind, case.status)
    assert (outcome.error or "").startswith(case.says)
    breaks = outcome.kind is UNREACHABLE and case.says != NOT_SENT
    assert server.paths == [LOG_IN] * (6 if breaks else 1)
    if outcome.kind is not UNREACHABLE:
        assert server.sent < READ_AT_MOST


@pytest.mark.parametrize("scheme", ["http"], indirect=True)
def test_no_answer_uses_much_memory(scheme: Scheme) -> None:
    """One process delivers to all servers in turn, with and without a login, and reports its peak memory after each."""
    hungry = {case.name: scheme.start(case.behaviour) for case in CASES if case.hungry}
    log_ins = {
        f"log-in: {log_in.name}": scheme.start(at={LOG_IN: [log_in.behaviour]}) for log_in in LOG_INS if log_in.hungry
    }
    settings = {"request_timeout_seconds": DEADLINE, **scheme.trust}
    servers = [{"base_url": value.url, **settings} for value in hungry.values()]
    servers += [{"base_url": value.url, **settings, **ACCOUNT} for value in log_ins.values()]
    idle, *after = peaks(servers)
    assert all(each.requests for each in (*hungry.values(), *log_ins.values()))
    taken = {name: peak - idle for name, peak in zip([*hungry, *log_ins], after, strict=True)}
    assert max(taken.values()) < MOST_MIB, taken


def reset_within_its_first_bytes(connection: Connection) -> None:
    connection.sock.recv(1)
    connection.reset()


@either_transport
def test_a_connection_reset_within_the_request_is_unknown(deliver: Deliver) -> None:
    with Hostile(at_accept=reset_within_its_first_bytes) as server:
        assert deliver(server, **TOKEN).kind is UNKNOWN
    assert len(server.connections) == 1


@either_transport
def test_a_connection_reset_at_once_is_repeated_only_if_it_was_never_established(deliver: Deliver) -> None:
    """Each of up to six attempts is a race between server and client, so both outcomes are valid."""
    with Hostile(at_accept=reset) as server:
        kind = deliver(server, **TOKEN).kind
    assert kind in {UNREACHABLE, UNKNOWN}
    assert len(server.connections) in ({6} if kind is UNREACHABLE else range(1, 7))


@either_transport
@pytest.mark.parametrize(
    "behaviour",
    [reset, close, reset_within_its_first_bytes, silence, raw(b"\x16\x03\x03\xff\xff"), then_close(http(400))],
    ids=["is reset at once", "is closed", "is reset", "stalls", "stalls within a record", "meets plain HTTP"],
)
def test_nothing_is_sent_without_a_handshake(
    behaviour: Behaviour, tls: SSLContext, certificate: Path, deliver: Deliver
) -> None:
    with Hostile(at_accept=behaviour, tls=tls) as server:
        outcome = deliver(
            server, ca_file=certificate, connect_timeout_seconds=DEADLINE / 3, immediate_retries=1, **TOKEN
        )
    assert outcome.kind is UNREACHABLE
    assert len(server.connections) == 2


@either_transport
def test_plain_http_to_a_tls_server(tls: SSLContext, deliver: Deliver) -> None:
    with Hostile(tls=tls) as server:
        server.url = server.url.replace("https", "http")
        assert deliver(server, **TOKEN).kind is UNKNOWN
    assert not server.requests


@either_transport
@pytest.mark.parametrize("name", ["expired", "self-signed", "of another name"])
def test_a_message_is_not_sent_if_the_certificate_is_invalid(
    name: Literal["expired", "self-signed", "of another name"],
    certificate: Path,
    expired_certificate: Path,
    deliver: Deliver,
) -> None:
    shown = expired_certificate if name == "expired" else certificate
    trusted = {} if name == "self-signed" else {"ca_file": shown}
    with Hostile(answer(200, SUCCEEDED), tls=speaking(shown)) as server:
        if name == "of another name":
            server.url = f"https://localhost:{server.port}"
        outcome = deliver(server, **trusted, **TOKEN)
    assert (outcome.kind, outcome.status_code) == (UNAUTHORIZED, None)
    said = {"expired": "has expired", "self-signed": "self-signed", "of another name": "Hostname mismatch"}[name]
    assert said in (outcome.error or "").replace("self signed", "self-signed")
    assert not server.requests
    assert len(server.connections) == 1


@pytest.mark.parametrize("heard", [True, False], ids=["heard of", "not yet heard of"])
@pytest.mark.parametrize(
    "word",
    [raw(http(200, SUCCEEDED)), then_close(http(408)), raw(b"HTTP/1.1 200 OK\r\n"), close],
    ids=["an answer", "an answer and the end", "half an answer", "the end"],
)
def test_data_between_two_messages_is_not_taken_for_an_answer(
    word: Behaviour,
    heard: bool,  # noqa: FBT001  a parameter of the case
    scheme: Scheme,
) -> None:
    """Otherwise the next message would count as delivered although the server never accepted it, and be lost."""
    cue, said = Event(), Event()

    def speak_twice(connection: Connection) -> None:
        connection.send(http(200, SUCCEEDED))
        cue.wait()
        word(connection)
        said.set()

    server = scheme.start(speak_twice, answer(500))

    async def two() -> list[OutcomeKind]:
        async with open_gateway(gateway_settings(server.url, **scheme.trust)) as gateway:
            first = await gateway.deliver(queued())
            cue.set()
            said.wait()
            for _ in range(2 * heard):  # one turn of the event loop reads the data, the next one handles it
                await asyncio.sleep(0)
            return [first.kind, (await gateway.deliver(queued())).kind]

    assert asyncio.run(two()) == [DELIVERED, TRANSIENT]
    assert server.paths == [PATH, PATH]
