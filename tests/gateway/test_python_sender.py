"""The outcomes of functions of the application that send messages, and what they receive."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from retrycli.domain.message import MessageType
from retrycli.domain.outcome import ERROR_LENGTH, Outcome, OutcomeKind, Presence
from retrycli.domain.sender import OutgoingMessage
from retrycli.gateway.delivery import TOO_LATE
from retrycli.gateway.python.gateway import THREADS, PythonGateway
from tests.cli.command import wait_until
from tests.gateway.deliveries import KEY, NOON, queued
from tests.gateway.senders import deliver, deliver_all, new, sender

SHORT: dict[str, Any] = {"request_timeout_seconds": 0.2}


@pytest.fixture(autouse=True)
def own_search_path() -> Iterator[None]:
    before = [*sys.path]
    yield
    sys.path[:] = before


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Provide the event for which blocked functions wait, so that no thread outlives its test."""
    event = threading.Event()
    sys.modules["gate"] = event  # type: ignore[assignment]  # a module of the application can import it
    yield event
    event.set()
    del sys.modules["gate"]
    wait_until(lambda: THREADS.count == 0)


def of(kind: OutcomeKind, error: str | None = None, **more: Any) -> Outcome:  # noqa: ANN401
    return Outcome(kind, error=error, **more)


BODIES: list[tuple[str, Outcome]] = [
    ("return None", of(OutcomeKind.DELIVERED)),
    ("return True", of(OutcomeKind.DELIVERED)),
    ("return 'msg-7'", of(OutcomeKind.DELIVERED, external_id="msg-7")),
    ("return ''", of(OutcomeKind.DELIVERED)),
    ("return 'a\\n\\0b'", of(OutcomeKind.DELIVERED, external_id="a b")),
    ("raise retrycli.Permanent('the ticket is closed')", of(OutcomeKind.PERMANENT, "the ticket is closed")),
    ("raise retrycli.Permanent", of(OutcomeKind.PERMANENT, "Permanent")),
    ("raise retrycli.Transient('a\\nb')", of(OutcomeKind.TRANSIENT, "a b")),
    ("raise retrycli.Unauthorized('no token')", of(OutcomeKind.UNAUTHORIZED, "no token")),
    ("raise retrycli.Unknown('it hung up')", of(OutcomeKind.UNKNOWN, "it hung up")),
    ("raise retrycli.RetryAfter(90)", of(OutcomeKind.THROTTLED, "RetryAfter", retry_after=timedelta(seconds=90))),
    ("raise retrycli.RetryAfter('90')", of(OutcomeKind.THROTTLED, "RetryAfter", retry_after=timedelta(seconds=90))),
    ("raise retrycli.RetryAfter(1e9, 'busy')", of(OutcomeKind.THROTTLED, "busy", retry_after=timedelta(hours=6))),
    *[
        (f"raise retrycli.RetryAfter({seconds})", of(OutcomeKind.THROTTLED, "RetryAfter"))
        for seconds in ("-1", "float('nan')", "'soon'", "None")
    ],
]
"""What a function does, and the outcome."""


@pytest.mark.parametrize("start", ["", "async "], ids=["sync", "async"])
@pytest.mark.parametrize(("body", "expected"), BODIES, ids=[body for body, _ in BODIES])
def test_a_function_says_what_became_of_its_message(body: str, expected: Outcome, start: str, tmp_path: Path) -> None:
    assert deliver(sender(tmp_path, f"{start}def send(message):\n    {body}")) == expected


@pytest.mark.parametrize("start", ["", "async "], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("raised", "name"),
    [
        ("KeyError(message.body)", "KeyError"),
        ("SystemExit(1)", "SystemExit"),
        ("asyncio.CancelledError", "CancelledError"),
        ("GeneratorExit", "GeneratorExit"),
        ("TimeoutError(message.body)", "TimeoutError"),
        ("StopIteration", "StopIteration"),
    ],
)
def test_any_other_exception_is_an_unknown_outcome_without_its_text(
    raised: str, name: str, start: str, tmp_path: Path
) -> None:
    """Python turns a StopIteration of a coroutine into a RuntimeError."""
    settings = sender(tmp_path, f"{start}def send(message):\n    raise {raised}")
    expected = "RuntimeError" if start and name == "StopIteration" else name
    assert deliver(settings) == of(OutcomeKind.UNKNOWN, f"{settings.call} raised {expected}")


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ("False", "returned False"),
        ("0", "returned a value of type int"),
        ("{'id': 7}", "returned a value of type dict"),
        ("retrycli.Permanent('x')", "returned a value of type Permanent"),
    ],
)
def test_anything_else_that_is_returned_is_an_unknown_outcome(returned: str, words: str, tmp_path: Path) -> None:
    settings = sender(tmp_path, f"def send(message):\n    return {returned}")
    expected = f"{settings.call} {words}; it must return None, or the message's id as text"
    assert deliver(settings) == of(OutcomeKind.UNKNOWN, expected)


