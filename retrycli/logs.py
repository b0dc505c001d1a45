"""A pass's events as log lines, in the words that operators search for. No line holds a word of a message."""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, assert_never

from retrycli.escape import printable
from retrycli.events import (
    BreakerClosed,
    BreakerOpened,
    ClaimsLapsed,
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
)
from retrycli.message import EscalationReason
from retrycli.trust import PRIVATE

logger = logging.getLogger("retrycli")
CLOSED = -1
"""The descriptor of a log file that can't be written."""


def log_event(event: Event) -> None:
    """Write one event to the log."""
    for level, text in _lines(event):
        logger.log(level, text, extra={"event": event})


def _lines(event: Event) -> list[tuple[int, str]]:
    """Levels and texts. What a person should see even where nobody reads the log is a warning."""
    match event:
        case PassStarted():
            return [
                (logging.INFO, "Message retry pass started"),
                (logging.INFO, f"Found {event.due} failed messages to retry"),
            ]
        case ClockWasAhead():
            by = event.by - event.by % timedelta(seconds=1)
            text = f"The clock was ahead by {by} or more in earlier passes: {event.messages} messages would have waited"
            return [(logging.WARNING, f"{text} for longer, {event.claims} claims held for longer, and are put right")]
        case ClaimsLapsed():
            text = f"An earlier pass died: {event.released} messages released, {event.unknown} may have been delivered"
            return [(logging.WARNING, text)]
        case MessageDelivered():
            return [(logging.INFO, f"Message {event.message_id} sent successfully on retry")]
        case MessageRescheduled():
            said = _answer(event.outcome, event.status_code)
            at = _utc(event.next_attempt_at)
            text = f"Message {event.message_id} not sent ({said}), try {event.retry_count}, next attempt at {at}"
            return [(logging.INFO, text)]
        case MessageReleased():
            said = _answer(event.outcome, event.status_code) if event.outcome else "no attempt was begun"
            return [(logging.INFO, f"Message {event.message_id} not sent ({said}), its tries untouched")]
        case MessageEscalated():
            return [(logging.WARNING, _escalation(event)), (logging.WARNING, _metric(event))]
        case MessageMovedOn() | ResultKept():
            return [(logging.WARNING, _overtaken(event))]
        case BreakerOpened():
            text = f"{event.destination} is down: {event.failures} failures in a row"
            return [(logging.INFO, f"{text}, next try at {_utc(event.probe_at)}")]
        case BreakerClosed():
            return [(logging.INFO, f"{event.destination} is back")]
        case PassStopped():
            return [(logging.INFO, f"Message retry pass stops: {event.reason}")]
    assert_never(event)


def _overtaken(event: MessageMovedOn | ResultKept) -> str:
    if isinstance(event, ResultKept):
        return f"The application holds the row of message {event.message_id}; a later pass writes the result"
    return f"Message {event.message_id} was changed by another while it was being sent"


def _escalation(event: MessageEscalated) -> str:
    if event.reason is EscalationReason.EXHAUSTED:
        return f"Message {event.message_id} reached max retries"
    problem = f": {event.problem}" if event.problem else ""
    return (
        f"Message {event.message_id} needs a person ({event.reason}{problem}); see `retrycli show {event.message_id}`"
    )


def _metric(event: MessageEscalated) -> str:
    return (
        f"METRIC: message_escalated ticket_id={printable(str(event.ticket_id))} "
        f"message_type={printable(str(event.message_type))} retry_count={event.retry_count}"
    )


def _answer(outcome: str, status_code: int | None) -> str:
    return outcome if status_code is None else f"{outcome}, {status_code}"


def _utc(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def configure(level: str, style: Literal["text", "json"], file: Path | None = None) -> None:
    """Send retrycli's log to stderr, and to a file if there is one.

    Args:
        level: the least level to show on stderr.
        style: ``text``, or ``json`` for one object a line.
        file: gets every line at INFO, or at DEBUG if stderr does.
    """
    handlers: list[logging.Handler] = [_Stderr()]
    handlers[0].setLevel(level)
    if file is not None:
        handlers.append(_File(file, handlers[0]))
        handlers[1].setLevel(min(logging.INFO, handlers[0].level))
    for each in handlers:
        each.setFormatter(_Json() if style == "json" else _Text("%(asctime)s %(levelname)s %(message)s"))
    logger.handlers = handlers
    logger.setLevel(min(each.level for each in handlers))
    logger.propagate = False


class _Stderr(logging.Handler):
    """Writes to whatever stderr is at the moment: a progress bar takes its place for a while."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # a full disk or a closed pipe under the log must not end a pass
            print(self.format(record), file=sys.stderr, flush=True)  # noqa: T201


class _File(logging.Handler):
    """Appends to a file that is opened for the first line. A file that can't be written is told once, and ends nothing.

    Args:
        path: the file.
        instead: is told why it can't be written.
    """

    def __init__(self, path: Path, instead: logging.Handler) -> None:
        super().__init__()
        self._path = path
        self._instead = instead
        self._descriptor: int | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if self._descriptor == CLOSED:
            return
        try:
            if self._descriptor is None:
                self._descriptor = _opened(self._path)
            os.write(self._descriptor, f"{self.format(record)}\n".encode(errors="backslashreplace"))
        except OSError as error:
            self.close()
            words = f"can't write logging.file {self._path}: {error.strerror}; see to its folder and its owner"
            self._instead.handle(logging.LogRecord(logger.name, logging.ERROR, "", 0, words, None, None))

    def close(self) -> None:
        if self._descriptor is not None and self._descriptor != CLOSED:
            os.close(self._descriptor)
        self._descriptor = CLOSED
        super().close()


def _opened(path: Path) -> int:
    """Open a log file to append to. No link is followed, and no pipe is waited for: root may log in a user's folder.

    Raises:
        OSError: it can't be opened, or is no plain file.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, PRIVATE)
        if os.geteuid() == 0:  # or the passes of the folder's owner could not write it
            folder = path.absolute().parent.stat()
            os.fchown(descriptor, folder.st_uid, folder.st_gid)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a plain file")
    return descriptor


class _Text(logging.Formatter):
    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802  logging's
        return _utc(datetime.fromtimestamp(record.created, UTC))

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event = getattr(record, "event", None)
        fields = {name: getattr(event, name) for name in _slots(type(event))}
        line = {
            "time": _utc(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname,
            "event": type(event).__name__ if event is not None else None,
            **fields,
            "message": record.getMessage(),
        }
        return json.dumps(line, default=_json_value)


def _json_value(value: object) -> str:
    return _utc(value) if isinstance(value, datetime) else str(value)


def _slots(kind: type) -> list[str]:
    return [name for each in reversed(kind.__mro__) for name in getattr(each, "__slots__", ())]
