"""Servers that tests start: on free ports of loopback, each stopped at the end of its block."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from select import select
from threading import Event, Thread

LONGEST = 60
"""Seconds after which a test gives up."""
GRACE = 3
"""Seconds after which a server that has not ended is killed. Some servers wait for connections to close."""


def wait_until(holds: Callable[[], bool]) -> None:
    """Poll a condition until it holds; fail after `LONGEST` seconds."""
    deadline = time.monotonic() + LONGEST
    while not holds():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.1)


def does(*command: str) -> bool:
    """Return whether a command exists and succeeds."""
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def running(
    command: Sequence[str], log: Path, *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server for a `with` block."""
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output, cwd=cwd, env=env) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()


def says(url: str, status: int, process: subprocess.Popen[bytes], log: Path) -> bool:
    """Return whether a server already answers with this status; fail if its process has ended."""
    assert process.poll() is None, log.read_text()
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return bool(answer.status == status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code == status
    except OSError:
        return False


class Forgetful:
    """A proxy that drops some requests, or the answers to them.

    The proxy then disconnects, stays silent, or answers with an error status as a real proxy does after a timeout.
    """

    def __init__(self, url: str, method: bytes, *, also_the_request: bool, status: int | None, silent: bool) -> None:
        self._there = ("127.0.0.1", int(url.rpartition(":")[2]))
        self._method = method
        self._also_the_request = also_the_request
        self._silent = silent
        self.happened = Event()
        """Set once a request or an answer has been withheld."""
        self._instead = b"" if status is None else b"HTTP/1.1 %d Made up\r\nContent-Length: 0\r\n\r\n" % status
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def serve(self) -> None:
        """Accept connections until the listener is closed."""
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                Thread(target=self._between, args=(client,), daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _between(self, client: socket.socket) -> None:
        forgets = False
        with client, socket.create_connection(self._there) as server, suppress(OSError):
            while True:
                readable, _, _ = select([client, server], [], [])
                if client in readable:
                    if not (question := client.recv(65536)):
                        return
                    forgets = forgets or question.startswith(self._method)
                    if forgets and self._also_the_request:
                        self._keep_back(client)
                        return
                    server.sendall(question)
                if server in readable:
                    if not (answer := server.recv(65536)):
                        return
                    client.sendall(self._instead if forgets else answer)
                    if forgets:
                        self._keep_back(client)
                        return

    def _keep_back(self, client: socket.socket) -> None:
        """Disconnect, or stay silent until the client leaves."""
        self.happened.set()
        while self._silent and client.recv(65536):
            pass


@contextmanager
def forgetful(
    url: str, method: str, *, also_the_request: bool = False, status: int | None = None, silent: bool = False
) -> Iterator[Forgetful]:
    """Run a `Forgetful` proxy for a `with` block."""
    made = Forgetful(url, method.encode(), also_the_request=also_the_request, status=status, silent=silent)
    thread = Thread(target=made.serve, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.close()
        thread.join()
