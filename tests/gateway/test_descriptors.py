"""If file descriptors run out, a message counts as certainly not sent, and the error names the limit."""

from __future__ import annotations

import asyncio
import os
import resource
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from retrycli.domain.outcome import OutcomeKind
from retrycli.system import process
from tests.gateway.deliveries import gateway_settings, open_gateway, queued
from tests.gateway.mails import mail_settings, open_smtp

if TYPE_CHECKING:
    from collections.abc import Iterator

    from retrycli.domain.outcome import Outcome

NOWHERE = "127.0.0.1:9"


@contextmanager
def left(number: int) -> Iterator[None]:
    """Leave this process only ``number`` free descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    fillers = []
    highest = max(int(path.name) for path in Path("/dev/fd").iterdir())
    while (filler := os.open(os.devnull, os.O_RDONLY)) < highest:
        fillers.append(filler)
    os.close(filler)
    resource.setrlimit(resource.RLIMIT_NOFILE, (filler + number, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for each in fillers:
            os.close(each)


@pytest.mark.parametrize("number", [0, process.RESERVE])
def test_a_connection_without_a_descriptor_is_certainly_unsent(number: int) -> None:
    """A connection must not use the last descriptors, which are reserved for recording outcomes."""

    async def both() -> list[Outcome]:
        async with (
            open_gateway(gateway_settings(f"http://{NOWHERE}")) as http,
            open_smtp(mail_settings(f"smtp://{NOWHERE}")) as smtp,
        ):
            with left(number):
                return [await http.deliver(queued()), await smtp.deliver(queued())]

    for outcome in asyncio.run(both()):
        assert outcome.kind is OutcomeKind.UNREACHABLE
        assert "too few file descriptors (EMFILE)" in str(outcome.error)


def test_an_attachment_without_a_descriptor_is_not_an_error_of_the_message(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"a")
    message = queued(attachments='["a.pdf"]')
    here = {"attachments_dir": str(tmp_path)}

    async def both() -> list[Outcome]:
        async with (
            open_gateway(gateway_settings(f"http://{NOWHERE}", preset="zammad", token="zammad-1", **here)) as http,
            open_smtp(mail_settings(f"smtp://{NOWHERE}", **here)) as smtp,
        ):
            with left(0):
                return [await http.deliver(message), await smtp.deliver(message)]

    for outcome in asyncio.run(both()):
        assert outcome.kind is OutcomeKind.UNREACHABLE
        assert str(outcome.error).startswith("attachments: ")
        assert "too few file descriptors (EMFILE)" in str(outcome.error)
