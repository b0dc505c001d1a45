"""Operators' actions as rows of ``retrycli_acts``. Texts of edits are kept as JSON: they are customers' words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select, update

from retrycli.store.schema import acts

if TYPE_CHECKING:
    from retrycli.domain.operator_action import OperatorAction
    from retrycli.store.database import Database

HAS_TEXTS = acts.c.before.is_not(None) | acts.c.after.is_not(None)


def act_values(act: OperatorAction) -> dict[str, Any]:
    """Return the columns of an action's row."""
    return {
        "at": act.at,
        "by": act.by,
        "act": act.kind,
        "detail": act.detail,
        "ticket": act.ticket,
        "before": _as_json(act.before),
        "after": _as_json(act.after),
    }


def _as_json(values: Mapping[str, object] | None) -> str | None:
    """Return values as JSON that every database can keep: in ASCII, and without a NUL."""
    return None if values is None else json.dumps(values, default=_text)


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def texts(row: Mapping[Any, Any], name: str) -> dict[str, Any] | None:
    """Return the texts that an edit replaced (``before``) or wrote (``after``); None if erased or never recorded."""
    found: dict[str, Any] | None = None if row[name] is None else json.loads(row[name])
    return found


def count_texts(database: Database, ticket: str) -> int:
    """Count the edits of a ticket's messages that still have their texts."""
    statement = select(func.count()).select_from(acts).where(acts.c.ticket == ticket, HAS_TEXTS)
    with database.read() as connection:
        return connection.execute(statement).scalar_one()


def erase_texts(database: Database, ticket: str) -> int:
    """Erase the texts of all edits of a ticket's messages, keep the actions, and return the number of erased edits.

    On SQLite, also erase them from the file's free space and its log.
    """
    with database.write() as connection:
        if database.is_sqlite:
            connection.exec_driver_sql("PRAGMA secure_delete = ON")
        erase = update(acts).where(acts.c.ticket == ticket, HAS_TEXTS).values(before=None, after=None)
        erased = connection.execute(erase).rowcount
    if database.is_sqlite:
        database.empty_log()
    return erased
