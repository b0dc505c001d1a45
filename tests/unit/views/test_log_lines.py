"""Log lines: the texts that operators search for, and the absence of private text."""

from __future__ import annotations

import errno
import io
import json
import logging
import re
from contextlib import redirect_stderr
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import pytest

from retrycli.domain.message import EscalationReason, MessageId, MessageType
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


METRIC = ("WARNING", "METRIC: message_escalated ticket_id=12345 message_type=supplier retry_count=10")
LINES: list[tuple[Event, list[tuple[str, str]]]] = [
    (
        PassStarted("8c7c1f0e", due=42),
        [("INFO", "Message retry pass started"), ("INFO", "Found 42 failed messages to retry")],
    ),
    (
        ClaimsExpired(released=2, unknown=3),
        [("WARNING", "Recovered 5 messages that a pass or command had not finished; 3 may have been delivered")],
    ),
    (
        ClockWasAhead(timedelta(days=30, seconds=5.5), messages=2, claims=1),
        [
            (
                "WARNING",
                "The clock was at least 30 days, 0:00:05 ahead in earlier passes; the wrong times of waiting messages "
                "(2) and claims (1) were corrected",
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
    (escalated(EscalationReason.EXHAUSTED), [("WARNING", "Message 7 reached max retries"), METRIC]),
    (
        escalated(EscalationReason.PERMANENT),
        [("WARNING", "Message 7 needs an operator (permanent); see `retrycli show 7`"), METRIC],
    ),
    (
        escalated(EscalationReason.INVALID, "body is missing"),
        [("WARNING", "Message 7 needs an operator (invalid: body is missing); see `retrycli show 7`"), METRIC],
    ),
    (
        MessageMovedOn(7, OutcomeKind.DELIVERED),
        [("WARNING", "The result of message 7 was not written: its row was modified, or its claim was lost")],
    ),
    (ResultKept(7), [("WARNING", "The row of message 7 is locked; a later pass will write the result")]),
    (
        BreakerOpened("https://tickets.example.com", failures=5, probe_at=NOON),
        [("INFO", "https://tickets.example.com is down: 5 failures in a row, next probe at 2025-03-03T12:00:00Z")],
    ),
    (BreakerClosed("https://tickets.example.com"), [("INFO", "https://tickets.example.com is back")]),
    (PassStopped(StopReason.BREAKER_OPEN), [("INFO", "Message retry pass stopped: the ticketing API is down")]),
]


@pytest.fixture(autouse=True)
def the_logger_as_it_was() -> Iterator[None]:
    """Restore the logger, which all tests of the process share."""
    before = log_lines.logger.handlers, log_lines.logger.level, log_lines.logger.propagate
    yield
    log_lines.logger.handlers, log_lines.logger.level, log_lines.logger.propagate = before


def text_lines(capsys: pytest.CaptureFixture[str]) -> list[tuple[str, str]]:
    """Return the level and text of each line on stderr. Check that each line has a time, and that stdout is empty."""
    printed = capsys.readouterr()
    assert printed.out == ""
    found = [re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ([A-Z]+) (.*)", line) for line in printed.err.splitlines()]
    return [(record[1], record[2]) if record else ("", "") for record in found]


def json_lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.mark.parametrize(("event", "lines"), LINES, ids=lambda value: type(value).__name__)
def test_each_event_has_its_lines(
    capsys: pytest.CaptureFixture[str], event: Event, lines: list[tuple[str, str]]
) -> None:
    log_lines.configure("INFO", "text")
    log_lines.log_event(event)
    assert text_lines(capsys) == lines
    log_lines.configure("INFO", "json")
    log_lines.log_event(event)
    found = json_lines(capsys)
    assert [(entry["level"], entry["message"]) for entry in found] == lines
    assert {entry["event"] for entry in found} == {type(event).__name__}


@pytest.mark.parametrize("reason", StopReason)
def test_the_end_of_a_pass_is_described_in_words(capsys: pytest.CaptureFixture[str], reason: StopReason) -> None:
    log_lines.configure("INFO", "text")
    log_lines.log_event(PassStopped(reason))
    [(_, line)] = text_lines(capsys)
    assert line.startswith("Message retry pass stopped: ")
    assert "_" not in line


def test_off_a_terminal_only_warnings_and_errors_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal the level is WARNING, because cron mails all output."""
    log_lines.configure("WARNING", "text")
    for event, _ in LINES:
        log_lines.log_event(event)
    warnings = [line for _, lines in LINES for line in lines if line[0] == "WARNING"]
    assert text_lines(capsys) == warnings


def test_a_lines_time_is_in_utc(capsys: pytest.CaptureFixture[str]) -> None:
    log_lines.configure("INFO", "text")
    record = logging.makeLogRecord(
        {"msg": "tea", "levelno": logging.INFO, "levelname": "INFO", "created": NOON.timestamp()}
    )
    log_lines.logger.handle(record)
    assert capsys.readouterr().err == "2025-03-03T12:00:00Z INFO tea\n"


def test_repeated_configuration_does_not_duplicate_lines(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The root logger does not print a line again, either."""
    log_lines.configure("INFO", "json")
    log_lines.configure("INFO", "text")
    log_lines.log_event(BreakerClosed("x"))
    assert text_lines(capsys) == [("INFO", "x is back")]
    assert caplog.records == []


def test_an_embedding_application_gets_the_events_in_its_own_logging(caplog: pytest.LogCaptureFixture) -> None:
    """Without `configure`, an application's handlers receive the lines, each with its event."""
    with caplog.at_level(logging.INFO, logger="retrycli"):
        log_lines.log_event(MessageDelivered(*ABOUT, 3))
    (record,) = caplog.records
    assert record.getMessage() == "Message 7 sent successfully on retry"
    assert record.__dict__["event"] == MessageDelivered(*ABOUT, 3)


class FullDisk(io.StringIO):
    """A stderr on which every write fails."""

    def write(self, _: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_an_unwritable_log_does_not_end_a_pass() -> None:
    log_lines.configure("INFO", "text")
    with redirect_stderr(FullDisk()):
        log_lines.log_event(BreakerClosed("x"))


Style = Literal["text", "json"]
SECRETS = ("Dear customer", "Re: my divorce", "anna@example.com", "the answer's own words")


@pytest.mark.parametrize("style", ["text", "json"])
def test_no_line_contains_text_of_a_message_or_an_answer(
    stage: Stage, capsys: pytest.CaptureFixture[str], style: Style
) -> None:
    """The passes produce every kind of outcome. THROTTLED and UNAUTHORIZED end a pass, so each has a separate pass."""
    body, subject, recipient, answer = SECRETS
    kinds = [each for each in OutcomeKind if each not in {OutcomeKind.THROTTLED, OutcomeKind.UNAUTHORIZED}]
    outcomes = [Outcome(kind, 200, answer) for kind in kinds]
    stage.add(*range(1, 30), body=f"{body} {recipient}", subject=subject, last_error=answer)
    stage.add(30, body=f"{body}", subject=subject.encode(), last_error=answer)
    stage.add(31, body=f"{body}", subject=subject, retry_count=10, last_error=answer)
    stage.run(dict(enumerate(outcomes, start=2)), RULES._replace(limit=20))
    stage.run(Outcome(OutcomeKind.THROTTLED, 429, answer))
    stage.run(Outcome(OutcomeKind.UNAUTHORIZED, 401, answer))
    log_lines.configure("DEBUG", style)
    for event in stage.events.all:
        log_lines.log_event(event)
    printed = capsys.readouterr().err
    assert printed.count("sent successfully") == len(stage.sent()) > 1
    assert all(str(outcome.kind) in printed for outcome in outcomes[1:])
    assert "needs an operator (invalid: subject must be text)" in printed
    assert not [secret for secret in SECRETS if secret in printed]


NASTY = "1\n2025-03-03T12:00:00Z INFO Message 8 sent\r\t\x1b[31m\x00\u202e\u2028\x85é"


@pytest.mark.parametrize("style", ["text", "json"])
def test_a_ticket_id_cannot_add_a_line_or_a_colour(capsys: pytest.CaptureFixture[str], style: Style) -> None:
    log_lines.configure("INFO", style)
    log_lines.log_event(MessageEscalated(7, NASTY, NASTY, 10, EscalationReason.EXHAUSTED))
    printed = capsys.readouterr().err
    assert len(printed.splitlines()) == 2
    assert printed.replace("\n", "").isprintable()


def test_an_id_from_another_system_is_quoted_in_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Cron mails the line, and an operator pastes the command."""
    log_lines.configure("INFO", "text")
    evil = MessageId(7, "m1$(touch${IFS}owned)")
    log_lines.log_event(MessageEscalated(evil, 5, "customer", 0, EscalationReason.INVALID))
    assert f"see `retrycli show '{evil}'`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ticket", "shown"),
    [
        ("ABC-12/é", "ABC-12/é"),
        ("1 retry_count=0", '"1 retry_count=0"'),
        ('a"b', r'"a\"b"'),
        ("a\\ b", r'"a\\ b"'),
        ("a\u00a0b", r"a\xa0b"),
        ("1\x1b2\n3", r"1\x1b2\n3"),
    ],
)
def test_no_value_can_add_a_field_or_a_control_character_to_a_metric(
    capsys: pytest.CaptureFixture[str], ticket: str, shown: str
) -> None:
    log_lines.configure("INFO", "text")
    log_lines.log_event(MessageEscalated(7, ticket, "customer", 3, EscalationReason.INVALID))
    metric = f"METRIC: message_escalated ticket_id={shown} message_type=customer retry_count=3"
    assert text_lines(capsys)[1][1] == metric


def test_a_traceback_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    log_lines.configure("INFO", "text")
    try:
        int("tea\x1b[2J")
    except ValueError:
        log_lines.logger.exception("spilt")
    assert len(text_lines(capsys)) == 1


def test_a_json_line_has_the_event_with_all_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_a_json_line_preserves_a_hostile_value_and_may_lack_an_event(capsys: pytest.CaptureFixture[str]) -> None:
    log_lines.configure("INFO", "json")
    nasty = NASTY + "\udcff\"'\\"
    log_lines.log_event(MessageDelivered(7, nasty, MessageType.CUSTOMER, 0))
    log_lines.logger.warning("Message retry pass skipped: %s", "pid 7")
    (line, other) = json_lines(capsys)
    assert line["ticket_id"] == nasty
    assert (other["event"], other["message"]) == (None, "Message retry pass skipped: pid 7")
