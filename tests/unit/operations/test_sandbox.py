"""The sandbox, over real connections on loopback."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection, HTTPResponse, RemoteDisconnected
from random import Random
from typing import Any

import pytest

from retrycli.operations.sandbox import KEPT, LARGEST_BODY, Behaviour, Sandbox, share

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MESSAGE = {
    "message_type": "customer",
    "recipient": "ann@example.org",
    "cc": ["bob@example.org"],
    "bcc": [],
    "subject": "Grüße",
    "body": "Your parcel is on its way",
}
NEVER = 10.0
"""The timeout in seconds. A passing test never waits this long."""


@dataclass
class Clock:
    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now


@dataclass(frozen=True)
class Reply:
    status: int
    content: dict[str, Any]
    headers: dict[str, str]


def sandbox_with(behaviour: Behaviour | None = None, **others: Any) -> Sandbox:  # noqa: ANN401  passed to `Sandbox`
    return Sandbox(behaviour or Behaviour(), rng=Random(7), **others)


def port_of(sandbox: Sandbox) -> int:
    return int(sandbox.url.rpartition(":")[2])


def connect(sandbox: Sandbox) -> closing[HTTPConnection]:
    return closing(HTTPConnection(sandbox.url.removeprefix("http://"), timeout=NEVER))


def read(response: HTTPResponse) -> Reply:
    return Reply(response.status, json.loads(response.read()), dict(response.getheaders()))


def ask(
    sandbox: Sandbox, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> Reply:
    with connect(sandbox) as connection:
        connection.request(method, path, body, headers or {})
        return read(connection.getresponse())


def deliver(sandbox: Sandbox, key: str | None = None, path: str = "/tickets/12/messages") -> Reply:
    headers = {"Content-Type": "application/json"} | ({} if key is None else {"Idempotency-Key": key})
    return ask(sandbox, "POST", path, json.dumps(MESSAGE).encode(), headers)


def say(sandbox: Sandbox, raw: bytes) -> Reply:
    """Send raw bytes without an HTTP library, and return the reply."""
    with socket.create_connection(("127.0.0.1", port_of(sandbox)), timeout=NEVER) as connection:
        connection.sendall(raw)
        response = HTTPResponse(connection)
        response.begin()
        return read(response)


def assert_refused(reply: Reply, status: int) -> None:
    assert reply.status == status
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.content["succeeded"] is False
    assert all(isinstance(message, str) and message for message in reply.content["messages"])
    assert set(reply.content) == {"succeeded", "messages"}


def test_a_key_is_stored_once_answered_alike_and_can_be_listed() -> None:
    """Without a key, each request is a separate message."""
    clock = Clock()
    with sandbox_with(clock=clock) as sandbox:
        replies = [deliver(sandbox, key) for key in ("key", "other", None, None)]
        clock.now += timedelta(hours=1)
        repeat = deliver(sandbox, "key")
        listed = ask(sandbox, "GET", "/received").content["received"]
    assert [(reply.status, reply.content) for reply in replies] == [
        (200, {"succeeded": True, "id": number}) for number in (1, 2, 3, 4)
    ]
    assert (repeat.status, repeat.content) == (200, replies[0].content)
    one = {"ticket_id": "12", "kind": "message", "content": MESSAGE, "received_at": "2026-03-01T12:00:00+00:00"}
    assert listed == [
        one | {"id": 1, "key": "key", "times": 2},
        *(one | {"id": number, "key": key, "times": 1} for number, key in ((2, "other"), (3, None), (4, None))),
    ]


@pytest.mark.parametrize(
    ("path", "ticket_id", "kind"),
    [("/tickets/12/notes", "12", "note"), ("/tickets/A%2F7%20%C3%A9/messages?notify=1", "A/7 é", "message")],
)
def test_a_path_names_a_ticket_and_a_message_or_a_note(path: str, ticket_id: str, kind: str) -> None:
    with sandbox_with() as sandbox:
        assert deliver(sandbox, path=path).status == 200
        assert [(request.ticket_id, request.kind) for request in sandbox.received] == [(ticket_id, kind)]


def test_one_connection_serves_many_requests() -> None:
    with sandbox_with() as sandbox, connect(sandbox) as connection:
        connection.connect()
        kept_open = connection.sock
        for status, path in ((200, "/"), (404, "/nowhere"), (200, "/received")):
            connection.request("GET", path)
            assert read(connection.getresponse()).status == status
            assert connection.sock is kept_open


def test_configured_failures_come_in_order_and_are_not_stored() -> None:
    dice = Random(7)
    expected = [dice.random() >= 0.3 for _ in range(40)]
    with sandbox_with(Behaviour(fail=1.0)) as sandbox:
        replies = [deliver(sandbox, f"key-{number}") for number in range(12)]
        assert sandbox.received == ()
    with sandbox_with(Behaviour(fail=0.3)) as sandbox:
        assert [deliver(sandbox, str(number)).content["succeeded"] for number in range(40)] == expected
    statuses = [503, 200, 500, 503, 200, 500, 422, 503, 200, 500]
    assert [reply.status for reply in replies] == [*statuses, 503, 200]
    for reply in replies:
        assert_refused(reply, reply.status)
        assert "Retry-After" not in reply.headers


def test_failures_only_affect_deliveries() -> None:
    with sandbox_with(Behaviour(fail=1.0, throttle=True)) as sandbox:
        login = json.dumps({"username": "agent", "password": "secret"}).encode()
        replies = [ask(sandbox, "POST", "/auth/login", login) for _ in range(12)]
        assert [(reply.status, reply.content) for reply in replies] == [(200, {"access_token": "sandbox-token"})] * 12
        assert ask(sandbox, "GET", "/received").status == 200


def test_down_answers_503_to_every_request() -> None:
    with sandbox_with(Behaviour(down=True)) as sandbox:
        for method, path in (("GET", "/"), ("POST", "/auth/login"), ("POST", "/tickets/1/messages"), ("PUT", "/x")):
            assert_refused(ask(sandbox, method, path, b"{}"), 503)
        assert sandbox.received == ()


def test_latency_precedes_each_answer() -> None:
    slept: list[float] = []
    with sandbox_with(Behaviour(latency=timedelta(milliseconds=200)), sleep=slept.append) as sandbox:
        deliver(sandbox)
        ask(sandbox, "GET", "/")
        sandbox.behaviour = Behaviour(latency=timedelta(seconds=2), down=True)
        deliver(sandbox)
        sandbox.behaviour = Behaviour()
        deliver(sandbox)
    assert slept == [0.2, 0.2, 2.0]


def test_throttling_accepts_ten_requests_per_second() -> None:
    clock = Clock()
    with sandbox_with(Behaviour(throttle=True), clock=clock) as sandbox:
        assert [deliver(sandbox).status for _ in range(11)] == [200] * 10 + [429]
        clock.now += timedelta(milliseconds=999)
        throttled = deliver(sandbox)
        clock.now += timedelta(milliseconds=1)
        assert [deliver(sandbox).status for _ in range(11)] == [200] * 10 + [429]
        assert len(sandbox.received) == 20
    assert_refused(throttled, 429)
    assert throttled.headers["Retry-After"] == "60"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        *(("/auth/login", body) for body in (b"", b"[]", b"{}", b'{"username": "agent"}')),
        *(("/tickets/1/messages", body) for body in (b"", b"{", b"[]", b"\xff{}", b"[" * 100_000)),
    ],
)
def test_a_body_that_is_not_a_suitable_json_object_is_400(path: str, body: bytes) -> None:
    with sandbox_with() as sandbox:
        assert_refused(ask(sandbox, "POST", path, body), 400)
        assert sandbox.received == ()


def test_the_root_describes_the_sandbox() -> None:
    with sandbox_with() as sandbox:
        reply = ask(sandbox, "GET", "/")
        assert reply.status == 200
        assert "sandbox" in reply.content["about"]
        for request in reply.content["requests"]:
            method, path = request.split()
            assert ask(sandbox, method, path.replace("ID", "1"), b"{}").status != 404


def test_any_other_path_is_404() -> None:
    with sandbox_with() as sandbox:
        for request in (
            "GET /nowhere",
            "GET /tickets/1/messages",
            "POST /received",
            "POST /tickets//messages",
            "POST /tickets/1/messages/",
            "POST /tickets/1/attachments",
            "PUT /tickets/1/messages",
        ):
            method, path = request.split()
            assert_refused(ask(sandbox, method, path, b"{}"), 404)


@pytest.mark.parametrize(
    "header", [b"", b"Content-Length: \r\n", b"Content-Length: -1\r\n", b"Transfer-Encoding: chunked\r\n"]
)
def test_a_body_of_unknown_length_is_411(header: bytes) -> None:
    with sandbox_with() as sandbox:
        reply = say(sandbox, b"POST /tickets/1/messages HTTP/1.1\r\nHost: localhost\r\n" + header + b"\r\n")
    assert_refused(reply, 411)
    assert reply.headers["Connection"] == "close"


@pytest.mark.parametrize("host", [b"evil.example.com", b"127.0.0.1.evil.example.com", b"localhost:80@evil", b"["])
def test_a_host_other_than_this_machine_is_421(host: bytes) -> None:
    """A web page's host name may resolve to 127.0.0.1, and the page's scripts could then read customers' messages."""
    with sandbox_with() as sandbox:
        assert_refused(say(sandbox, b"GET /received HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"), 421)
        assert say(sandbox, b"GET /received HTTP/1.1\r\nHost: localhost:8080\r\n\r\n").status == 200


