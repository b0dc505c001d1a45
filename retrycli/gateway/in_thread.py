"""Run blocking work, such as reading a file, in a thread that never delays the event loop or the exit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import ParamSpec, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")


async def in_thread(work: Callable[Given, Result], *args: Given.args, **options: Given.kwargs) -> Result:
    """Call a function in a thread of its own. If the wait is cancelled, its result is dropped.

    asyncio's thread pool does not fit: it is small, DNS look-ups share it, and the process waits for it at exit. A file
    on a dead network share would block a pass past its deadline and SIGTERM.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def settle(result: Result | None, error: BaseException | None) -> None:
        if done.done():  # the wait was cancelled
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, problem = None, None
        try:
            result = work(*args, **options)
        except BaseException as error:  # noqa: BLE001  raised in the waiting task
            problem = error
        with suppress(RuntimeError):  # the loop is closed, so nothing waits
            loop.call_soon_threadsafe(settle, result, problem)

    Thread(target=run, name=getattr(work, "__qualname__", "work"), daemon=True).start()
    return await done
