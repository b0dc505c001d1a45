"""Ping a dead-man switch, using the pinging API of healthchecks.io.

A pass sends ``GET {url}/start`` when it begins, and ``GET {url}`` when it succeeds or ``GET {url}/{exit status}`` when
it fails. The parameter ``rid`` is the pass's id. If no ping arrives in time, the service raises an alarm.
"""

from contextlib import suppress
from functools import cached_property
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from socket import SHUT_RDWR
from threading import Thread
from urllib.parse import urlsplit

WAIT_SECONDS = 10.0  # for one ping, including name resolution
READ_AT_MOST = 200  # bytes of a response; Healthchecks sends shorter responses


class Ping:
    """The pings of one pass. They never raise an error, follow no redirect, and use no proxy from the environment. The
    id of the run distinguishes them from the pings of other passes.
    """

    def __init__(self, url: str, run_id: str, seconds: float = WAIT_SECONDS) -> None:
        self._url = url
        self._seconds = seconds
        self._run_id = run_id
        self._start: _Request | None = None

    def start(self) -> None:
        """Report the start of the pass. Do not wait for a response, because that would delay deliveries."""
        self._start = self._request("/start")

    def end(self, exit_status: int) -> str | None:
        """Wait for the ping of the start, then report the end of the pass.

        Returns:
            None if both pings succeeded; otherwise what failed, without the URL.
        """
        begun = self._start.failure if self._start else None
        return self._request(f"/{exit_status}" if exit_status else "").failure or begun

    def note(self) -> str | None:
        """Add a line to the check's log without changing the check's state. Return what failed, or None."""
        return self._request("/log").failure

    def _request(self, path: str) -> "_Request":
        return _Request(f"{self._url}{path}?rid={self._run_id}", self._seconds)


class _Request(Thread):
    """One GET in a daemon thread, so that `failure` waits for a limited time even if a name server hangs."""

    def __init__(self, url: str, seconds: float) -> None:
        super().__init__(daemon=True)
        parts = urlsplit(url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._connection = kind(parts.hostname or "", parts.port, timeout=seconds)
        self._seconds = seconds
        self._path = f"{parts.path}?{parts.query}"
        self._failure: str | None = f"no response within {seconds:g} s"
        self.start()

    @cached_property
    def failure(self) -> str | None:
        """Wait for the response. Return what failed, or None."""
        self.join(self._seconds)
        failure = self._failure
        # A server that never ends its answer would keep the thread busy for as long as the process lives.
        if self.is_alive() and self._connection.sock is not None:
            with suppress(OSError):
                self._connection.sock.shutdown(SHUT_RDWR)
        return failure

    def run(self) -> None:
        try:
            self._failure = self._get()
        except TimeoutError:
            return
        except OSError as error:
            self._failure = error.strerror or type(error).__name__
        except HTTPException as error:
            self._failure = f"HTTP request failed: {type(error).__name__}"
        finally:
            self._connection.close()

    def _get(self) -> str | None:
        self._connection.request("GET", self._path, headers={"User-Agent": "retrycli"})
        answer = self._connection.getresponse()
        text = answer.read(READ_AT_MOST)
        if not 200 <= answer.status < 300:  # noqa: PLR2004
            return f"HTTP {answer.status}"
        # Healthchecks returns 200 even for a ping that it discards, and adds the reason in parentheses.
        return "the server has no check with this URL" if text.startswith(b"OK (not found)") else None
