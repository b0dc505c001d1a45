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


def a_hold(kind: HoldKind, target: str, *, birth: str | None = None) -> Hold:
    return Hold(kind, target, NOON, None, "anna", None, birth)


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


def test_a_hold_ends_only_with_a_difference_that_proves_another_message() -> None:
    """A held message must never be sent by mistake. `tests/store/test_holds.py` has the differences of times."""
    birth = "2025-03-03 09:00:00"
    for held, queued in ((birth, None), (None, birth), ("ticket 1", birth)):
        assert a_hold(HoldKind.MESSAGE, "17", birth=held).is_of(queued)
    assert not a_hold(HoldKind.MESSAGE, "17", birth=birth).is_of(birth.replace("3", "4"))


def test_a_part_is_named_in_words_and_as_an_option() -> None:
    part = HoldTarget(HoldKind.TICKET, "a; rm -r *")
    assert str(part) == "ticket a; rm -r *"
    assert shlex.split(part.option) == ["--ticket", "a; rm -r *"]
