"""Sandbox ticketing APIs on loopback whose answers a test controls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from random import Random
from threading import Event

from retrycli.operations.sandbox import Answer, Behaviour, Sandbox
from tests.cli.command import LONGEST

BAD_GATEWAY: Answer = (502, {})
BUSY: Answer = (503, {"messages": ["too busy"]})
FORBIDS: Answer = (401, {"messages": ["who are you?"]})
REJECTS: Answer = (422, {"messages": ["no such recipient"]})
TAKES: Answer = (200, {"succeeded": True})


class Scripted(Sandbox):
    """An API that gives its answers in turn, repeats the last one, and records the requested paths."""

    def __init__(self, *answers: Answer) -> None:
        super().__init__(Behaviour(), rng=Random(0))
        self._answers = list(answers)
        self.paths: list[str] = []

    def answer(self, method: str, path: str, key: str | None, body: bytes) -> Answer:
        self.paths.append(path)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


class Meanwhile(Scripted):
    """A scripted API that calls a function during its first request."""

    def __init__(self, do: Callable[[], object], *answers: Answer) -> None:
        super().__init__(*answers)
        self._do = [do]

    def answer(self, method: str, path: str, key: str | None, body: bytes) -> Answer:
        while self._do:
            self._do.pop()()
        return super().answer(method, path, key, body)


class Gate:
    """A gate at which a sandbox's requests wait until a test opens it."""

    def __init__(self) -> None:
        self.reached = Event()
        self.opened = Event()

    def hold(self, _seconds: float) -> None:
        """Wait until the gate is open; the sandbox calls this method as its ``sleep``."""
        self.reached.set()
        self.opened.wait(LONGEST)


@contextmanager
def held_back() -> Iterator[tuple[Sandbox, Gate]]:
    """Run a sandbox whose requests wait until a test opens the gate."""
    gate = Gate()
    with Sandbox(Behaviour(latency=timedelta(seconds=1)), rng=Random(0), sleep=gate.hold) as sandbox:
        try:
            yield sandbox, gate
        finally:
            gate.opened.set()
