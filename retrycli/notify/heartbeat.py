"""Ping a dead-man switch, using the pinging API of healthchecks.io.

A pass sends ``GET {url}/start`` when it begins, and ``GET {url}`` when it succeeds or ``GET {url}/{exit status}`` when
it fails. The parameter ``rid`` is the pass's id. If no ping arrives in time, the service raises an alarm.
"""

from functools import cached_property
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from threading import Thread
from urllib.parse import urlsplit

WAIT_SECONDS = 10.0  # for one ping, including name resolution
READ_AT_MOST = 200  # bytes of a response; Healthchecks sends shorter responses


class Ping:
    """The pings of one pass. They never raise an error, follow no redirect, and use no proxy from the environment. The
    id of the run distinguishes them from the pings of other passes.
    """

    def __init__(self, url: str, run_id: str) -> None:
        self._url = url
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
        return _Request(f"{self._url}{path}?rid={self._run_id}")


class _Request(Thread):
    """One GET in a daemon thread, so that `failure` waits at most `WAIT_SECONDS` even if a name server hangs."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._failure: str | None = f"no response within {WAIT_SECONDS:g} s"
        self.start()

    @cached_property
    def failure(self) -> str | None:
        """Wait for the response. Return what failed, or None."""
        self.join(WAIT_SECONDS)
        return self._failure

    def run(self) -> None:
        try:
            self._failure = _get(self._url)
        except TimeoutError:
            return
        except OSError as error:
            self._failure = error.strerror or type(error).__name__
        except HTTPException as error:
            self._failure = f"HTTP request failed: {type(error).__name__}"


def _get(url: str) -> str | None:
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=WAIT_SECONDS)
    try:
        connection.request("GET", f"{parts.path}?{parts.query}", headers={"User-Agent": "retrycli"})
        answer = connection.getresponse()
        text = answer.read(READ_AT_MOST)
    finally:
        connection.close()
    if not 200 <= answer.status < 300:  # noqa: PLR2004
        return f"HTTP {answer.status}"
    # Healthchecks returns 200 even for a ping that it discards, and adds the reason in parentheses.
    return "the server has no check with this URL" if text.startswith(b"OK (not found)") else None
