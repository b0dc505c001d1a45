"""What an operator has accepted: which rows of the application's table are sent, to which tickets and recipients.

A wrong setting here sends what was never meant to be sent. Therefore an operator accepts these settings once, before a
pass sends by them. Other settings may change without acceptance.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from retrycli.domain.message import MessageStatus
from retrycli.domain.table_mapping import AS_IT_IS, TableMapping, as_setting

# The settings of which the selection consists, by the names of its parts in `retrycli_selection.accepted`.
SETTINGS = {
    "table": "database.table",
    "key": "database.columns.id",
    "where": "database.where",
    "failed": "database.status.failed",
    "ticket": "database.columns.ticket_id",
    "recipient": "database.columns.recipient_email",
    "created": "database.columns.created_at",
}


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The selection that an operator has accepted, with the operator and the time."""

    parts: Mapping[str, object]
    by: str
    at: datetime


def selection_parts(table: str, mapping: TableMapping | None) -> dict[str, object]:
    """Return the parts of the selection that the settings describe. No mapping: the default columns and statuses."""
    used = mapping or AS_IT_IS
    created = dict(used.columns).get("created_at")
    return {
        "table": table,
        "key": as_setting(used.source("id")),
        "where": used.where,
        "failed": used.value(MessageStatus.FAILED),
        "ticket": as_setting(used.source("ticket_id")),
        "recipient": as_setting(used.source("recipient_email")),
        "created": "" if created is None else as_setting(created),
    }


def births_differ(table: str, mapping: TableMapping | None, accepted: Acceptance | None) -> bool:
    """Return whether the settings read births (``created_at`` or the ticket) of the same rows from another source."""
    here, before = selection_parts(table, mapping), accepted.parts if accepted else selection_parts(table, None)
    changed = {part for part in SETTINGS if here[part] != before.get(part, "")}
    return not changed.isdisjoint({"created", "ticket"}) and changed.isdisjoint({"table", "key"})


def objection(table: str, mapping: TableMapping | None, accepted: Acceptance | None) -> str | None:
    """Return why passes must not send by the settings; None if they may. The default columns and statuses (no mapping)
    need no acceptance, unless an operator has accepted others.
    """
    if accepted is None:
        if mapping is None:
            return None
        return (
            f"nobody has accepted which rows of {table} these settings select, so nothing is sent; "
            "run `retrycli table check`, then `retrycli table accept`"
        )
    others = list(_differences(selection_parts(table, mapping), accepted.parts))
    if not others:
        return None
    return (
        f"these settings select other messages than {accepted.by} accepted at "
        f"{accepted.at.astimezone(UTC):%Y-%m-%d %H:%M} UTC, so nothing is sent: {', '.join(others)}; correct the "
        "settings of this host, or run `retrycli table check`, then `retrycli table accept`"
    )


def _differences(here: Mapping[str, object], accepted: Mapping[str, object]) -> Iterator[str]:
    for part, setting in SETTINGS.items():
        if here[part] != (then := accepted.get(part, "")):
            yield f"{setting} is {_in_words(here[part])}, but {_in_words(then)} was accepted"


def _in_words(value: object) -> str:
    return "not set" if value in (None, "") else json.dumps(value, ensure_ascii=False)
