"""Write a pass's events as log lines, in the words that operators search for. No line quotes a message."""

import logging
import os
import stat
import sys
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, assert_never

from retrycli.domain import suggested
from retrycli.domain.duration import utc_text
from retrycli.domain.errors import RetrycliError, Untrusted, cause_of
from retrycli.domain.message import EscalationReason, shown_id
from retrycli.domain.outcome import may_have_arrived
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
from retrycli.domain.sanitize import printable
from retrycli.system.trust import is_planted, open_private, others_may_have_linked
from retrycli.views.formatting import as_json  # here: an import during a pass could find no free file descriptor

logger = logging.getLogger("retrycli")
WARNINGS = ClockWasAhead | ClaimsExpired | MessageEscalated | MessageMovedOn | ResultKept
# The maximum number of escalated messages that get a two-line warning: per cause, and in total.
PER_CAUSE, SINGLE_ESCALATIONS = 3, 45
LONGEST_PROBLEM = 100  # maximum length of a row's problem in a warning of `EventLog.close`
COUNTED_CAUSES = 30  # maximum number of causes that `EventLog.close` warns about one by one, the most frequent first


def log_event(event: Event, *, in_full: bool = True) -> None:
    """Write one event to the log: as a warning if an operator should see it, unless ``in_full`` is false."""
    level = logging.WARNING if in_full and isinstance(event, WARNINGS) else logging.INFO
    for text in _texts(event):
        logger.log(level, text, extra={"event": event})


# Texts for the end of the line `Message retry pass stopped: …`, by reason.
STOP_REASONS = {
    StopReason.BREAKER_OPEN: "the ticketing API is down",
    StopReason.CREDENTIALS_REFUSED: "the ticketing API refuses the credentials",
    StopReason.SAME_ANSWER: "the ticketing API returns the same error for every request",
    StopReason.UNREAD_ANSWER: "the preset can't judge the responses of the ticketing API",
    StopReason.THROTTLED: "the ticketing API asked retrycli to wait",
    StopReason.DEADLINE: "the pass ran out of time",
    StopReason.LIMIT: "the pass reached its maximum number of attempts",
    StopReason.SIGNAL: "the pass was asked to stop",
    StopReason.LOCK_HELD: "another pass holds the lock",
    StopReason.PAUSED: "deliveries are paused",
    StopReason.FAULT: "the pass failed",
    StopReason.DIED: "the pass's process died",
}


class EventLog:
    """Write events to the log, with warnings for only a few escalated messages of each cause.

    Cron mails all warnings, and an error in the application can escalate thousands of messages at the same time.
    Further messages get lines of level INFO. `close` adds warnings that sum up the causes of these messages.
    """

    def __init__(self) -> None:
        self._escalated: Counter[tuple[EscalationReason, str]] = Counter()
        self._warned: Counter[tuple[EscalationReason, str]] = Counter()
        self._first: dict[tuple[EscalationReason, str], MessageEscalated] = {}
        self._unverified, self._first_unverified = 0, 0

    def __call__(self, event: Event) -> None:
        """Write one event to the log."""
        if isinstance(event, MessageDelivered) and event.unverified:
            self._unverified += 1
            self._first_unverified = self._first_unverified or event.message_id
        log_event(event, in_full=not isinstance(event, MessageEscalated) or self._gets_warning(event))

    def _gets_warning(self, event: MessageEscalated) -> bool:
        cause = event.reason, event.fingerprint
        self._escalated[cause] += 1
        self._first.setdefault(cause, event)
        if self._warned[cause] == PER_CAUSE or self._warned.total() == SINGLE_ESCALATIONS:
            return False
        self._warned[cause] += 1
        return True

    def close(self) -> None:
        """Write warnings that sum up the causes with messages that got no warning, and the failures to read back.

        Each of the `COUNTED_CAUSES` most frequent of these causes gets a warning with its number of messages. One more
        warning counts the messages of the others.
        """
        in_part = [counted for counted in self._escalated.most_common() if counted[1] > self._warned[counted[0]]]
        for (reason, fingerprint), count in in_part[:COUNTED_CAUSES]:
            logger.warning(
                "%s an operator (%s); see `retrycli list-failed --fingerprint %s`",
                "1 message needs" if count == 1 else f"{count:,} messages with the same cause need",
                _cause_in_words(self._first[reason, fingerprint]),
                fingerprint,
            )
        if others := [count for _, count in in_part[COUNTED_CAUSES:]]:
            logger.warning(
                "Messages with other causes need an operator (messages: %s, causes: %s); see `retrycli escalations`",
                f"{sum(others):,}",
                f"{len(others):,}",
            )
        if self._unverified:
            logger.warning(
                "%s delivered, but could not be read back (gateway.verify); see %s",
                "1 message was" if self._unverified == 1 else f"{self._unverified:,} messages were",
                suggested.command("show", self._first_unverified),
            )


