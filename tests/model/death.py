"""How a process dies: at one of its calls of a port, before or after the call took effect, and then for good.

As after kill -9 nothing is cleaned up: every later call of the dead raises too. Only the transaction that is open is
rolled back, which is what a database does with one whose process is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

Port = TypeVar("Port")


class Killed(BaseException):
    """No exception that anybody handles: the process is no more."""


@dataclass
class Fate:
    """What becomes of one process.

    Args:
        at: the number of the call that it dies at, from 1; None where it lives.
        after: whether that call has taken effect by then.
    """

    at: int | None = None
    after: bool = False
    dead: bool = False
    calls: int = 0
    heard: Callable[[], object] = lambda: None
    """Told of each call before it takes effect."""

    @contextmanager
    def call(self) -> Iterator[None]:
        """One call of a port."""
        number = self.begun()
        yield
        self.done(number)

    def begun(self) -> int:
        """A call is about to take effect; its number."""
        self.calls += 1
        self.heard()
        if self.dead or (self.calls == self.at and not self.after):
            self.die()
        return self.calls

    def done(self, number: int) -> None:
        """A call has taken effect."""
        if self.dead or (number == self.at and self.after):
            self.die()

    def die(self) -> None:
        self.dead = True
        raise Killed


def mortal(port: Port, fate: Fate) -> Port:
    """A port, for a process with a fate."""
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
        """The commit is a call of its own: whoever dies before it leaves nothing of what was written inside."""
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
