"""A user with write access to the attachments' folder exchanges files while messages are sent."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import pytest

from retrycli.domain.outcome import OutcomeKind
from retrycli.gateway.delivery import in_thread
from tests.gateway.deliveries import deliver, deliver_in_turn, gateway_settings, preset_file, queued
from tests.gateway.hostile import SUCCEEDED, Connection, Hostile, answer
from tests.gateway.mail_server import MailServer, Peer
from tests.gateway.mails import mail, mail_settings
from tests.users import THEIRS, open_place

if TYPE_CHECKING:
    from retrycli.config.gateway import RoutedGatewaySettings

PRESET = """
[messages.customer]
path = "/messages"
encoding = "multipart"
body = { text = "{body}" }
files = "files"
preflight = "right"

[preflight.right]
remedy = "give it the right"

[[preflight.right.steps]]
path = "/me"
enough = { path = "admin", equals = true }
"""
HARMLESS, SECRET = b"an invoice, as it was", b"token: s3cret-s3cret."
SECONDS = 5.0
"""The time limit of a message in seconds, which no test reaches."""
MESSAGES = 150
MESSAGE = queued(attachments=json.dumps(["2026/a.txt"]), cc_emails=None)


@pytest.fixture
def place() -> Iterator[Path]:
    """Create a folder owned by another user, beside a folder that only root may read."""
    with open_place() as made:
        invoices = made / "attachments" / "2026"
        invoices.mkdir(parents=True)
        (invoices / "a.txt").write_bytes(HARMLESS)
        for path in (invoices.parent, invoices, invoices / "a.txt"):
            os.chown(path, THEIRS, THEIRS)
        private = made / "private"
        private.mkdir(0o700)
        (private / "a.txt").touch(0o600)
        (private / "a.txt").write_bytes(SECRET)
        yield made


def link(file: Path, secret: Path) -> None:
    file.unlink()
    file.symlink_to(secret)


def folder(file: Path, secret: Path) -> None:
    file.parent.rename(file.parent.with_name("before"))
    file.parent.symlink_to(secret.parent)


def hard_link(file: Path, secret: Path) -> None:
    """Create a hard link, as another user may without fs.protected_hardlinks."""
    file.unlink()
    file.hardlink_to(secret)


def pipe(file: Path, _secret: Path) -> None:
    file.unlink()
    os.mkfifo(file)


Swap = Callable[[Path, Path], None]
SWAPS: tuple[Swap, ...] = (link, folder, hard_link, pipe)
on_each_swap = pytest.mark.parametrize("swap", SWAPS, ids=[each.__name__ for each in SWAPS])


@on_each_swap
def test_a_file_exchanged_after_its_check_is_not_sent_by_http(swap: Swap, place: Path, tmp_path: Path) -> None:
    """The server exchanges the file during the preflight, which follows the check of the file."""

    def exchange_and_answer(connection: Connection) -> None:
        swap(place / "attachments" / "2026" / "a.txt", place / "private" / "a.txt")
        answer(200, b'{"admin": true}')(connection)

    with Hostile(answer(200, SUCCEEDED), at={"/me": [exchange_and_answer]}) as server:
        outcome = deliver(settings(server, place, tmp_path), MESSAGE)
    assert outcome.kind in {OutcomeKind.UNKNOWN, OutcomeKind.TRANSIENT}
    assert (outcome.error or "").startswith("an attachment ")
    assert not any(SECRET in request.body for request in server.requests)


@on_each_swap
def test_a_file_exchanged_after_its_check_is_not_sent_by_mail(swap: Swap, place: Path) -> None:
    def exchange_and_go_on(peer: Peer) -> None:
        swap(place / "attachments" / "2026" / "a.txt", place / "private" / "a.txt")
        peer.send(b"354 go on\r\n")
        assert peer.mail(1 << 20) is None

    with MailServer(DATA=exchange_and_go_on) as server:
        there = mail_settings(server.url, attachments_dir=place / "attachments", request_timeout_seconds=SECONDS)
        outcome = mail(there, MESSAGE)
    assert outcome.kind is OutcomeKind.TRANSIENT
    assert (outcome.error or "").startswith("the mail: an attachment ")
    assert server.mails == []


def settings(server: Hostile, place: Path, tmp_path: Path) -> RoutedGatewaySettings:
    preset, there = preset_file(tmp_path, PRESET), place / "attachments"
    return gateway_settings(server.url, preset=preset, attachments_dir=there, request_timeout_seconds=SECONDS)


@contextmanager
def in_turn(*acts: Callable[[], object]) -> Iterator[None]:
    """Repeat these actions as another user, in a separate process."""
    tests = os.getpid()
    if (child := os.fork()) == 0:
        try:
            os.setgroups([])
            os.setresgid(THEIRS, THEIRS, THEIRS)
            os.setresuid(THEIRS, THEIRS, THEIRS)
            while os.getppid() == tests:
                for act in acts:
                    act()
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_another_user_who_keeps_exchanging_the_file_reads_nothing_else(place: Path, tmp_path: Path) -> None:
    file, secret = place / "attachments" / "2026" / "a.txt", place / "private" / "a.txt"
    other = file.with_name("other")

    def put_link() -> None:
        other.symlink_to(secret)
        other.rename(file)

    def put_pipe() -> None:
        os.mkfifo(other)
        other.rename(file)

    def put_file() -> None:
        other.write_bytes(HARMLESS)
        other.rename(file)

    with (
        Hostile(answer(200, SUCCEEDED), at={"/me": [answer(200, b'{"admin": true}')]}) as server,
        in_turn(put_file, put_link, put_file, put_pipe),
    ):
        begun = time.monotonic()
        outcomes = deliver_in_turn(settings(server, place, tmp_path), *[MESSAGE] * MESSAGES)
        assert time.monotonic() - begun < MESSAGES * SECONDS / 5, "none waits for a pipe"
    assert not any(SECRET in request.body for request in server.requests)
    assert {outcome.kind for outcome in outcomes} <= {OutcomeKind.DELIVERED, OutcomeKind.UNKNOWN, OutcomeKind.INVALID}


def test_does_not_wait_for_a_file_leased_by_another_program(tmp_path: Path) -> None:
    """Opening the file would block until the lease ends, after 45 s by default (fcntl(2), F_SETLEASE)."""
    file = tmp_path / "a.txt"
    file.write_bytes(HARMLESS)
    held = os.open(file, os.O_RDWR)
    try:
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        message = queued(attachments='["a.txt"]', cc_emails=None)
        with Hostile(answer(200, SUCCEEDED)) as server:
            there = gateway_settings(server.url, preset="zammad", token="zammad-1", attachments_dir=tmp_path)
            outcome = deliver(there, message)
        assert outcome.kind is OutcomeKind.UNREACHABLE
        assert (
            outcome.error
            == "attachments: another program holds a lease on a file; wait until that program releases the lease"
        )
        assert server.requests == []
    finally:
        os.close(held)
        signal.signal(signal.SIGIO, signal.SIG_DFL)


def test_blocked_file_work_delays_neither_the_loop_nor_its_end() -> None:
    """Reading a file on a disconnected network share blocks in this way."""
    never = Event()

    async def look() -> str:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await in_thread(never.wait)
        return await in_thread("done".upper)

    assert asyncio.run(look()) == "DONE"
    never.set()


def test_an_exception_in_a_thread_is_raised_where_it_is_awaited() -> None:
    async def divide() -> None:
        await in_thread(divmod, 1, 0)

    with pytest.raises(ZeroDivisionError):
        asyncio.run(divide())