def _cause_in_words(event: MessageEscalated) -> str:
    # The response's text is left out, because it may contain a customer's words.
    status = None if event.status_code is None else f"status {event.status_code}"
    problem = None if event.problem is None else event.problem[:LONGEST_PROBLEM]
    return ": ".join(filter(None, (event.reason, problem or status)))


def _texts(event: Event) -> list[str]:
    match event:
        case PassStarted():
            return ["Message retry pass started", f"Found {event.due} failed messages to retry"]
        case ClockWasAhead() | ClaimsExpired():
            return [_repair(event)]
        case MessageDelivered():
            return [f"Message {event.message_id} sent successfully on retry"]
        case MessageRescheduled():
            return [
                f"Message {event.message_id} {_result(event.outcome, event.status_code)}, retry {event.retry_count}, "
                f"next attempt at {utc_text(event.next_attempt_at)}"
            ]
        case MessageReleased():
            return [f"Message {event.message_id} {_result(event.outcome, event.status_code)}, no retry used up"]
        case MessageEscalated():
            return _escalation(event)
        case MessageMovedOn():
            return [
                f"The result of message {event.message_id} was not written: its row was modified, or its claim was lost"
            ]
        case ResultKept():
            return [f"The row of message {event.message_id} is locked; a later pass will write the result"]
        case BreakerOpened():
            probe = utc_text(event.probe_at)
            return [f"{event.destination} is down: {event.failures} failures in a row, next probe at {probe}"]
        case BreakerClosed():
            return [f"{event.destination} is back"]
        case PassStopped():
            return [f"Message retry pass stopped: {STOP_REASONS[event.reason]}"]
    assert_never(event)


def _repair(event: ClockWasAhead | ClaimsExpired) -> str:
    if isinstance(event, ClaimsExpired):
        claimed_again = event.released + event.unknown
        messages = "1 message" if claimed_again == 1 else f"{claimed_again:,} messages"
        return (
            f"Recovered {messages} that a pass or command had not finished; {event.unknown:,} may have been delivered"
        )
    by = event.by - event.by % timedelta(seconds=1)
    return (
        f"The clock was at least {by} ahead in earlier passes; the wrong times of waiting messages ({event.messages}) "
        f"and claims ({event.claims}) were corrected"
    )


def _escalation(event: MessageEscalated) -> list[str]:
    message = event.message_id
    metric = (
        f"METRIC: message_escalated ticket_id={_logfmt(event.ticket_id)} "
        f"message_type={event.message_type} retry_count={event.retry_count}"
    )
    if event.reason is EscalationReason.EXHAUSTED and event.problem is None:
        return [f"Message {message} reached max retries", metric]
    why = f"{event.reason}: {event.problem}" if event.problem else event.reason
    return [f"Message {message} needs an operator ({why}); see {suggested.command('show', message)}", metric]


def _logfmt(value: object) -> str:
    text = str(value)
    shown = printable(text)
    if '"' not in shown and not any(map(str.isspace, shown)):
        return shown
    return '"' + printable(text.replace("\\", r"\\").replace('"', r"\"")) + '"'


def _result(outcome: str | None, status_code: int | None) -> str:
    sent = "may have been sent" if may_have_arrived(outcome, status_code) else "not sent"
    answer = ", ".join(str(part) for part in (outcome, status_code) if part is not None)
    return f"{sent} ({answer or 'no attempt was started'})"


