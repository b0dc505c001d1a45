"""What is said of a database in trouble, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.exc import IntegrityError

from retrycli import descriptors

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
    "40": IN_THE_WAY,
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
    for each in (error, error.orig):
        if each is not None and each.args:
            each.args = (str(each.args[0]).partition("\n")[0],)
    return error


REFUSALS = ("22", "23", "44", "P0")
"""What the codes of errors begin with that are about what is written, and not about who writes it."""


def is_refused(error: DBAPIError) -> bool:
    """Whether a table does not take what was written, as by a constraint or a trigger."""
    state = sqlstate(error)
    if state is None:
        return isinstance(error, IntegrityError)
    return state.startswith(REFUSALS) or (state == INSUFFICIENT_PRIVILEGE and _is_of_a_policy(error))


def is_of_the_table(error: DBAPIError) -> bool:
    """Tell whether the application's table is such that a statement can't be carried out, as for a view."""
    return sqlstate(error) in OF_THE_TABLE or "because it is a view" in str(error.orig)


def _is_of_a_policy(error: DBAPIError) -> bool:
    """Whether a row-level policy is against a row, which has the same code as a right that a role lacks."""
    where: str = getattr(error.orig, "diag").source_function  # noqa: B009  the driver's own
    return where == "ExecWithCheckOptions"


def is_busy(error: DBAPIError) -> bool:
    """Tell if another transaction holds a lock for longer than we wait, or than the server lets us wait."""
    return sqlstate(error) in {LOCK_NOT_AVAILABLE, QUERY_CANCELED} or str(error.orig) == "database is locked"


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
