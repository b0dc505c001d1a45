"""The death of a process: at one of its calls of a port, before or after the call took effect.

As after kill -9 nothing is cleaned up: every later call of the dead process raises too. Only the open transaction is
rolled back, as a database does after the death of a client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

Port = TypeVar("Port")


class Killed(BaseException):
    """An exception that nobody handles: the process is dead."""


@dataclass
class Fate:
    """The fate of one process.

    Args:
        at: the number of the call at which it dies, from 1; None if it survives.
        after: whether this call takes effect before.
    """

    at: int | None = None
    after: bool = False
    dead: bool = False
    calls: int = 0
    heard: Callable[[], object] = lambda: None
    """A callback, called before each call takes effect."""

    @contextmanager
    def call(self) -> Iterator[None]:
        """Make one call of a port."""
        number = self.begun()
        yield
        self.done(number)

    def begun(self) -> int:
        """Begin a call; return its number."""
        self.calls += 1
        self.heard()
        if self.dead or (self.calls == self.at and not self.after):
            self.die()
        return self.calls

    def done(self, number: int) -> None:
        """Complete a call."""
        if self.dead or (number == self.at and self.after):
            self.die()

    def die(self) -> None:
        self.dead = True
        raise Killed


def mortal(port: Port, fate: Fate) -> Port:
    """Wrap a port, for a process with a fate."""
    return cast("Port", _Mortal(port, fate))


class _Mortal:
    def __init__(self, port: Any, fate: Fate) -> None:  # noqa: ANN401  whichever port
        self._port = port
        self._fate = fate

    def __call__(self, *values: object) -> object:
        with self._fate.call():
            return self._port(*values)

    def __getattr__(self, name: str) -> Callable[..., object]:
        method = getattr(self._port, name)

        def call(*values: object, **named: object) -> object:
            with self._fate.call():
                return method(*values, **named)

        return call

    @property
    def results(self) -> object:
        """The claims' other port, for the same process."""
        return mortal(self._port.results, self._fate)

    @contextmanager
    def transaction(self, *values: object, **named: object) -> Iterator[Callable[[], bool]]:
        """Make the commit a separate call: a death before it rolls back everything written inside."""
        self._fate.heard()
        number = 0
        with self._port.transaction(*values, **named) as commit:

            def commits() -> bool:
                nonlocal number
                number = self._fate.begun()
                return bool(commit())

            yield commits
            number = number or self._fate.begun()
        self._fate.done(number)
