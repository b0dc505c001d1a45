"""Holds: what they cover, and how they are described."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime

import pytest

from retrycli.domain.message import MessageType
from retrycli.domain.passes import Hold, HoldKind, HoldTarget, withheld
from retrycli.domain.transition import NOTHING_WITHHELD, Withheld

NOON = datetime(2025, 3, 3, 12, tzinfo=UTC)
API, MAIL = "https://tickets.example.com", "smtp://mail.example.com"


def a_hold(kind: HoldKind, target: str, *, until: datetime | None = None, birth: str | None = None) -> Hold:
    return Hold(kind, target, NOON, until, "anna", None, birth)


def to(kind: MessageType) -> str:
    return MAIL if kind is MessageType.SUPPLIER else API


@pytest.mark.parametrize(
    ("holds", "expected"),
    [
        ([a_hold(HoldKind.MESSAGE, "17")], Withheld(messages=frozenset({"17"}))),
        ([a_hold(HoldKind.TICKET, "17")], Withheld(tickets=frozenset({"17"}))),
        (
            [a_hold(HoldKind.DESTINATION, MAIL), a_hold(HoldKind.TYPE, "internal")],
            Withheld(frozenset({MessageType.SUPPLIER, MessageType.INTERNAL})),
        ),
        ([a_hold(HoldKind.DESTINATION, "https://unused.example.com"), a_hold(HoldKind.TYPE, "moon")], NOTHING_WITHHELD),
    ],
)
def test_holds_of_types_and_destinations_close_types(holds: list[Hold], expected: Withheld) -> None:
    assert withheld(holds, to) == expected


@pytest.mark.parametrize(
    ("message_id", "kind", "ticket", "covered"),
    [
        (17, "customer", 1, True),
        (1, "supplier", 1, True),
        (1, "customer", 4711, True),
        (4711, "moon", 17, False),
        (1, "moon", None, False),
    ],
)
def test_a_message_is_covered_by_its_id_its_type_or_its_ticket(
    message_id: int, kind: str, ticket: object, *, covered: bool
) -> None:
    found = Withheld(frozenset({MessageType.SUPPLIER}), frozenset({"4711"}), frozenset({"17"}))
    assert found.covers(message_id, kind, ticket) is covered


@pytest.mark.parametrize(
    ("held", "queued", "same"),
    [
        ("2025-03-03 09:00:00.000000", "2025-03-03T09:00:00+00:00", True),
        ("2025-03-03 09:00:00", "2025-03-03 10:00:00", False),
        ("2025-03-03 09:00:00", None, True),
        (None, "2025-03-03 09:00:00", True),
        ("ticket 1", "ticket 2", True),
        ("ticket 1", "2025-03-03 09:00:00", True),
    ],
)
def test_a_hold_is_of_a_message_unless_its_birth_differs(held: str | None, queued: str | None, *, same: bool) -> None:
    """Only a difference that proves another message counts: a held message must never be sent by mistake."""
    assert a_hold(HoldKind.MESSAGE, "17", birth=held).is_of(queued) is same


def test_a_part_is_named_in_words_and_as_an_option() -> None:
    part = HoldTarget(HoldKind.TICKET, "a; rm -r *")
    assert str(part) == "ticket a; rm -r *"
    assert shlex.split(part.option) == ["--ticket", "a; rm -r *"]
    assert a_hold(HoldKind.TYPE, "customer", until=NOON).in_words == (
        "the hold of type customer by anna until 2025-03-03T12:00:00Z"
    )