def test_a_body_that_is_too_large_is_413_before_it_is_uploaded_and_its_sender_can_read_the_answer() -> None:
    start = f"POST /tickets/1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: {LARGEST_BODY + 1}\r\n\r\n"
    with sandbox_with() as sandbox:
        assert_refused(say(sandbox, start.encode()), 413)
        assert_refused(ask(sandbox, "POST", "/tickets/1/messages", b" " * 8 * LARGEST_BODY), 413)
        largest = b"{}" + b" " * (LARGEST_BODY - 2)
        assert ask(sandbox, "POST", "/tickets/1/messages", largest).status == 200


@pytest.mark.parametrize(("raw", "status"), [(b"POST\r\n\r\n", 400), (b"BREW /pot HTTP/1.1\r\n\r\n", 501)])
def test_an_invalid_request_is_refused_in_json_too(raw: bytes, status: int) -> None:
    with sandbox_with() as sandbox:
        assert_refused(say(sandbox, raw), status)


def test_the_listener_is_called_for_each_request() -> None:
    """It may read the received messages."""
    heard: list[tuple[object, ...]] = []

    def listen(*seen: object) -> None:
        heard.append((*seen, len(sandbox.received)))

    with sandbox_with(listener=listen) as sandbox:
        deliver(sandbox, "key")
        ask(sandbox, "GET", "/received?x=1")
        say(sandbox, b"POST /tickets/1/notes HTTP/1.1\r\n\r\n")
        sandbox.behaviour = Behaviour(down=True)
        deliver(sandbox)
    assert heard == [
        ("POST", "/tickets/12/messages", "key", 200, 1),
        ("GET", "/received?x=1", None, 200, 1),
        ("POST", "/tickets/1/notes", None, 411, 1),
        ("POST", "/tickets/12/messages", None, 503, 1),
    ]


