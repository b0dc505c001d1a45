"""A server that waits for the ticketing system, gets many requests at once, or loses its clients still answers all."""

from __future__ import annotations

import select
import socket
import sqlite3
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPResponse
from threading import Event
from typing import TYPE_CHECKING

import httpx
import pytest

from retrycli.web.routing import AT_ONCE as OF_ONE_USER
from retrycli.web.routing import MOST
from tests.cli.command import LONGEST, wait_until
from tests.cli.story import OK, Api
from tests.conftest import on_sqlite
from tests.web.conftest import API, HOST, PAGES
from tests.web.test_many_requests import Footprint
from tests.web.test_serve import add_token, listening, over

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.application import Application
    from tests.cli.command import Cli

pytestmark = on_sqlite

AT_ONCE = 60
"""More requests than a server has threads."""
FAST = (f"{PAGES}/", f"{PAGES}/passes", f"{PAGES}/stats", f"{API}/scheduler/status", API)


class SlowApi(Api):
    """A ticketing system whose first answer comes when the test lets it."""

    def __init__(self) -> None:
        super().__init__(OK)
        self.asked, self.may_answer = Event(), Event()
        self.meanwhile[1] = self.wait

    def wait(self) -> None:
        self.asked.set()
        assert self.may_answer.wait(LONGEST)


@dataclass(frozen=True)
class ServedDesk:
    """A server, the tokens of an operator and of a viewer, and the socket on which it listens."""

    process: subprocess.Popen[str]
    token: str
    viewer: str
    uds: Path

    def client(self) -> httpx.Client:
        return over(self.uds, Authorization=f"Bearer {self.token}")

    @contextmanager
    def sent(self, method: str, path: str) -> Iterator[socket.socket]:
        """Send a request, and close the connection at the end of the block without reading the response."""
        lines = (f"{method} {path} HTTP/1.1", f"Host: {HOST}", f"Authorization: Bearer {self.token}", "", "")
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.uds))
            connection.sendall("\r\n".join(lines).encode())
            yield connection


@pytest.fixture
def api() -> Iterator[SlowApi]:
    with SlowApi() as api:
        yield api


@pytest.fixture
def desk(cli: Cli, application: Application, api: SlowApi, tmp_path: Path) -> Iterator[ServedDesk]:
    """Provide a server with messages of all states."""
    application.fill()
    uds, tokens = tmp_path / "desk.sock", tmp_path / "tokens.json"
    settings = {"RETRYCLI_WEB__TOKENS_FILE": str(tokens), "RETRYCLI_WEB__ALLOWED_HOSTS": HOST}
    command = cli.having({**application.variables(api.url), **settings})
    token, viewer = add_token(command), add_token(command, "vera", "viewer")
    with listening(command, uds) as process:
        yield ServedDesk(process, token, viewer, uds)


def test_hanging_changes_of_a_user_leave_threads_for_others_and_for_a_pause(
    desk: ServedDesk, api: SlowApi, application: Application
) -> None:
    api.meanwhile.update(dict.fromkeys(range(1, OF_ONE_USER + 1), api.wait))
    ids = application.add_due(40)
    with ExitStack() as stack:
        connections = [stack.enter_context(desk.sent("POST", f"{API}/{each}/retry")) for each in ids]
        wait_until(lambda: len(api.requests) == OF_ONE_USER, desk.process)
        with desk.client() as client, replace(desk, token="none").client() as stranger:
            assert stranger.get(f"{PAGES}/sign-in").status_code == 200
            assert client.post(f"{API}/scheduler/pause").status_code == 200
            assert client.post(f"{API}/scheduler/resume").status_code == 200
            refused = client.post(f"{PAGES}/id/{ids[0]}/note", data={"text": "kept"})
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
        assert "Nothing was changed. What you entered is kept on this page." in refused.text
        assert 'value="kept"' in refused.text
        wait_until(lambda: len(answered(connections)) == len(ids) - OF_ONE_USER, desk.process)
        api.may_answer.set()
        statuses = Counter(status_of(each) for each in connections)
    assert statuses == {200: OF_ONE_USER, 503: len(ids) - OF_ONE_USER}
    assert len(application.rows("retrycli_attempts")) == OF_ONE_USER


