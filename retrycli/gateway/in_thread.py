"""Work that may block, such as reading a file: in a thread that neither the event loop nor the process waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import ParamSpec, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")


async def in_thread(work: Callable[Given, Result], *args: Given.args, **options: Given.kwargs) -> Result:
    """Call something in a thread of its own. If the wait for it is cancelled, its result is dropped.

    asyncio's own threads would not do: there are few, which name look-ups need too, and at its end the process waits
    for them. A file on a dead network share would hold a pass up past its deadline and SIGTERM.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def settle(result: Result | None, error: BaseException | None) -> None:
        if done.done():  # the wait for it was cancelled
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, problem = None, None
        try:
            result = work(*args, **options)
        except BaseException as error:  # noqa: BLE001  whoever waits for it gets it
            problem = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, problem)

    Thread(target=run, name=getattr(work, "__qualname__", "work"), daemon=True).start()
    return await done