def test_an_error_quotes_no_message_and_is_short(tmp_path: Path) -> None:
    quoting = sender(tmp_path, "def send(message):\n    raise retrycli.Permanent('no: ' + message.body)")
    message = queued(body="My iban is DE00 1234 5678 9012")
    assert deliver(quoting, message) == of(OutcomeKind.PERMANENT, "no: …")
    long = deliver(sender(tmp_path, "def send(message):\n    raise retrycli.Permanent('x' * 10_000)"))
    assert len(str(long.error)) == ERROR_LENGTH
    broken = "class Own(retrycli.Permanent):\n    def __str__(self):\n        return 1 / 0\ndef send(m):\n    raise Own"
    assert deliver(sender(tmp_path, broken)) == of(OutcomeKind.PERMANENT, "Own")


CALLABLES = {
    "method": "class Desk:\n    def send(self, message): return str(message.id)\ndesk = Desk()",
    "async callable object": "class Send:\n    async def __call__(self, message): return str(message.id)\n"
    "class desk: send = Send()",
    "partial": "async def with_url(url, message): return str(message.id)\n"
    "class desk: send = functools.partial(with_url, 'https://…')",
    "decorated": "def plain(function):\n    def call(*args): return function(*args)\n    return call\n"
    "class desk:\n    @staticmethod\n    @plain\n    async def send(message): return str(message.id)",
}


@pytest.mark.parametrize("code", CALLABLES.values(), ids=CALLABLES)
def test_everything_that_can_be_called_can_send(code: str, tmp_path: Path) -> None:
    assert deliver(sender(tmp_path, code, "desk.send")) == of(OutcomeKind.DELIVERED, external_id="7")


# -- what it receives ------------------------------------------------------------------------------------------------


def test_a_function_receives_the_whole_message() -> None:
    message = queued(attachments='[{"path": "a.pdf"}]', priority=3)
    message = message._replace(attempt_number=4, unsettled_since=NOON)
    found = OutgoingMessage.of(message)
    assert (found.id, found.ticket_id, found.message_type) == (7, 12345, MessageType.CUSTOMER)
    assert (found.subject, found.body) == ("Your delivery", "It is on its way.")
    assert (found.recipient_email, found.cc_emails, found.bcc_emails) == ("anna@example.com", ("ben@example.com",), ())
    assert found.attachments == ({"path": "a.pdf"},)
    assert (found.delivery_key, found.attempt, found.may_have_arrived) == (KEY, 4, True)
    assert found.fields["priority"] == 3
    assert "id=7" in repr(found)
    assert not any(word in repr(found) for word in ("delivery'", "on its way", "example.com"))
    assert not OutgoingMessage.of(queued()).may_have_arrived
    assert OutgoingMessage.of(queued()._replace(delivered_to=frozenset({"b@example.com"}))).may_have_arrived
    lacking = OutgoingMessage.of(queued(subject=None, recipient_email=""))
    assert (lacking.subject, lacking.recipient_email) == ("", None)


def test_a_message_can_not_be_changed() -> None:
    message = queued()
    found = OutgoingMessage.of(message)
    with pytest.raises(FrozenInstanceError):
        found.body = "x"  # type: ignore[misc]  # the test's point
    with pytest.raises(TypeError):
        found.fields["body"] = "x"  # type: ignore[index]  # the test's point
    copies = found.fields["cc_emails"]
    assert isinstance(copies, list)
    copies.clear()
    assert message.message.fields["cc_emails"] == ["ben@example.com"]


@pytest.mark.parametrize("changes", [{"cc_emails": "[1]"}, {"recipient_email": 5}])
def test_a_recipient_that_is_not_text_makes_a_row_invalid(changes: dict[str, object], tmp_path: Path) -> None:
    settings = sender(tmp_path, "def send(message): raise AssertionError")
    message = queued(**changes)
    outcome = deliver(settings, message)
    assert outcome.kind is OutcomeKind.INVALID

    async def problem() -> str | None:
        return await PythonGateway(settings, connections=1, now=lambda: NOON).problem(message)

    assert asyncio.run(problem()) == outcome.error


def test_it_has_no_look_up(tmp_path: Path) -> None:
    async def asked() -> Presence:
        gateway = PythonGateway(sender(tmp_path, "def send(message): pass"), connections=1, now=lambda: NOON)
        return (await gateway.look_up(queued())).result

    assert asyncio.run(asked()) is Presence.UNKNOWN


