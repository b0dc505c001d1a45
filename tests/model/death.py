"""Simulate the death of a process at one of its calls to a port, before or after the call takes effect.

As after kill -9, no clean-up code has an effect, because every later call by the dead process raises too. Only the open
transaction is rolled back, as a database does when its client dies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

Port = TypeVar("Port")


class Killed(BaseException):
    """The process is dead. This is a BaseException, so that no handler of retrycli catches it."""


@dataclass
class Fate:
    """The call at which one process dies, if any.

    Args:
        at: the number of the call at which it dies, from 1; None if it survives.
        after: whether the call takes effect before the death.
    """

    at: int | None = None
    after: bool = False
    dead: bool = False
    calls: int = 0
    heard: Callable[[], object] = lambda: None
    """A callback that is called before each call to a port takes effect."""

    @contextmanager
    def call(self) -> Iterator[None]:
        """Count one call to a port. Raise `Killed` if the process dies at it."""
        number = self.begun()
        yield
        self.done(number)

    def begun(self) -> int:
        """Begin a call; return its number. The process may die before the call takes effect."""
        self.calls += 1
        self.heard()
        if self.dead or (self.calls == self.at and not self.after):
            self.die()
        return self.calls

    def done(self, number: int) -> None:
        """End a call. The process may die after the call has taken effect."""
        if self.dead or (number == self.at and self.after):
            self.die()

    def die(self) -> None:
        self.dead = True
        raise Killed


def mortal(port: Port, fate: Fate) -> Port:
    """Wrap a port so that the process can die at each of its calls."""
    return cast("Port", _Mortal(port, fate))


class _Mortal:
    def __init__(self, port: Any, fate: Fate) -> None:  # noqa: ANN401  a port of any protocol
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
        """Wrap `Claims.results`, so that the process can also die at its calls."""
        return mortal(self._port.results, self._fate)

    @contextmanager
    def transaction(self, *values: object, **named: object) -> Iterator[Callable[[], bool]]:
        """Count the commit as a separate call. A death before it rolls back all writes of the transaction."""
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
