"""The log: the lines that operators search for, and that no line holds what it must not."""

from __future__ import annotations

import errno
import io
import json
import logging
import re
from contextlib import redirect_stderr
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import pytest

from retrycli.domain.message import EscalationReason, MessageType
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.domain.passes import (
    BreakerClosed,
    BreakerOpened,
    ClaimsExpired,
    ClockWasAhead,
    Event,
    MessageDelivered,
    MessageEscalated,
    MessageMovedOn,
    MessageReleased,
    MessageRescheduled,
    PassStarted,
    PassStopped,
    ResultKept,
    StopReason,
)
from retrycli.views import log_lines
from tests.fakes import RULES, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

NOON = datetime(2025, 3, 3, 12, tzinfo=UTC)
ABOUT = (7, 12345, MessageType.SUPPLIER)


def escalated(reason: EscalationReason, problem: str | None = None) -> MessageEscalated:
    return MessageEscalated(*ABOUT, 10, reason, problem)


LINES: list[tuple[Event, list[tuple[str, str]]]] = [
    (
        PassStarted("8c7c1f0e", due=42),
        [("INFO", "Message retry pass started"), ("INFO", "Found 42 failed messages to retry")],
    ),
    (
        ClaimsExpired(released=2, unknown=3),
        [("WARNING", "An earlier pass died: 5 messages are claimed again, of which 3 may have been delivered")],
    ),
    (
        ClockWasAhead(timedelta(days=30, seconds=5.5), messages=2, claims=1),
        [
            (
                "WARNING",
                "The clock was ahead by 30 days, 0:00:05 or more in earlier passes: 2 messages would have waited "
                "longer, and 1 claims would have lasted longer; all were corrected",
            )
        ],
    ),
    (MessageDelivered(*ABOUT, 3), [("INFO", "Message 7 sent successfully on retry")]),
    (
        MessageRescheduled(*ABOUT, 4, OutcomeKind.TRANSIENT, 503, NOON),
        [("INFO", "Message 7 not sent (transient, 503), retry 4, next attempt at 2025-03-03T12:00:00Z")],
    ),
    (
        MessageRescheduled(*ABOUT, 4, OutcomeKind.UNKNOWN, None, NOON),
        [("INFO", "Message 7 may have been sent (unknown), retry 4, next attempt at 2025-03-03T12:00:00Z")],
    ),
    (
        MessageReleased(*ABOUT, 4, OutcomeKind.THROTTLED, 429),
        [("INFO", "Message 7 not sent (throttled, 429), no retry used up")],
    ),
    (
        MessageReleased(*ABOUT, 4, None, None),
        [("INFO", "Message 7 not sent (no attempt was started), no retry used up")],
    ),
    (
        escalated(EscalationReason.EXHAUSTED),
        [
            ("WARNING", "Message 7 reached max retries"),
            ("WARNING", "METRIC: message_escalated ticket_id=12345 message_type=supplier retry_count=10"),
        ],
    ),
    (
        escalated(EscalationReason.PERMANENT),
        [
            ("WARNING", "Message 7 needs an operator (permanent); see `retrycli show 7`"),
            ("WARNING", "METRIC: message_escalated ticket_id=12345 message_type=supplier retry_count=10"),
        ],
    ),
    (
        escalated(EscalationReason.INVALID, "body is missing"),
        [
            ("WARNING", "Message 7 needs an operator (invalid: body is missing); see `retrycli show 7`"),
            ("WARNING", "METRIC: message_escalated ticket_id=12345 message_type=supplier retry_count=10"),
        ],
    ),
    (
        MessageMovedOn(7, OutcomeKind.DELIVERED),
        [("WARNING", "Message 7 was modified concurrently while it was being sent")],
    ),
    (
        ResultKept(7),
        [("WARNING", "The application has locked the row of message 7; a later pass records the result")],
    ),
    (
        BreakerOpened("https://tickets.example.com", failures=5, probe_at=NOON),
        [("INFO", "https://tickets.example.com is down: 5 failures in a row, next probe at 2025-03-03T12:00:00Z")],
    ),
    (BreakerClosed("https://tickets.example.com"), [("INFO", "https://tickets.example.com is back")]),
    (PassStopped(StopReason.BREAKER_OPEN), [("INFO", "Message retry pass stopped: the ticketing API is down")]),
]


@pytest.fixture(autouse=True)
def the_logger_as_it_was() -> Iterator[None]:
    """Configuring it changes the process's one logger."""
    before = log_lines.logger.handlers, log_lines.logger.level, log_lines.logger.propagate
    yield
    log_lines.logger.handlers, log_lines.logger.level, log_lines.logger.propagate = before