# -- time ----------------------------------------------------------------------------------------------------------

BLOCKING = {
    "sync": "import gate\ndef send(message): gate.wait()",
    "async": "import gate\nasync def send(message): gate.wait()",
}
WAITING = "async def send(message):\n    await asyncio.Event().wait()"


@pytest.mark.parametrize("code", [*BLOCKING.values(), WAITING], ids=[*BLOCKING, "waiting"])
def test_a_function_that_does_not_return_is_given_up(code: str, tmp_path: Path, gate: threading.Event) -> None:
    settings = sender(tmp_path, code, **SHORT)
    assert deliver(settings) == of(OutcomeKind.UNKNOWN, f"{settings.call} did not return within 0.2 s")
    assert not gate.is_set()


@pytest.mark.parametrize("code", BLOCKING.values(), ids=BLOCKING)
def test_blocked_calls_are_limited_and_later_messages_are_not_sent(
    code: str, tmp_path: Path, gate: threading.Event
) -> None:
    settings = sender(tmp_path, code, **SHORT)
    kinds = [deliver_all(settings, new(), connections=2)[0].kind for _ in range(4)]
    assert kinds == [*[OutcomeKind.UNKNOWN] * 2, *[OutcomeKind.UNREACHABLE] * 2]
    assert THREADS.count == 2
    gate.set()
    wait_until(lambda: THREADS.count == 0)
    assert deliver(settings.model_copy(update={"request_timeout_seconds": 60})).kind is OutcomeKind.DELIVERED


def test_a_late_result_is_taken_over_and_no_message_has_two_calls(tmp_path: Path, gate: threading.Event) -> None:
    code = "import gate\ndef send(message):\n    gate.wait()\n    return str(message.attempt)"
    settings = sender(tmp_path, code, **SHORT)
    message = new()
    assert deliver(settings, message).kind is OutcomeKind.UNKNOWN
    again = deliver(settings, message._replace(attempt_number=2))
    assert again == of(OutcomeKind.UNREACHABLE, "not sent: an earlier call for this message has not returned")
    gate.set()
    wait_until(lambda: THREADS.count == 0)
    late = deliver(settings, message._replace(attempt_number=3))
    assert late == of(OutcomeKind.DELIVERED, external_id="1", found=True)


def test_a_blocked_coroutine_does_not_block_the_others(tmp_path: Path, gate: threading.Event) -> None:
    del gate
    code = "import gate\nasync def send(message):\n    if message.id == 1: gate.wait()\n    return 'ok'"
    blocked, *others = deliver_all(
        sender(tmp_path, code, request_timeout_seconds=5), *(new(id=number) for number in range(1, 5))
    )
    assert blocked.kind is OutcomeKind.UNKNOWN
    assert others == [of(OutcomeKind.DELIVERED, external_id="ok")] * 3


def test_coroutines_share_an_event_loop_so_that_clients_can_be_kept(tmp_path: Path) -> None:
    code = (
        "loops = set()\nasync def send(message):\n    loops.add(asyncio.get_running_loop())\n    return str(len(loops))"
    )
    settings = sender(tmp_path, code)
    found = [deliver(settings) for _ in range(3)] + deliver_all(settings, *(new() for _ in range(3)))
    assert {outcome.external_id for outcome in found} == {"1"}


def test_calls_run_at_the_same_time_and_never_more_than_allowed(tmp_path: Path, gate: threading.Event) -> None:
    async def held() -> tuple[int, list[Outcome]]:
        settings = sender(tmp_path, BLOCKING["sync"], request_timeout_seconds=60)
        async with PythonGateway(settings, connections=4, now=lambda: NOON) as gateway:
            calls = [asyncio.create_task(gateway.deliver(new())) for _ in range(12)]
            for _ in range(100):  # by then, each call that may begin has begun
                await asyncio.sleep(0)
            running = THREADS.count
            gate.set()
            return running, await asyncio.gather(*calls)

    running, outcomes = asyncio.run(held())
    assert running == 4
    assert {outcome.kind for outcome in outcomes} == {OutcomeKind.DELIVERED}


def test_no_call_begins_after_a_suspension_while_it_waits(tmp_path: Path, gate: threading.Event) -> None:
    times = [NOON]

    async def suspended(_seconds: float) -> None:
        times.append(NOON + timedelta(hours=1))
        gate.set()

    async def both() -> list[Outcome]:
        settings = sender(tmp_path, BLOCKING["sync"])
        async with PythonGateway(settings, connections=1, now=lambda: times[-1], sleep=suspended) as gateway:
            return await asyncio.gather(*(gateway.deliver(message) for message in (new(), new())))

    assert [outcome.error for outcome in asyncio.run(both())] == [None, TOO_LATE]
