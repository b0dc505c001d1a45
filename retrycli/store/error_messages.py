"""Explain database errors with remedies, and classify errors that changes to rows raise."""

import re
import sqlite3
from enum import Enum
from typing import Any

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from retrycli.system import process

# This text names several causes, because the server's own reason for closing the connection is lost if many statements
# are in flight.
GONE = (
    "the server stopped or failed, or a timeout (transaction_timeout or idle_in_transaction_session_timeout) closed "
    "the connection; try again when the server is up, or raise the timeout"
)
NO_CHANGES = (
    "it is read-only, but retrycli must write status, retry_count, last_error and sent_at: name a table in "
    "database.table, or give the view an INSTEAD OF UPDATE trigger"
)

# PostgreSQL's error codes for a table of an unsuitable kind, such as a view that can't be updated.
OF_THE_TABLE = ("0A000", "42809", "55000")
# Prefixes of the codes of errors that only an expression in the settings can cause, unless a row rejects a change: a
# subquery that returns several rows, and a value that can't be converted.
OF_AN_EXPRESSION = ("21", "22")
EXPRESSION = "a setting of the table, or its default, does not fit the table; `retrycli table check` names it"
IN_THE_WAY = "conflict with another transaction; try again"
ROLLED_BACK = "40"  # prefix of the codes of deadlocks and serialisation failures
INSUFFICIENT_PRIVILEGE = "42501"
LOCK_NOT_AVAILABLE = "55P03"
QUERY_CANCELED = "57014"  # usually `statement_timeout` expired while the statement waited for a lock

# Explanations by the error's code, or by the code's prefix.
BY_CODE = {
    "08": GONE,
    "0A000": NO_CHANGES,
    "23": "if this constraint is on the application's table, relax it",
    "25006": "if this server is a standby, name the primary in database.url; otherwise check "
    "default_transaction_read_only",
    "25P0": "the server ends transactions too soon; raise transaction_timeout or idle_in_transaction_session_timeout "
    "for this role",
    "3F": "retrycli's own tables need an existing schema in the role's search_path (ALTER ROLE … SET search_path)",
    ROLLED_BACK: IN_THE_WAY,
    INSUFFICIENT_PRIVILEGE: "`retrycli manual postgresql` lists the required privileges; row-level policies must also "
    "allow the change",
    "42809": NO_CHANGES,
    "53100": "free some space on the server",
    "55000": NO_CHANGES,
    LOCK_NOT_AVAILABLE: "another transaction held a lock for too long; end it, or raise lock_timeout for this role",
    QUERY_CANCELED: "if statement_timeout is the cause, raise it for this role",
    "57P": GONE,
    # A WAL file that no process has open has no -shm file. A read-only connection must create it, too.
    "SQLITE_IOERR_SHMSIZE": "SQLite can't write the -shm file, which it needs even to read in WAL mode; free some "
    "space, or check the kernel log",
}

# Explanations by a part of the error text, for SQLite's other errors and for those without a PostgreSQL error code.
BY_TEXT = {
    "because it is a view": NO_CHANGES,
    "database is locked": "another transaction held a lock for too long; end it or, if it only reads, use WAL",
    "readonly database": "check the owner, permissions and mount of the file and its folder",
    "unable to open database file": "check the owner, permissions and mount of the file and its folder",
    "disk I/O error": "the disk may be full or failing; free some space, and check the kernel log",
    "file is not a database": "check database.url; encrypted files are not supported",
    "database disk image is malformed": "the file is damaged; restore it, or use `sqlite3 FILE .recover`",
    "disk is full": "free some space",
    # psycopg reports no code if a connection can't be opened, and often none if it is lost.
    "server closed the connection": GONE,
    "the connection is lost": GONE,
    "Connection refused": "PostgreSQL may not be running there; check the host and port in database.url",
    "failed to resolve host": "check the host in database.url",
    "No such file or directory": "PostgreSQL may not be running there; check the host and port in database.url",
    "timeout expired": "the host did not answer; check the host and port in database.url, and the firewall",
    "too many connections": "the role or the database has reached its CONNECTION LIMIT; raise the limit",
    "too many clients": "the server has reached max_connections; raise it, or use a connection pooler",
    "remaining connection slots": "the server has reached max_connections; raise it, or use a connection pooler",
    "authentication failed": "check the user and password in database.url",
    "no password supplied": "add the password to database.url or to ~/.pgpass",
    "no pg_hba.conf entry": "add an entry on the server, or set sslmode=require if its entries require TLS",
    "does not support SSL": "enable TLS on the server, or remove sslmode from database.url",
    "does not exist": "check database.url",
    "starting up": GONE,
    "shutting down": GONE,
    "standby mode": "this server is read-only; name the primary in database.url",
}


# Parts of the error texts that a lack of file descriptors can cause. Most of these texts do not name the cause.
NO_DESCRIPTOR = ("unable to open database file", "disk I/O error", "Too many open files", "connection is bad")


def without_details(error: DBAPIError) -> DBAPIError:
    """Keep only the first line of an error's text, so that a traceback shows no customer data. The other lines are the
    server's details, which quote rows.
    """
    for exception in (error, error.orig):
        if exception is not None and exception.args:
            exception.args = (str(exception.args[0]).partition("\n")[0],)
    return error


