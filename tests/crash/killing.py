"""An API that kills the pass which sends it a request."""

from __future__ import annotations

import os
import signal
from http.client import HTTPConnection
from queue import SimpleQueue
from random import Random
from threading import Lock
from typing import TYPE_CHECKING, Any

from retrycli.operations.sandbox import Behaviour, Sandbox
from tests.cli.command import LONGEST, wait_until

if TYPE_CHECKING:
    from datetime import timedelta

    from retrycli.operations.sandbox import Answer
    from tests.crash.forked import Ended, Run, Wanted


class Killing(Sandbox):
    """An API that accepts everything, and kills a pass at one of its requests, before or after it accepts the message.

    Args:
        latency: the time of a request, so that several are in flight.
    """

    def __init__(self, latency: timedelta) -> None:
        super().__init__(Behaviour(latency=latency), rng=Random(0))
        self._until: int | None = None
        self._accepts = False
        self._pids = SimpleQueue[int]()
        self._open = 0
        self._counting = Lock()

    def kill_at(self, request: int, run: Run, wanted: Wanted, *, accepts: bool) -> Ended:
        """Run a pass. Kill it at this one of its requests, from 1, unless it ends before."""
        self._until, self._accepts, self._pids = request, accepts, SimpleQueue()
        ended = run(wanted, started=self._pids.put)
        self._until = None
        self._wait_until_closed()
        return ended

    def answer(self, method: str, path: str, key: str | None, body: bytes) -> Answer:
        with self._counting:
            is_fatal = method == "POST" and self._until == 1
            self._until = None if self._until is None else self._until - (method == "POST")
        if is_fatal and not self._accepts:
            self._kill()
        answer = super().answer(method, path, key, body)
        if is_fatal:
            self._kill()
        return answer

    def _kill(self) -> None:
        os.kill(self._pids.get(timeout=LONGEST), signal.SIGKILL)
        raise ConnectionAbortedError

    def _wait_until_closed(self) -> None:
        """Wait until the connections of the pass are closed, so that none of its requests counts as the next pass's."""
        own = HTTPConnection(*self.server_address)
        own.request("GET", "/")
        own.getresponse()  # the server has accepted the older connections
        own.close()
        wait_until(lambda: self._open == 0)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  as in socketserver
        with self._counting:
            self._open += 1
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401
        super().shutdown_request(request)
        with self._counting:
            self._open -= 1
