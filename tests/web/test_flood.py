"""Hostile connections from many addresses, through the shipped nginx.conf: a signed-in user hardly notices them."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.cli.command import wait_until
from tests.conftest import on_sqlite
from tests.cron.machine import FILES, tool
from tests.web.conftest import HOST, PAGES
from tests.web.test_nginx import INSTALLED, nginx
from tests.web.test_serve import add_token, listening, over, served

if TYPE_CHECKING:
    from tests.cli.application import Application
    from tests.cli.command import Cli

__all__ = ["served"]

pytestmark = [on_sqlite, pytest.mark.long, pytest.mark.alone]

CONNECTIONS, ADDRESSES = 200, 10
ROUNDS = 9
MOST = 3
"""The maximum ratio of the time of a page during an attack to its time without one."""
TRIES = 3
"""An attack is measured again if the page took longer, because other work on the machine only adds time."""
RECOVERS_SECONDS = 10
UNIT = (FILES / "retrycli-serve.service").read_text()
HEAD = f"Host: {HOST}\r\nSec-Fetch-Site: same-origin\r\nContent-Type: application/x-www-form-urlencoded\r\n"
LARGE = 4 << 20
FORM = f"POST /desk{PAGES}/id/5/reject HTTP/1.1\r\n{HEAD}Content-Length: {LARGE}\r\n\r\nreason=".encode()

ATTACKS: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 0),
    "half of the headers": (f"GET /desk{PAGES}/ HTTP/1.1\r\nHost: {HOST}\r\n".encode(), 0),
    "half of a large form": (FORM + b"%41" * (LARGE // 8), 0),
    "large forms": (FORM + b"%41" * (LARGE // 3 - 3), 1),
    "forms to sign in": (FORM.replace(b"/id/5/reject", b"/sign-in") + b"%41" * (LARGE // 3 - 3), 1),
    "probes of the readiness": (f"GET /desk/readyz HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode(), 50),
}
"""What each connection sends, and how often it sends the same again as soon as it is answered."""


async def attack(port: int, number: int, sent: bytes, times: int) -> None:
    """Connect from one of the addresses, and send. Then hold the connection until the server closes it."""
    here = (f"127.0.0.{2 + number % ADDRESSES}", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=here)
    try:
        for _ in range(max(times, 1)):
            writer.write(sent)
            await writer.drain()
            if not await reader.read(65_536):
                return
        await reader.read()
    except ConnectionError:
        return
    finally:
        writer.transport.abort()


def attack_all(port: int, sent: bytes, times: int) -> None:
    """Open all connections at once, in a process that leaves the processors to others: attackers have their own."""
    os.nice(19)

    async def run() -> None:
        await asyncio.gather(*(attack(port, number, sent, times) for number in range(CONNECTIONS)))

    asyncio.run(run())


@contextmanager
def attacked(port: int, sent: bytes, times: int) -> Iterator[None]:
    """Attack for a `with` block."""
    attackers = get_context("fork").Process(target=attack_all, args=(port, sent, times))
    attackers.start()
    try:
        wait_until(lambda: connections_to(port) >= CONNECTIONS // 2)
        yield
    finally:
        attackers.kill()
        attackers.join()


def connections_to(port: int) -> int:
    """Return the number of TCP connections that a port has accepted, or that wait for it."""
    ends = (line.split()[1:4] for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return sum(local.endswith(f":{port:04X}") and state == "01" for local, _, state in ends)


def limit(name: str) -> int:
    """Return a limit of the shipped unit, in bytes if it is a size."""
    [(number, unit)] = re.findall(rf"^{name}=(\d+)(M?)$", UNIT, re.MULTILINE)
    return int(number) * (1 << 20 if unit else 1)


def memory(process_id: int) -> int:
    """Return the largest size of a process so far, in bytes."""
    [kibibytes] = re.findall(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{process_id}/status").read_text(), re.MULTILINE)
    return int(kibibytes) * 1024


def median_of(get: Callable[[], httpx.Response]) -> float:
    """Return the median time of some requests, in seconds."""
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        assert get().status_code == 200
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


def open_files(process: subprocess.Popen[str]) -> int:
    return len([*Path(f"/proc/{process.pid}/fd").iterdir()])


def test_a_signed_in_user_is_served_during_each_attack(served: Cli, application: Application, tmp_path: Path) -> None:
    application.fill()
    settings = served.having({"RETRYCLI_WEB__ROOT_PATH": "/desk"})
    token, uds, port = add_token(settings), tmp_path / "console.sock", free_port()
    snippet = (FILES / "nginx.conf").read_text().replace(INSTALLED, str(uds))
    limited = settings.under(tool("prlimit", "util-linux"), f"--nofile={limit('LimitNOFILE')}")
    slower: dict[str, float] = {}
    with (
        listening(limited, uds) as process,
        nginx(tmp_path / "nginx", snippet, port) as front,
        over(front, **{"Sec-Fetch-Site": "same-origin"}) as client,
    ):
        assert client.post(f"/desk{PAGES}/sign-in", data={"token": token}).status_code == 303
        usual = median_of(lambda: client.get(f"/desk{PAGES}/"))
        files = open_files(process)
        for name, (sent, times) in TRIES * [*ATTACKS.items()]:
            if slower.get(name, MOST + 1) <= MOST:
                continue
            with attacked(port, sent, times):
                slower[name] = median_of(lambda: client.get(f"/desk{PAGES}/")) / usual
            began = time.monotonic()
            wait_until(lambda: open_files(process) <= files + 2, process)
            assert time.monotonic() - began < RECOVERS_SECONDS, name
        used = memory(process.pid)
    print({name: f"{ratio:.2f}" for name, ratio in slower.items()}, f"{used:,} bytes")
    assert {name: ratio for name, ratio in slower.items() if ratio > MOST} == {}
    assert used < limit("MemoryMax")
