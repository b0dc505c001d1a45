"""Functions of an application that send messages, written to modules, and functions that deliver through them."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

from retrycli.config.gateway import GatewaySettings
from retrycli.domain.message import QueuedMessage
from retrycli.domain.outcome import Outcome
from retrycli.gateway.python.gateway import PythonGateway
from tests.gateway.deliveries import NOON, queued

HEAD = """
import asyncio, functools, os, sys, threading, time
import retrycli
"""
NUMBERS = itertools.count(1)


def sender(folder: Path, code: str, name: str = "send", **settings: object) -> GatewaySettings:
    """Write a module with a new name, because Python imports a name only once; return settings for a function in it."""
    module = f"sender_{next(NUMBERS)}"
    (folder / f"{module}.py").write_text(HEAD + code)
    return GatewaySettings.model_validate(
        {"kind": "python", "call": f"{module}:{name}", "modules_dir": folder, "request_timeout_seconds": 10} | settings
    )


def new(**changes: object) -> QueuedMessage:
    """Return a message with a new delivery key, because a process remembers calls that it has given up."""
    return queued(f"key-{next(NUMBERS)}", **changes)


def deliver_all(settings: GatewaySettings, *messages: QueuedMessage, connections: int = 8) -> list[Outcome]:
    """Deliver messages at the same time through one gateway."""

    async def all_of_them() -> list[Outcome]:
        async with PythonGateway(settings, connections=connections, now=lambda: NOON) as gateway:
            return await asyncio.gather(*(gateway.deliver(message) for message in messages))

    return asyncio.run(all_of_them())


def deliver(settings: GatewaySettings, message: QueuedMessage | None = None) -> Outcome:
    """Deliver one message, by default `new()`."""
    [outcome] = deliver_all(settings, message or new())
    return outcome