def configure(level: str, style: Literal["text", "json"], file: Path | None = None) -> None:
    """Write retrycli's log to stderr, from a level on, and to a log file, which gets at least every line of level INFO
    or above. The style ``json`` writes one object per line.
    """
    handlers: list[logging.Handler] = [_StderrHandler(level)]
    if file is not None:
        handlers.append(_LogFile(file))
        handlers[-1].setLevel(min(logging.INFO, handlers[0].level))
    for handler in handlers:
        handler.setFormatter(_Json() if style == "json" else _Text("%(asctime)s %(levelname)s %(message)s"))
    logger.__class__ = _AlwaysOn
    logger.handlers = handlers
    logger.setLevel(min(handler.level for handler in handlers))
    logger.propagate = False


def file_problem() -> str | None:
    """Return why the log file could not be written; None if it could."""
    return next((handler.problem for handler in logger.handlers if isinstance(handler, _LogFile)), None)


FAILED = "Message retry pass failed: %s"


def log_failure(error: BaseException) -> None:
    """Write the reason for a pass's failure to the log."""
    hint = "" if isinstance(error, RetrycliError) else ". Run `retrycli --debug run-once` to show the traceback"
    logger.error(FAILED, cause_of(error) + hint)


def file_failure(error: Exception) -> None:
    """Write the reason for a pass's failure to the log file only. The command decides whether to print it."""
    record = logger.makeRecord(logger.name, logging.ERROR, __file__, 0, FAILED, (cause_of(error),), None)
    for handler in logger.handlers[1:]:  # skip the handler that writes to stderr
        handler.handle(record)


class _AlwaysOn(logging.Logger):
    """A logger that the code of the application can't turn off by accident: `logging.config.dictConfig`, which
    `django.setup` calls, disables all loggers that it does not name, and no escalation would reach anybody.
    """

    @property
    def disabled(self) -> bool:
        return False

    @disabled.setter
    def disabled(self, _: bool) -> None:
        pass


class _StderrHandler(logging.Handler):
    """Write to the current `sys.stderr`, because a progress bar replaces it temporarily."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # a full disk or a closed pipe behind stderr must not end a pass
            print(self.format(record), file=sys.stderr, flush=True)  # noqa: T201


class _Text(logging.Formatter):
    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802  overrides a method of `logging`
        return utc_text(datetime.fromtimestamp(record.created, UTC))

    def format(self, record: logging.LogRecord) -> str:
        return printable(suggested.quoted(super().format(record)))


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event = getattr(record, "event", None)
        line = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname,
            "event": type(event).__name__ if event is not None else None,
            **({} if event is None else _values_of(event)),
            "message": suggested.quoted(record.getMessage()),
        }
        return as_json(line)


def _values_of(event: Event) -> dict[str, object]:
    return {name: shown_id(value) if isinstance(value, int) else value for name, value in event._asdict().items()}


class _LogFile(logging.Handler):
    """Append lines to a file, which is created when the first line is written.

    A file that can't be written does not end a pass. `problem` is the reason, for a warning.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.problem: str | None = None
        self._path = path
        self._file: int | None = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self._file is None:
                self._file = _open(self._path)
            # Write the line in one call, so that lines of other processes can't split it.
            os.write(self._file, f"{self.format(record)}\n".encode(errors="backslashreplace"))
        except (OSError, ValueError, Untrusted) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            self.problem = f"{self._path}: {why}. Fix the cause, or set logging.file to another file"


def _open(path: Path) -> int:
    file = open_private(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)
    found, folder = os.fstat(file), path.absolute().parent.stat()
    if not stat.S_ISREG(found.st_mode):
        problem = "not a regular file"
    elif others_may_have_linked(found, folder):
        problem = "it has more than one hard link, and other users can create files in its folder"
    elif is_planted(found, folder):
        problem = "it belongs to another user, who put it into a folder that everybody may write to"
    else:
        return file
    os.close(file)
    raise OSError(None, problem)
