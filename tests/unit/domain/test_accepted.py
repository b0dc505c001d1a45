"""What an operator has accepted, compared with what the settings select."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from retrycli.domain.table_mapping import (
    Acceptance,
    TableMapping,
    births_differ,
    digests_differ,
    objection,
    parse_mapping,
    selection_parts,
    states_differ,
)

AT = datetime(2026, 3, 3, 8, 15, tzinfo=UTC)
TABLE = "public.mails"
COLUMNS: dict[str, object] = {
    "id": "uid",
    "ticket_id": {"sql": "(SELECT 1)"},
    "recipient_email": {"from": "to", "split": ","},
}
STATUS: dict[str, object] = {"failed": 3, "sent": 2}


def mapping(*, where: str | None = "lane = 'desk'", failed: int = 3, **columns: object) -> TableMapping:
    return parse_mapping(COLUMNS | columns, STATUS | {"failed": failed}, where)


def accepted(by: TableMapping | None) -> Acceptance:
    return Acceptance(selection_parts(TABLE, by), "anna", AT)


def test_only_a_mapping_needs_acceptance_and_what_was_accepted_may_be_sent() -> None:
    assert objection(TABLE, None, None) is None
    assert str(objection(TABLE, mapping(), None)).startswith(f"nobody has accepted which rows of {TABLE} ")
    for given in (None, mapping(), mapping(body="body", updated_at="changed")):
        assert objection(TABLE, given, accepted(given and mapping())) is None
    assert "database.columns.id is " in str(objection(TABLE, None, accepted(mapping())))
    assert f'database.table is "x", but "{TABLE}" was accepted' in str(objection("x", mapping(), accepted(mapping())))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (mapping(where=None), "database.where is not set, but \"lane = 'desk'\" was accepted"),
        (mapping(failed=4), "database.status.failed is 4, but 3 was accepted"),
        (mapping(created_at="made"), 'database.columns.created_at is "made", but not set was accepted'),
        (mapping(last_error={"own": True}), 'database.columns.last_error is {"own": true}, but not set was accepted'),
        (mapping(body="text"), 'the text in database.columns is {"body": "text"}, but not set was accepted'),
        (mapping(ticket_id="case"), 'database.columns.ticket_id is "case", but {"sql": "(SELECT 1)"} was accepted'),
        (
            mapping(recipient_email={"value": "a@b"}),
            'database.columns.recipient_email is {"value": "a@b"}, but {"from": "to", "split": ","} was accepted',
        ),
    ],
)
def test_a_difference_is_named_with_who_accepted_and_when(changed: TableMapping, said: str) -> None:
    told = str(objection(TABLE, changed, accepted(mapping())))
    assert told.startswith(
        "these settings select other messages than anna accepted at 2026-03-03 08:15 UTC, so nothing"
    )
    assert said in told


@pytest.mark.parametrize(
    ("differ", "changed", "with_another_key", "others"),
    [
        (
            digests_differ,
            [mapping(body="text"), mapping(recipient_email="to")],
            mapping(body="text", id="number"),
            mapping(created_at="made"),
        ),
        (
            births_differ,
            [mapping(created_at="made"), mapping(ticket_id="case")],
            mapping(created_at="made", id="number"),
            mapping(body="text"),
        ),
    ],
)
def test_another_source_differs_also_in_a_renamed_table_but_another_key_means_other_messages(
    differ: Callable[[str, TableMapping | None, Acceptance], bool],
    changed: list[TableMapping],
    with_another_key: TableMapping,
    others: TableMapping,
) -> None:
    before = accepted(mapping())
    assert all(differ(table, each, before) for table in (TABLE, "x") for each in changed)
    assert not any(differ(TABLE, each, before) for each in (with_another_key, others))
    assert not differ("x", mapping(), before)


def test_counts_and_errors_of_another_source_differ() -> None:
    before = accepted(mapping())
    assert states_differ(TABLE, mapping(last_error={"own": True}), before)
    assert states_differ(TABLE, mapping(retry_count="n"), before)
    assert not states_differ(TABLE, mapping(body="text", created_at="made"), before)
