"""A request that does not arrive in time: its connection is closed, and others are served meanwhile."""

from __future__ import annotations

import os
import select
import socket
import sqlite3
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import h11
import httpx
import pytest

from retrycli.web.server import MAX_HEADERS, StrictConnection
from tests.cli.command import LONGEST, wait_until
from tests.conftest import on_sqlite
from tests.web.conftest import API, HOST, PAGES
from tests.web.test_serve import add_token, address_of, served, serving

if TYPE_CHECKING:
    import subprocess

    from tests.cli.application import Application
    from tests.cli.command import Cli

__all__ = ["served"]

pytestmark = on_sqlite

WHOLE = f"GET /livez HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
FORM = (
    f"POST {PAGES}/sign-in HTTP/1.1\r\nHost: {HOST}\r\nSec-Fetch-Site: same-origin\r\n"
    "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 4000\r\n\r\ntoken="
).encode()
CHUNKED = FORM.replace(b"Content-Length: 4000", b"Transfer-Encoding: chunked").removesuffix(b"token=")
UNFINISHED = {
    "nothing": (b"", b""),
    "half of the headers": (WHOLE[:-2], b""),
    "half of a form": (FORM, b""),
    "half of a form for which a user is needed": (FORM.replace(b"sign-in", b"pause"), b""),
    "a whole request, and half of the next": (WHOLE + WHOLE[:-2], b"HTTP/1.1 200 "),
    "a whole request, and half of a form": (WHOLE + FORM, b"HTTP/1.1 200 "),
}


def open_sockets(process: subprocess.Popen[str]) -> int:
    names = []
    for each in Path(f"/proc/{process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            names.append(each.readlink().name)
    return sum(name.startswith("socket:") for name in names)


def test_a_connection_whose_answers_nobody_reads_is_closed(served: Cli) -> None:
    add_token(served)
    asset = f"GET {PAGES}/static/console.css HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    with serving(served, "--port", "0") as process, ExitStack() as stack:
        address = ("127.0.0.1", int(address_of(process).rpartition(":")[2]))
        idle = open_sockets(process)
        for requests in (1_000, 1):  # the answers fill the server's buffer, or fit into the kernel's
            connection = stack.enter_context(closing(socket.socket()))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
            connection.settimeout(LONGEST)
            connection.connect(address)
            connection.send(asset * requests)
        wait_until(lambda: open_sockets(process) == idle + 2)
        wait_until(lambda: open_sockets(process) == idle)
        process.terminate()
        assert "Traceback" not in process.communicate(timeout=LONGEST)[1]


def seconds_of(process: subprocess.Popen[str]) -> float:
    """Return the CPU time of a process."""
    times = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, times[11:13])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(
    "hostile",
    [
        WHOLE[:-2] + b"a:" + b" " * 65_000 + b"\0\r\n\r\n",
        WHOLE[:-2] + b"a:\n" + b" \n" * 31_000 + b" \x0b\r\n\r\n",
        WHOLE[:-2] + b"a:\n" * 20_000 + b"\n",
        CHUNKED + b"1;" + b" " * 60_000 + b"\0\r\n",
    ],
    ids=["spaces in a header", "folded lines", "many headers", "spaces in a chunk's extension"],
)
def test_a_hostile_request_costs_no_more_than_another(served: Cli, hostile: bytes) -> None:
    add_token(served)
    with serving(served, "--port", "0") as process:
        address = ("127.0.0.1", int(address_of(process).rpartition(":")[2]))
        for pieces in ([hostile], [hostile[:30_000], hostile[30_000:]]):
            before = seconds_of(process)
            with socket.create_connection(address, LONGEST) as connection, suppress(ConnectionResetError):
                for piece in pieces:
                    connection.sendall(piece)
                assert connection.recv(13) == b"HTTP/1.1 400 "  # a reset may destroy the answer on its way
            assert seconds_of(process) - before < 0.5


def test_headers_that_arrive_in_single_bytes_are_examined_once() -> None:
    took = {}
    for row in (b"x" * 100, b" " * 99 + b"x"):
        parser = StrictConnection(h11.SERVER, MAX_HEADERS)
        parser.receive_data(WHOLE[:-2] + b"a:" + row * 600)
        began = time.process_time()
        for _ in range(500):
            parser.receive_data(b"x")
            assert parser.next_event() is h11.NEED_DATA
        took[row] = time.process_time() - began
        parser.receive_data(b"\r\n\r\n")
        assert isinstance(parser.next_event(), h11.Request)
    assert took[b" " * 99 + b"x"] < 5 * took[b"x" * 100] + 0.1


def test_a_long_row_of_spaces_in_a_body_is_no_hostile_header(served: Cli) -> None:
    add_token(served)
    body = b"token=" + b" " * 500
    form = FORM.replace(b"4000", b"%d" % len(body)).removesuffix(b"token=") + body
    with serving(served, "--port", "0") as process:
        address = ("127.0.0.1", int(address_of(process).rpartition(":")[2]))
        with socket.create_connection(address, LONGEST) as connection:
            connection.sendall(form)
            assert connection.recv(13) == b"HTTP/1.1 401 "


def test_probes_that_wait_for_the_database_occupy_one_thread(served: Cli, application: Application) -> None:
    add_token(served)
    with serving(served, "--port", "0") as process, ExitStack() as stack:
        port = int(address_of(process).rpartition(":")[2])
        writer = stack.enter_context(closing(sqlite3.connect(application.path, isolation_level=None)))
        writer.execute("PRAGMA journal_mode = delete")
        writer.execute("BEGIN EXCLUSIVE")
        probes = [stack.enter_context(socket.create_connection(("127.0.0.1", port), LONGEST)) for _ in range(60)]
        for probe in probes:  # more than the server has threads
            probe.sendall(WHOLE.replace(b"livez", b"readyz"))
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"Host": HOST}, timeout=LONGEST) as client:
            assert client.get(f"{PAGES}/sign-in").status_code == 200
        assert select.select(probes, [], [], 0)[0] == [], "the page did not wait for a probe's thread"


def test_an_unfinished_request_is_closed_and_a_finished_one_is_not(served: Cli) -> None:
    token = add_token(served)
    with serving(served, "--port", "0") as process, ExitStack() as stack:
        address = address_of(process)
        connections = {}
        for name, (sent, _) in UNFINISHED.items():
            connection = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), LONGEST)
            connections[name] = stack.enter_context(closing(connection))
            connection.sendall(sent)
        with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {token}"}, timeout=LONGEST) as client:
            assert client.get(f"{API}/scheduler/status").status_code == 200
        for name, connection in connections.items():
            answer = b"".join(iter(lambda: connection.recv(65_536), b""))  # noqa: B023  read at once
            assert answer[:13] == UNFINISHED[name][1], name
        process.terminate()
        assert process.communicate(timeout=LONGEST)[1] == ""