class RowError(Enum):
    """The kinds of error that a change to a row can raise."""

    REFUSED = "refused"  # the table rejects the values, for example because of a constraint or a trigger
    LOCKED = "locked"  # a conflict with another transaction, such as a lock timeout or a deadlock
    EVERY_ROW = "every row"  # every row would fail, because the cause is the table, the role, the server or the disk


# Prefixes of the codes for problems with the server, which do not depend on the statement.
OF_THE_SERVER = ("25", "53", "57", "58")

# Prefix of the codes for files that are missing or that exist already. The statement in a trigger may have named them.
OF_FILES = "58P"

# Prefixes of the codes for problems with the statement or the role, unless a trigger or a row-level policy raised the
# error.
OF_THE_STATEMENT = ("08", "0A", "28", "3D", "3F", "42", "55", "F0")
SQLITE_REFUSALS = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH)

# Parts of SQLITE_ERROR texts that show a problem with the statement, not with the row.
SQLITE_NOT_PREPARED = ("no such ", "because it is a view")

# Server functions, as errors name them: the first executes RAISE in PL/pgSQL, the second checks row-level policies.
RAISED, POLICY = "exec_stmt_raise", "ExecWithCheckOptions"


def row_error_of(error: DBAPIError) -> RowError:
    """Classify an error that a change to a row has raised. Ignore the code of RAISE in a trigger: it may be any."""
    if isinstance(error.orig, sqlite3.Error):
        return _row_error_of_file(error.orig)
    state = sqlstate(error)
    if state is None:
        return RowError.REFUSED if isinstance(error, IntegrityError | DataError) else RowError.EVERY_ROW
    if _error_field(error, "source_function") == RAISED:
        return RowError.REFUSED
    if is_busy(error):
        return RowError.LOCKED
    # A violated row-level policy has the same code as a missing privilege, so the server function distinguishes them.
    of_a_row = _error_field(error, "context") or _error_field(error, "source_function") == POLICY
    may_be_of_a_row = state.startswith((*OF_THE_STATEMENT, OF_FILES))
    hits_every_row = not of_a_row if may_be_of_a_row else state.startswith(OF_THE_SERVER)
    return RowError.EVERY_ROW if hits_every_row else RowError.REFUSED


def _row_error_of_file(error: sqlite3.Error) -> RowError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # the low byte is the primary result code
    if code == sqlite3.SQLITE_BUSY:
        return RowError.LOCKED
    if code not in SQLITE_REFUSALS or any(sign in str(error) for sign in SQLITE_NOT_PREPARED):
        return RowError.EVERY_ROW
    return RowError.REFUSED


def is_of_the_table(error: DBAPIError) -> bool:
    """Return whether a statement failed because the application's table is of an unsuitable kind, such as a view, or
    because an expression that the settings contain fails for one of its rows.
    """
    return sqlstate(error) in OF_THE_TABLE or _is_of_expression(error) or "because it is a view" in str(error.orig)


def _is_of_expression(error: DBAPIError) -> bool:
    # Only a statement that reads or writes the application's table may have an expression of the settings.
    reads = re.search(r"\bFROM (?!retrycli_(?!messages))|\bUPDATE (?!retrycli_)|\(SELECT ", error.statement or "")
    if reads is None:
        return False
    if isinstance(error.orig, sqlite3.Error):
        in_general = getattr(error.orig, "sqlite_errorname", "") == "SQLITE_ERROR"
        return in_general and not any(sign in str(error.orig) for sign in SQLITE_NOT_PREPARED)
    return (sqlstate(error) or "").startswith(OF_AN_EXPRESSION)


def _error_field(error: DBAPIError, what: str) -> Any:  # noqa: ANN401  a string, or None
    return getattr(getattr(error.orig, "diag", None), what, None)


def is_busy(error: DBAPIError) -> bool:
    """Return whether another transaction may have caused an error, such as a lock timeout or a deadlock."""
    state = sqlstate(error)
    if state is None:
        return str(error.orig) == "database is locked"
    return state in {LOCK_NOT_AVAILABLE, QUERY_CANCELED} or state.startswith(ROLLED_BACK)


def sqlstate(error: DBAPIError) -> str | None:
    """Return the PostgreSQL code of an error; None if the error has no code."""
    return getattr(error.orig, "sqlstate", None)


def of_statement_in_words(error: DBAPIError) -> str:
    """Return `in_words` for a statement that no single row has failed, with the remedy for an expression."""
    return f"{in_words(error)}: {EXPRESSION}" if _is_of_expression(error) else in_words(error)


def in_words(error: DBAPIError) -> str:
    """Return the first line of a driver's error text, followed by the remedy if one is known. Leave out the value that
    could not be converted, because it may be a customer's words.
    """
    text = " ".join(str(error.orig).partition("\n")[0].split())
    if (sqlstate(error) or "").startswith("22"):
        text = text.partition(': "')[0]
    code = sqlstate(error) or getattr(error.orig, "sqlite_errorname", None) or ""
    remedy = next((words for start, words in BY_CODE.items() if code.startswith(start)), None)
    if remedy is None and sqlstate(error) is None:
        may_be_shortage = any(sign in text for sign in NO_DESCRIPTOR)
        remedy = process.shortage_now() if may_be_shortage else None
        remedy = remedy or next((words for sign, words in BY_TEXT.items() if sign in text), None)
    return f"{text}: {remedy}" if remedy else text