def test_each_of_many_concurrent_messages_is_stored_once() -> None:
    keys = [f"key-{number % 40}" for number in range(160)]
    with sandbox_with() as sandbox:
        with ThreadPoolExecutor(16) as pool:
            ids = list(pool.map(lambda key: int(deliver(sandbox, key).content["id"]), keys))
        kept = sandbox.received
    assert Counter(message.key for message in kept) == dict.fromkeys(set(keys), 1)
    assert {message.times for message in kept} == {4}
    assert dict(zip(keys, ids, strict=True)) == {message.key: message.id for message in kept}
    assert sorted(set(ids)) == list(range(1, 41))


def test_the_oldest_messages_are_dropped() -> None:
    with sandbox_with() as sandbox:
        for number in range(KEPT + 5):
            sandbox.answer("POST", "/tickets/1/messages", f"key-{number}", b"{}")
        kept = sandbox.received
        assert deliver(sandbox, "key-0").content["id"] == KEPT + 6
    assert len(kept) == KEPT
    assert (kept[0].key, kept[-1].key) == ("key-5", f"key-{KEPT + 4}")


def test_nothing_is_answered_after_the_block_and_its_port_is_free() -> None:
    """Only this machine can connect."""
    sandbox = sandbox_with()
    port = port_of(sandbox)
    assert sandbox.server_address == ("127.0.0.1", port)
    waiting = threading.Thread(target=sandbox.wait)
    with connect(sandbox) as kept_open:
        with sandbox:
            waiting.start()
            kept_open.request("GET", "/")
            assert read(kept_open.getresponse()).status == 200
            with pytest.raises(OSError, match="in use"):
                sandbox_with(port=port)
            assert waiting.is_alive()
        kept_open.request("GET", "/")
        with pytest.raises(RemoteDisconnected):
            kept_open.getresponse()
    waiting.join(NEVER)
    assert not waiting.is_alive()
    with pytest.raises(ConnectionRefusedError):
        ask(sandbox, "GET", "/")
    with sandbox_with(port=port) as again:
        assert deliver(again).status == 200


def test_a_client_that_disconnects_causes_no_output(capfd: pytest.CaptureFixture[str]) -> None:
    gone = threading.Event()

    def leave(_: float) -> None:
        client.close()
        gone.set()

    with (
        closing(socket.socket()) as client,
        sandbox_with(Behaviour(latency=timedelta(seconds=1)), sleep=leave) as sandbox,
    ):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close with a reset
        client.connect(("127.0.0.1", port_of(sandbox)))
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert gone.wait(NEVER)
        assert ask(sandbox, "GET", "/nowhere").status == 404
        assert say(sandbox, b"GARBAGE\r\n\r\n").status == 400
    for thread in threading.enumerate():
        if "process_request_thread" in thread.name:
            thread.join(NEVER)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "value"), [("0.3", 0.3), ("0", 0.0), ("0%", 0.0), ("1", 1.0), ("100%", 1.0), (" 2.5 % ", 0.025)]
)
def test_a_share_is_a_percentage_or_a_number(text: str, value: float) -> None:
    assert share(text) == value


@pytest.mark.parametrize("text", ["", "%", "101%", "1.01", "-1%", "nan", "3e-1", "٣%"])
def test_any_other_share_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a valid share; write 0% to 100%, or a number from 0 to 1") as caught:
        share(text)
    assert repr(text) in str(caught.value)