def text_lines(capsys: pytest.CaptureFixture[str]) -> list[tuple[str, str]]:
    """Level and text of each line on stderr, whose time is checked; nothing else may be printed."""
    printed = capsys.readouterr()
    assert printed.out == ""
    found = [re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ([A-Z]+) (.*)", each) for each in printed.err.splitlines()]
    return [(each[1], each[2]) if each else ("", "") for each in found]


def json_lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


# The lines.


@pytest.mark.parametrize(("event", "lines"), LINES, ids=lambda value: type(value).__name__)
def test_each_event_has_its_lines(
    capsys: pytest.CaptureFixture[str], event: Event, lines: list[tuple[str, str]]
) -> None:
    log_lines.configure("INFO", "text")
    log_lines.log_event(event)
    assert text_lines(capsys) == lines


@pytest.mark.parametrize("reason", StopReason)
def test_the_end_of_a_pass_is_told_in_words(capsys: pytest.CaptureFixture[str], reason: StopReason) -> None:
    log_lines.configure("INFO", "text")
    log_lines.log_event(PassStopped(reason))
    [(_, line)] = text_lines(capsys)
    assert line.startswith("Message retry pass stopped: ")
    assert "_" not in line


def test_every_kind_of_event_is_among_them() -> None:
    assert {type(event) for event, _ in LINES} == set(Event.__args__)


def test_off_a_terminal_only_what_a_person_should_see_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """The level there is WARNING: cron mails whatever is printed."""
    log_lines.configure("WARNING", "text")
    for event, _ in LINES:
        log_lines.log_event(event)
    warnings = [line for _, lines in LINES for line in lines if line[0] == "WARNING"]
    assert text_lines(capsys) == warnings


def test_the_time_of_a_line_is_in_utc(capsys: pytest.CaptureFixture[str]) -> None:
    log_lines.configure("INFO", "text")
    record = logging.makeLogRecord(
        {"msg": "tea", "levelno": logging.INFO, "levelname": "INFO", "created": NOON.timestamp()}
    )
    log_lines.logger.handle(record)
    assert capsys.readouterr().err == "2025-03-03T12:00:00Z INFO tea\n"


def test_configuring_again_does_not_double_the_lines(capsys: pytest.CaptureFixture[str]) -> None:
    log_lines.configure("INFO", "json")
    log_lines.configure("INFO", "text")
    log_lines.log_event(BreakerClosed("x"))
    assert text_lines(capsys) == [("INFO", "x is back")]


def test_a_line_is_not_printed_again_by_the_root_logger(caplog: pytest.LogCaptureFixture) -> None:
    log_lines.configure("INFO", "text")
    log_lines.log_event(BreakerClosed("x"))
    assert caplog.records == []


def test_what_embeds_us_gets_the_events_with_its_own_logging(caplog: pytest.LogCaptureFixture) -> None:
    """Without `configure`, an application's handlers see the lines, each with its event."""
    with caplog.at_level(logging.INFO, logger="retrycli"):
        log_lines.log_event(MessageDelivered(*ABOUT, 3))
    (record,) = caplog.records
    assert record.getMessage() == "Message 7 sent successfully on retry"
    assert record.__dict__["event"] == MessageDelivered(*ABOUT, 3)


class FullDisk(io.StringIO):
    """A stderr that takes nothing."""

    def write(self, _: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_log_that_can_not_be_written_does_not_end_a_pass() -> None:
    log_lines.configure("INFO", "text")
    with redirect_stderr(FullDisk()):
        log_lines.log_event(BreakerClosed("x"))


# What no line holds.

Style = Literal["text", "json"]
SECRETS = ("Dear customer", "Re: my divorce", "anna@example.com", "the answer's own words")


@pytest.mark.parametrize("style", ["text", "json"])
def test_no_line_holds_a_word_of_a_message_or_of_an_answer(
    stage: Stage, capsys: pytest.CaptureFixture[str], style: Style
) -> None:
    """Through whole passes, at the lowest level, with an outcome of every kind; two of them end a pass."""
    body, subject, recipient, answer = SECRETS
    kinds = [each for each in OutcomeKind if each not in {OutcomeKind.THROTTLED, OutcomeKind.UNAUTHORIZED}]
    outcomes = [Outcome(kind, 200, answer) for kind in kinds]
    stage.add(*range(1, 30), body=f"{body} {recipient}", subject=subject, last_error=answer)
    stage.add(30, body=f"{body}", subject=subject.encode(), last_error=answer)
    stage.add(31, body=f"{body}", subject=subject, retry_count=10, last_error=answer)
    stage.run(dict(enumerate(outcomes, start=2)), replace(RULES, limit=20))
    stage.run(Outcome(OutcomeKind.THROTTLED, 429, answer))
    stage.run(Outcome(OutcomeKind.UNAUTHORIZED, 401, answer))
    log_lines.configure("DEBUG", style)
    for event in stage.events.all:
        log_lines.log_event(event)
    printed = capsys.readouterr().err
    assert printed.count("sent successfully") == len(stage.sent()) > 1
    assert all(str(each.kind) in printed for each in outcomes[1:])
    assert "needs an operator (invalid: subject must be text)" in printed
    assert not [each for each in SECRETS if each in printed]


NASTY = "1\n2025-03-03T12:00:00Z INFO Message 8 sent\r\t\x1b[31m\x00\u202e\u2028\x85é"


@pytest.mark.parametrize("style", ["text", "json"])
def test_a_ticket_id_makes_no_line_of_its_own_and_no_colour(capsys: pytest.CaptureFixture[str], style: Style) -> None:
    log_lines.configure("INFO", style)
    log_lines.log_event(MessageEscalated(7, NASTY, NASTY, 10, EscalationReason.EXHAUSTED))
    printed = capsys.readouterr().err
    assert len(printed.splitlines()) == 2
    assert printed.replace("\n", "").isprintable()


def test_control_characters_are_shown_and_not_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    log_lines.configure("INFO", "text")
    log_lines.log_event(MessageEscalated(7, "1\x1b2\n3", "fax", 0, EscalationReason.INVALID))
    assert text_lines(capsys)[1] == (
        "WARNING",
        r"METRIC: message_escalated ticket_id=1\x1b2\n3 message_type=fax retry_count=0",
    )


@pytest.mark.parametrize(
    ("ticket", "shown"),
    [
        ("12345", "12345"),
        ("ABC-12/é", "ABC-12/é"),
        ("1 retry_count=0", '"1 retry_count=0"'),
        ('a"b', r'"a\"b"'),
        ("a\\ b", r'"a\\ b"'),
        ("a\u00a0b", r"a\xa0b"),
    ],
)
def test_a_ticket_id_adds_no_field_to_a_metric(capsys: pytest.CaptureFixture[str], ticket: str, shown: str) -> None:
    log_lines.configure("INFO", "text")
    log_lines.log_event(MessageEscalated(7, ticket, "customer", 3, EscalationReason.INVALID))
    assert (
        text_lines(capsys)[1][1] == f"METRIC: message_escalated ticket_id={shown} message_type=customer retry_count=3"
    )


def test_a_traceback_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    log_lines.configure("INFO", "text")
    try:
        int("tea\x1b[2J")
    except ValueError:
        log_lines.logger.exception("spilt")
    assert len(text_lines(capsys)) == 1


# JSON.


def test_a_json_line_holds_the_event_with_all_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    log_lines.configure("INFO", "json")
    log_lines.log_event(MessageRescheduled(*ABOUT, 4, OutcomeKind.TRANSIENT, 503, NOON))
    (line,) = json_lines(capsys)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", line.pop("time"))
    assert line == {
        "level": "INFO",
        "event": "MessageRescheduled",
        "message_id": 7,
        "ticket_id": 12345,
        "message_type": "supplier",
        "retry_count": 4,
        "outcome": "transient",
        "status_code": 503,
        "next_attempt_at": "2025-03-03T12:00:00Z",
        "message": "Message 7 not sent (transient, 503), retry 4, next attempt at 2025-03-03T12:00:00Z",
    }


@pytest.mark.parametrize(("event", "lines"), LINES, ids=lambda value: type(value).__name__)
def test_every_json_line_parses_and_says_what_the_text_says(
    capsys: pytest.CaptureFixture[str], event: Event, lines: list[tuple[str, str]]
) -> None:
    log_lines.configure("INFO", "json")
    log_lines.log_event(event)
    found = json_lines(capsys)
    assert [(each["level"], each["message"]) for each in found] == lines
    assert {each["event"] for each in found} == {type(event).__name__}


def test_a_json_line_keeps_a_nasty_value_whole(capsys: pytest.CaptureFixture[str]) -> None:
    log_lines.configure("INFO", "json")
    nasty = NASTY + "\udcff\"'\\"
    log_lines.log_event(MessageDelivered(7, nasty, MessageType.CUSTOMER, 0))
    (line,) = json_lines(capsys)
    assert line["ticket_id"] == nasty


def test_a_line_without_an_event_parses_too(capsys: pytest.CaptureFixture[str]) -> None:
    log_lines.configure("INFO", "json")
    log_lines.logger.warning("Message retry pass skipped: %s", "pid 7")
    (line,) = json_lines(capsys)
    assert (line["event"], line["message"]) == (None, "Message retry pass skipped: pid 7")
