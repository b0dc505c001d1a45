"""Tells a dead-man switch that passes are made, after the pinging API of healthchecks.io.

``GET {url}/start`` when a pass begins, ``{url}`` when it has ended well and ``{url}/{exit status}`` when not, each with
the pass's id as ``rid``. Whoever hears nothing in time raises the alarm.
"""

from __future__ import annotations

from functools import cached_property
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from threading import Thread
from urllib.parse import urlsplit

WAIT_SECONDS = 10.0
"""How long one ping may take in all, looking up the name included."""
READ_AT_MOST = 200


class Ping:
    """The pings of one pass. None of them raises, and none follows a redirect or an environment's proxy.

    Args:
        url: the check's.
        run_id: a UUID that tells this pass's pings from those of others.
    """

    def __init__(self, url: str, run_id: str) -> None:
        self._url = url
        self._run_id = run_id
        self._start: _Request | None = None

    def start(self) -> None:
        """Say that the pass has begun, and don't wait for it: messages go before."""
        self._start = self._request("/start")

    def end(self, exit_status: int) -> str | None:
        """Say how the pass has ended, after it was heard that it began.

        Returns:
            None where all was heard, else what went wrong, in words without the URL.
        """
        begun = self._start.failure if self._start else None
        return self._request(f"/{exit_status}" if exit_status else "").failure or begun

    def note(self) -> str | None:
        """Leave a line in the check's log that changes nothing else; what went wrong, or None."""
        return self._request("/log").failure

    def _request(self, path: str) -> _Request:
        return _Request(f"{self._url}{path}?rid={self._run_id}")


class _Request(Thread):
    """One GET, in a thread that nobody has to wait for longer than `WAIT_SECONDS`: a name server may hang, too."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._failure: str | None = f"no answer within {WAIT_SECONDS:g} s"
        self.start()

    @cached_property
    def failure(self) -> str | None:
        """What went wrong, once it is known; None where nothing did."""
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
            self._failure = f"no HTTP: {type(error).__name__}"


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
    if not 200 <= answer.status < 300:  # noqa: PLR2004  the 2xx
        return f"HTTP {answer.status}"
    # Healthchecks answers 200 to pings that it throws away, and says so in brackets.
    return "the check is not known there" if text.startswith(b"OK (not found)") else None
