"""What is said of a database in trouble, and what to do about it."""

from __future__ import annotations

import sqlite3
from enum import Enum
from typing import TYPE_CHECKING

from sqlalchemy.exc import DataError, IntegrityError

from retrycli.system import descriptors

if TYPE_CHECKING:
    from sqlalchemy.exc import DBAPIError

GONE = (
    "the server was stopped or has failed, or it ends transactions too soon (transaction_timeout, "
    "idle_in_transaction_session_timeout); try again when it is up"
)
"""Where many statements are under way, a server's own words about why it has closed the connection are lost."""
NO_CHANGES = (
    "it takes no changes; retrycli must write status, retry_count, last_error and sent_at there: name a table in "
    "database.table, or give the view an INSTEAD OF UPDATE trigger"
)
OF_THE_TABLE = ("0A000", "42809", "55000")
"""PostgreSQL's codes of errors about what a table is, and not about what it holds or who asks."""
IN_THE_WAY = "another transaction was in the way; try again"
ROLLED_BACK = "40"
"""What the codes of a deadlock and of a transaction that can't be serialised begin with."""
INSUFFICIENT_PRIVILEGE = "42501"
LOCK_NOT_AVAILABLE = "55P03"
QUERY_CANCELED = "57014"
"""Mostly ``statement_timeout`` while the statement waits for a lock."""
BY_STATE = {
    "08": GONE,
    "0A000": NO_CHANGES,
    "23": "a constraint of the table forbids what retrycli writes there",
    "25006": "this server takes no changes; name the primary in database.url where it is a standby, or see to "
    "default_transaction_read_only",
    "25P0": "the server ends transactions too soon; raise transaction_timeout and idle_in_transaction_session_timeout "
    "for this role",
    "3F": "retrycli's own tables need a schema that is there in its role's search_path (ALTER ROLE … SET search_path)",
    ROLLED_BACK: IN_THE_WAY,
    INSUFFICIENT_PRIVILEGE: "its role lacks a right; the README names those that it needs (GRANT; of an index, to be "
    "the owner)",
    "42809": NO_CHANGES,
    "53100": "free some space on the server",
    "55000": NO_CHANGES,
    LOCK_NOT_AVAILABLE: "another transaction held a lock for too long; end it, or raise lock_timeout for this role",
    QUERY_CANCELED: "the server cancels statements too soon, or somebody did it; raise statement_timeout for this role",
    "57P": GONE,
}
"""By PostgreSQL's code of an error, or what it begins with."""
BY_TEXT = {
    "because it is a view": NO_CHANGES,
    "database is locked": "the application held its write lock for too long; end its transaction, or use WAL",
    "readonly database": "the file or its folder can't be written; check their owner and mode, and their mount",
    "unable to open database file": "the file can't be opened; check its owner and mode, its folder's, and its mount",
    "disk I/O error": "its disk is full or fails; free some space, and see what the kernel has logged",
    "file is not a database": "this is no SQLite file; check database.url",
    "database disk image is malformed": "the file is damaged; restore it, or see `sqlite3 FILE .recover`",
    "disk is full": "free some space",
    # A PostgreSQL that lets nobody in gives no code.
    "server closed the connection": GONE,
    "the connection is lost": GONE,
    "Connection refused": "is PostgreSQL up there? Check host and port in database.url",
    "failed to resolve host": "check the host in database.url",
    "No such file or directory": "is PostgreSQL up there? Check the host in database.url",
    "timeout expired": "the host does not answer; check host and port in database.url, and the firewall",
    "too many connections": "its role's CONNECTION LIMIT is used up; raise it, a pass needs one",
    "too many clients": "the server's max_connections are used up; raise them, or put a pooler before it",
    "remaining connection slots": "the server's max_connections are used up; raise them, or put a pooler before it",
    "authentication failed": "check user and password in database.url",
    "no password supplied": "write the password into database.url, or into the user's ~/.pgpass",
    "no pg_hba.conf entry": "the server's pg_hba.conf does not let this host and user in",
    "does not support SSL": "the server has no TLS; switch it on there, or take sslmode out of database.url",
    "does not exist": "check user and database in database.url",
    "starting up": GONE,
    "shutting down": GONE,
    "standby mode": "this server takes no changes; name the primary in database.url",
}
"""By a sign in the text of an error that has no such code."""


NO_DESCRIPTOR = ("unable to open database file", "disk I/O error", "Too many open files", "connection is bad")
"""Signs in the text of an error that may have this cause. Neither SQLite nor libpq says what it lacks."""


