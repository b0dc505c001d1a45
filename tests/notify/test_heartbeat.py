"""The dead-man switch's pings, to a real server on loopback."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from threading import Event, Thread

import pytest

from retrycli.notify.heartbeat import Ping
from tests.channels import Webhook, webhook

RUN = "0dbb3a43-d660-4a35-9e83-9bab74508207"


@pytest.fixture
def switch() -> Iterator[Webhook]:
    with webhook() as server:
        yield server


def pings(server: Webhook, path: str = "/check") -> Ping:
    return Ping(f"http://{server.host}{path}", RUN)


@pytest.mark.parametrize(("status", "path"), [(0, "/check"), (69, "/check/69"), (143, "/check/143")])
def test_start_and_end_pings_have_the_exit_status_and_the_passs_id(switch: Webhook, status: int, path: str) -> None:
    ping = pings(switch)
    ping.start()
    assert ping.end(status) is None
    assert switch.paths == [f"/check/start?rid={RUN}", f"{path}?rid={RUN}"]
    assert {request.method for request in switch.requests} == {"GET"}


def test_an_end_without_a_start_is_sent_too(switch: Webhook) -> None:
    assert pings(switch).end(69) is None
    assert switch.paths == [f"/check/69?rid={RUN}"]


def test_a_note_only_affects_the_log(switch: Webhook) -> None:
    assert pings(switch).note() is None
    assert switch.paths == [f"/check/log?rid={RUN}"]


def test_the_start_ping_is_not_awaited_and_the_end_ping_follows_it(switch: Webhook) -> None:
    reached, answer = Event(), Event()

    def hold() -> None:
        reached.set()
        answer.wait(30)

    switch.hold = hold
    ping = pings(switch)
    ping.start()
    assert reached.wait(30)  # start() has returned before the server answers
    answer.set()
    assert ping.end(0) is None
    assert switch.paths == [f"/check/start?rid={RUN}", f"/check?rid={RUN}"]


@pytest.mark.parametrize(
    ("status", "text", "said"),
    [
        (404, b"not found", "HTTP 404"),
        (500, b"", "HTTP 500"),
        (200, b"OK (not found)", "the server has no check with this URL"),
        (302, b"", "HTTP 302"),
    ],
)
def test_reports_a_failed_ping(switch: Webhook, status: int, text: bytes, said: str) -> None:
    switch.status, switch.text, switch.headers = status, text, {"Location": f"http://{switch.host}/elsewhere"}
    assert pings(switch).end(0) == said
    assert switch.paths == [f"/check?rid={RUN}"]


def test_a_failed_start_ping_is_reported_at_the_end(switch: Webhook) -> None:
    def overloaded_at_first() -> None:
        switch.status = 503 if len(switch.requests) == 1 else 200

    switch.hold = overloaded_at_first
    ping = pings(switch)
    ping.start()
    assert ping.end(0) == "HTTP 503"
    assert switch.status == 200


def test_reports_a_closed_port_without_the_url() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        assert Ping(f"http://127.0.0.1:{held.getsockname()[1]}/secret", RUN).end(0) == "Connection refused"


def test_reports_a_server_that_does_not_speak_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ping = Ping(f"http://127.0.0.1:{server.getsockname()[1]}/secret", RUN)
        ping.start()
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"220 mail.example ESMTP\r\n\r\n")
        assert "secret" not in str(ping._start and ping._start.failure)
        assert "HTTP request failed" in str(ping._start and ping._start.failure)


def test_a_server_that_never_ends_its_answer_leaves_no_thread() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ping = Ping(f"http://127.0.0.1:{server.getsockname()[1]}/x", RUN, seconds=0.5)
        ping.start()
        connection, _ = server.accept()
        request = ping._start
        assert request is not None

        def go_on() -> None:
            with connection, suppress(OSError):
                while True:
                    connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

        Thread(target=go_on, daemon=True).start()
        assert request.failure == "no response within 0.5 s"
        request.join(30)
        assert not request.is_alive()


def test_a_proxy_from_the_environment_is_not_used(switch: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert pings(switch).end(0) is None
