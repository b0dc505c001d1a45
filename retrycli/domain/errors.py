"""retrycli's errors, with the command's exit codes.

::

    RetrycliError              1   the base class
    ├── InvalidArgument        2   an argument of an operation is invalid
    ├── OutputFailed           1   the command's output can't be written, for example to a full disk
    ├── EventLoopRunning       1   a blocking function was called from a coroutine
    ├── InvalidMessage         4   a row that can't be delivered; a pass escalates it and continues
    ├── NoSuchMessage          4   no row with that id
    ├── NotActionable          4   the action is not possible for this message
    │   ├── CountChanged       4   a filter matches more or fewer messages than the operator confirmed
    │   ├── Expired            4   the message is too old, and passes would escalate it again
    │   └── StaleEdit          4   the text was modified since it was read
    ├── NotEdited              4   an edit was cancelled, or its text is invalid
    ├── ClockBehind           69   the clock shows a time before this program was made
    ├── DatabaseUnavailable   69   the database can't be opened, read or written
    │   └── DatabaseBusy      69   another transaction holds a lock for too long
    │       └── TransactionLost   69   the change of one row rolled back the whole transaction
    ├── LockHeld              75   another process holds the pass lock, or has claimed messages
    └── ConfigurationError    78   a setting, or something that it refers to, is wrong
        ├── SchemaMismatch    78   the application's table does not meet retrycli's requirements
        ├── LockUnusable      78   the lock file can't be opened, or is not a lock file
        └── Untrusted         78   another user can change a file that decides what this process does

The codes from 64 up are those of sysexits.h.
"""

from collections.abc import Callable
from typing import ClassVar, TypeVar

Result = TypeVar("Result")


class RetrycliError(Exception):
    """The base class of retrycli's errors.

    ``str(error)`` is one line for an operator: what was wrong, where it was, and what to do next.
    """

    exit_code: ClassVar[int] = 1
    # True if a recent pass reported the same error, so that cron's mail need not repeat it.
    is_known = False


class InvalidArgument(RetrycliError):
    """An argument of an operation is invalid, for example a cursor of another list. Nothing was done."""

    exit_code = 2


class OutputFailed(RetrycliError):
    """The command's output can't be written."""


class EventLoopRunning(RetrycliError):
    """A blocking function, which starts an event loop, was called in a thread that already runs an event loop."""


class InvalidMessage(RetrycliError):
    """A message whose data can't be turned into a request."""

    exit_code = 4


class NoSuchMessage(RetrycliError):
    """An id that does not exist in the application's table."""

    exit_code = 4


class NotActionable(RetrycliError):
    """An action is not possible for a message, for example because the message is being sent."""

    exit_code = 4


class MayHaveArrived(NotActionable):
    """A message that an attempt by hand might send twice. It was not sent.

    Attributes:
        ticket: the ticket in which the message may be.
    """

    def __init__(self, text: str, ticket: str = "") -> None:
        super().__init__(text)
        self.ticket = ticket


class Expired(NotActionable):
    """A message that is too old for a pass to send."""


class CountChanged(NotActionable):
    """A filter matches more or fewer messages than the operator confirmed. Nothing was done.

    Attributes:
        count: the number of messages that match now.
    """

    def __init__(self, text: str, count: int = 0) -> None:
        super().__init__(text)
        self.count = count


class StaleEdit(NotActionable):
    """An edit of a text that was modified since it was read. Nothing was written."""


class NotEdited(RetrycliError):
    """An edit was cancelled, no editor was found, the editor failed, or the text is invalid. Nothing was written."""

    exit_code = 4


class ClockBehind(RetrycliError):
    """The clock shows a time before this program was made. Nothing was done."""

    exit_code = 69


class DatabaseUnavailable(RetrycliError):
    """The database can't be opened, read or written, for example because it is locked, damaged or unreachable."""

    exit_code = 69


class DatabaseBusy(DatabaseUnavailable):
    """Another transaction holds a lock longer than retrycli waits."""


class TransactionLost(DatabaseBusy):
    """The change of one row rolled back the whole transaction, for example by ``RAISE(ROLLBACK)`` in a SQLite trigger.

    Repeat the write until it succeeds: the store identifies the row and leaves it out.
    """


def again_if_lost(write: Callable[[], Result]) -> Result:
    """Run a write that is one transaction. Repeat it as long as it raises `TransactionLost`."""
    while True:
        try:
            return write()
        except TransactionLost:
            continue


def cause_of(error: BaseException) -> str:
    """Return the cause of an error, in one line for an operator.

    For an unexpected error, return only its type, because its text may quote customers' words or secrets.
    """
    return " ".join(str(error).split()) if isinstance(error, RetrycliError) else f"internal error: {_type_names(error)}"


def _type_names(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return ", ".join(_type_names(inner) for inner in error.exceptions)
    cause = error.__cause__
    return type(error).__name__ + (f" because of {_type_names(cause)}" if cause else "")


class LockHeld(RetrycliError):
    """Another process holds the pass lock, or has claimed messages."""

    exit_code = 75


class ConfigurationError(RetrycliError):
    """A setting, or something that it refers to, is wrong, unknown or missing."""

    exit_code = 78


class SchemaMismatch(ConfigurationError):
    """The application's table or one of its columns does not exist or is unsuitable, or the table rejects a change."""


class LockUnusable(ConfigurationError):
    """The file at the lock's path can't be opened, or is not a lock file."""


class Untrusted(ConfigurationError):
    """Another user can change a file that decides what this process does. The file is not used.

    Attributes:
        owner: the other user, if the file or a folder above it belongs to one.
    """

    def __init__(self, text: str, owner: str | None = None) -> None:
        super().__init__(text)
        self.owner = owner