def test_pages_are_answered_while_a_retry_waits_for_the_ticketing_system(desk: ServedDesk, api: SlowApi) -> None:
    with desk.client() as client, ThreadPoolExecutor(1) as pool:
        retried = pool.submit(client.post, f"{API}/8/retry")
        assert api.asked.wait(LONGEST)
        assert [client.get(path).status_code for path in FAST] == [200] * len(FAST)
        assert "An attempt is in progress." in client.get(f"{PAGES}/id/8").text
        assert not retried.done()
        api.may_answer.set()
        assert retried.result(LONGEST).json()["results"][0]["outcome"] == "delivered"


def test_more_requests_at_once_than_threads_are_all_answered(desk: ServedDesk) -> None:
    with desk.client() as client, ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(client.get, [FAST[number % len(FAST)] for number in range(AT_ONCE)]))
    assert {answer.status_code for answer in answers} == {200}


def test_clients_that_go_away_leave_nothing_behind(desk: ServedDesk) -> None:
    with desk.client() as client:
        client.get(f"{PAGES}/")
        before = Footprint.of(desk.process.pid)
        for path in FAST * 4:
            with desk.sent("GET", path):
                pass
        wait_until(lambda: Footprint.of(desk.process.pid).descriptors <= before.descriptors, desk.process)
        assert client.get(f"{PAGES}/").status_code == 200


def test_an_action_is_finished_although_its_client_has_gone_away(
    desk: ServedDesk, api: SlowApi, application: Application
) -> None:
    with desk.sent("POST", f"{API}/8/retry"):
        assert api.asked.wait(LONGEST)
    api.may_answer.set()
    wait_until(lambda: application.row(8)["status"] == "sent", desk.process)
    assert [attempt["made_by"] for attempt in application.rows("retrycli_attempts").values()] == ["anna"]


def answered(connections: list[socket.socket]) -> list[socket.socket]:
    """Return the connections on which an answer has begun to arrive."""
    return select.select(connections, [], [], 0)[0]


def status_of(connection: socket.socket) -> int:
    """Read an answer, and return its status."""
    answer = HTTPResponse(connection)
    answer.begin()
    answer.read()
    return answer.status


def test_slow_lists_of_a_user_leave_threads_for_others(desk: ServedDesk, application: Application) -> None:
    """A locked database makes each of them slow."""
    viewer = replace(desk, token=desk.viewer)
    with closing(sqlite3.connect(application.path)) as database, ExitStack() as stack:
        database.execute("BEGIN EXCLUSIVE")
        connections = [stack.enter_context(viewer.sent("GET", f"{API}?error=x")) for _ in range(MOST)]
        with replace(desk, token="none").client() as client:
            assert client.get(f"{PAGES}/sign-in").status_code == 200
            assert answered(connections) == []
        with viewer.client() as client:
            refused = client.get(f"{PAGES}/stats"), client.get(API)
        assert [(each.status_code, each.headers["Retry-After"]) for each in refused] == [(503, "5")] * 2
        assert "too many of your requests are waiting" in refused[1].json()["detail"]
        database.rollback()
        assert {status_of(each) for each in connections} == {200}


def test_few_answers_to_a_user_who_does_not_read_are_in_memory(desk: ServedDesk, application: Application) -> None:
    application.execute("UPDATE pending_messages SET body = ?", "\n" * 1_000_000)
    viewer = replace(desk, token=desk.viewer)
    with ExitStack() as stack:
        connections = [stack.enter_context(viewer.sent("GET", f"{API}/8")) for _ in range(20)]
        wait_until(lambda: len(answered(connections)) >= OF_ONE_USER, desk.process)
        with desk.client() as client:
            assert {client.get(path).status_code for path in (f"{API}/8", f"{PAGES}/id/8", *FAST)} == {200}
        assert len(answered(connections)) == OF_ONE_USER
        with ThreadPoolExecutor(len(connections)) as pool:
            assert set(pool.map(status_of, connections)) == {200}