def without_details(error: DBAPIError) -> DBAPIError:
    """The same error with the first line alone of what the driver has to say, for a traceback shows all of it.

    The lines after it are a server's details, which quote rows, and with them customers' words.
    """
    for exception in (error, error.orig):
        if exception is not None and exception.args:
            exception.args = (str(exception.args[0]).partition("\n")[0],)
    return error


class RowError(Enum):
    """What an error says that the change of a row has met."""

    REFUSED = "refused"
    """The table does not take what was written into the row, as by a constraint or a trigger."""
    HELD = "held"
    """Another transaction holds the row, or what a trigger of the table writes."""
    OF_ALL = "of all"
    """Every row would meet it: the table, the role, the server or the disk is not as needed."""


OF_THE_SERVER = ("25", "53", "57", "58")
"""What codes of errors begin with that a server in trouble gives, whatever it was doing."""
OF_THE_STATEMENT = ("08", "0A", "28", "3D", "3F", "42", "55", "F0")
"""What codes of errors begin with that are about a statement or who runs it, unless it is one of a trigger's."""
SQLITE_REFUSALS = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH)
SQLITE_NOT_PREPARED = ("no such ", "because it is a view")
"""Signs in the text of a SQLITE_ERROR that is about a statement."""
RAISED = "exec_stmt_raise"
"""The function of the server from which comes what a trigger in PL/pgSQL raises."""


def trouble_of(error: DBAPIError) -> RowError:
    """Tell what the change of a row has met.

    A trigger may raise any code that it likes. So a server's code decides only for errors that are not raised by one.
    """
    if isinstance(error.orig, sqlite3.Error):
        return _trouble_of_a_file(error.orig)
    state = sqlstate(error)
    if state is None:
        return RowError.REFUSED if isinstance(error, IntegrityError | DataError) else RowError.OF_ALL
    if _said_of(error, "source_function") == RAISED:
        return RowError.REFUSED
    if is_busy(error):
        return RowError.HELD
    of_all = state.startswith(OF_THE_STATEMENT) and not (_said_of(error, "context") or _is_of_a_policy(error))
    return RowError.OF_ALL if of_all or state.startswith(OF_THE_SERVER) else RowError.REFUSED


def _trouble_of_a_file(error: sqlite3.Error) -> RowError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # what is above tells more of it
    if code == sqlite3.SQLITE_BUSY:
        return RowError.HELD
    if code not in SQLITE_REFUSALS or any(sign in str(error) for sign in SQLITE_NOT_PREPARED):
        return RowError.OF_ALL
    return RowError.REFUSED


def is_of_the_table(error: DBAPIError) -> bool:
    """Tell whether the application's table is such that a statement can't be carried out, as for a view."""
    return sqlstate(error) in OF_THE_TABLE or "because it is a view" in str(error.orig)


def _is_of_a_policy(error: DBAPIError) -> bool:
    """Whether a row-level policy is against a row, which has the same code as a right that a role lacks."""
    return _said_of(error, "source_function") == "ExecWithCheckOptions"


def _said_of(error: DBAPIError, what: str) -> str | None:
    """Return one of the fields that a server tells of an error."""
    said: str | None = getattr(getattr(error.orig, "diag", None), what, None)
    return said


def is_busy(error: DBAPIError) -> bool:
    """Tell if another transaction is in the way: for longer than we or the server wait, or in a deadlock."""
    state = sqlstate(error)
    if state is None:
        return str(error.orig) == "database is locked"
    return state in {LOCK_NOT_AVAILABLE, QUERY_CANCELED} or state.startswith(ROLLED_BACK)


def sqlstate(error: DBAPIError) -> str | None:
    """PostgreSQL's code of an error; None where it has none."""
    return getattr(error.orig, "sqlstate", None)


def in_words(error: DBAPIError) -> str:
    """What a driver has to say, and the remedy where there is one. Of its lines only the first, as above."""
    cause = error.orig
    text = " ".join(str(cause).partition("\n")[0].split())
    if state := sqlstate(error):
        remedy = next((words for start, words in BY_STATE.items() if state.startswith(start)), None)
    else:
        remedy = _shortage(text) or next((words for sign, words in BY_TEXT.items() if sign in text), None)
    return f"{text}: {remedy}" if remedy else text


def _shortage(text: str) -> str | None:
    """Return that no descriptor was left, if that may be what a driver reports."""
    if not any(sign in text for sign in NO_DESCRIPTOR):
        return None
    return descriptors.shortage_now()
